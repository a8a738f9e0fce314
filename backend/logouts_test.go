// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A logout is written down as owed before it is tried, until it is done or the token has ended.

package backend

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// A logout that fails is owed, which its caller is told, and the tick does it.
func TestALogoutThatFailsIsDoneByTheTick(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, -1, status(500))
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 ||
			!strings.Contains(response.Warnings[0], "owed") {
			t.Fatalf("want a warning that a logout is owed, got %v %v", response, err)
		}
		if owed := m.get("sessions/monitoring")["logouts_owed"]; owed != 1 {
			t.Errorf("%v logouts are owed, want 1", owed)
		}
		m.tick()
		if !m.AccessTokenLives(first) {
			t.Fatal("the simulator logged out what it was told to fail")
		}
		m.ClearFailures()
		m.tick()
		if m.AccessTokenLives(first) {
			t.Error("the tick did not pay the logout owed")
		}
		if owed := m.get("sessions/monitoring")["logouts_owed"]; owed != 0 {
			t.Errorf("%v logouts are owed, want 0", owed)
		}
	})
}

// Whatever way the logout of a lease fails, it is owed until it is done, and status tells.
func TestALogoutThatFailsIsOwedUntilItIsDone(t *testing.T) {
	failures := map[string]simulator.Failure{
		"500":   {Kind: simulator.FailureStatus, Status: 500},
		"403":   {Kind: simulator.FailureStatus, Status: 403},
		"HTML":  {Kind: simulator.FailureHTML},
		"reset": {Kind: simulator.FailureReset},
		"hang":  {Kind: simulator.FailureHang},
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, nil, func(m *mount) {
				owed := func() int {
					t.Helper()
					status := m.status()
					ofRole := m.get("sessions/worker")["logouts_owed"].(int)
					if status["logouts_owed"] != ofRole || (status["state"] == "degraded") != (ofRole > 0) {
						t.Errorf("status says %v, the role %d logouts owed", status, ofRole)
					}
					return ofRole
				}
				lease := m.open(nil)
				m.FailNext(simulator.EndpointLogout, -1, failure)
				m.mustRevoke(lease)
				m.tick()
				if owed() != 1 {
					t.Fatalf("%d logouts are owed, want 1", owed())
				}
				m.ClearFailures()
				time.Sleep(time.Minute)
				m.tick()
				if owed() != 0 || m.OpenSessions() != 0 {
					t.Errorf("%d logouts are owed and %d sessions open after the tick", owed(), m.OpenSessions())
				}
			})
		})
	}
}

// A process that dies while it logs out has written down what it owes.
func TestAProcessThatDiesInALogoutOwesIt(t *testing.T) {
	for name, end := range map[string]func(m *mount){
		"the sessions are deleted": func(m *mount) { m.begin(opDelete, "sessions/monitoring", nil) },
		"the role is deleted":      func(m *mount) { m.begin(opDelete, "roles/monitoring", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				token := m.expectLives(m.read(nil))
				m.FailNext(simulator.EndpointLogout, -1, hang)
				end(m)
				synctest.Wait()
				if len(m.owedKeys()) != 1 {
					t.Errorf("while the logout hangs, owed is %v", m.owedKeys())
				}
				m.start() // ends the process before it, which breaks the logout off
				m.ClearFailures()
				time.Sleep(time.Minute)
				m.tick()
				if m.AccessTokenLives(token) || len(m.owedKeys()) != 0 {
					t.Errorf("the token lives: %t; owed: %v", m.AccessTokenLives(token), m.owedKeys())
				}
			})
		})
	}
}

// The logout of a session that is not handed out is written down before it is tried.
func TestASessionThatCouldNotBeAnsweredIsOwedBeforeItIsEnded(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		release := g.hold(toAuthenticate)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.delete("roles/monitoring")
		m.FailNext(simulator.EndpointLogout, -1, hang)
		release()
		reader()
		synctest.Wait()
		if len(m.owedKeys()) != 1 {
			t.Errorf("while the logout hangs, owed is %v", m.owedKeys())
		}
		m.ClearFailures()
		synctest.Wait()
		if m.OpenSessions() != 0 || len(m.owedKeys()) != 0 {
			t.Errorf("%d sessions are open, owed is %v", m.OpenSessions(), m.owedKeys())
		}
	})
}

