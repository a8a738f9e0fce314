// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a validation and a data call find, how long that stands, and what it does to the token.

package backend

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestDeadTokenIsReplacedOnValidate(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.Reboot()
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		m.expectLives(m.read(map[string]any{"validate": true}))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1})
		m.read(map[string]any{"validate": true})
		m.expectCalls(calls{simulator.EndpointValidate: 1})
		m.read(map[string]any{"validate": true})
		m.expectCalls(nil)
		time.Sleep(time.Second)
		m.read(map[string]any{"validate": true})
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A validation that N-central answers with an error is not repeated within a second.
func TestAValidationStandsForASecondWhateverCameOfIt(t *testing.T) {
	t.Run("N-central answers that it is busy", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
			m.ResetCounts()
			m.FailNext(simulator.EndpointValidate, -1, status(503))
			for range 20 {
				m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
			}
			m.expectCalls(calls{simulator.EndpointValidate: 1})
		})
	})
	t.Run("N-central answers what tells nothing", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
			// Answers that tell nothing, after which other calls are made.
			m.FailNext(simulator.AnyEndpoint, -1, status(500))
			m.ResetCounts()
			for range 20 {
				_, _ = m.do(opRead, "creds/monitoring", map[string]any{"validate": true})
			}
			m.expectCalls(calls{
				simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointRefresh: 1,
				simulator.EndpointAuthenticate: 1,
			})
		})
	})
	t.Run("the token is suspect", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
			m.write("roles/other", map[string]any{"lease": false})
			m.read(nil)
			m.regenerate()
			m.fails(400, opRead, "creds/other", nil)
			m.FailNext(simulator.AnyEndpoint, -1, status(500))
			m.ResetCounts()
			for range 20 {
				m.fails(400, opRead, "creds/monitoring", nil)
			}
			if tried := m.all(simulator.EndpointValidate); tried != 1 {
				t.Errorf("a suspect token was asked after %d times", tried)
			}
		})
	})
}

// A read with validate starts the rotation ahead of need as any other does.
func TestValidatingReadRotatesAhead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(map[string]any{"validate": true}))
		m.expectCalls(calls{simulator.EndpointValidate: 1, simulator.EndpointRefresh: 1})
	})
}

// A validation that changes nothing writes nothing.
func TestAValidationOfATokenThatIsNotSuspectWritesNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.storage.calls.Store(0)
		m.read(map[string]any{"validate": true})
		if made := m.storage.calls.Load(); made != 0 {
			t.Errorf("%d calls of storage", made)
		}
	})
}

// A token that ends while N-central is being asked after it is not handed out.
func TestSlowValidationHandsOutNoDeadToken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.write("roles/monitoring", map[string]any{"lease": true, "ttl": "20s", "min_ttl": "0s"})
		m.read(nil)
		time.Sleep(15 * time.Second)
		release := g.hold(toValidate)
		reader := m.beginRead("monitoring", map[string]any{"validate": true})
		synctest.Wait()
		time.Sleep(5*time.Second + 500*time.Millisecond)
		release()
		o := reader()
		if o.token() == "" {
			t.Fatal(o.err, o.response)
		}
		if !m.AccessTokenLives(o.token()) || o.response.Secret.TTL <= 0 {
			t.Errorf("a dead token was handed out, under a lease of %s", o.response.Secret.TTL)
		}
	})
}

// A token that is put out of use while it is being validated is not answered, though N-central
// calls it alive.
func TestAValidationAnswersNoTokenThatWasPutOutOfUseMeanwhile(t *testing.T) {
	for name, test := range map[string]struct {
		knobs   func(*simulator.Knobs)
		putsOut func(m *mount)
	}{
		"its sessions are ended": {
			func(k *simulator.Knobs) { k.LogoutAbsent = true },
			func(m *mount) { m.delete("sessions/monitoring") },
		},
		"its role is rewritten": {
			nil, func(m *mount) { m.write("roles/monitoring", map[string]any{"ttl": "30m"}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.knobs, func(m *mount) {
				first := m.expectLives(m.read(nil))
				m.FailNext(simulator.EndpointValidate, 1, hang)
				reader := m.beginRead("monitoring", map[string]any{"validate": true})
				synctest.Wait()
				test.putsOut(m)
				m.ClearFailures()
				if o := reader(); o.token() == first {
					t.Error("the token was handed out after it was put out of use")
				} else if o.token() == "" {
					t.Error(o.err, o.response)
				}
			})
		})
	}
}

