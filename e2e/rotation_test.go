// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Tokens are replaced before their end, and no reader holds a dead one.

package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

var refused = simulator.Failure{Kind: simulator.FailureStatus, Status: 401}

// readAnother reads the role until it answers another token than the one given.
func (m *mount) readAnother(role, than string, patience time.Duration) {
	m.t.Helper()
	eventually(m.t, patience, func() error {
		if m.read(role).token == than {
			return fmt.Errorf("creds/%s still answers %s", role, fingerprint(than))
		}
		return nil
	})
}

func TestTokenNearItsEndIsRefreshed(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "8s")
	first := m.read("monitoring")
	if by := m.get("sessions/monitoring")["obtained_by"]; by != "authenticate" {
		t.Errorf("the first token was obtained by %v", by)
	}
	m.readAnother("monitoring", first.token, 10*time.Second)
	if !m.AccessTokenLives(first.token) && time.Now().Before(first.expiresAt) {
		t.Error("the token that readers still hold was ended")
	}
	if by := m.get("sessions/monitoring")["obtained_by"]; by != "refresh" {
		t.Errorf("the second token was obtained by %v", by)
	}
	m.expectCalls(calls{
		simulator.EndpointAuthenticate: 1, simulator.EndpointServerInfo: 1, simulator.EndpointRefresh: 1,
	})
}

func TestRefusedRefreshLeadsToAuthenticate(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "8s")
	first := m.read("monitoring")
	m.FailNext(simulator.EndpointRefresh, -1, refused)
	m.readAnother("monitoring", first.token, 10*time.Second)
	// The refusal makes the first token suspect: whoever reads it before the second is there has it
	// validated.
	if made := m.calls(); made[simulator.EndpointAuthenticate] != 2 || made[simulator.EndpointRefresh] != 1 {
		t.Errorf("calls: %v", made)
	}
}

// TestNoReaderHoldsADeadToken reads over several rotations on servers that end tokens in different
// ways.
func TestNoReaderHoldsADeadToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change     func(*simulator.Knobs)
		unverified bool
		refreshes  bool
	}{
		"refresh keeps the predecessor": {refreshes: true},
		"refresh ends the predecessor": {
			change: func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true },
		},
		"refresh ends the predecessor, unknown to the engine": {
			change: func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, unverified: true,
		},
		"refresh tokens are good for one use": {
			change: func(k *simulator.Knobs) { k.SingleUseRefreshTokens = true }, refreshes: true,
		},
		"refresh keeps the predecessor, unknown to the engine": {unverified: true, refreshes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, test.change)
			if test.unverified {
				m.delete("config/default")
				m.write("config/default", with(m.config(), "verify", false))
			}
			m.role("unleased", "5s")
			m.write("roles/leased", map[string]any{"ttl": "5s"})
			m.ResetCounts()

			var readers sync.WaitGroup
			for _, role := range []string{"unleased", "leased", "unleased", "leased"} {
				readers.Go(func() { m.hammer(role, 12*time.Second) })
			}
			readers.Wait()
			if obtained := len(m.Issued()); obtained < 8 {
				t.Errorf("%d tokens were issued in all: too few for several rotations of two roles", obtained)
			}
			if refreshed := m.Count(simulator.EndpointRefresh, simulator.OutcomeOK) > 1; refreshed != test.refreshes {
				t.Errorf("tokens were replaced by refresh: %t, want %t", refreshed, test.refreshes)
			}
		})
	}
}

// hammer reads the role for that long. N-central must accept every answer at once and, just before
// it expires, again.
func (m *mount) hammer(role string, duration time.Duration) {
	var checks sync.WaitGroup
	defer checks.Wait()
	seen := map[string]bool{}
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		sent := time.Now()
		answer, err := m.tryRead(role)
		if err != nil {
			m.t.Errorf("reading creds/%s: %v", role, err)
			return
		}
		promised := answer.expiresAt
		if role == "leased" {
			promised = sent.Add(time.Duration(answer.LeaseDuration) * time.Second)
		}
		m.expectLives(role, answer.token, promised)
		if !seen[answer.token] {
			seen[answer.token] = true
			checks.Go(func() {
				time.Sleep(time.Until(promised) - 50*time.Millisecond)
				m.expectLives(role, answer.token, promised)
			})
		}
	}
}

// expectLives fails the test if N-central does not accept the token though it was promised to live
// until then. It looks at the clock last, so that a pause between the two looks does no harm.
func (m *mount) expectLives(role, token string, promised time.Time) {
	lives := m.AccessTokenLives(token)
	if left := time.Until(promised); !lives && left > 0 {
		m.t.Errorf("token %s of creds/%s is dead %s before its stated expiry", fingerprint(token), role, left)
	}
}

func TestRefusedOverrideIsRepeatedWithout(t *testing.T) {
	t.Parallel()
	m := newMount(t, func(k *simulator.Knobs) {
		k.RefuseLongOverrides = true
		k.AccessLimit = 30 * time.Minute
	})
	m.role("monitoring", "40m")
	answer := m.read("monitoring")
	m.expectOverrides("40m", "")
	m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
	if left := time.Until(answer.expiresAt); left > 30*time.Minute {
		t.Errorf("%s are promised, where 30m were granted", left)
	}
	if !warns(answer.Warnings, "40m") {
		t.Errorf("no warning that the lifetime asked for was refused: %q", answer.Warnings)
	}
	m.delete("sessions/monitoring")
	m.ResetCounts()
	m.read("monitoring")
	m.expectCalls(calls{simulator.EndpointAuthenticate: 1}) // it was learnt
}

// expectOverrides fails the test unless the last authenticates asked for these lifetimes; the empty
// string is none.
func (m *mount) expectOverrides(want ...string) {
	m.t.Helper()
	var asked []string
	for _, record := range m.Requests() {
		if record.Endpoint == simulator.EndpointAuthenticate {
			asked = append(asked, record.AccessOverride)
		}
	}
	asked = asked[max(0, len(asked)-len(want)):]
	if len(asked) < len(want) {
		m.t.Fatalf("%d authenticates, want %d", len(asked), len(want))
	}
	for i, override := range asked {
		if !sameLifetime(override, want[i]) {
			m.t.Errorf("authenticate %d of the last %d asked for %q, want %q", i+1, len(want), override, want[i])
		}
	}
}

func sameLifetime(one, other string) bool {
	if one == "" || other == "" {
		return one == other
	}
	first, firstErr := time.ParseDuration(one)
	second, secondErr := time.ParseDuration(other)
	return firstErr == nil && secondErr == nil && first == second
}
