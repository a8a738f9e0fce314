// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What the tick rotates, validates, replaces and removes.

package backend

import (
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestTickRotatesWhatIsReadAndLeavesTheIdle(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(52 * time.Minute)
		m.tick()
		m.expectCalls(calls{
			simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1,
			simulator.EndpointUser: 1,
		})
		time.Sleep(time.Minute)
		m.tick()
		m.expectCalls(calls{simulator.EndpointRefresh: 1})
		second := m.read(nil)["access_token"]
		if second == first {
			t.Error("the tick did not rotate a token that was read and is due")
		}
		time.Sleep(56 * time.Minute)
		m.tick() // rotates, for the read above counts
		m.expectCalls(calls{simulator.EndpointRefresh: 1})
		time.Sleep(56 * time.Minute)
		m.tick() // does not: nobody read since
		m.expectCalls(calls{simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1})
		time.Sleep(10 * time.Minute)
		m.tick()
		m.expectCalls(nil)
		if sessions := m.must(opList, "sessions/", nil); sessions["keys"] != nil {
			t.Error("the entry of an idle role that lapsed was kept: ", sessions)
		}
	})
}

// Tokens that are not due keep the tick from none that is.
func TestTheTickRotatesAllThatIsDue(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		roles := m.addRoles(20, nil)
		for _, role := range roles[:10] {
			m.readRole(role)
		}
		time.Sleep(54 * time.Minute)
		for _, role := range roles[10:] {
			m.readRole(role)
		}
		m.ResetCounts()
		m.tick()
		synctest.Wait()
		if refreshes := m.all(simulator.EndpointRefresh); refreshes != 10 {
			t.Errorf("%d of 10 were rotated", refreshes)
		}
	})
}

// A token that one tick both rotates and validates is replaced once.
func TestTickRotatesOnce(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }
	inBubble(t, knobs, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang) // the validation reaches the server after the rotation
		ticked := m.beginTick()
		synctest.Wait()
		second := m.expectLives(m.read(nil))
		m.ClearFailures()
		ticked()
		synctest.Wait()
		if !m.AccessTokenLives(second) {
			t.Error("the tick ended the token that it had just obtained and that a reader holds")
		}
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 1 {
			t.Errorf("the tick authenticated %d times for one rotation", n)
		}
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

// What a new session may have ended is left to its readers: were the tick to replace it, two roles
// of a user whose sessions end each other would take turns for ever.
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

// A tick ends when its time is over. What it did not come to is begun by no later part of it.
func TestTickStopsWhenItsTimeIsOver(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{
			"request_timeout": "20s", "max_retries": 10, "max_requests_in_flight": 50,
		})
		for _, role := range m.addRoles(30, nil) {
			m.readRole(role)
		}
		time.Sleep(54 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		before := len(m.Requests())
		began := time.Now()
		m.tick()
		if took := time.Since(began); took != 50*time.Second {
			t.Errorf("the tick took %s, want 50s", took)
		}
		m.expectLogged("could not be rotated", false) // they go on
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		rotated := map[string]bool{}
		for _, request := range m.Requests()[before:] {
			if request.Endpoint == simulator.EndpointRefresh {
				rotated[request.Secret] = true
			}
		}
		if len(rotated) != 8 {
			t.Errorf("%d rotations were begun, want 8", len(rotated))
		}
		m.ClearFailures()
	})
}

// The tick opens no session for a role whose sessions are ended while it validates the token.
func TestTheTickOpensNoSessionAfterAnEndOfSessions(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		ticked := m.beginTick()
		synctest.Wait()
		m.delete("sessions/monitoring")
		m.ResetCounts()
		m.ClearFailures()
		ticked()
		synctest.Wait()
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 0 || m.OpenSessions() != 0 {
			t.Errorf("the tick opened %d sessions for a role whose sessions were just ended", n)
		}
	})
}

