// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A reboot of N-central ends every session. Whatever was obtained since then, and whatever rotates meanwhile, the first
// tick after it finds out, and no dead token is handed out from then on.
func TestTheTickFindsAReboot(t *testing.T) {
	tests := map[string]func(m *mount){
		"nothing happens meanwhile":          func(*mount) {},
		"a cold role is read after it":       func(m *mount) { m.readRole("cold") },
		"another role is validated after it": func(m *mount) { m.must(opRead, "creds/role-0", map[string]any{"validate": true}) },
		"a role is read that rotates in time": func(m *mount) {
			m.write("roles/short", map[string]any{"lease": false, "ttl": "2m"})
			m.readRole("short")
		},
	}
	for name, meanwhile := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				roles := m.addRoles(12, nil)
				m.write("roles/cold", map[string]any{"lease": false})
				for _, role := range roles {
					time.Sleep(5 * time.Second)
					m.readRole(role)
				}
				m.Reboot()
				meanwhile(m)
				time.Sleep(time.Minute)
				m.tick()
				for _, role := range roles {
					m.expectLives(m.readRole(role))
				}
			})
		})
	}
}

func TestALongOutageThatEndsInARebootIsFound(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		roles := m.addRoles(12, nil)
		for _, role := range roles { // read for the first time some minutes apart, as it happens
			m.readRole(role)
			time.Sleep(4 * time.Minute)
			m.tick()
		}
		m.server.Stop()
		for range 10 {
			time.Sleep(time.Minute)
			m.tick()
			for _, role := range roles {
				_, _ = m.do(opRead, "creds/"+role, nil)
			}
		}
		m.Reboot()
		if err := m.server.Restart(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m.tick()
		for range 30 {
			for _, role := range roles {
				m.expectLives(m.readRole(role))
			}
			time.Sleep(time.Minute)
			m.tick()
		}
	})
}

// One server that does not answer holds up the tick's work on no other.
func TestARebootIsFoundThoughAnotherServerHangs(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		hangs := m.hangingAt(":81")
		m.write("config/aaa", map[string]any{"url": "http://localhost:81", "user_api_token": m.token, "request_timeout": "20s"})
		for _, role := range m.addRoles(16, map[string]any{"config": "aaa"}) {
			m.readRole(role)
		}
		time.Sleep(50 * time.Minute)
		m.read(nil)
		hangs.Store(true)
		time.Sleep(4 * time.Minute)
		m.Reboot() // it is one server behind both addresses
		m.tick()
		m.expectLives(m.read(nil))
	})
}

// A check that finds another start time than the last one is a sign of a reboot.
func TestAnotherStartTimeIsAReboot(t *testing.T) {
	for _, by := range []string{"check", "verification"} {
		t.Run(by, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("roles/other", map[string]any{"lease": false})
				m.readRole("other")
				time.Sleep(time.Minute)
				m.Reboot()
				m.read(nil)
				if by == "check" {
					m.check()
				} else {
					m.write("config/default", map[string]any{"max_retries": 2})
				}
				m.expectLives(m.readRole("other"))
			})
		})
	}
}

// A refresh token that is refused before its time was forgotten by a reboot: what else was obtained before it is suspect,
// and what was learnt of the server is forgotten, since an upgrade reboots it too.
func TestARefusedRefreshIsAReboot(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		time.Sleep(30 * time.Minute)
		m.readRole("other")
		time.Sleep(26 * time.Minute)
		m.Reboot()
		m.Change(func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true })
		second := m.expectLives(m.read(nil))
		m.expectLives(m.readRole("other"))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		if !m.AccessTokenLives(second) {
			t.Error("a rotation refreshed by what was learnt before the upgrade, and ended the token that readers hold")
		}
	})
}

func TestAStaleTokenThatARebootMayHaveEndedIsNotHandedOut(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(55*time.Minute + 30*time.Second)
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500)) // N-central's core is still starting
		m.fails(502, opRead, "creds/monitoring", nil)
	})
}

// An answer to a refresh that was lost explains why its token is refused the next time: it may be good for once.
func TestARefreshTokenThatIsUsedUpIsNoReboot(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.SingleUseRefreshTokens = true }, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.readRole("other")
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointRefresh, 1, simulator.Failure{Kind: simulator.FailureLostAnswer})
		m.read(nil)
		time.Sleep(time.Second)
		m.expectCalls(calls{simulator.EndpointRefresh: 2, simulator.EndpointAuthenticate: 1})
		m.readRole("other")
		m.expectCalls(calls{simulator.EndpointRefresh: 1})
	})
}