// A process that dies between the writing of a logout owed and the deletion of the session leaves a
// token that the tick logs out. Nobody gets it any more then.
func TestATokenWhoseLogoutIsOwedIsHandedOutNoMore(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/older", map[string]any{"lease": false}) // which the tick asks after
		m.readRole("older")
		time.Sleep(time.Second)
		m.read(nil)
		session, err := m.storage.Get(context.Background(), "session/monitoring")
		if err != nil {
			t.Fatal(err)
		}
		m.FailNext(simulator.EndpointLogout, -1, hang)
		m.begin(opDelete, "sessions/monitoring", nil)
		synctest.Wait()
		if err := m.storage.Put(context.Background(), session); err != nil {
			t.Fatal(err)
		}
		m.start()
		m.ClearFailures()
		m.tick()
		m.expectLives(m.read(nil))
		if len(m.owedKeys()) != 0 {
			t.Errorf("owed is %v", m.owedKeys())
		}
	})
}

// A logout whose config cannot be read is owed.
func TestLogoutIsOwedWhenTheConfigCannotBeRead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		storage := m.hooked()
		m.get("roles/monitoring")
		storage.failToRead("config/")
		m.delete("sessions/monitoring")
		storage.get.Store(nil)
		m.tick()
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: the logout was not written down as owed", open)
		}
	})
}

// A logout stays owed while its config cannot be read.
func TestALogoutOwedOutlivesAStorageFailure(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, -1, status(500))
		m.delete("sessions/monitoring")
		if owed := m.get("sessions/monitoring")["logouts_owed"]; owed != 1 {
			t.Fatalf("%v logouts are owed, want 1", owed)
		}
		m.ClearFailures()

		storage := m.hooked() // so that the config is read from storage
		storage.failToRead("config/")
		_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
			Operation: logical.RollbackOperation, Storage: storage,
		})
		storage.get.Store(nil)
		m.tick()
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: the debt was struck for a failure of storage", open)
		}
	})
}

// A revoke fails where its logout does and storage does not take it as owed.
func TestALogoutOwedThatStorageRefusesFailsTheRevoke(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		lease := m.open(nil)
		m.server.Stop()
		m.storage.refuses.Store(true)
		if m.revoke(lease) == nil {
			t.Error("the revoke succeeded, and the session is forgotten while it lives")
		}
	})
}

// A logout that is done and that storage does not let go is told of, and tried once more.
func TestALogoutThatStorageDoesNotLetGoIsTriedOnceMore(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		fails := func(key string) error {
			if strings.HasPrefix(key, "owed/") {
				return errors.New("storage refuses writes")
			}
			return nil
		}
		storage.del.Store(&fails)
		m.delete("sessions/monitoring")
		m.expectLogged("a logout owed could not be removed", true)
		storage.del.Store(nil)
		m.ResetCounts()
		m.tick()
		m.expectCalls(calls{simulator.EndpointLogout: 1})
		if owed := m.owedKeys(); len(owed) != 0 {
			t.Errorf("owed is %v", owed)
		}
	})
}

// Logouts that cannot be done keep no others from being tried.
func TestLogoutsOwedToADeadServerKeepNoOthersWaiting(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/down", map[string]any{
			"url": "https://down.example.com", "user_api_token": m.token, "verify": false,
		})
		entries := store.New(m.storage, hclog.NewNullLogger())
		for range 200 {
			debt := store.PendingLogout{
				Origin: store.Origin{Config: "down", URL: "https://down.example.com"}, AccessToken: "access-token",
				GrantedUntil: time.Now().Add(time.Hour),
			}
			if _, err := entries.PutPendingLogout(context.Background(), "a-role", debt); err != nil {
				t.Fatal(err)
			}
		}
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, 2, status(500))
		m.delete("sessions/monitoring")
		for range 10 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: their logout was never tried", open)
		}
	})
}

// One tick tries a bounded number of logouts of each config.
func TestATickTriesABoundedNumberOfLogouts(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.storage.calls.Store(0)
		for range 250 {
			debt := store.PendingLogout{
				Origin: store.Origin{Config: "default", URL: m.server.URL}, AccessToken: "token",
				GrantedUntil: time.Now().Add(time.Hour),
			}
			if _, err := store.New(m.storage, nil).PutPendingLogout(context.Background(), "worker", debt); err != nil {
				t.Fatal(err)
			}
		}
		m.tick()
		m.expectCalls(calls{simulator.EndpointLogout: 200})
		m.tick()
		m.expectCalls(calls{simulator.EndpointLogout: 50})
	})
}

