// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// readers starts concurrent reads of the role and answers a function that waits for them and answers their tokens.
func (m *mount) readers(count int) (tokens func() []string) {
	var group sync.WaitGroup
	answers := make([]string, count)
	for i := range count {
		group.Go(func() {
			response, err := m.do(opRead, "creds/monitoring", nil)
			if err == nil && !response.IsError() {
				answers[i] = response.Data["access_token"].(string)
			}
		})
	}
	return func() []string {
		group.Wait()
		return answers
	}
}

func TestAThousandColdReadersCauseOneCall(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
		tokens := m.readers(1000)()
		for _, token := range tokens {
			if token == "" || token != tokens[0] {
				t.Fatal("the readers got different tokens, or none")
			}
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A reader looked before the flight landed and joins after.
func TestAReaderWhoComesLateStartsNoSecondFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		goOn := make(chan struct{})
		var once sync.Once
		holdsTheFirst := func(key string) {
			if key == "session/monitoring" {
				first := false
				once.Do(func() { first = true })
				if first {
					<-goOn
				}
			}
		}
		storage.got.Store(&holdsTheFirst)
		late := m.readers(1)
		synctest.Wait()
		token := m.expectLives(m.read(nil))
		close(goOn)
		if late()[0] != token {
			t.Error("the readers got different tokens")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

func TestAHangUpFailsNoOtherReader(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
		ctx, hangUp := context.WithCancel(context.Background())
		gone := make(chan error)
		go func() {
			_, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: opRead, Path: "creds/monitoring", Storage: m.storage})
			gone <- err
		}()
		synctest.Wait()
		tokens := m.readers(10)
		hangUp()
		if err := <-gone; err == nil {
			t.Error("the reader that hung up waited for the flight")
		}
		for _, token := range tokens() {
			if token == "" {
				t.Fatal("a hang-up failed another reader")
			}
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// whileInFlight begins a cold read on a slow server, makes the change while the call is under way, and answers the token
// that the reader got in the end.
func (m *mount) whileInFlight(change func()) (token string) {
	m.t.Helper()
	m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
	tokens := m.readers(1)
	synctest.Wait()
	m.Change(func(k *simulator.Knobs) { k.Latency = 0 })
	time.Sleep(time.Second)
	change()
	token = tokens()[0]
	time.Sleep(10 * time.Second)
	return token
}

func TestSessionsEndedInFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.onlySession(m.whileInFlight(func() { m.delete("sessions/monitoring") }))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

func TestConfigRewrittenInFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.onlySession(m.whileInFlight(func() {
			m.write("config/default", map[string]any{
				"user_api_token": m.token, "tls_server_name": "localhost", "verify": false,
			})
		}))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

func TestRoleDeletedInFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		if token := m.whileInFlight(func() { m.delete("roles/monitoring") }); token != "" {
			t.Error("a token of a deleted role was answered")
		}
		m.onlySession("")
	})
}