// A validation that comes to a config which was rewritten meanwhile is made anew, and tells nothing
// of the token.
func TestAValidationThatARewriteSupersededIsMadeAnew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		first := m.expectLives(m.read(nil))
		goOn := m.holdSecondLook(storage, "learnt/default")
		reader := m.beginRead("monitoring", map[string]any{"validate": true})
		synctest.Wait()
		storage.got.Store(nil)
		m.write("config/default", map[string]any{"max_retries": 1, "verify": false})
		m.expectLives(m.read(nil))
		m.ResetCounts()
		close(goOn)
		if o := reader(); o.token() != first {
			t.Errorf("another token, or none: %v", o.err)
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A server without validate works: roles share nothing that they should not, rotations refresh, and
// it is asked once.
func TestAServerWithoutValidateWorks(t *testing.T) {
	for _, verify := range []bool{true, false} {
		t.Run(fmt.Sprintf("verify=%t", verify), func(t *testing.T) {
			inBubble(t, func(k *simulator.Knobs) { k.ValidateAbsent = true }, func(m *mount) {
				response, err := m.do(opWrite, "config/fresh", map[string]any{
					"url": m.server.URL, "user_api_token": m.token, "verify": verify, "password_max_age": 0,
				})
				if err != nil || response.IsError() {
					t.Fatal(response, err)
				}
				warned := response != nil && strings.Contains(strings.Join(response.Warnings, "\n"), "has no validate")
				if warned != verify {
					t.Errorf("warned: %t", warned)
				}
				roles := m.addRoles(2, map[string]any{"config": "fresh"})
				tokens := map[string]string{}
				for _, role := range roles {
					tokens[role] = m.expectLives(m.readRole(role))
				}
				// Whether its session ended the other's is not known where nothing was tried.
				for _, role := range roles {
					m.readRole(role)
				}
				m.ResetCounts()
				for range 10 {
					for _, role := range roles {
						if m.expectLives(m.readRole(role)) != tokens[role] {
							t.Error("another token")
						}
					}
				}
				m.expectCalls(nil)
				time.Sleep(56 * time.Minute)
				for _, role := range roles {
					m.expectLives(m.readRole(role))
				}
				if refreshes := m.all(simulator.EndpointRefresh); refreshes < 2 {
					t.Errorf("%d refreshes", refreshes)
				}
				synctest.Wait() // the sessions that were opened to learn are logged out beside it
				m.ResetCounts()
				time.Sleep(2 * time.Second)
				m.expectLives(m.must(opRead, "creds/role-0", map[string]any{"validate": true}))
				m.expectCalls(calls{simulator.EndpointServiceOrgs: 1})
				can := m.get("status")["configs"].(map[string]any)["fresh"].(map[string]any)["can_validate"]
				if can != false {
					t.Errorf("can_validate: %v", can)
				}
			})
		})
	}
}

// Validate that answers neither 200 with its message nor 401 leaves it to the data call.
func TestTheDataCallTellsWhereValidateDoesNot(t *testing.T) {
	answers := map[string]simulator.Failure{
		"403": status(403), "404": status(404), "400": status(400), "500": status(500),
		"hidden error": {Kind: simulator.FailureErrorMessage}, "login page": {Kind: simulator.FailureHTML},
		"a message of its own": {Kind: simulator.FailureMessage, Message: "The token is not valid."},
	}
	for name, failure := range answers {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				first := m.expectLives(m.read(nil))
				m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
				m.FailNext(simulator.EndpointValidate, -1, failure)
				if m.expectLives(m.read(map[string]any{"validate": true})) != first {
					t.Error("a token that lives was replaced")
				}
				m.Reboot()
				time.Sleep(2 * time.Second)
				if m.expectLives(m.read(map[string]any{"validate": true})) == first {
					t.Error("a dead token was handed out")
				}
				time.Sleep(time.Minute)
				m.Reboot()
				m.tick()
				m.expectLives(m.read(nil))
				if state := m.status()["state"]; state != "ok" {
					t.Errorf("state %v", state)
				}
			})
		})
		t.Run(name+", and the data call neither", func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				first := m.expectLives(m.read(nil))
				m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
				m.FailNext(simulator.EndpointValidate, -1, failure)
				m.FailNext(simulator.EndpointServiceOrgs, -1, status(500))
				if m.expectLives(m.read(map[string]any{"validate": true})) == first {
					t.Error("a reader who asked for validation got a token that could not be validated")
				}
				time.Sleep(time.Minute)
				m.tick()
				status := m.status()
				if status["state"] != "degraded" || !strings.Contains(fmt.Sprint(status["reasons"]), "validate") {
					t.Errorf("%v %v", status["state"], status["reasons"])
				}
				m.ClearFailures()
				time.Sleep(time.Hour)
				m.read(nil)
				m.tick()
				m.expectLives(m.read(map[string]any{"validate": true}))
				if status := m.status(); status["state"] != "ok" {
					t.Errorf("%v %v", status["state"], status["reasons"])
				}
			})
		})
	}
}

