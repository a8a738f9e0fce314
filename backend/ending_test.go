// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How sessions end: whole, or not at all; and never a token that a reader was promised.

package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The logouts are written down before anything is forgotten or sent. Where that cannot be done
// nothing is ended, and what was is there still.
func TestAnEndOfSessionsThatStorageRefusesEndsNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		token := m.expectLives(m.read(nil))
		m.ResetCounts()
		m.storage.refuses.Store(true)
		m.fails(500, opDelete, "sessions/monitoring", nil)
		m.expectCalls(nil)
		if m.expectLives(m.read(nil)) != token {
			t.Error("the session is gone, though nothing was ended")
		}
		m.storage.refuses.Store(false)
		m.delete("sessions/monitoring")
		if m.AccessTokenLives(token) || len(m.owedKeys()) != 0 {
			t.Errorf("the token lives: %t; owed: %v", m.AccessTokenLives(token), m.owedKeys())
		}
	})
}

// failingOnce is a storage of which one write or deletion fails, and may have been done all the
// same.
type failingOnce struct {
	logical.Storage
	fails, writes int
	done          bool
}

func (s *failingOnce) write(do func() error) error {
	s.writes++
	if s.writes != s.fails {
		return do()
	}
	if s.done {
		_ = do()
	}
	return errors.New("storage fails")
}

func (s *failingOnce) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.write(func() error { return s.Storage.Put(ctx, entry) })
}

func (s *failingOnce) Delete(ctx context.Context, key string) error {
	return s.write(func() error { return s.Storage.Delete(ctx, key) })
}

// Whichever write of an end of sessions fails, and whether it was done or not: either all is ended
// or owed, or nothing was ended and nothing is owed.
func TestAnEndOfSessionsIsDoneOrNotDoneWhateverStorageFailsAt(t *testing.T) {
	for fails := 1; fails <= 4; fails++ {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d fails, done: %t", fails, done), func(t *testing.T) {
				inBubble(t, nil, func(m *mount) {
					m.read(nil)
					m.write("roles/monitoring", map[string]any{"ttl": "50m"}) // retires the first token
					m.read(nil)
					m.FailNext(simulator.EndpointLogout, -1, status(503))
					m.startOn(&failingOnce{Storage: m.storage, fails: fails, done: done})
					_, err := m.do(opDelete, "sessions/monitoring", nil)
					_, there := m.get("sessions/monitoring")["issued_at"]
					owed := len(m.owedKeys())
					if there && (err == nil || owed != 0) || !there && (err != nil || owed != 2) {
						t.Errorf("the session is there: %t; owed: %d; %v", there, owed, err)
					}
				})
			})
		}
	}
}

// A server that ignores the lifetime asked for leaves a token alive for an hour at each rotation.
// They are ended once the promise to their readers is over, as far as that cannot end one that is
// promised, and never more than some are kept.
func TestReplacedTokensDoNotPileUp(t *testing.T) {
	for name, knobs := range map[string]func(k *simulator.Knobs){
		"each has a session of its own": func(k *simulator.Knobs) {
			k.IgnoreOverrides, k.RefreshEndsPredecessor = true, true
		},
		"they were refreshed": func(k *simulator.Knobs) {
			k.IgnoreOverrides, k.AuthenticateEndsEarlierSessions = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, knobs, func(m *mount) {
				m.write("roles/monitoring", map[string]any{"ttl": "10s", "min_ttl": "5s"})
				for second := range 1800 {
					m.expectLives(m.read(nil))
					time.Sleep(time.Second)
					if second%60 == 0 {
						m.tick()
					}
				}
				synctest.Wait()
				entry, err := m.storage.Get(context.Background(), "session/monitoring")
				if err != nil || entry == nil {
					t.Fatal(entry, err)
				}
				if len(entry.Value) > 64<<10 {
					t.Errorf("the session's entry has %d KiB", len(entry.Value)>>10)
				}
				if open := m.OpenSessions(); strings.Contains(name, "own") && open > 25 { // of two minutes
					t.Errorf("%d sessions are open", open)
				}
			})
		})
	}
}

// What outlives its promise is not ended as long as a token of the same session is promised:
// N-central may end both.
func TestATokenPastItsPromiseIsNotEndedBesideItsSuccessor(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.IgnoreOverrides, k.AuthenticateEndsEarlierSessions = true, true }
	inBubble(t, knobs, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		first := m.expectLives(m.read(nil))
		time.Sleep(9 * time.Minute)
		second := m.expectLives(m.read(nil))
		time.Sleep(2 * time.Minute)
		m.tick()
		if !m.AccessTokenLives(first) || !m.AccessTokenLives(second) || m.all(simulator.EndpointLogout) > 0 {
			t.Error("the session of a token that is promised was logged out")
		}
		m.delete("sessions/monitoring")
		if m.AccessTokenLives(first) || m.AccessTokenLives(second) {
			t.Error("a token outlived the end of the role's sessions")
		}
	})
}