func TestLogoutThatFailsIsOwedAndPaidByTheTick(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, -1, status(500))
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 || !strings.Contains(response.Warnings[0], "owed") {
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

func TestServerWithoutLogoutIsToldOf(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.LogoutAbsent = true }, func(m *mount) {
		m.read(nil)
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 || !strings.Contains(response.Warnings[0], "has no logout") {
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

func TestRepointedConfigSendsNothingOfTheOldServer(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		old := m.Secrets()
		m.fails(400, opWrite, "config/default", map[string]any{"url": "http://localhost:81"}, "user_api_token")
		// The in-memory network leads every address to one server: what it hears from now on, the new server hears.
		other := simulator.New(simulator.DefaultKnobs())
		token := other.AddUser("api-user")
		m.server.Close()
		m.server = simulator.ListenInMemory(other)
		defer m.server.Close()
		m.write("config/default", map[string]any{"url": "http://localhost:81", "user_api_token": token})
		answer := m.read(nil)
		if answer["url"] != "http://localhost:81" || !other.AccessTokenLives(answer["access_token"].(string)) {
			t.Error("the token is not of the new server")
		}
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 || !strings.Contains(response.Warnings[0], "another url") {
			t.Errorf("want a warning on the token of the old server, got %v %v", response, err)
		}
		for _, secret := range old {
			if other.Received(secret) {
				t.Fatal("a secret of the old server was sent to the new one")
			}
		}
	})
}

func TestOverrides(t *testing.T) {
	tests := map[string]struct {
		knobs    func(*simulator.Knobs)
		role     map[string]any
		maxLease time.Duration
		asked    string
		lifetime time.Duration
		warning  string
	}{
		"none asked for":            {asked: "", lifetime: time.Hour},
		"the role's ttl":            {role: map[string]any{"ttl": "30m"}, asked: "1800s", lifetime: 30 * time.Minute},
		"the mount's max_lease_ttl": {maxLease: 10 * time.Minute, asked: "600s", lifetime: 10 * time.Minute},
		"a ttl above max_lease_ttl": {role: map[string]any{"ttl": "30m"}, maxLease: 20 * time.Minute, asked: "1200s", lifetime: 20 * time.Minute, warning: "max_lease_ttl"},
		"clamped":                   {role: map[string]any{"ttl": "2h"}, asked: "7200s", lifetime: time.Hour, warning: "granted 1h0m0s, not the 2h0m0s"},
		"granted longer": {
			knobs: func(k *simulator.Knobs) { k.GrantLongerBy = 10 * time.Minute },
			role:  map[string]any{"ttl": "30m"}, asked: "1800s", lifetime: 30 * time.Minute, warning: "granted more than is promised",
		},
		"ignored, and max_lease_ttl shorter": {
			knobs:    func(k *simulator.Knobs) { k.IgnoreOverrides = true },
			maxLease: 10 * time.Minute, asked: "600s", lifetime: 10 * time.Minute, warning: "granted more than is promised",
		},
		"a min_ttl above half of the grant": {
			knobs: func(k *simulator.Knobs) { k.AccessLimit = 30 * time.Minute },
			role:  map[string]any{"min_ttl": "20m"}, asked: "", lifetime: 30 * time.Minute, warning: "half of it, 15m0s, stands",
		},
		"refused": {
			knobs: func(k *simulator.Knobs) { k.RefuseLongOverrides = true },
			role:  map[string]any{"ttl": "2h"}, asked: "", lifetime: time.Hour, warning: "refuses to be asked",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.knobs, func(m *mount) {
				if test.maxLease > 0 {
					m.system.MaxLeaseTTLVal = test.maxLease
				}
				if test.role != nil {
					m.write("roles/monitoring", test.role)
				}
				began := time.Now()
				response, err := m.do(opRead, "creds/monitoring", nil)
				if err != nil || response.IsError() {
					t.Fatal(response, err)
				}
				if expires := response.Data["expires_at_seconds"].(int64); expires != began.Add(test.lifetime).Unix() {
					t.Errorf("promised for %s, want %s", time.Unix(expires, 0).Sub(began), test.lifetime)
				}
				if warnings := strings.Join(response.Warnings, "\n"); !strings.Contains(warnings, test.warning) || test.warning == "" && warnings != "" {
					t.Errorf("warnings %q, want %q", warnings, test.warning)
				}
				requests := m.Requests()
				if asked := requests[len(requests)-1].AccessOverride; asked != test.asked {
					t.Errorf("asked for %q, want %q", asked, test.asked)
				}
			})
		})
	}
}

func TestRefusedOverridesAreLearnt(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "2h"})
		m.read(nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
		m.delete("sessions/monitoring")
		m.expectCalls(calls{simulator.EndpointLogout: 1})
		m.read(nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})

		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		m.read(nil)
		requests := m.Requests()
		if asked := requests[len(requests)-1].AccessOverride; asked != "1800s" {
			t.Errorf("a lifetime shorter than the refused one was asked for as %q", asked)
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})

		m.Change(func(k *simulator.Knobs) { k.AccessLimit = 4 * time.Hour })
		m.check()
		m.write("roles/monitoring", map[string]any{"ttl": "2h"})
		if warnings := m.warnings(); warnings != "" {
			t.Errorf("after a check, what was refused is not asked for again: %s", warnings)
		}
	})
}

func TestAShorterGrantIsToldOfBesideARefusedRefreshOverride(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
		m.write("config/default", map[string]any{"refresh_token_ttl": "48h"})
		m.write("roles/monitoring", map[string]any{"ttl": "20m"})
		m.read(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureExpiry, ExpirySeconds: "300"})
		warnings := m.warnings()
		for _, part := range []string{"granted 5m0s, not the 10m0s", "refresh-token lifetime of 48h0m0s"} {
			if !strings.Contains(warnings, part) {
				t.Errorf("no warning of %q: %s", part, warnings)
			}
		}
	})
}