// What the engine itself ended meanwhile is no sign of a reboot, and a rotation that nobody wants any more makes no calls.
func TestAnEndOfSessionsDuringARotationIsNoReboot(t *testing.T) {
	for _, at := range []string{toRefresh, "GET /api/server-info", toAuthenticate} {
		t.Run(at, func(t *testing.T) {
			inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = at == toAuthenticate }, func(m *mount) {
				m.write("roles/other", map[string]any{"lease": false})
				m.readRole("other")
				if at == "GET /api/server-info" {
					m.delete("sessions/other") // of a time without tokens
					time.Sleep(time.Second)
				}
				g := m.gated()
				m.read(nil)
				time.Sleep(54 * time.Minute)
				release := g.hold(at)
				m.read(nil) // starts the rotation
				synctest.Wait()
				m.delete("sessions/monitoring")
				m.expectLives(m.read(nil))
				m.ResetCounts()
				release()
				synctest.Wait()
				if at == "GET /api/server-info" { // else what it brought is logged out
					m.expectCalls(nil)
				}
				m.ResetCounts()
				m.expectLives(m.read(nil))
				m.expectCalls(nil)
			})
		})
	}
}

// A dead token that is read is replaced by the tick that finds it, not by the next reader.
func TestTheTickReplacesWhatItFindsDead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(time.Minute)
		m.Reboot()
		m.ResetCounts()
		m.tick()
		synctest.Wait()
		if opened := m.all(simulator.EndpointAuthenticate); opened == 0 {
			t.Error("nothing was replaced")
		}
		m.expectLogged("a token died before its time and is replaced", true)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(nil)
	})
}

// A refresh token that has expired by what N-central stated is not tried.
func TestAnExpiredRefreshTokenIsNotTried(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshLimit = 30 * time.Minute }, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A token that the tick finds dead makes the others suspect also where an authenticate that may have ended it is under way:
// that opens no session after all, and it was a reboot.
func TestTheTickFindsARebootWhileASessionIsBeingOpened(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.unverified() // so that it is not known whether new sessions end earlier ones
		roles := m.addRoles(3, map[string]any{"config": "fresh"})
		for _, role := range roles {
			m.readRole(role)
			time.Sleep(time.Second)
		}
		for _, role := range roles { // each new session cast suspicion on those before it
			m.readRole(role)
		}
		time.Sleep(time.Minute)
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500)) // N-central's core is still starting
		cold := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		m.begin(logical.RollbackOperation, "", nil)
		synctest.Wait()
		for _, role := range roles {
			if o := m.begin(opRead, "creds/"+role, nil)(); o.token() != "" {
				t.Errorf("%s: a dead token was handed out", role)
			}
		}
		cold()
	})
}

// The log tells of a token that the tick could not ask after.
func TestTheLogTellsWhereTheTickCannotAsk(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.FailNext(simulator.EndpointValidate, -1, status(503))
		m.tick()
		m.expectLogged("a token could not be validated", true)
	})
}

// A token that was obtained for a reader counts as read, also for the node that ticks next.
func TestATokenThatAReaderGotIsRotatedByTheNextNodeToo(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.start()
		time.Sleep(54 * time.Minute)
		m.tick()
		m.ResetCounts()
		if m.expectLives(m.read(nil)) == first {
			t.Error("the tick rotated nothing")
		}
		m.expectCalls(nil)
		m.expectLogged("could not be rotated", false)
		m.expectLogged("could not be looked after", false)
	})
}

// A rotation of the tick that an end of the sessions overtakes is no failure.
func TestARotationThatWasOvertakenIsNotToldOf(t *testing.T) {
	for name, slow := range map[string]func(m *mount){
		"the call is under way": func(m *mount) { m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second }) },
		"it is to be repeated":  func(m *mount) { m.FailNext(simulator.EndpointRefresh, -1, status(503)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.read(nil)
				time.Sleep(54 * time.Minute)
				slow(m)
				ticked := m.begin(logical.RollbackOperation, "", nil)
				synctest.Wait()
				m.delete("sessions/monitoring")
				ticked()
				m.expectLogged("could not be rotated", false)
				if strings.Contains(name, "repeated") {
					m.expectLogged("refresh did not bring a token", false)
				}
			})
		})
	}
}

// A role that is deleted while the tick works on others is left out.
func TestTheTickLeavesOutWhatIsDeletedMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		time.Sleep(40 * time.Minute)
		m.readRole("other")
		time.Sleep(14 * time.Minute)
		m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
		ticked := m.begin(logical.RollbackOperation, "", nil) // rotates the one that is due
		synctest.Wait()
		m.delete("roles/other")
		if o := ticked(); o.err != nil && !errors.Is(o.err, logical.ErrUnsupportedOperation) {
			t.Error(o.err)
		}
		m.Change(func(k *simulator.Knobs) { k.Latency = 0 })
		synctest.Wait()
		if open := m.OpenSessions(); open != 2 {
			t.Errorf("%d sessions are open, want the role's, and the one that it replaced", open)
		}
	})
}

