// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A validation under way while the sessions are deleted: the forgotten token is handed out.
func TestForgottenTokenIsNotAnsweredByAValidation(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.LogoutAbsent = true }, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
		synctest.Wait()
		m.delete("sessions/monitoring")
		m.ClearFailures()
		if o := reader(); o.token() == first {
			t.Error("a token that delete sessions/ROLE forgot was handed out after it")
		} else if o.token() == "" {
			t.Error(o.err, o.response)
		}
	})
}

// The same where the role was rewritten.
func TestRetiredTokenIsNotAnsweredByAValidation(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
		synctest.Wait()
		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		m.ClearFailures()
		if o := reader(); o.token() == first {
			t.Error("a retired token was handed out")
		} else if o.token() == "" {
			t.Error(o.err, o.response)
		}
	})
}

// A slow validation: the token is dead when the answer comes, and its lease has no life.
func TestSlowValidationHandsOutNoDeadToken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.write("roles/monitoring", map[string]any{"lease": true, "ttl": "20s", "min_ttl": "0s"})
		m.read(nil)
		time.Sleep(15 * time.Second)
		release := g.hold(toValidate)
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
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

// The role is rewritten while a reader with a live token waits for the first attempt.
func TestRetiredTokenIsNotServedStale(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, hang)
		reader := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		time.Sleep(time.Second)
		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		if o := reader(); o.token() == first {
			t.Error("a retired token was handed out as stale")
		} else if o.token() == "" {
			t.Error(o.err, o.response)
		}
	})
}

// During a check, and a verify, on a server where authenticate ends earlier sessions.
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

// Verify passes, but the config is not stored.
func TestVerifyThatIsNotStoredCastsSuspicion(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.expectLives(m.read(nil))
		m.storage.refuses.Store(true)
		m.fails(500, opWrite, "config/default", map[string]any{"max_retries": 2})
		m.storage.refuses.Store(false)
		if !m.AccessTokenLives(m.read(nil)["access_token"].(string)) {
			t.Error("a token that the verification ended was handed out")
		}
	})
}

// Two authenticates overlap: the server does B before A, and A's answer comes first.
func TestOverlappingAuthenticates(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		a := m.begin(opRead, "creds/monitoring", nil) // begins first, is worked on last
		synctest.Wait()
		release := g.hold(toAuthenticate)
		b := m.begin(opRead, "creds/other", nil) // worked on first, answered last
		synctest.Wait()
		m.ClearFailures()
		a()
		release()
		if o := b(); o.token() == "" || !m.AccessTokenLives(o.token()) {
			t.Error("the reader that waited for the later answer got a dead token")
		}
		if second := m.readRole("other"); !m.AccessTokenLives(second["access_token"].(string)) {
			t.Error("a dead token was handed out again: it is not suspect")
		}
	})
}

// A refresh's answer is under way while another role authenticates.
func TestRefreshOvertakenByAuthenticate(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		release := g.hold(toRefresh)
		a := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		m.readRole("other") // ends the session of monitoring
		release()
		a()
		if again := m.read(nil); !m.AccessTokenLives(again["access_token"].(string)) {
			t.Error("a dead token is handed out again and again: it is not suspect")
		}
	})
}

// An authenticate that opened a session which is of no use, or whose answer was lost.
func TestAuthenticateWithoutUseEndsEarlierSessionsToo(t *testing.T) {
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
				if answer := m.read(nil); !m.AccessTokenLives(answer["access_token"].(string)) {
					t.Error("a dead token was handed out")
				}
			})
		})
	}
}

// A token that the engine itself logged out while its validation was under way is no sign of a reboot.
func TestOwnLogoutIsNoReboot(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
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
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome) + m.Count(simulator.EndpointRefresh, simulator.AnyOutcome); n != 0 {
			t.Errorf("%d needless tokens were obtained", n)
		}
		m.ResetCounts()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		// More would mean that what was learnt was forgotten. The start time is asked for, since no token was there meanwhile.
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1})
	})
}