// A lease is logged out within an hour past its end too: clocks differ, and the refresh token
// beside it lives longer.
func TestALeaseIsLoggedOutPastItsEndToo(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		lease := m.open(nil)
		// This node's clock is an hour ahead: to the engine that is as if the lease said so.
		lease.Secret.InternalData["dies_at"] = time.Now().Add(-59 * time.Minute).UTC().Format(time.RFC3339Nano)
		m.mustRevoke(lease)
		if m.AccessTokenLives(lease.Data["access_token"].(string)) {
			t.Error("the session lives on")
		}
		late := m.open(nil)
		synctest.Wait()
		late.Secret.InternalData["dies_at"] = time.Now().Add(-61 * time.Minute).UTC().Format(time.RFC3339Nano)
		synctest.Wait() // for the data call that follows an answer
		m.ResetCounts()
		m.mustRevoke(late)
		m.expectCalls(nil)
	})
}

// The sessions of a role end also where its last token was found dead and nothing has replaced it.
func TestSessionsEndWhereThereIsNoTokenInHand(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "30m"}) // retires the first token
		m.read(nil)
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500))
		m.fails(502, opRead, "creds/monitoring", map[string]any{"validate": true})
		m.ResetCounts()
		m.delete("sessions/monitoring")
		m.expectCalls(calls{simulator.EndpointLogout: 1})
		if earlier := m.get("sessions/monitoring")["earlier_tokens"]; earlier != 0 {
			t.Errorf("%v earlier tokens", earlier)
		}
	})
}

// tokenPastItsPromise makes the backend anew on a storage with hooks, and leads the role's first
// token past its promise: the server, which ignores overrides, accepts it still.
func (m *mount) tokenPastItsPromise() (storage *hookedStorage, first string) {
	storage = &hookedStorage{Storage: m.storage}
	m.startOn(storage)
	m.write("roles/monitoring", map[string]any{"ttl": "4m", "min_ttl": "2m"})
	first = m.expectLives(m.read(nil))
	time.Sleep(3 * time.Minute)
	m.read(nil)
	time.Sleep(time.Minute)
	return storage, first
}

// What is past its promise stays in the session and is not ended as long as storage does not take
// its logout as owed, or does not let it go from the session.
func TestATokenPastItsPromiseIsNotLostWhereStorageRefuses(t *testing.T) {
	for _, what := range []string{"owed/", "session/"} {
		knobs := func(k *simulator.Knobs) { k.IgnoreOverrides, k.RefreshEndsPredecessor = true, true }
		inBubble(t, knobs, func(m *mount) {
			storage, first := m.tokenPastItsPromise()
			refuses := func(key string) error {
				if strings.HasPrefix(key, what) {
					return errors.New("storage refuses writes")
				}
				return nil
			}
			storage.put.Store(&refuses)
			m.tick()
			m.expectLogged("sessions past their promise could not be ended", true)
			if owed := m.owedKeys(); len(owed) != 0 {
				t.Errorf("owed is %v", owed)
			}
			storage.put.Store(nil)
			m.tick()
			if m.AccessTokenLives(first) {
				t.Error("a token past its promise was forgotten, and never logged out")
			}
		})
	}
}

// A session that is not handed out is ended also where storage does not take its logout as owed.
// The log tells where neither succeeds.
func TestASessionThatIsNotHandedOutIsEndedThoughStorageRefuses(t *testing.T) {
	for _, down := range []bool{false, true} {
		inDedicatedBubble(t, nil, func(m *mount) {
			m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
			m.storage.refuses.Store(true)
			if down {
				m.FailNext(simulator.EndpointLogout, -1, status(503))
			}
			m.fails(400, opRead, "creds/worker", map[string]any{"min_ttl": "2h"}) // more than is granted
			synctest.Wait()
			if open := m.OpenSessions(); down != (open == 1) {
				t.Errorf("logouts fail: %t; %d sessions are open", down, open)
			}
			m.expectLogged("and that could not be written down either", down)
		})
	}
}

// The log tells of sessions of deleted roles that the tick could not end.
func TestTheLogTellsOfSessionsOfDeletedRolesThatLiveOn(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		if err := m.storage.Delete(context.Background(), "role/monitoring"); err != nil { // on the primary cluster
			t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), "role/monitoring")
		m.FailNext(simulator.EndpointLogout, -1, status(503))
		m.tick()
		m.expectLogged("a session of a deleted role could not be ended", true)
		m.expectLogged("a session could not be looked after", false)
	})
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		if err := m.storage.Delete(context.Background(), "role/monitoring"); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), "role/monitoring")
		m.storage.refuses.Store(true)
		m.tick()
		m.expectLogged("a session could not be looked after", true)
	})
}

