// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// N-central is left alone after a failure: the cool-down of a refused User-API token, and the back-
// off after all else.

package backend

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// failures are the ways in which an attempt to obtain a token can fail, but for silence and a
// refusal.
var failures = map[string]simulator.Failure{
	"a failed login hidden in a 200":   {Kind: simulator.FailureErrorMessage},
	"a login page":                     {Kind: simulator.FailureHTML},
	"a block page with 403":            {Kind: simulator.FailureHTML, Status: 403},
	"a redirect":                       {Kind: simulator.FailureRedirect},
	"404":                              status(404),
	"400":                              status(400),
	"500":                              status(500),
	"an answer without tokens":         {Kind: simulator.FailureNoTokens},
	"a token of no use":                {Kind: simulator.FailureExpiry, ExpirySeconds: "1"},
	"an answer that is cut short":      {Kind: simulator.FailureTruncated},
	"a token with a line feed":         {Kind: simulator.FailureLineFeedToken},
	"429, with nothing in Retry-After": status(429),
}

func TestRefusedCredentialIsNotHammered(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.regenerate()
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

// Whatever way obtaining a token fails, N-central is left alone for 1s, doubling to 15s: 7 times in
// a minute at most.
func TestWhateverFailsIsLeftAlone(t *testing.T) {
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("config/default", map[string]any{"max_retries": 0})
				m.ResetCounts()
				m.FailNext(simulator.EndpointAuthenticate, -1, failure)
				for range 600 {
					m.fails(anyStatus, opRead, "creds/monitoring", nil)
					time.Sleep(100 * time.Millisecond)
				}
				if tried := m.all(simulator.EndpointAuthenticate); tried < 6 || tried > 8 {
					t.Errorf("%d authenticates in a minute, want 7", tried)
				}
				m.ClearFailures()
				time.Sleep(15 * time.Second)
				m.expectLives(m.read(nil))
			})
		})
	}
}

// Eight calls may be in flight. Whoever waited behind them when the first refusal came makes none.
func TestWhoQueuedDoesNotTryARefusedCredential(t *testing.T) {
	t.Run("shared", func(t *testing.T) {
		inBubble(t, func(k *simulator.Knobs) { k.Latency = 200 * time.Millisecond }, func(m *mount) {
			roles := m.addRoles(100, nil)
			m.regenerate()
			m.ResetCounts()
			for _, wait := range m.beginAll(roles) {
				wait()
			}
			if tried := m.all(simulator.EndpointAuthenticate); tried != 8 {
				t.Errorf("100 readers tried the refused User-API token %d times, want 8", tried)
			}
		})
	})
	t.Run("dedicated", func(t *testing.T) {
		inDedicatedBubble(t, func(k *simulator.Knobs) { k.Latency = 200 * time.Millisecond }, func(m *mount) {
			m.regenerate()
			m.ResetCounts()
			m.openMany(context.Background(), 60)()
			if tried := m.all(simulator.EndpointAuthenticate); tried != 6 {
				t.Errorf("60 readers tried the refused User-API token %d times, want 6", tried)
			}
		})
	})
}

func TestWhoQueuedDoesNotAskASilentServer(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_retries": 0, "max_requests_in_flight": 1, "verify": false})
		roles := m.addRoles(5, nil)
		m.FailNext(simulator.EndpointAuthenticate, -1, hang)
		m.ResetCounts()
		for _, wait := range m.beginAll(roles) {
			if o := wait(); o.took != 10*time.Second || strings.Contains(o.err.Error(), "2000-01-01T00:00:10Z") {
				// Its own request_timeout, or another's, and no next attempt that is past.
				t.Errorf("after %s: %v", o.took, o.err)
			}
		}
		m.ClearFailures()
		synctest.Wait()
		if tried := m.all(simulator.EndpointAuthenticate); tried != 1 {
			t.Errorf("the server was asked %d times, want 1", tried)
		}
	})
}

// In the window before a rotation is due, reads of a token that is good call no more.
func TestARotationAheadOfNeedThatFailsIsLeftAlone(t *testing.T) {
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				first := m.expectLives(m.read(nil))
				time.Sleep(54 * time.Minute)
				m.FailNext(simulator.EndpointRefresh, -1, failure)
				m.FailNext(simulator.EndpointAuthenticate, -1, failure)
				m.ResetCounts()
				for range 100 {
					if m.expectLives(m.read(nil)) != first {
						t.Fatal("another token")
					}
					synctest.Wait()
				}
				// A 429 or a 500 is tried again within the call.
				refreshes, authenticates := m.all(simulator.EndpointRefresh), m.all(simulator.EndpointAuthenticate)
				if refreshes > 4 || authenticates > 2 {
					t.Errorf(
						"100 reads of a good token made %d refreshes and %d authenticates", refreshes, authenticates,
					)
				}
			})
		})
	}
}

func TestABlockPageIsNoRefusal(t *testing.T) {
	for _, code := range []int{401, 403} {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			time.Sleep(56 * time.Minute)
			m.FailNext(simulator.AnyEndpoint, -1, simulator.Failure{Kind: simulator.FailureHTML, Status: code})
			if m.expectLives(m.read(nil)) != first {
				t.Error("the token in hand was not handed out")
			}
			if status := m.status(); status["last_failure_kind"] != "malformed" {
				t.Errorf("a block page counts as %v", status["last_failure_kind"])
			}
			m.ClearFailures()
			time.Sleep(time.Second) // not half a minute, as after a refusal
			if m.expectLives(m.read(nil)) == first {
				t.Error("no new token was asked for")
			}
		})
	}
}

