// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A token that something may have ended is suspect: it is validated before it is handed out again.

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

func TestWhereAuthenticateEndsEarlierSessionsTokensAreValidatedFirst(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		first := m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		m.expectLives(m.readRole("other"))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		if m.expectLives(m.read(nil)) == first {
			t.Error("a token that another session ended was handed out")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1})
		m.expectLives(m.read(nil))
		m.expectCalls(nil)
	})
}

func TestRegeneratedTokenThatEndsSessionsLeavesNoDeadToken(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RegenerateEndsSessions = true }, func(m *mount) {
		m.read(nil)
		m.regenerate()
		time.Sleep(56 * time.Minute)
		m.fails(400, opRead, "creds/monitoring", nil)
	})
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

// A check, or a write with verification, that finds out that a new session ends the earlier ones
// has ended those of every config with that user: none is handed out without having been validated.
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

// A check or a verification makes tokens suspect as soon as it may have opened a session, and not
// only when it is over.
func TestCheckCastsSuspicionAtOnce(t *testing.T) {
	for _, by := range []string{"check", "verify"} {
		t.Run(by, func(t *testing.T) {
			inBubble(t, endsEarlier, func(m *mount) {
				m.expectLives(m.read(nil))
				m.FailNext(simulator.EndpointServiceOrgs, 1, hang)
				var finish func() outcome
				if by == "check" {
					finish = m.begin(opWrite, "config/default/check", nil)
				} else {
					finish = m.begin(opWrite, "config/default", map[string]any{"max_retries": 2})
				}
				synctest.Wait()
				answer := m.read(nil)
				if !m.AccessTokenLives(answer["access_token"].(string)) {
					t.Error("a token that the check ended was handed out while the check ran")
				}
				m.ClearFailures()
				finish()
			})
		})
	}
}

// A verification that passed may have ended other sessions, whether or not its config could be
// stored.
func TestAVerificationThatIsNotStoredMakesTokensSuspect(t *testing.T) {
	for name, prefix := range map[string]string{
		"storage refuses all writes": "", "storage refuses the config": "config/",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, endsEarlier, func(m *mount) {
				storage := m.hooked()
				m.expectLives(m.read(nil))
				storage.failToWrite(prefix)
				m.fails(500, opWrite, "config/default", map[string]any{"max_retries": 2})
				storage.put.Store(nil)
				m.expectLives(m.read(nil))
			})
		})
	}
}

// A verification whose write of the config another one superseded may have ended other sessions all
// the same. The write is a conflict.
func TestASupersededVerificationMakesTokensSuspect(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLinks, 1, hang)
		written := m.begin(opWrite, "config/default", map[string]any{"max_retries": 1})
		time.Sleep(time.Second)
		m.write("config/default", map[string]any{"max_retries": 2, "verify": false})
		m.ClearFailures()
		coded, ok := errors.AsType[logical.HTTPCodedError](written().err)
		if !ok || coded.Code() != 409 {
			t.Errorf("no conflict: %v", coded)
		}
		m.expectLives(m.read(nil))
	})
}

// Of two authenticates that overlap, either may have ended the other's session: N-central may
// answer them in another order than it works on them.
func TestOverlappingAuthenticatesMakeEachOthersTokensSuspect(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		a := m.beginRead("monitoring", nil) // begins first, is worked on last
		synctest.Wait()
		release := g.hold(toAuthenticate)
		b := m.beginRead("other", nil) // worked on first, answered last
		synctest.Wait()
		m.ClearFailures()
		a()
		release()
		if o := b(); o.token() == "" || !m.AccessTokenLives(o.token()) {
			t.Error("the reader that waited for the later answer got a dead token")
		}
		m.expectLives(m.readRole("other"))
	})
}

// An authenticate that is under way when its config is rewritten counts as one of the new version
// too.
func TestAuthenticatesOverlapAcrossVersionsOfAConfig(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		release := g.hold(toAuthenticate)
		a := m.beginRead("monitoring", nil) // worked on first, answered last
		synctest.Wait()
		m.write("config/default", map[string]any{"max_retries": 4, "verify": false})
		m.expectLives(m.readRole("other"))
		release()
		if o := a(); o.token() == "" || !m.AccessTokenLives(o.token()) {
			t.Error("a dead token was handed out", o.err)
		}
		m.expectLives(m.read(nil))
	})
}

