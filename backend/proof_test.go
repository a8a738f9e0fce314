// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// What lies in storage may be of the past: a restored snapshot, or from before a reboot of N-central while Vault was
// sealed. The first read after a start has one token of the config validated, for all who read meanwhile.
func TestStoredTokensAreProvenAfterAStart(t *testing.T) {
	t.Run("they live", func(t *testing.T) {
		inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
			roles := m.addRoles(12, nil)
			for _, role := range roles {
				m.readRole(role)
			}
			m.ResetCounts()
			m.start()
			for _, wait := range m.beginAll(roles) {
				if o := wait(); o.token() == "" || len(o.response.Warnings) > 0 {
					t.Error(o.err, o.response)
				}
			}
			m.expectCalls(calls{simulator.EndpointValidate: 1})
		})
	})
	t.Run("they are dead", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			roles := m.addRoles(12, nil)
			for _, role := range roles {
				m.readRole(role)
			}
			m.Reboot()
			m.start()
			m.ResetCounts()
			for i, wait := range m.beginAll(roles) {
				if o := wait(); o.token() == "" || !m.AccessTokenLives(o.token()) {
					t.Errorf("role %d was answered a dead token, or none: %v", i, o.err)
				}
			}
			// A reboot may have been an upgrade: whether new sessions end each other is not known any more, so they are validated too.
			if tried, opened := m.all(simulator.EndpointValidate), m.all(simulator.EndpointAuthenticate); tried > 24 || opened != 12 {
				t.Errorf("%d validations, %d sessions", tried, opened)
			}
		})
	})
	t.Run("nobody can be asked", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			m.start()
			m.FailNext(simulator.EndpointValidate, -1, hang)
			began := time.Now()
			if warnings := m.warnings(); !strings.Contains(warnings, "comes from storage") {
				t.Errorf("warnings %q", warnings)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the read waited %s, longer than one request_timeout", took)
			}
			m.ClearFailures()
			time.Sleep(20 * time.Second)
			if m.expectLives(m.read(nil)) != first {
				t.Error("another token")
			}
			m.start()
			m.FailNext(simulator.EndpointValidate, 4, status(503))
			if warnings := m.warnings(); !strings.Contains(warnings, "comes from storage") {
				t.Errorf("warnings %q", warnings)
			}
			time.Sleep(20 * time.Second)
			m.ResetCounts()
			if warnings := m.warnings(); warnings != "" {
				t.Errorf("warnings %q", warnings)
			}
			m.expectCalls(calls{simulator.EndpointValidate: 1})
		})
	})
	t.Run("nobody can be asked for a while", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			m.start()
			m.FailNext(simulator.AnyEndpoint, -1, hang)
			for i := range 120 {
				if o := m.begin(opRead, "creds/monitoring", nil)(); o.token() == "" || o.took > time.Second && i > 0 {
					t.Fatalf("read %d waited %s: %v", i, o.took, o.err)
				}
				time.Sleep(time.Second)
			}
			m.ClearFailures()
		})
	})
	t.Run("a new token is no proof", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.write("roles/other", map[string]any{"lease": false})
			m.readRole("other")
			m.Reboot()
			m.start()
			m.expectLives(m.read(nil))
			m.expectLives(m.read(map[string]any{"validate": true}))
			m.expectLives(m.readRole("other"))
		})
	})
	t.Run("an authenticate meanwhile explains nothing", func(t *testing.T) {
		inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
			roles := m.addRoles(3, nil)
			for _, role := range roles {
				m.readRole(role)
			}
			m.Reboot()
			m.start()
			cold := m.begin(opRead, "creds/monitoring", nil)
			for _, wait := range m.beginAll(roles) {
				if o := wait(); !m.AccessTokenLives(o.token()) {
					t.Error("a dead token was handed out")
				}
			}
			cold()
			for _, role := range roles {
				m.expectLives(m.readRole(role))
			}
		})
	})
}

// A node whose clock was ahead wrote it: at most its life is left, and it is validated first.
func TestATokenFromTheFutureHasNoMoreThanItsLife(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"lease": true, "ttl": "30m"})
		m.read(nil)
		entry, err := m.storage.Get(context.Background(), "session/monitoring")
		if err != nil || entry == nil {
			t.Fatal(entry, err)
		}
		var session store.Session
		if err := entry.DecodeJSON(&session); err != nil {
			t.Fatal(err)
		}
		for _, at := range []*time.Time{&session.Current.IssuedAt, &session.Current.ExpiresAt, &session.Current.GrantedUntil, &session.Current.RefreshExpiresAt} {
			*at = at.Add(20 * time.Minute)
		}
		changed, err := logical.StorageEntryJSON("session/monitoring", session)
		if err != nil || m.storage.Put(context.Background(), changed) != nil {
			t.Fatal(err)
		}
		m.start()
		m.ResetCounts()
		response, err := m.do(opRead, "creds/monitoring", nil)
		if err != nil || response.IsError() {
			t.Fatal(response, err)
		}
		if response.Secret.TTL != 30*time.Minute {
			t.Errorf("promised for %s", response.Secret.TTL)
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1})
		time.Sleep(10 * time.Minute)
		if response, _ := m.do(opRead, "creds/monitoring", nil); response.Secret.TTL != 20*time.Minute {
			t.Errorf("promised for %s, ten minutes later", response.Secret.TTL)
		}
	})
}

