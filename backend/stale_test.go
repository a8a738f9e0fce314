// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Stale beats down: a token that lives is served, with a warning, while no new one can be had.

package backend

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

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

func TestRefusedCredentialServesTheLiveTokenOnceValidated(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.regenerate()
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		for range 100 {
			if m.expectLives(m.read(nil)) != first {
				t.Fatal("another token")
			}
		}
		m.expectCalls(calls{
			simulator.EndpointRefresh: 1, simulator.EndpointAuthenticate: 1, simulator.EndpointValidate: 1,
		})
	})
}

// A reader with a live token waits for the first attempt at most, whatever must be learnt before
// it.
func TestStaleReaderWaitsForOneAttempt(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{
			"url": m.server.URL, "user_api_token": m.token, "verify": false, "password_max_age": 0,
		})
		m.write("roles/monitoring", map[string]any{"lease": false})
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		o := m.beginRead("monitoring", nil)()
		if o.token() != first || o.took > 10*time.Second {
			t.Errorf("the live token was answered after %s, want 10s: the first attempt's request_timeout", o.took)
		}
		m.ClearFailures()
	})
}

// A reader with a live token waits no longer for the turn of its call behind others that N-central
// does not answer.
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
			waits = append(waits, m.beginRead(name, nil))
		}
		for i, wait := range waits {
			if o := wait(); o.token() == "" || o.took > 10*time.Second {
				t.Errorf("the reader of %s got a token (%t) after %s", names[i], o.token() != "", o.took)
			}
		}
		m.ClearFailures()
	})
}

// A reader whose stale token ends while the first attempt fails waits for what comes of the others.
func TestAReaderWhoseTokenEndsMeanwhileWaitsForTheOthers(t *testing.T) {
	for name, down := range map[string]bool{"which brings a token": false, "which brings none": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.read(nil)
				time.Sleep(59*time.Minute + 55*time.Second)
				m.Change(func(k *simulator.Knobs) { k.Latency = 4 * time.Second })
				attempts := 1
				if down {
					attempts = -1
				}
				m.FailNext(simulator.AnyEndpoint, attempts, status(503))
				if !down {
					m.expectLives(m.read(nil))
					return
				}
				if text := m.fails(503, opRead, "creds/monitoring", nil); strings.Contains(text, "tried again;") {
					t.Error(text)
				}
			})
		})
	}
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
		response, err := m.backend.HandleRequest(ctx, &logical.Request{
			Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
		})
		if took := time.Since(began); err == nil || took > time.Second {
			t.Errorf("after %s: %v %v", took, response, err)
		}
		m.ClearFailures()
	})
}

// A flight that ends in the moment in which its readers' wait ends leaves every reader with a
// token.
func TestAFlightThatEndsAsItsReadersWaitDoesFailsNobody(t *testing.T) {
	for range 20 {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			time.Sleep(56 * time.Minute)
			m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
			m.FailNext(simulator.EndpointRefresh, 1, status(401))
			var wait sync.WaitGroup
			var old, failed atomic.Int64
			for range 1000 {
				wait.Go(func() {
					r, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
					})
					if err != nil || r.IsError() {
						failed.Add(1)
						return
					}
					if r.Data["access_token"] == first {
						old.Add(1)
					}
				})
			}
			wait.Wait()
			if failed.Load() > 0 {
				t.Errorf("%d stale, %d failed", old.Load(), failed.Load())
			}
		})
	}
}

// A token whose role is rewritten while its reader waits for the first attempt is not served stale.
func TestRetiredTokenIsNotServedStale(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, hang)
		reader := m.beginRead("monitoring", nil)
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

func TestAStaleTokenThatARebootMayHaveEndedIsNotHandedOut(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(55*time.Minute + 30*time.Second)
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500)) // N-central's core is still starting
		m.fails(502, opRead, "creds/monitoring", nil)
	})
}

// A stale token below the reader's own min_ttl is not served.
func TestNoStaleTokenIsServedBelowTheReadersMinTTL(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"min_ttl": "20m"})
		m.read(nil)
		time.Sleep(49*time.Minute + 55*time.Second)
		m.FailNext(simulator.EndpointRefresh, -1, hang)
		m.FailNext(simulator.EndpointAuthenticate, -1, hang)
		m.fails(503, opRead, "creds/monitoring", map[string]any{"min_ttl": "10m"})
		m.ClearFailures()
	})
}

// A stale answer says to come back when there is half of the token's life left at the latest.
func TestAStaleAnswerSendsNobodyAwayUntilItsEnd(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.server.Stop()
		for _, test := range []struct{ after, want time.Duration }{
			{56 * time.Minute, 15 * time.Second},
			{210 * time.Second, 15 * time.Second},
			{20 * time.Second, 5 * time.Second},
			{5 * time.Second, 2 * time.Second},
		} {
			time.Sleep(test.after)
			if ttl := m.read(nil)["ttl"].(int64); time.Duration(ttl)*time.Second != test.want {
				t.Errorf("at %s ttl is %d, want %s", time.Now().Format(time.TimeOnly), ttl, test.want)
			}
		}
	})
}

// The ttl of a stale answer is over before its token is.
func TestAStaleTTLIsNotPastTheTokensEnd(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.server.Stop()
		time.Sleep(59*time.Minute + 50*time.Second + 500*time.Millisecond)
		if ttl := m.read(nil)["ttl"].(int64); ttl > 9 {
			t.Errorf("ttl %d, where the token lives for 9.5s", ttl)
		}
	})
}