func TestAbsurdLifetimesAreRefusedAndTheirSessionsEnded(t *testing.T) {
	for _, lifetime := range []json.Number{"0", "-60", "1", "9000000000"} {
		t.Run(lifetime.String(), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureExpiry, ExpirySeconds: lifetime})
				m.fails(502, opRead, "creds/monitoring", nil, "lifetime")
				m.onlySession("")
				time.Sleep(time.Second) // for as long N-central is left alone
				m.expectLives(m.read(nil))
			})
		})
	}
}

// One override at a time is left out: the one that N-central names, else the access token's. What another role asks for, and
// what was not refused, is asked for all the same.
func TestOnlyTheRefusedOverrideIsLeftOut(t *testing.T) {
	asked := func(m *mount) (all []string) {
		for _, request := range m.Requests() {
			if request.Endpoint == simulator.EndpointAuthenticate {
				all = append(all, request.AccessOverride+"/"+request.RefreshOverride)
			}
		}
		return all
	}
	tests := map[string]struct {
		names        bool
		ttl, refresh string
		want         []string // of the first read, and of the second after an end of sessions
	}{
		"access, named":      {true, "2h", "10h", []string{"7200s/36000s", "/36000s", "/36000s"}},
		"access, not named":  {false, "2h", "10h", []string{"7200s/36000s", "/36000s", "/36000s"}},
		"refresh, named":     {true, "30m", "48h", []string{"1800s/172800s", "1800s/", "1800s/"}},
		"refresh, not named": {false, "30m", "48h", []string{"1800s/172800s", "/172800s", "/", "1800s/"}},
		"both, named":        {true, "2h", "48h", []string{"7200s/172800s", "/", "/"}},
		"both, not named":    {false, "2h", "48h", []string{"7200s/172800s", "/172800s", "/", "7200s/", "/"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides, k.OverrideErrorsNameField = true, test.names }, func(m *mount) {
				m.write("config/default", map[string]any{"refresh_token_ttl": test.refresh, "verify": false})
				m.write("roles/monitoring", map[string]any{"ttl": test.ttl})
				before := len(asked(m))
				m.read(nil)
				m.delete("sessions/monitoring")
				m.read(nil)
				if got := asked(m)[before:]; !slices.Equal(got, test.want) {
					t.Errorf("asked for %q, want %q", got, test.want)
				}
				if warnings := m.warnings(); !strings.Contains(warnings, "refuses to be asked for") {
					t.Errorf("warnings %q", warnings)
				}
				m.write("roles/brief", map[string]any{"lease": false, "ttl": "10m"})
				m.readRole("brief")
				if got := asked(m); !strings.HasPrefix(got[len(got)-1], "600s/") {
					t.Errorf("another role's ttl was asked for as %q", got[len(got)-1])
				}
			})
		})
	}
}

func TestReadersMinTTL(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(map[string]any{"min_ttl": "30m"}))
		time.Sleep(31 * time.Minute)
		if m.expectLives(m.read(nil)) != first {
			t.Error("a reader without min_ttl got another token")
		}
		second := m.expectLives(m.read(map[string]any{"min_ttl": "30m"}))
		if second == first {
			t.Error("a token with less than the reader's min_ttl was handed out")
		}
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", map[string]any{"min_ttl": "31m"}, "30m", "dedicated")
		m.delete("sessions/monitoring")
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", map[string]any{"min_ttl": "31m"})
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(2 * time.Hour)
		m.fails(400, opRead, "creds/monitoring", map[string]any{"min_ttl": "31m"})
		m.expectCalls(nil)
	})
}