// A logout may end all that was refreshed from one authenticate. What a refresh brings and nobody
// gets is ended when nothing of its chain is promised any more.
func TestWhatARefreshBringsInVainEndsNoTokenThatReadersHold(t *testing.T) {
	chained := func(k *simulator.Knobs) { k.LogoutEndsChain = true }
	for name, inVain := range map[string]func(m *mount){
		"a lifetime of no use": func(m *mount) {
			m.FailNext(simulator.EndpointRefresh, 1, simulator.Failure{
				Kind: simulator.FailureExpiry, ExpirySeconds: "1",
			})
			m.read(nil)
		},
		"a role that was changed meanwhile": func(m *mount) {
			g := m.gated()
			release := g.hold(toRefresh)
			read := m.beginRead("monitoring", nil)
			synctest.Wait()
			m.must(opPatch, "roles/monitoring", map[string]any{"ttl": "30m"})
			release()
			read()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, chained, func(m *mount) {
				first := m.expectLives(m.read(nil))
				time.Sleep(57 * time.Minute)
				inVain(m)
				synctest.Wait()
				if got := m.expectLives(m.read(nil)); got == first {
					t.Fatal("no other token came")
				}
				if !m.AccessTokenLives(first) || m.OpenSessions() != 3 {
					t.Errorf(
						"readers' token lives: %t; %d sessions are open", m.AccessTokenLives(first), m.OpenSessions(),
					)
				}
				time.Sleep(3 * time.Minute)
				m.tick()
				if m.OpenSessions() != 1 || len(m.owedKeys()) != 0 {
					t.Errorf("%d sessions are open, and owed is %v", m.OpenSessions(), m.owedKeys())
				}
			})
		})
	}
}

func TestWhatIsSetAsideEndsWithTheRolesSessions(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(57 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, simulator.Failure{Kind: simulator.FailureExpiry, ExpirySeconds: "1"})
		m.read(nil)
		m.delete("sessions/monitoring")
		if m.OpenSessions() != 0 {
			t.Errorf("%d sessions are open", m.OpenSessions())
		}
	})
}

// Each refresh in vain is kept beside the token that readers hold: they must not pile up while no
// new session can be had.
func TestARefreshThatBroughtAGrantOfNoUseIsNotTriedAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointRefresh, -1, simulator.Failure{Kind: simulator.FailureExpiry, ExpirySeconds: "1"})
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500))
		time.Sleep(55 * time.Minute)
		m.ResetCounts()
		for range 16 {
			m.expectLives(m.read(nil)) // stale, and well
			time.Sleep(16 * time.Second)
		}
		if tried := m.all(simulator.EndpointRefresh); tried != 1 {
			t.Errorf("%d refreshes", tried)
		}
	})
}

func TestTheLogTellsOfTokensPastTheirPromiseThatLiveOn(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides, k.RefreshEndsPredecessor = true, true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "4m", "min_ttl": "2m"})
		m.read(nil)
		time.Sleep(3 * time.Minute)
		m.read(nil)
		time.Sleep(time.Minute)
		m.FailNext(simulator.EndpointLogout, -1, status(503))
		m.tick()
		m.expectLogged("a session past its promise could not be ended", true)
	})
}

func TestServerWithoutLogoutIsToldOf(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.LogoutAbsent = true }, func(m *mount) {
		m.read(nil)
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 ||
			!strings.Contains(response.Warnings[0], "has no logout") {
			t.Fatalf("want a warning that the server has no logout, got %v %v", response, err)
		}
	})
}

func TestRetiredTokensLapseAndAreEndedWithTheRest(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		second := m.expectLives(m.read(nil))
		if second == first || !m.AccessTokenLives(first) {
			t.Error("a retired token is to be left to lapse, and handed out no more")
		}
		if earlier := m.get("sessions/monitoring")["earlier_tokens"]; earlier != 1 {
			t.Errorf("%v earlier tokens, want 1", earlier)
		}
		m.write("roles/monitoring", map[string]any{"min_ttl": "1m", "lease": true})
		m.write("roles/monitoring", map[string]any{"lease": false})
		m.write("config/default", map[string]any{"max_retries": 1, "expiry_warning": "1d"})
		if m.expectLives(m.read(nil)) != second {
			t.Error("a change that retires nothing replaced the token")
		}
		m.delete("sessions/monitoring")
		m.onlySession("")
	})
}
