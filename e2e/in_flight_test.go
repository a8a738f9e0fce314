// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What is obtained for a config, role or session that is no more is ended, and nobody gets it.

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// inFlight is the outcome of a read that was waiting for N-central.
type inFlight struct {
	answer credentials
	err    error
}

// startRead starts a read of the cold role and returns when its authenticate has reached the
// server, which answers it two seconds later, and everything after it at once.
func (m *mount) startRead(role string) <-chan inFlight {
	m.t.Helper()
	m.Change(func(k *simulator.Knobs) { k.Latency = 2 * time.Second })
	landed := make(chan inFlight, 1)
	go func() {
		answer, err := m.tryRead(role)
		landed <- inFlight{answer, err}
	}()
	eventually(m.t, 10*time.Second, func() error {
		if m.Count(simulator.EndpointAuthenticate, simulator.OutcomePending) != 1 {
			return errors.New("no authenticate is in flight")
		}
		return nil
	})
	m.Change(func(k *simulator.Knobs) { k.Latency = 0 })
	return landed
}

// TestWhatIsObtainedForWhatIsNoMoreIsEnded changes things while a call is in flight.
func TestWhatIsObtainedForWhatIsNoMoreIsEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(m *mount)
		user    string        // whose token the reader gets
		atMost  time.Duration // the lifetime that the reader is told
		refusal string        // what the reader is told instead
	}{
		"config rewritten": {
			change: func(m *mount) {
				config := m.config()
				config["user_api_token"] = m.AddUser("another-user")
				m.write("config/default", config)
			},
			user: "another-user", atMost: time.Hour,
		},
		"sessions deleted": {
			change: func(m *mount) { m.delete("sessions/monitoring") },
			user:   userName, atMost: time.Hour,
		},
		"role rewritten": {
			change: func(m *mount) { m.role("monitoring", "10m") },
			user:   userName, atMost: 10 * time.Minute,
		},
		"role deleted": {
			change:  func(m *mount) { m.delete("roles/monitoring") },
			refusal: "monitoring",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, nil)
			m.write("config/default", with(m.config(), "request_timeout", "20s"))
			m.role("monitoring", "0")
			m.ResetCounts()
			issuedBefore := len(m.Issued())
			landed := m.startRead("monitoring")
			test.change(m)
			reader := <-landed
			m.expectLanded(reader, test.user, test.atMost, test.refusal)
			m.expectEnded(issuedBefore, reader.answer.token)
		})
	}
}

func (m *mount) expectLanded(reader inFlight, user string, atMost time.Duration, refusal string) {
	m.t.Helper()
	if refusal != "" {
		if statusOf(reader.err) != badRequest {
			m.t.Errorf("the reader of a deleted role got %d, want 400: %v", statusOf(reader.err), reader.err)
		}
		return
	}
	if reader.err != nil {
		m.t.Fatal(reader.err)
	}
	if left := time.Until(reader.answer.expiresAt); left > atMost {
		m.t.Errorf("the reader's token lives %s, want at most %s", left, atMost)
	}
	for _, issued := range m.Issued() {
		if issued.Access == reader.answer.token && issued.User != user {
			m.t.Errorf("the reader's token is that of %s, want %s", issued.User, user)
		}
	}
	if answer := m.read("monitoring"); answer.token != reader.answer.token {
		m.t.Error("the next read answered another token")
	}
}

// expectEnded fails the test unless all sessions since the first so many were ended at N-central,
// save the one kept.
func (m *mount) expectEnded(before int, kept string) {
	m.t.Helper()
	eventually(m.t, 10*time.Second, func() error {
		if m.Count(simulator.EndpointAuthenticate, simulator.OutcomePending) > 0 {
			return errors.New("the flight has not landed")
		}
		issued := m.Issued()
		if len(issued) == before {
			return errors.New("nothing was issued")
		}
		for _, token := range issued {
			if token.Access != kept && m.AccessTokenLives(token.Access) {
				return fmt.Errorf("session %s is still open", fingerprint(token.Access))
			}
		}
		return nil
	})
}
