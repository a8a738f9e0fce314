// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The life of a shared token: the first read obtains it, and it is replaced ahead of need.

package backend

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestFirstReadAuthenticatesSecondCallsNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		storage := m.storage.calls.Load()
		system := m.system.calls.Load()
		if second := m.expectLives(m.read(nil)); second != first {
			t.Error("the second read answered another token")
		}
		m.expectCalls(nil)
		if m.storage.calls.Load() != storage || m.system.calls.Load() != system {
			t.Error("a hot read asked storage or core")
		}
	})
}

func TestTokenIsRefreshedBeforeItsEnd(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		second := m.expectLives(m.read(nil))
		if second == first {
			t.Error("a token with less than min_ttl left was handed out")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointRefresh: 1})
		if !m.AccessTokenLives(first) {
			t.Error("the token that readers still hold was ended")
		}
	})
}

// Agents under a lease come back when a tenth of it is left. They are to find the next token then.
func TestATokenIsReplacedWhenASixthOfItsLifeIsLeftUnlessTheRoleSaysElse(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.must(opPatch, "roles/monitoring", map[string]any{"min_ttl": nil})
		read := m.read(nil)
		first := m.expectLives(read)
		if read["ttl"] != int64(3000) || read["rotation_period"] != int64(3000) {
			t.Errorf("ttl %v, rotation_period %v", read["ttl"], read["rotation_period"])
		}
		time.Sleep(47*time.Minute + 59*time.Second) // no token is replaced more than two minutes ahead
		m.read(nil)
		synctest.Wait()
		if m.expectLives(m.read(nil)) != first {
			t.Error("the token was replaced before")
		}
		time.Sleep(2*time.Minute + 2*time.Second)
		if m.expectLives(m.read(nil)) == first {
			t.Error("the token was not replaced")
		}
		for ttl, minTTL := range map[string]int64{"0": 600, "8h": 4800, "31m": 310, "30m": 300, "10m": 300, "4m": 120} {
			m.must(opPatch, "roles/monitoring", map[string]any{"ttl": ttl})
			if told := m.get("roles/monitoring")["min_ttl"]; told != minTTL {
				t.Errorf("ttl %s: min_ttl is %v, want %d", ttl, told, minTTL)
			}
		}
	})
}

func TestRotationStartsAheadOfNeed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(53*time.Minute + time.Second)
		m.FailNext(simulator.EndpointRefresh, -1, hang)
		began := time.Now()
		if m.expectLives(m.read(nil)) != first || time.Since(began) != 0 {
			t.Error("a read whose token is good enough waited for the rotation")
		}
		m.ClearFailures()
		synctest.Wait()
		if m.expectLives(m.read(nil)) == first {
			t.Error("the rotation was not started ahead of need")
		}
	})
}

// A rotation is begun by the first read that comes no more than two minutes, or a tenth of the
// token's life, before it is due.
func TestARotationBeginsATenthOfTheLifeAheadTwoMinutesAtMost(t *testing.T) {
	for ttl, begins := range map[string]time.Duration{"1h": 53 * time.Minute, "10m": 4 * time.Minute} {
		t.Run(ttl, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("roles/monitoring", map[string]any{"ttl": ttl})
				m.read(nil)
				time.Sleep(begins - time.Nanosecond)
				m.ResetCounts()
				m.read(nil)
				m.expectCalls(nil)
				time.Sleep(time.Nanosecond)
				m.read(nil)
				m.expectCalls(calls{simulator.EndpointRefresh: 1})
			})
		})
	}
}

func TestRestartServesTheStoredToken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.ResetCounts()
		m.start()
		if m.expectLives(m.read(nil)) != first {
			t.Error("the stored token was not served")
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1}) // it may be of the past
		m.expectLives(m.read(nil))
		m.expectCalls(nil)
	})
}

func TestStorageThatRefusesWritesCostsAWarningOnly(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.storage.refuses.Store(true)
		if m.warnings() == "" {
			t.Error("no warning")
		}
		first := m.expectLives(m.read(nil))
		if m.expectLives(m.read(nil)) != first {
			t.Error("memory did not keep the token")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A reader that looked before a rotation landed, and comes to start one after, starts none.
func TestARotationIsNotStartedForWhatWasRotated(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		goOn := m.holdFirstLook(storage, "learnt/default")
		late := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.read(nil)
		synctest.Wait()
		close(goOn)
		late()
		// Of which nothing is known since the start.
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1})
	})
}

// What was deleted or changed, on this node or another, before a rotation ahead of need began is
// not rotated; nor is what storage does not tell of. The reader has a good token either way.
func TestNoRotationIsBegunForWhatIsNoMore(t *testing.T) {
	elsewhere := func(m *mount, key string) {
		if err := m.storage.Delete(context.Background(), key); err != nil {
			m.t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), key)
	}
	for name, happens := range map[string]func(m *mount, storage *hookedStorage){
		"the role is another": func(m *mount, _ *hookedStorage) {
			m.write("roles/monitoring", map[string]any{"ttl": "50m"})
		},
		"the role is no more":     func(m *mount, _ *hookedStorage) { elsewhere(m, "role/monitoring") },
		"the config is no more":   func(m *mount, _ *hookedStorage) { elsewhere(m, "config/default") },
		"the sessions were ended": func(m *mount, _ *hookedStorage) { m.delete("sessions/monitoring") },
		"storage fails": func(m *mount, storage *hookedStorage) {
			storage.failToRead("role/monitoring")
			m.backend.InvalidateKey(context.Background(), "role/monitoring")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				storage := m.hooked()
				m.read(nil)
				time.Sleep(54 * time.Minute)
				goOn := m.holdLook(storage, "learnt/default")
				reader := m.beginRead("monitoring", nil)
				synctest.Wait()
				storage.got.Store(nil)
				happens(m, storage)
				m.ResetCounts()
				close(goOn)
				if o := reader(); o.token() == "" {
					t.Error(o.err, o.response)
				}
				m.expectCalls(nil)
			})
		})
	}
}

// While the User-API token is refused, no read of a good token begins a rotation that may need it.
func TestNoRotationIsBegunAheadInACoolDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		first := m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.regenerate()
		m.fails(400, opRead, "creds/other", nil)
		m.ResetCounts()
		if m.expectLives(m.read(nil)) != first {
			t.Error("another token")
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1}) // for a refusal casts suspicion
	})
}