// The tick rotates and validates the same token at the same time.
func TestTickRotatesOnce(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang) // the validation reaches the server after the rotation
		ticked := make(chan struct{})
		go func() { m.tick(); close(ticked) }()
		synctest.Wait()
		second := m.expectLives(m.read(nil))
		m.ClearFailures()
		<-ticked
		synctest.Wait()
		if !m.AccessTokenLives(second) {
			t.Error("the tick ended the token that it had just obtained and that a reader holds")
		}
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 1 {
			t.Errorf("the tick authenticated %d times for one rotation", n)
		}
	})
}

// The validation of a token whose successor's authenticate is done but not yet answered.
func TestDeadByOwnAuthenticateIsNoReboot(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }, func(m *mount) {
		g := m.gated()
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang)
		release := g.hold(toAuthenticate)
		ticked := make(chan struct{})
		go func() { m.tick(); close(ticked) }()
		synctest.Wait()
		m.ClearFailures() // the validation: dead
		synctest.Wait()
		release()
		<-ticked
		m.expectLives(m.read(nil))
		m.ResetCounts()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1}) // more: what was learnt was forgotten
	})
}

// A read with validate, and one of a suspect token, starts the rotation ahead of need too.
func TestValidatingReadRotatesAhead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(map[string]any{"validate": true}))
		m.expectCalls(calls{simulator.EndpointValidate: 1, simulator.EndpointRefresh: 1})
	})
}

// A validation that could not be had is not tried again within a second.
func TestAValidationStandsForASecondWhateverCameOfIt(t *testing.T) {
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
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
		m.FailNext(simulator.AnyEndpoint, -1, status(500)) // answers that tell nothing, after which other calls are made
		m.ResetCounts()
		for range 20 {
			_, _ = m.do(opRead, "creds/monitoring", map[string]any{"validate": true})
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointRefresh: 1, simulator.EndpointAuthenticate: 1})
	})
	inBubble(t, nil, func(m *mount) { // of a suspect token too
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
}

// The tick finds a suspect token dead: every token of the config is suspect.
func TestTickFindsASuspectTokenDead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.write("roles/third", map[string]any{"lease": false})
		m.expectLives(m.readRole("other"))
		time.Sleep(time.Second)
		m.expectLives(m.read(nil)) // expires last, so the tick asks after this one
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		m.fails(400, opRead, "creds/third", nil) // 401: all are suspect
		m.expectLives(m.readRole("other"))       // validated, trusted
		time.Sleep(2 * time.Second)
		m.Reboot()
		m.tick()
		// The token in hand is dead, and no new one can be had.
		m.fails(400, opRead, "creds/other", nil, "refused the credential")
	})
}

// A reader with a live token waits for learning, and then for the first attempt.
func TestStaleReaderWaitsForOneAttempt(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false, "password_max_age": 0})
		m.write("roles/monitoring", map[string]any{"lease": false})
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		o := m.begin(opRead, "creds/monitoring", nil)()
		if o.token() != first || o.took > 10*time.Second {
			t.Errorf("the live token was answered after %s, want 10s: the first attempt's request_timeout", o.took)
		}
		m.ClearFailures()
	})
}

// A reader with a live token waits in the queue behind calls to a server that does not answer.
func TestStaleReaderDoesNotQueue(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 1})
		names := []string{"a", "b", "c"}
		for _, name := range names {
			m.write("roles/"+name, map[string]any{"lease": false})
			m.expectLives(m.readRole(name))
		}
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		var waits []func() outcome
		for _, name := range names {
			waits = append(waits, m.begin(opRead, "creds/"+name, nil))
		}
		for i, wait := range waits {
			if o := wait(); o.token() == "" || o.took > 10*time.Second {
				t.Errorf("the reader of %s got a token (%t) after %s", names[i], o.token() != "", o.took)
			}
		}
		m.ClearFailures()
	})
}