// A data call that is answered is not repeated before an hour, whatever the answer, and the state
// tells.
func TestADataCallThatIsAnsweredStandsForAnHour(t *testing.T) {
	for _, code := range []int{401, 404, 400, 500} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
				m.read(nil)
				m.FailNext(simulator.EndpointServiceOrgs, -1, status(code))
				m.ResetCounts()
				for range 30 {
					time.Sleep(time.Minute)
					m.tick()
				}
				if tried := m.all(simulator.EndpointServiceOrgs); tried != 1 {
					t.Errorf("%d data calls in half an hour", tried)
				}
				if state := m.status()["state"]; state != "degraded" {
					t.Errorf("state %v", state)
				}
			})
		})
	}
}

// A data call that is answered with 200 and an error in its body has failed.
func TestADataCallAnsweredWithAHiddenErrorHasFailed(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.HideCoreErrors = true }, func(m *mount) {
		m.read(nil)
		m.setPasswordExpired("api-user", true)
		m.tick()
		info := m.must(opList, "config/", nil)["key_info"].(map[string]any)["default"].(map[string]any)
		if info["state"] != "degraded" {
			t.Errorf("state %v, want degraded", info["state"])
		}
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
			ticked := m.beginTick()
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

// Where all roles of a config are dedicated the tick holds no token: the data call is made with one
// that was just opened.
func TestTheDataCallIsMadeWithADedicatedSessionToo(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.setPasswordExpired("api-user", true)
		for range 3 {
			m.open(nil)
			time.Sleep(10 * time.Minute)
		}
		if tried := m.all(simulator.EndpointServiceOrgs); tried == 0 || tried > 2 {
			t.Errorf("%d data calls", tried)
		}
		if state := m.status()["state"]; state != "degraded" {
			t.Errorf("state %v", state)
		}
	})
	// A session that was ended by then tells nothing of the user.
	inDedicatedBubble(t, nil, func(m *mount) {
		g := m.gated()
		release := g.hold(toData)
		m.FailNext(simulator.EndpointServiceOrgs, 1, status(401))
		m.mustRevoke(m.open(nil))
		release()
		synctest.Wait()
		if state := m.status()["state"]; state != "ok" {
			t.Errorf("state %v", state)
		}
	})
}