// A check, or a write with verification, that finds out that a new session ends the earlier ones has ended those of every
// config with that user: none is handed out without having been validated.
func TestWhoFindsOutThatSessionsEndEachOtherSaysSo(t *testing.T) {
	for _, by := range []string{"check", "verification", "verification of a new config", "check of another config"} {
		t.Run(by, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("config/twin", map[string]any{"url": m.server.URL, "user_api_token": m.token})
				roles := append(m.addRoles(2, nil), "twin")
				m.write("roles/twin", map[string]any{"lease": false, "config": "twin"})
				for _, role := range roles {
					m.readRole(role)
				}
				m.Change(endsEarlier) // an upgrade, say
				switch by {
				case "check":
					m.check()
				case "verification":
					m.write("config/default", map[string]any{"max_retries": 2})
				case "verification of a new config":
					m.write("config/third", map[string]any{"url": m.server.URL, "user_api_token": m.token})
				case "check of another config":
					m.write("config/twin/check", nil)
				}
				for _, role := range roles {
					m.expectLives(m.readRole(role))
				}
			})
		})
	}
}

// One config's authenticate ends what another with the same user holds.
func TestConfigsWithOneUserAreSuspectTogether(t *testing.T) {
	for name, happens := range map[string]func(m *mount){
		"a new session": func(m *mount) { m.readRole("cold") },
		"a refused token": func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.RegenerateEndsSessions = true })
			m.regenerate()
			m.fails(400, opRead, "creds/cold", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, endsEarlier, func(m *mount) {
				m.write("config/twin", map[string]any{"url": m.server.URL, "user_api_token": m.token})
				m.write("roles/cold", map[string]any{"lease": false, "config": "twin"})
				first := m.expectLives(m.read(nil))
				happens(m)
				response, err := m.do(opRead, "creds/monitoring", nil)
				if err == nil && !response.IsError() && response.Data["access_token"] == first {
					t.Error("a dead token was handed out")
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
				if status := m.status(); status["state"] != "degraded" || !strings.Contains(fmt.Sprint(status["reasons"]), "validate") {
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

// A server without validate works: roles share nothing that they should not, rotations refresh, and it is asked once.
func TestAServerWithoutValidateWorks(t *testing.T) {
	for _, verify := range []bool{true, false} {
		t.Run(fmt.Sprintf("verify=%t", verify), func(t *testing.T) {
			inBubble(t, func(k *simulator.Knobs) { k.ValidateAbsent = true }, func(m *mount) {
				response, err := m.do(opWrite, "config/fresh", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": verify, "password_max_age": 0})
				if err != nil || response.IsError() {
					t.Fatal(response, err)
				}
				if warned := response != nil && strings.Contains(strings.Join(response.Warnings, "\n"), "has no validate"); warned != verify {
					t.Errorf("warned: %t", warned)
				}
				roles := m.addRoles(2, map[string]any{"config": "fresh"})
				tokens := map[string]string{}
				for _, role := range roles {
					tokens[role] = m.expectLives(m.readRole(role))
				}
				for _, role := range roles { // whether its session ended the other's is not known where nothing was tried
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
				if can := m.get("status")["configs"].(map[string]any)["fresh"].(map[string]any)["can_validate"]; can != false {
					t.Errorf("can_validate: %v", can)
				}
			})
		})
	}
}

// What storage refused is in memory alone: the tick looks after it all the same, and stores it once it can.
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

// A data call that is answered is not repeated before an hour, whatever the answer, and the state tells.
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

// Where all roles of a config are dedicated the tick holds no token: the data call is made with one that was just opened.
func TestTheDataCallIsMadeWithADedicatedSessionToo(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		if err := m.SetPasswordExpired("api-user", true); err != nil {
			t.Fatal(err)
		}
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

// A validation that stands is proof enough where the config was made anew since.
func TestAValidationThatStandsIsProof(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		spare := map[string]any{"url": m.server.URL, "user_api_token": m.token, "password_max_age": 0, "verify": false}
		first := m.expectLives(m.read(nil))
		m.start()
		m.expectLives(m.read(nil)) // which has it validated
		m.write("config/spare", spare)
		m.write("roles/monitoring", map[string]any{"config": "spare"})
		m.delete("config/default")
		m.write("config/default", spare)
		m.write("roles/monitoring", map[string]any{"config": "default"})
		m.ResetCounts()
		if m.expectLives(m.read(nil)) != first {
			t.Error("another token")
		}
		m.expectCalls(nil)
	})
}