// A server that is known to refuse refresh is asked to refresh where the token has died.
func TestKnownRefusedRefreshIsNotTried(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointRefresh, -1, status(500))
		m.write("config/default", map[string]any{"max_retries": 2})
		m.expectLives(m.read(nil))
		time.Sleep(61 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A promise too short to be kept.
func TestPromiseTooShort(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "1s", "min_ttl": 0})
		text := m.fails(400, opRead, "creds/monitoring", nil)
		if strings.Contains(text, "changed again and again") {
			t.Error(text)
		}
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n > 1 {
			t.Errorf("%d sessions were opened for one read", n)
		}
	})
}

// An answer that comes so late that the token is dead.
func TestTokenDeadOnArrival(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.write("roles/monitoring", map[string]any{"ttl": "5s", "min_ttl": 0})
		release := g.hold(toAuthenticate)
		go func() {
			time.Sleep(4 * time.Second)
			release()
		}()
		m.fails(503, opRead, "creds/monitoring", nil, "longer ttl")
	})
}

// A token that lives past its promise is told of nowhere.
func TestTokenPastItsPromiseIsCounted(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		first := m.expectLives(m.read(nil))
		time.Sleep(11 * time.Minute)
		read := m.get("sessions/monitoring")
		if m.AccessTokenLives(first) && read["expires_at"] == nil && read["earlier_tokens"] == 0 {
			t.Errorf("a token of the role lives at N-central for 49 minutes more, and sessions/ROLE tells of none: %v", read)
		}
	})
}

// A tick ends when its time is over, and what it did not come to is begun by no later part of it.
func TestTickStopsWhenItsTimeIsOver(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"request_timeout": "20s", "max_retries": 10, "max_requests_in_flight": 50})
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

// A refused refresh_token_ttl goes without a warning.
func TestRefusedRefreshOverrideWarns(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
		m.write("config/default", map[string]any{"refresh_token_ttl": "48h"})
		if warnings := m.warnings(); !strings.Contains(warnings, "refuses to be asked for a refresh-token lifetime of 48h0m0s") {
			t.Errorf("warnings %q", warnings)
		}
	})
}

// A stale answer's ttl is past the token's end.
func TestStaleTTLNotPastTheEnd(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.server.Stop()
		time.Sleep(59*time.Minute + 50*time.Second + 500*time.Millisecond)
		if ttl := m.read(nil)["ttl"].(int64); ttl > 9 {
			t.Errorf("ttl %d, where the token lives for 9.5s", ttl)
		}
	})
}

// A 200 that hides an error: the hourly data call.
func TestHiddenErrorOfTheDataCall(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.HideCoreErrors = true }, func(m *mount) {
		m.read(nil)
		if err := m.SetPasswordExpired("api-user", true); err != nil {
			t.Fatal(err)
		}
		m.tick()
		info := m.must(opList, "config/", nil)["key_info"].(map[string]any)["default"].(map[string]any)
		if info["state"] != "degraded" {
			t.Errorf("state %v, want degraded", info["state"])
		}
	})
}

// A refused credential after a refresh that failed for a moment: the refresh token is never tried again.
func TestRefreshIsTriedAgainWhereAuthenticateIsRefused(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, status(500))
		m.expectLives(m.read(nil)) // stale
		time.Sleep(5 * time.Minute)
		response, err := m.do(opRead, "creds/monitoring", nil)
		if err != nil || response.IsError() {
			t.Error("the refresh token lives for a day and was given up after one 500: ", err, response)
		}
	})
}

// A validation that comes to a config which was rewritten meanwhile is made anew, and tells nothing of the token.
func TestAValidationThatARewriteOvertookIsMadeAnew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		first := m.expectLives(m.read(nil))
		goOn := m.holdSecondLook(storage, "learnt/default")
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
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