// An authenticate that another role makes while a refresh is being answered may have ended what the
// refresh brings.
func TestATokenRefreshedDuringAnAuthenticateIsSuspect(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		release := g.hold(toRefresh)
		a := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.readRole("other") // ends the session of monitoring
		release()
		a()
		m.expectLives(m.read(nil))
	})
}

// An authenticate whose session is of no use, or whose answer is lost, may have ended other
// sessions like any other.
func TestAnAuthenticateThatBroughtNothingMakesTokensSuspectToo(t *testing.T) {
	for name, failure := range map[string]simulator.Failure{
		"no life":   {Kind: simulator.FailureExpiry, ExpirySeconds: "0"},
		"truncated": {Kind: simulator.FailureTruncated},
		"lost":      {Kind: simulator.FailureLostAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, endsEarlier, func(m *mount) {
				m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
				m.write("roles/other", map[string]any{"lease": false})
				m.expectLives(m.read(nil))
				m.FailNext(simulator.EndpointAuthenticate, 1, failure)
				m.fails(anyStatus, opRead, "creds/other", nil)
				time.Sleep(2 * time.Second)
				m.expectLives(m.read(nil))
			})
		})
	}
}

// An attempt whose answer was lost may have opened a session, though the attempts after it were
// refused.
func TestAnAttemptWhoseAnswerWasLostMakesTokensSuspect(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureLostAnswer})
		m.FailNext(simulator.EndpointAuthenticate, -1, status(503))
		m.fails(503, opRead, "creds/other", nil)
		m.ClearFailures()
		time.Sleep(20 * time.Second)
		m.expectLives(m.read(nil))
	})
}

// An answer that may be a refusal in other words casts the suspicion that a refusal does.
func TestAHiddenRefusalMakesTokensSuspect(t *testing.T) {
	for name, failure := range map[string]simulator.Failure{
		"hidden": {Kind: simulator.FailureErrorMessage}, "400": status(400),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(k *simulator.Knobs) { k.RegenerateEndsSessions = true }, func(m *mount) {
				m.read(nil)
				m.regenerate()
				time.Sleep(56 * time.Minute)
				m.FailNext(simulator.EndpointAuthenticate, -1, failure)
				m.fails(502, opRead, "creds/monitoring", nil)
			})
		})
	}
}

// A suspicion that arises while N-central is being asked is not answered by what it says.
func TestASuspicionThatArisesMeanwhileStands(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		release := g.hold(toValidate)
		reader := m.beginRead("monitoring", map[string]any{"validate": true})
		synctest.Wait()
		m.regenerate()
		m.fails(400, opRead, "creds/other", nil) // refused, which casts suspicion
		release()
		if o := reader(); !m.AccessTokenLives(o.token()) {
			t.Error("a dead token was handed out")
		}
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A suspicion is stored also where the time of the call that cast it has run out.
func TestSuspicionIsStoredWhenTimeIsUp(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointAuthenticate, 2, hang)
		o := m.beginRead("other", nil)
		time.Sleep(21 * time.Second)
		release := g.hold(toAuthenticate) // the third attempt opens a session, and its answer comes too late
		o()
		release()
		m.start()
		m.expectLives(m.read(nil))
	})
}

// A cluster that gets a config anew from another node, whose clock is behind, serves it.
func TestAConfigMadeAnewElsewhereIsServed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		ctx := context.Background()
		entry, err := m.storage.Get(ctx, "config/default")
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := json.Unmarshal(entry.Value, &config); err != nil {
			t.Fatal(err)
		}
		// Deleted on another node, and a tick later written anew by one whose clock is behind.
		if err := m.storage.Delete(ctx, "config/default"); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(ctx, "config/default")
		config["written_at"] = time.Now().Add(-time.Hour)
		if entry.Value, err = json.Marshal(config); err != nil {
			t.Fatal(err)
		}
		if err := m.storage.Put(ctx, entry); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(ctx, "config/default")
		time.Sleep(30 * time.Minute)
		m.tick()
		response, err := m.do(opRead, "creds/monitoring", map[string]any{"validate": true})
		if err != nil || response.IsError() {
			t.Errorf("half an hour later: %v %v", response, err)
		}
	})
}