// A dead token that was replaced, or whose role was deleted, before the tick came to replace it is not replaced again.
func TestTheTickReplacesNothingThatChangedMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.read(nil)
		time.Sleep(time.Minute)
		m.Reboot()
		goOn := make(chan struct{})
		var writes atomic.Int64
		holdsTheSecond := func(key string) error { // the first forgets what was learnt, the second casts suspicion
			if key == "learnt/default" && writes.Add(1) == 2 {
				<-goOn
			}
			return nil
		}
		storage.put.Store(&holdsTheSecond)
		m.ResetCounts()
		ticked := m.begin(logical.RollbackOperation, "", nil)
		synctest.Wait()
		m.delete("roles/monitoring")
		close(goOn)
		ticked()
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A config that was rewritten when the tick comes to ask after its oldest token is left to the next tick.
func TestTheTickLeavesAConfigThatWasRewrittenMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.read(nil)
		goOn := m.holdLook(storage, "learnt/default")
		ticked := m.begin(logical.RollbackOperation, "", nil)
		synctest.Wait()
		storage.got.Store(nil)
		m.write("config/default", map[string]any{"max_retries": 1, "verify": false})
		m.expectLives(m.read(nil))
		m.ResetCounts()
		close(goOn)
		ticked()
		m.expectCalls(nil)
		m.expectLogged("a token could not be validated", false)
	})
}

// The log tells of a rotation of the tick that failed.
func TestTheLogTellsOfARotationThatFailed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(54 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, status(503))
		m.tick()
		m.expectLogged("a token could not be rotated ahead of need", true)
	})
}

// The tick asks after the oldest token, whatever was obtained since.
func TestTheTickAsksAfterTheOldestToken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.Reboot()
		for _, role := range m.addRoles(30, nil) {
			time.Sleep(time.Second)
			m.readRole(role)
		}
		m.tick()
		m.expectLives(m.read(nil))
	})
}

// A data call that is refused tells of the user only where its token is still the one in hand.
func TestADataCallWithATokenThatWasEndedTellsNothing(t *testing.T) {
	for _, ended := range []bool{false, true} {
		inBubble(t, nil, func(m *mount) {
			g := m.gated()
			m.read(nil)
			m.FailNext(simulator.EndpointServiceOrgs, 1, status(401))
			release := g.hold(toData)
			ticked := m.begin(logical.RollbackOperation, "", nil)
			synctest.Wait()
			if ended {
				m.delete("sessions/monitoring")
			}
			release()
			ticked()
			if state := m.status()["state"]; ended != (state == "ok") {
				t.Errorf("the token was ended: %t; state %v", ended, state)
			}
		})
	}
}

// A refresh token that was refused is not tried again, be it the last hope.
func TestARefusedRefreshTokenIsNotTriedAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(61 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500))
		for range 3 {
			m.fails(502, opRead, "creds/monitoring", nil)
			time.Sleep(20 * time.Second)
		}
		if tried := m.all(simulator.EndpointRefresh); tried != 1 {
			t.Errorf("it was tried %d times", tried)
		}
	})
}

// What was learnt of a server is kept as long as storage does not tell whether its config is no more, and Vault is told.
func TestTheTickForgetsNoServerOfWhichItCannotTell(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		fails := func(key string) error {
			if key == "config/default" {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		if o := m.begin(logical.RollbackOperation, "", nil)(); o.err == nil || !strings.Contains(o.err.Error(), "storage is not there") {
			t.Errorf("the tick answered %v", o.err)
		}
		if learnt, err := m.storage.InmemStorage.Get(context.Background(), "learnt/default"); learnt == nil || err != nil {
			t.Errorf("what was learnt was forgotten: %v", err)
		}
	})
}

// So does one that the tick waits for beside the reader.
func TestATokenThatAReaderAndTheTickWaitForCountsAsRead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		g := m.gated()
		release := g.hold(toRefresh)
		reader := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		ticked := m.begin(logical.RollbackOperation, "", nil)
		synctest.Wait()
		release()
		second := reader().token()
		ticked()
		m.start()
		time.Sleep(54 * time.Minute)
		m.tick()
		if m.expectLives(m.read(nil)) == second {
			t.Error("the next node's tick rotated nothing")
		}
		synctest.Wait()
	})
}

// What a new session may have ended is left to its readers: were the tick to replace it, two roles of a user whose sessions
// end each other would take turns for ever.
func TestTheTickAsksAfterNoSuspectToken(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		time.Sleep(time.Second)
		token := m.expectLives(m.readRole("other"))
		m.ResetCounts()
		m.tick()
		m.expectCalls(calls{simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1})
		if !m.AccessTokenLives(token) {
			t.Error("the tick ended a token that readers hold")
		}
	})
}

// What was learnt of a server whose config was deleted elsewhere is removed, and of no other.
func TestTheTickForgetsServersWithoutAConfig(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{"aaa", "zzz"} {
			m.write("config/"+name, map[string]any{"url": m.server.URL, "user_api_token": m.token})
			if err := m.storage.Delete(context.Background(), "config/"+name); err != nil {
				t.Fatal(err)
			}
			m.backend.InvalidateKey(context.Background(), "config/"+name)
		}
		m.tick()
		if names, err := m.storage.List(context.Background(), "learnt/"); err != nil || len(names) != 1 || names[0] != "default" {
			t.Errorf("storage has what was learnt of %v: %v", names, err)
		}
	})
}