// The cool-down is the credential's: of every config that has it, and beyond a version of the
// config.
func TestConfigsWithOneCredentialShareItsCoolDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/twin", map[string]any{"url": m.server.URL, "user_api_token": m.token})
		m.write("roles/twin", map[string]any{"lease": false, "config": "twin"})
		m.regenerate()
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", nil)
		// Each is told under its own name.
		text := m.fails(400, opRead, "creds/twin", nil)
		if !strings.HasPrefix(text, `config "twin": authenticate: not tried`) {
			t.Error(text)
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		for name, state := range m.get("status")["configs"].(map[string]any) {
			if state := state.(map[string]any); state["state"] != "failing" ||
				!strings.Contains(fmt.Sprint(state["reasons"]), "refused") {
				t.Errorf("%s is %v: %v", name, state["state"], state["reasons"])
			}
		}
	})
}

// A write of the config lifts the wait, not the memory of it.
func TestARewriteDoesNotStartTheCoolDownOver(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.write("config/default", map[string]any{"max_retries": 2, "verify": false})
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(59 * time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(nil)
		time.Sleep(time.Second)
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

func TestARefusedCheckLeavesTheCoolDownAsItIs(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		until := m.status()["next_attempt"]
		for range 5 {
			time.Sleep(5 * time.Second)
			if answer, _, _ := m.check(); answer["ok"] != false {
				t.Error("the check passed")
			}
			if next := m.status()["next_attempt"]; next != until {
				t.Errorf("the next attempt was at %v, and is at %v after a check", until, next)
			}
		}
		time.Sleep(5 * time.Second)
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// N-central is left alone for as long as it asks, beyond the call that it said so in, and for ten
// minutes at most.
func TestRetryAfterIsHeeded(t *testing.T) {
	for asked, waits := range map[int]time.Duration{
		40: 40 * time.Second, 600: 10 * time.Minute, 86400: 10 * time.Minute,
	} {
		inBubble(t, nil, func(m *mount) {
			m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
				Kind: simulator.FailureStatus, Status: 503, RetryAfterSeconds: asked,
			})
			m.fails(503, opRead, "creds/monitoring", nil)
			m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
			time.Sleep(waits - time.Second)
			m.fails(503, opRead, "creds/monitoring", nil)
			m.expectCalls(nil)
			time.Sleep(time.Second)
			m.expectLives(m.read(nil))
		})
	}
}

// Who holds a token need not wait beyond its end, however long N-central is being left alone;
// others do.
func TestNoPauseLastsPastTheEndOfATokenInHand(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/cold", map[string]any{"lease": false})
		m.read(nil)
		time.Sleep(59 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, 1, simulator.Failure{
			Kind: simulator.FailureStatus, Status: 503, RetryAfterSeconds: 600,
		})
		m.expectLives(m.read(nil)) // stale
		time.Sleep(58 * time.Second)
		m.fails(503, opRead, "creds/cold", nil)
		m.ResetCounts()
		time.Sleep(time.Second)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointRefresh: 1})
	})
}

// Readers of a dedicated role share no flight. They take their turns all the same: while N-central
// asks for patience, no more of them try than it has places for, and then it is left alone.
func TestReadersOfADedicatedRoleAreAsPatientAsOthers(t *testing.T) {
	for _, code := range []int{429, 503} {
		inDedicatedBubble(t, nil, func(m *mount) {
			m.FailNext(simulator.EndpointAuthenticate, -1, status(code))
			m.ResetCounts()
			var group sync.WaitGroup
			for range 2400 { // for two minutes
				group.Go(func() { m.beginRead("worker", nil)() })
				time.Sleep(50 * time.Millisecond)
			}
			group.Wait()
			// Rounds of six readers with four attempts each: 8 a minute at most, with the pauses of
			// 1s doubling to 15s between them.
			if tried := m.all(simulator.EndpointAuthenticate); tried > 2*8*6*4 {
				t.Errorf("%d: %d authenticates in two minutes", code, tried)
			}
		})
	}
}

// A reader of a config's last version does not bring it back and lift the cool-down of the one that
// is in force.
func TestAnOldReaderDoesNotLiftTheCoolDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, hang)
		// It waits with a token in hand on the version of the config that is now in force.
		reader := m.beginRead("monitoring", nil)
		time.Sleep(time.Second)
		m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
		m.regenerate()
		m.ResetCounts()
		m.fails(400, opRead, "creds/other", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointRefresh: 1})
		time.Sleep(10 * time.Second) // the hanging attempt times out, and its reader gets the stale token
		reader()
		m.ResetCounts()
		m.fails(400, opRead, "creds/other", nil)
		m.expectCalls(nil)
	})
}

// Of calls that were under way together, the first refusal begins the cool-down, and the others do
// not lengthen it.
func TestCallsUnderWayTogetherBeginOnePause(t *testing.T) {
	for name, failure := range map[string]simulator.Failure{"refused": status(401), "500": status(500)} {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
				m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
				m.FailNext(simulator.EndpointAuthenticate, -1, failure)
				m.openMany(context.Background(), 6)()
				wait := 30 * time.Second
				if name == "500" {
					wait = time.Second
				}
				if next := m.status()["next_attempt"]; next != time.Now().Add(wait).UTC().Format(time.RFC3339) {
					t.Errorf(
						"at %s: next attempt at %v, want %s later", time.Now().UTC().Format(time.RFC3339), next, wait,
					)
				}
			})
		})
	}
}