// A logout owed whose token died since it was written is struck without a call, within the same
// second too.
func TestALogoutOwedWhoseTokenDiedIsStruckWithoutACall(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		debt := store.PendingLogout{
			Origin:      store.Origin{Config: "default", URL: m.server.URL},
			AccessToken: "token", GrantedUntil: time.Now().Truncate(time.Second).Add(1500 * time.Millisecond),
		}
		if _, err := store.New(m.storage, nil).PutPendingLogout(context.Background(), "monitoring", debt); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(debt.GrantedUntil) + 100*time.Millisecond)
		m.tick()
		m.expectCalls(nil)
		if owed := m.owedKeys(); len(owed) != 0 {
			t.Errorf("owed is %v", owed)
		}
	})
}

// A lease whose token has ended owes nothing, and its end is no news.
func TestALeaseWhoseTokenHasEndedOwesNothing(t *testing.T) {
	for left, owed := range map[time.Duration]bool{0: false, time.Nanosecond: true} {
		inDedicatedBubble(t, nil, func(m *mount) {
			m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
			lease := m.open(nil)
			lease.Secret.InternalData["dies_at"] = time.Now().Add(left).UTC().Format(time.RFC3339Nano)
			m.FailNext(simulator.EndpointLogout, -1, status(503))
			m.mustRevoke(lease)
			if keys := m.owedKeys(); len(keys) > 0 != owed {
				t.Errorf("%s before its end, owed is %v", left, keys)
			}
			m.expectLogged("the session of a lease that ended could not be ended", owed)
		})
	}
}

// Logouts of a deleted role that hang keep the tick from nothing.
func TestLogoutsOfDeletedRolesHoldTheTickUpForNobody(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"request_timeout": "20s"})
		m.write("config/slow", map[string]any{
			"url": m.server.URL, "user_api_token": m.token, "request_timeout": "20s", "max_retries": 10,
		})
		roles := m.addRoles(20, map[string]any{"config": "slow"})
		for _, role := range roles {
			m.readRole(role)
		}
		first := m.expectLives(m.read(nil))
		time.Sleep(53*time.Minute + 30*time.Second)
		for _, role := range roles { // deleted on the primary cluster
			if err := m.storage.Delete(context.Background(), "role/"+role); err != nil {
				t.Fatal(err)
			}
			m.backend.InvalidateKey(context.Background(), "role/"+role)
		}
		m.FailNext(simulator.EndpointLogout, -1, hang)
		began := time.Now()
		m.tick()
		if took := time.Since(began); took > 50*time.Second {
			t.Errorf("the tick took %s", took)
		}
		if m.expectLives(m.read(nil)) == first {
			t.Error("the tick rotated nothing")
		}
		m.ClearFailures()
		for range 3 {
			time.Sleep(time.Minute)
			m.tick()
		}
		synctest.Wait()
		// The new session, and the one that it replaced.
		if open := m.OpenSessions(); open != 2 || len(m.owedKeys()) != 0 {
			t.Errorf("%d sessions are open, owed is %d", open, len(m.owedKeys()))
		}
	})
}

// Logouts of tokens past their promise that hang keep the tick from nothing: what another config
// has is looked after at once.
func TestLogoutsPastThePromiseHoldTheTickUpForNobody(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("config/slow", map[string]any{"url": m.server.URL, "user_api_token": m.token})
		m.write("roles/aaa", map[string]any{"config": "slow", "lease": false, "ttl": "2m"})
		m.read(nil)
		for range 3 { // the first token is then past what was promised
			m.readRole("aaa")
			time.Sleep(90 * time.Second)
		}
		m.FailNext(simulator.EndpointLogout, -1, hang)
		m.Reboot()
		ticked := m.beginTick()
		synctest.Wait()
		m.expectLives(m.read(nil))
		ticked()
	})
}

// A session that let a token past its promise go, though storage said that it did not, owes it.
func TestATokenPastItsPromiseIsOwedWhereAFailedWriteWasDone(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides, k.RefreshEndsPredecessor = true, true }, func(m *mount) {
		storage, first := m.tokenPastItsPromise()
		fails := func(key string) error {
			if strings.HasPrefix(key, "session/") {
				return errors.New("storage fails")
			}
			return nil
		}
		storage.stored.Store(&fails)
		m.tick()
		storage.stored.Store(nil)
		m.tick()
		if m.AccessTokenLives(first) {
			t.Error("a token past its promise was forgotten, and never logged out")
		}
	})
}