// The epoch that says which tokens are suspect only grows, also where a config is deleted and made
// anew.
func TestSuspicionOutlivesTheConfig(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for range 3 { // tokens that die and are replaced raise the count
			m.read(nil)
			m.Reboot()
			time.Sleep(2 * time.Second)
			m.expectLives(m.read(map[string]any{"validate": true}))
		}
		data := map[string]any{"url": m.server.URL, "user_api_token": m.token}
		m.write("config/other", data)
		m.write("roles/monitoring", map[string]any{"config": "other"})
		m.delete("config/default")
		m.write("config/default", data)
		m.write("roles/monitoring", map[string]any{"config": "default"})
		m.write("roles/second", map[string]any{"lease": false})
		m.expectLives(m.readRole("second"))
		m.Reboot()
		time.Sleep(2 * time.Second)
		m.expectLives(m.must(opRead, "creds/second", map[string]any{"validate": true}))
		m.expectLives(m.read(nil)) // N-central forgot every session, and the engine knows
	})
}

// What was learnt is not overwritten, suspicions included, because it could not be read for a
// moment.
func TestAFailedReadLosesNoSuspicion(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(time.Second)
		storage := m.hooked()
		m.get("sessions/other")
		storage.failToRead("learnt/")
		m.expectLives(m.readRole("other")) // ends the session of the other role's token
		storage.get.Store(nil)
		m.expectLives(m.read(nil))
	})
}

// A logout learns only that its server has one. It overwrites nothing else that could not be read
// for a moment.
func TestALogoutLosesNoSuspicion(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.expectLives(m.readRole("other")) // the other token is dead, and marked as suspect
		time.Sleep(time.Second)
		storage := m.hooked()
		storage.failToRead("learnt/")
		m.delete("sessions/other")
		storage.get.Store(nil)
		m.expectLives(m.read(nil))
	})
}

// Where storage does not tell whether a token is suspect, it is not handed out.
func TestATokenOfWhichNoSuspicionCanBeReadIsNotHandedOut(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		storage := m.hooked()
		m.read(nil)
		m.expectLives(m.readRole("other")) // ends the session of the first
		m.backend.InvalidateKey(context.Background(), "learnt/default")
		storage.failToRead("learnt/")
		m.fails(500, opRead, "creds/monitoring", nil, "storage")
	})
}

// What was found of a token counts also where storage refuses to take it, and where it takes it
// there is no word of that.
func TestWhatWasFoundOfATokenCountsWhereStorageRefusesIt(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			m.regenerate()
			m.write("roles/other", map[string]any{"lease": false})
			m.fails(400, opRead, "creds/other", nil) // casts suspicion
			m.storage.refuses.Store(refuses)
			m.ResetCounts()
			if m.expectLives(m.read(nil)) != first {
				t.Error("another token")
			}
			warned := strings.Contains(m.warnings(), "could not be stored")
			if warned != refuses {
				t.Errorf("storage refuses: %t; warned of it: %t", refuses, warned)
			}
			time.Sleep(2 * time.Second)
			m.read(nil)
			m.expectCalls(calls{simulator.EndpointValidate: 1}) // its answer stands
			m.expectLogged("what was found out about a token could not be stored", refuses)
		})
	}
}

// A suspicion that a node whose clock is ahead has cast outlives a change of url, and the way back.
func TestASuspicionOutlivesAChangeOfURL(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.write("config/default", map[string]any{"max_retries": 0})
		learnt, err := m.storage.Get(context.Background(), "learnt/default")
		if err != nil || learnt == nil {
			t.Fatal(learnt, err)
		}
		var known store.ServerTraits
		if err := learnt.DecodeJSON(&known); err != nil {
			t.Fatal(err)
		}
		known.Epoch = time.Now().Add(time.Hour).UnixNano()
		learnt, err = logical.StorageEntryJSON("learnt/default", known)
		if err != nil || m.storage.Put(context.Background(), learnt) != nil {
			t.Fatal(err)
		}
		m.start()
		m.expectLives(m.read(nil))
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.fails(400, opRead, "creds/other", nil) // casts suspicion
		m.ClearFailures()
		for _, url := range []string{"http://localhost:81", m.server.URL} {
			m.write("config/default", map[string]any{"url": url, "user_api_token": m.token, "verify": false})
			if url != m.server.URL {
				m.expectLives(m.readRole("other"))
			}
		}
		m.expectLives(m.read(nil))
	})
}
