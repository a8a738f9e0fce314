// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

func newEntries(t *testing.T) *store.Store {
	t.Helper()
	return store.New(&logical.InmemStorage{}, hclog.NewNullLogger())
}

// newTestManager returns the manager of a mount in which nothing is written yet.
func newTestManager(t *testing.T) *Manager {
	t.Helper()
	logger := hclog.NewNullLogger()
	entries, sender := newEntries(t), events.NewSender(nil, logger)
	servers := upstream.NewRegistry(entries, sender, logger, "test", nil)
	m := NewManager(entries, servers, func() time.Duration { return time.Hour }, sender, logger)
	t.Cleanup(m.Close)
	return m
}

// Its readers start over, and find the config in service.
func TestAConfigThatComesBackBetweenTheLookAndTheAttemptIsNoTokenWithoutAnError(t *testing.T) {
	m := newTestManager(t)
	entries := m.store
	now := time.Now()
	for _, name := range []string{"first", "second"} {
		config := &store.Config{Name: name, URL: "http://localhost:1", UserAPIToken: name, WrittenAt: now}
		if err := entries.Configs.Put(t.Context(), name, config); err != nil {
			t.Fatal(err)
		}
		if err := entries.OutOfService.Put(t.Context(), name,
			&store.OutOfService{ConfigWrittenAt: now, Since: now, Kind: "k", Reason: "r"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := entries.Roles.Put(t.Context(), "monitoring", &store.Role{
		Name: "monitoring", Config: "first",
		FallbackConfigs: []string{"second"}, CredentialType: store.Shared,
	}); err != nil {
		t.Fatal(err)
	}
	snap, err := m.snapshot(t.Context(), "monitoring")
	if err != nil {
		t.Fatal(err)
	}
	if err := entries.OutOfService.Delete(t.Context(), "first"); err != nil { // a check brings it back
		t.Fatal(err)
	}
	snap.state.mu.Lock()
	f := m.start(snap)
	snap.state.mu.Unlock()
	<-f.done
	if !errors.Is(f.result, ErrSuperseded) {
		t.Error("the flight's readers do not start over:", f.result)
	}
}

// A config that is out is tried every ten minutes; while readers get nothing of use, after one
// minute, and twice as long each time, up to ten. An hour without a try begins anew.
func TestHowOftenAConfigThatIsOutIsTried(t *testing.T) {
	for name, test := range map[string]struct {
		helpless bool
		waits    []time.Duration
	}{
		"while another serves":    {false, minutes(10, 10, 10)},
		"while readers are stuck": {true, minutes(1, 2, 4, 8, 10, 10)},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestManager(t)
			config := &store.Config{Name: "a", URL: "http://localhost:1", UserAPIToken: "a", WrittenAt: m.started}
			m.store.Configs.Keep("a", config)
			m.store.OutOfService.Keep("a",
				&store.OutOfService{ConfigWrittenAt: m.started, Since: m.started, Kind: "k", Reason: "r"})
			now := m.started
			for _, waits := range [][]time.Duration{test.waits, test.waits[len(test.waits)-1:]} {
				for _, wait := range waits {
					if test.helpless {
						m.outMu.Lock()
						try := m.outTries["a"]
						try.helplessAt = now.Add(wait - 1)
						m.outTries["a"] = try
						m.outMu.Unlock()
					}
					if m.isOutTryDue(t.Context(), config, now.Add(wait-1)) {
						t.Errorf("it is tried before %s", wait)
					}
					now = now.Add(wait)
					if !m.isOutTryDue(t.Context(), config, now) {
						t.Errorf("it is not tried after %s", wait)
					}
					m.noteOutTry("a", "r", now)
				}
			}
			now = now.Add(time.Hour + 1)
			m.noteOutTry("a", "r", now)
			if try := m.outTry("a"); try.times != 1 || try.role != "r" || !try.at.Equal(now) {
				t.Errorf("after an hour without a try: %+v", try)
			}
		})
	}
}

func minutes(counts ...int) (durations []time.Duration) {
	for _, count := range counts {
		durations = append(durations, time.Duration(count)*time.Minute)
	}
	return durations
}
