// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A reboot of N-central ends every session. The engine finds out, and takes nothing else for one.

package backend

import (
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A reboot of N-central ends every session. Whatever was obtained since then, and whatever rotates
// meanwhile, the first tick after it finds out, and no dead token is handed out from then on.
func TestTheTickFindsAReboot(t *testing.T) {
	tests := map[string]func(m *mount){
		"nothing happens meanwhile":    func(*mount) {},
		"a cold role is read after it": func(m *mount) { m.readRole("cold") },
		"another role is validated after it": func(m *mount) {
			m.must(opRead, "creds/role-0", map[string]any{"validate": true})
		},
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

func TestTickReplacesADeadTokenAndSuspectsTheOthers(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		m.readRole("other")
		m.Reboot()
		m.tick()
		m.expectLives(m.read(nil))
		m.expectLives(m.readRole("other"))
	})
}

// A suspect token that the tick finds dead makes every token of the config suspect, those included
// that were validated since.
func TestASuspectTokenThatTheTickFindsDeadMakesAllSuspect(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.write("roles/third", map[string]any{"lease": false})
		m.expectLives(m.readRole("other"))
		time.Sleep(time.Second)
		m.expectLives(m.read(nil)) // expires last, so the tick asks after this one
		m.regenerate()
		m.fails(400, opRead, "creds/third", nil) // 401: all are suspect
		m.expectLives(m.readRole("other"))       // validated, trusted
		time.Sleep(2 * time.Second)
		m.Reboot()
		m.tick()
		// The token in hand is dead, and no new one can be had.
		m.fails(400, opRead, "creds/other", nil, "refused the credential")
	})
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
		m.write("config/aaa", map[string]any{
			"url": "http://localhost:81", "user_api_token": m.token, "request_timeout": "20s",
		})
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

// A refresh token that is refused before its time was forgotten by a reboot: what else was obtained
// before it is suspect, and what was learnt of the server is forgotten, since an upgrade reboots it
// too.
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

// An answer to a refresh that was lost explains why its token is refused the next time: it may be
// good for once.
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

// What the engine itself ended meanwhile is no sign of a reboot, and a rotation that nobody wants
// any more makes no calls.
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

// A token that the tick finds dead makes the others suspect also where an authenticate that may
// have ended it is under way: that opens no session after all, and it was a reboot.
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
		cold := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.beginTick()
		synctest.Wait()
		for _, role := range roles {
			if o := m.beginRead(role, nil)(); o.token() != "" {
				t.Errorf("%s: a dead token was handed out", role)
			}
		}
		cold()
	})
}

// A token that the engine itself logged out while its validation was under way is no sign of a
// reboot.
func TestTheEnginesOwnLogoutIsNoReboot(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		reader := m.beginRead("monitoring", map[string]any{"validate": true})
		synctest.Wait()
		m.delete("sessions/monitoring")
		second := m.expectLives(m.read(nil))
		m.ResetCounts()
		m.ClearFailures()
		if o := reader(); o.token() != second {
			t.Error("the fresh token was replaced at once")
		}
		m.read(nil)
		// The validation in flight and at most one of the new token.
		n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome) + m.Count(
			simulator.EndpointRefresh, simulator.AnyOutcome,
		)
		if n != 0 {
			t.Errorf("%d needless tokens were obtained", n)
		}
		m.ResetCounts()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		// More would mean that what was learnt was forgotten. The start time is asked for, since no
		// token was there meanwhile.
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1})
	})
}

// A token that the engine's own authenticate ended is no sign of a reboot, also while that
// authenticate is not yet answered.
func TestTheEnginesOwnAuthenticateIsNoReboot(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }
	inBubble(t, knobs, func(m *mount) {
		g := m.gated()
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang)
		release := g.hold(toAuthenticate)
		ticked := m.beginTick()
		synctest.Wait()
		m.ClearFailures() // the validation: dead
		synctest.Wait()
		release()
		ticked()
		m.expectLives(m.read(nil))
		m.ResetCounts()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1}) // more: what was learnt was forgotten
	})
}
