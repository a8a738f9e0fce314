// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

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

// Of an hour, that is: agents under a lease come back when a tenth of it is left, and are to find the next token then.
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

func TestRefreshRefusedLeadsToAuthenticate(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointRefresh: 1})
	})
}

func TestWhereRefreshEndsThePredecessorRotationsAuthenticate(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
		if !m.AccessTokenLives(first) {
			t.Error("the token that readers still hold was ended before its stated expiry")
		}
	})
}

func TestWhatVerifyDidNotTeachIsLearntBeforeTheFirstRotation(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, func(m *mount) {
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
		m.write("roles/monitoring", map[string]any{"lease": false})
		m.expectCalls(nil)
		first := m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		if !m.AccessTokenLives(first) {
			t.Error("the token that readers still hold was ended before its stated expiry")
		}
		synctest.Wait()
		if m.OpenSessions() != 2 {
			t.Errorf("%d sessions are open, want the role's two: learning left some", m.OpenSessions())
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 3, simulator.EndpointValidate: 3, simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1, simulator.EndpointLogout: 2})
	})
}

func TestLearningLeavesARotationItsTime(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = 4 * time.Second }, func(m *mount) {
		m.unverified()
		first := m.expectLives(m.read(nil))
		time.Sleep(40 * time.Minute)
		if m.expectLives(m.read(map[string]any{"min_ttl": "30m"})) == first {
			t.Error("the token was not replaced")
		}
	})
}

// What a rotation that nobody wanted any more did not learn, the next one learns.
func TestLearningThatWasOvertakenIsMadeAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.unverified()
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureSlow, Delay: simulator.Delay(time.Second)})
		m.read(nil) // starts the rotation
		synctest.Wait()
		m.delete("sessions/monitoring")
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.read(nil)
		synctest.Wait()
		if by := m.get("sessions/monitoring")["obtained_by"]; by != "refresh" {
			t.Errorf("the token was obtained by %v", by)
		}
	})
}

func TestWhereAuthenticateEndsEarlierSessionsTokensAreValidatedFirst(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
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

// Those that are not due stand in the way of none that is.
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

func TestTickRotatesWhatIsReadAndLeavesTheIdle(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(52 * time.Minute)
		m.tick()
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1})
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

func TestStaleBeatsDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.server.Stop()
		time.Sleep(56 * time.Minute)
		began := time.Now()
		stale := m.read(nil)
		if m.expectLives(stale) != first || time.Since(began) > 0 {
			t.Errorf("want the live token at once after the first attempt, got it after %s", time.Since(began))
		}
		if ttl := stale["ttl"].(int64); ttl < 15 || ttl > 240 {
			t.Errorf("ttl of a stale answer is %d", ttl)
		}
		if m.warnings() == "" {
			t.Error("a stale answer has no warning")
		}
		m.fails(503, opRead, "creds/monitoring", map[string]any{"min_ttl": "10m"})
		m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
		time.Sleep(4 * time.Minute)
		m.fails(503, opRead, "creds/monitoring", nil)
		if err := m.server.Restart(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		m.expectLives(m.read(nil))
	})
}

func TestRefusedCredentialIsNotHammered(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			m.fails(400, opRead, "creds/monitoring", nil)
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(30 * time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(59 * time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(nil)
		time.Sleep(time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		for range 5 {
			time.Sleep(10 * time.Minute)
			m.fails(400, opRead, "creds/monitoring", nil)
		}
		m.ResetCounts()
		time.Sleep(10*time.Minute - time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(nil)
	})
}

func TestRefusedCredentialServesTheLiveTokenOnceValidated(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		for range 100 {
			if m.expectLives(m.read(nil)) != first {
				t.Fatal("another token")
			}
		}
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1})
	})
}

func TestRegeneratedTokenThatEndsSessionsLeavesNoDeadToken(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RegenerateEndsSessions = true }, func(m *mount) {
		m.read(nil)
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(56 * time.Minute)
		m.fails(400, opRead, "creds/monitoring", nil)
	})
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