// The flight of before, which was overtaken, lands and leaves the flight that followed it alone.
func TestAnOvertakenFlightLeavesTheNextOneToItsReaders(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		releaseFirst := g.hold(toAuthenticate)
		first := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		releaseSecond := g.hold(toAuthenticate)
		m.delete("sessions/monitoring") // the reader starts over
		synctest.Wait()
		releaseFirst()
		synctest.Wait()
		second := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		releaseSecond()
		if a, b := first().token(), second().token(); a == "" || a != b {
			t.Error("the readers got different tokens, or none")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// Where storage does not tell whether what a flight brought is still wanted, nobody gets it, and it is ended.
func TestWhatAFlightBringsIsEndedWhereStorageDoesNotTellWhetherItIsWanted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		release := g.hold(toAuthenticate)
		reader := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "role/monitoring")
		storage.failToReadOnce("role/monitoring")
		release()
		if o := reader(); o.err == nil || !strings.Contains(o.err.Error(), "storage is not there for a moment") {
			t.Errorf("%v %v", o.err, o.response)
		}
		m.onlySession("")
	})
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

// A flight whose role or config was deleted on another node brings nobody anything, and leaves no session.
func TestAFlightForWhatWasDeletedElsewhereLeavesNoSession(t *testing.T) {
	for _, key := range []string{"role/monitoring", "config/default"} {
		t.Run(key, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				token := m.whileInFlight(func() {
					if err := m.storage.Delete(context.Background(), key); err != nil {
						t.Fatal(err)
					}
					m.backend.InvalidateKey(context.Background(), key)
				})
				if token != "" {
					t.Error("a token was answered")
				}
				if key == "role/monitoring" { // else the token may be sent nowhere any more
					m.onlySession("")
				}
			})
		})
	}
}

// A new token that was ended before its reader looked is not what the reader gets: it starts over.
func TestAReaderWhoseNewTokenWasEndedStartsOver(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		goOn := make(chan struct{})
		var stored, held atomic.Bool
		forgetsTheRole := func(key string) error {
			if key == "session/monitoring" && !stored.Swap(true) {
				m.backend.InvalidateKey(context.Background(), "role/monitoring") // so that the reader comes by storage
			}
			return nil
		}
		holdsTheReader := func(key string) {
			if key == "role/monitoring" && stored.Load() && !held.Swap(true) {
				<-goOn
			}
		}
		storage.put.Store(&forgetsTheRole)
		storage.got.Store(&holdsTheReader)
		reader := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		m.delete("sessions/monitoring")
		close(goOn)
		m.onlySession(reader().token())
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// A session that cannot be read when a new token comes is told of, for the tokens in it are not ended; one that can is not.
func TestTheLogTellsOfTokensThatAreLeftToLapse(t *testing.T) {
	for _, fails := range []bool{false, true} {
		inBubble(t, nil, func(m *mount) {
			storage := &hookedStorage{Storage: m.storage}
			g := m.gatedOn(storage)
			release := g.hold(toAuthenticate)
			reader := m.begin(opRead, "creds/monitoring", nil)
			synctest.Wait()
			if fails {
				m.backend.InvalidateKey(context.Background(), "session/monitoring")
				fail := func(key string) error {
					if key == "session/monitoring" {
						return errors.New("storage is not there for a moment")
					}
					return nil
				}
				storage.get.Store(&fail)
			}
			release()
			if o := reader(); !m.AccessTokenLives(o.token()) {
				t.Error(o.err, o.response)
			}
			m.expectLogged("its tokens are left to lapse", fails)
		})
	}
}

// What outlives its promise is replaced by a token of another session, so that it can be ended alone.
func TestWhatOutlivesItsPromiseIsNotRefreshed(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		first := m.expectLives(m.read(nil))
		time.Sleep(9 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(time.Minute)
		m.tick()
		if m.AccessTokenLives(first) {
			t.Error("the token lives past its promise")
		}
	})
}

// Where it is known that refresh harms nobody, and not whether authenticate ends earlier sessions, rotations refresh.
func TestWhatIsKnownInPartIsUsed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.unverified()
		m.write("config/fresh", map[string]any{"max_retries": 0, "verify": false})
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, status(500)) // whether the first of two sessions lives on
		m.FailNext(simulator.EndpointServiceOrgs, 1, status(500))
		m.read(nil)
		known := m.get("status")["configs"].(map[string]any)["fresh"].(map[string]any)
		if _, told := known["authenticate_ends_earlier_sessions"]; told || known["refresh_ends_predecessor"] != false {
			t.Fatalf("known is %v", known)
		}
		if refreshes, opened := m.all(simulator.EndpointRefresh), m.all(simulator.EndpointAuthenticate); refreshes != 2 || opened != 2 {
			t.Errorf("%d refreshes and %d authenticates, of which one and two were to learn", refreshes, opened)
		}
	})
}