// The tick leaves the token alone that a reader's rotation obtained while the one before was being
// validated.
func TestTheTickLeavesATokenThatAReaderRotatedMeanwhile(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }
	inBubble(t, knobs, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(52*time.Minute + 59*time.Second) // due ahead at 53m
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang)
		ticked := m.beginTick()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		m.read(nil) // starts the rotation
		synctest.Wait()
		second := m.expectLives(m.read(nil))
		m.ClearFailures()
		ticked()
		synctest.Wait()
		if !m.AccessTokenLives(second) {
			t.Error("the tick ended a fresh token that a reader holds")
		}
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 1 {
			t.Errorf("%d authenticates for one rotation", n)
		}
	})
}

// A session that was stored while the tick came to remove what lapsed is not removed.
func TestTheTickRemovesNothingNew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		time.Sleep(26 * time.Hour)
		goOn := make(chan struct{})
		slow := func(key string) error {
			if strings.HasPrefix(key, "session/") {
				<-goOn
			}
			return nil
		}
		storage.put.Store(&slow)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		ticked := m.beginTick()
		for range 100_000 { // the tick waits for the lock, during which the bubble's time stands still
			runtime.Gosched()
		}
		close(goOn)
		token := reader().token()
		ticked()
		m.start()
		if m.expectLives(m.read(nil)) != token {
			t.Error("the new session was removed")
		}
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

// A token that the tick waits for beside a reader counts as read too.
func TestATokenThatAReaderAndTheTickWaitForCountsAsRead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		g := m.gated()
		release := g.hold(toRefresh)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		ticked := m.beginTick()
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

// A rotation of the tick that an end of the sessions overtakes is no failure.
func TestARotationThatWasSupersededIsNotToldOf(t *testing.T) {
	for name, slow := range map[string]func(m *mount){
		"the call is under way": func(m *mount) { m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second }) },
		"it is to be repeated":  func(m *mount) { m.FailNext(simulator.EndpointRefresh, -1, status(503)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.read(nil)
				time.Sleep(54 * time.Minute)
				slow(m)
				ticked := m.beginTick()
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

// A dead token that was replaced, or whose role was deleted, before the tick came to replace it is
// not replaced again.
func TestTheTickReplacesNothingThatChangedMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
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
		ticked := m.beginTick()
		synctest.Wait()
		m.delete("roles/monitoring")
		close(goOn)
		ticked()
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A config that was rewritten when the tick comes to ask after its oldest token is left to the next
// tick.
func TestTheTickLeavesAConfigThatWasRewrittenMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		goOn := m.holdLook(storage, "learnt/default")
		ticked := m.beginTick()
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

// What storage refused is in memory alone: the tick looks after it all the same, and stores it once
// it can.
func TestTheTickLooksAfterWhatStorageRefused(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.storage.refuses.Store(true)
		first := m.expectLives(m.read(nil))
		m.tick()
		m.expectLogged("a session could not be stored again", true)
		if warnings := m.warnings(); !strings.Contains(warnings, "could not be stored") {
			t.Errorf("it is not stored, and warned of is %q", warnings)
		}
		m.storage.refuses.Store(false)
		time.Sleep(time.Minute)
		m.tick()
		if warnings := m.warnings(); warnings != "" {
			t.Errorf("it was stored since, and is warned of: %s", warnings)
		}
		m.start()
		if m.expectLives(m.read(nil)) != first {
			t.Error("the token was never stored")
		}
	})
	inBubble(t, nil, func(m *mount) {
		m.storage.refuses.Store(true)
		m.expectLives(m.read(nil))
		m.Reboot()
		time.Sleep(time.Minute)
		m.tick()
		m.expectLives(m.read(nil))
	})
}

// A role that is read while N-central refuses the User-API token lives on by its refresh token.
func TestTheTickKeepsTheRefreshTokenOfARoleThatIsRead(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, func(m *mount) {
		m.read(nil)
		m.regenerate()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil)) // stale, for where refresh ends the token before it rotations authenticate
		for range 5 {
			time.Sleep(time.Minute)
			m.tick()
		}
		m.expectLives(m.read(nil))
	})
}