// What tokens of the role can live is known from the last one also when that is no more, so that a min_ttl beyond it is
// refused without a call; once the role is another, it is to be found out anew.
func TestALimitThatIsKnownIsToldWithoutACall(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AccessLimit = 30 * time.Minute }, func(m *mount) {
		m.read(nil)
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500))
		m.fails(502, opRead, "creds/monitoring", map[string]any{"validate": true}) // the token is dropped
		m.ClearFailures()
		time.Sleep(time.Minute)
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", map[string]any{"min_ttl": "16m"}, "30m0s")
		m.expectCalls(nil)
		m.Change(func(k *simulator.Knobs) { k.AccessLimit = time.Hour })
		m.write("roles/monitoring", map[string]any{"ttl": "50m"})
		m.expectLives(m.read(map[string]any{"min_ttl": "16m"}))
	})
}

// A read that is waiting for the first attempt of a rotation ends with its reader.
func TestAReaderOfAStaleTokenWhoHangsUpWaitsForNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		ctx, hangUp := context.WithTimeout(context.Background(), time.Second)
		defer hangUp()
		began := time.Now()
		response, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: opRead, Path: "creds/monitoring", Storage: m.storage})
		if took := time.Since(began); err == nil || took > time.Second {
			t.Errorf("after %s: %v %v", took, response, err)
		}
		m.ClearFailures()
	})
}

// A role's answer tells when it was last read.
func TestTheLastReadIsTold(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(time.Minute)
		m.read(nil)
		if last := m.get("sessions/monitoring")["last_read_at"]; last != time.Now().UTC().Format(time.RFC3339) {
			t.Errorf("last_read_at is %v", last)
		}
		m.write("roles/idle", map[string]any{"lease": false})
		if last, told := m.get("sessions/idle")["last_read_at"]; told {
			t.Errorf("a role that was never read was read at %v", last)
		}
		if until := m.get("sessions/monitoring")["refresh_expires_at"]; until == nil {
			t.Error("nothing is told of the refresh token")
		}
	})
}

// A rotation is begun by the first read that comes no more than two minutes, or a tenth of the token's life, before it is due.
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

// When a token was validated is told of that token, and not of the one that followed it.
func TestTheLastValidationIsToldOfTheTokenInHand(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(map[string]any{"validate": true})
		time.Sleep(time.Minute)
		m.read(map[string]any{"validate": true})
		if at := m.get("sessions/monitoring")["last_validated_at"]; at != time.Now().UTC().Format(time.RFC3339) {
			t.Errorf("validated at %v", at)
		}
		time.Sleep(56 * time.Minute)
		m.read(nil)
		if at, told := m.get("sessions/monitoring")["last_validated_at"]; told {
			t.Errorf("a token that was never validated, at %v", at)
		}
		m.FailNext(simulator.EndpointValidate, -1, status(503))
		m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
		if at, told := m.get("sessions/monitoring")["last_validated_at"]; told {
			t.Errorf("a token that could not be validated, at %v", at)
		}
	})
}

// A ttl with which no token could be handed out is told without a call.
func TestALifetimeOfNoUseIsNotAskedFor(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "2s", "min_ttl": 0})
		m.fails(400, opRead, "creds/monitoring", nil, "would live for 2s")
		m.expectCalls(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "3s", "min_ttl": "1s"})
		m.expectLives(m.read(nil))
	})
}

func TestTheTypeOfATokenIsTold(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		for _, answer := range []map[string]any{m.read(nil), m.open(nil).Data} {
			if answer["token_type"] != "Bearer" {
				t.Errorf("token_type is %v", answer["token_type"])
			}
		}
	})
}

// Of a dedicated role the prefix of its leases is told, and of no other.
func TestWhereADedicatedRolesSessionsAreIsTold(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		for role, dedicated := range map[string]bool{"worker": true, "monitoring": false} {
			if _, told := m.get("sessions/" + role)["leases"]; told != dedicated {
				t.Errorf("%s: leases are told of: %t", role, told)
			}
		}
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
