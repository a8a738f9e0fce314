// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which lifetime N-central is asked for, what is promised of what it grants, and what a reader may
// ask for. A promise is never beyond the grant.

package backend

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestTheLifetimeThatIsAskedForAndPromised(t *testing.T) {
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
		"a ttl above max_lease_ttl": {
			role: map[string]any{"ttl": "30m"}, maxLease: 20 * time.Minute, asked: "1200s", lifetime: 20 * time.Minute,
			warning: "max_lease_ttl",
		},
		"clamped": {
			role: map[string]any{"ttl": "2h"}, asked: "7200s", lifetime: time.Hour,
			warning: "granted 1h0m0s, not the 2h0m0s",
		},
		"granted longer": {
			knobs: func(k *simulator.Knobs) { k.GrantLongerBy = 10 * time.Minute },
			role:  map[string]any{"ttl": "30m"}, asked: "1800s", lifetime: 30 * time.Minute,
			warning: "granted more than is promised",
		},
		"ignored, and max_lease_ttl shorter": {
			knobs:    func(k *simulator.Knobs) { k.IgnoreOverrides = true },
			maxLease: 10 * time.Minute, asked: "600s", lifetime: 10 * time.Minute,
			warning: "granted more than is promised",
		},
		"a min_ttl above half of the grant": {
			knobs: func(k *simulator.Knobs) { k.AccessLimit = 30 * time.Minute },
			role:  map[string]any{"min_ttl": "20m"}, asked: "", lifetime: 30 * time.Minute,
			warning: "half of it, 15m0s, stands",
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
				warnings := strings.Join(response.Warnings, "\n")
				if !strings.Contains(warnings, test.warning) || test.warning == "" && warnings != "" {
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

// What N-central grants unasked is promised no further than the mount's max_lease_ttl.
func TestNoPromiseIsBeyondMaxLeaseTTL(t *testing.T) {
	inDedicatedBubble(t, func(k *simulator.Knobs) { k.AccessLimit = 4 * time.Hour }, func(m *mount) {
		m.system.MaxLeaseTTLVal = 2 * time.Hour
		m.write("roles/leased", nil)
		for _, path := range []string{"creds/leased", "creds/worker"} {
			response, err := m.do(opRead, path, nil)
			if err != nil || response.IsError() || response.Secret.TTL != 2*time.Hour {
				t.Fatalf("%s: %v %v", path, response, err)
			}
			if expires := response.Data["expires_at_seconds"].(int64); expires != time.Now().Add(2*time.Hour).Unix() {
				t.Errorf("%s: promised until %s", path, time.Unix(expires, 0))
			}
		}
		for _, shorter := range []time.Duration{0, time.Second} { // below an hour N-central is asked for no more
			m.system.MaxLeaseTTLVal = time.Hour - shorter
			time.Sleep(2 * time.Second) // for as long it is not asked for again
			asked := !strings.Contains(strings.Join(m.open(nil).Warnings, "\n"), "granted more than is promised")
			if asked != (shorter > 0) {
				t.Errorf("max_lease_ttl %s: it was asked for: %t", m.system.MaxLeaseTTLVal, asked)
			}
		}
		m.system.MaxLeaseTTLVal = 2 * time.Hour
		time.Sleep(2 * time.Second)
		for ttl, cut := range map[string]bool{"2h": false, "121m": true} {
			m.write("roles/leased", map[string]any{"ttl": ttl})
			response, err := m.do(opRead, "creds/leased", nil)
			if err != nil || response.IsError() ||
				strings.Contains(strings.Join(response.Warnings, "\n"), "is cut to the mount's max_lease_ttl") != cut {
				t.Errorf("ttl %s: %v %v", ttl, response, err)
			}
		}
	})
}

func TestWhereMaxLeaseTTLIsNotKnownNoTokenIsAskedFor(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.system.MaxLeaseTTLVal = 0
		m.ResetCounts()
		for _, path := range []string{"creds/monitoring", "creds/worker"} {
			m.fails(503, opRead, path, nil, "max_lease_ttl")
		}
		m.expectCalls(nil)
	})
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

// One override at a time is left out: the one that N-central names, else the access token's. What
// another role asks for, and what was not refused, is asked for all the same.
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
			knobs := func(k *simulator.Knobs) { k.RefuseLongOverrides, k.OverrideErrorsNameField = true, test.names }
			inBubble(t, knobs, func(m *mount) {
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

// A refresh_token_ttl that N-central refuses is warned of.
func TestRefusedRefreshOverrideWarns(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
		m.write("config/default", map[string]any{"refresh_token_ttl": "48h"})
		warnings := m.warnings()
		if !strings.Contains(warnings, "refuses to be asked for a refresh-token lifetime of 48h0m0s") {
			t.Errorf("warnings %q", warnings)
		}
	})
}

func TestAShorterGrantIsToldOfBesideARefusedRefreshOverride(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
		m.write("config/default", map[string]any{"refresh_token_ttl": "48h"})
		m.write("roles/monitoring", map[string]any{"ttl": "20m"})
		m.read(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
			Kind: simulator.FailureExpiry, ExpirySeconds: "300",
		})
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
				m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
					Kind: simulator.FailureExpiry, ExpirySeconds: lifetime,
				})
				m.fails(502, opRead, "creds/monitoring", nil, "lifetime")
				m.onlySession("")
				time.Sleep(time.Second) // for as long N-central is left alone
				m.expectLives(m.read(nil))
			})
		})
	}
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

// A read whose token would be too short to hand out opens one session at most, and is told that
// reason.
func TestATokenTooShortToHandOutCostsOneSession(t *testing.T) {
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

// A token that is dead when the answer comes is not handed out. The error says what to change.
func TestATokenThatIsDeadOnArrivalIsAnErrorWithARemedy(t *testing.T) {
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

// At 2 s a token can be handed out, with less left it is dead.
func TestATokenIsDeadBelowTwoSeconds(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_retries": 0})
		m.read(nil)
		m.FailNext(simulator.AnyEndpoint, -1, status(503))
		time.Sleep(time.Hour - 2*time.Second)
		m.expectLives(m.read(nil))
		time.Sleep(time.Nanosecond)
		m.fails(503, opRead, "creds/monitoring", nil)
	})
}

// Where the time is no whole second, ttl is rounded up, so that nobody comes back before the
// rotation, and a lease down, so that none outlives its token.
func TestFractionsOfSecondsAreRoundedToTheSafeSide(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/leased", map[string]any{"ttl": "30m"})
		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		m.read(nil)
		m.readRole("leased")
		time.Sleep(400 * time.Millisecond)
		if ttl := m.read(nil)["ttl"]; ttl != int64(25*60) {
			t.Errorf("ttl %v", ttl)
		}
		response, err := m.do(opRead, "creds/leased", nil)
		if err != nil || response.Secret.TTL != 30*time.Minute-time.Second ||
			response.Secret.MaxTTL != response.Secret.TTL {
			t.Errorf("%v %v", response, err)
		}
	})
}

func TestAReaderGetsTheMinTTLThatItAsksFor(t *testing.T) {
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

// Whoever asks for more than the role's min_ttl is told to come back when that much is left, and
// then gets another token.
func TestTTLEndsWhenTheReadersOwnMinTTLIsLeft(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		minute := func(answer map[string]any) int64 { return answer["ttl"].(int64) / 60 }
		asked := map[string]any{"min_ttl": "20m"}
		first := m.read(asked)
		if plain := m.read(nil); minute(first) != 40 || minute(plain) != 55 || m.read(asked)["ttl"] != first["ttl"] {
			t.Errorf("ttl %v with min_ttl=20m, %v without", first["ttl"], plain["ttl"])
		}
		if lower := m.read(map[string]any{"min_ttl": "1m"}); minute(lower) != 55 {
			t.Errorf("ttl %v with a min_ttl below the role's", lower["ttl"])
		}
		time.Sleep(40 * time.Minute)
		if last := m.read(asked); last["ttl"] != int64(1) || m.expectLives(last) != first["access_token"] {
			t.Errorf("ttl %v where exactly min_ttl is left", last["ttl"])
		}
		time.Sleep(time.Second)
		if second := m.read(asked); m.expectLives(second) == first["access_token"] || minute(second) != 40 {
			t.Errorf("ttl %v of the token that came then", second["ttl"])
		}
	})
}

func TestAReadersMinTTLIsHeldAgainstWhatIsLeft(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"request_timeout": "20s"})
		m.write("roles/monitoring", map[string]any{"ttl": "30s", "min_ttl": "15s"})
		m.Change(func(k *simulator.Knobs) { k.Latency = 18 * time.Second })
		m.fails(
			503, opRead, "creds/monitoring", map[string]any{"min_ttl": "15s"},
			"12s left, less than the 15s that were asked for",
		)
		m.delete("sessions/monitoring")
		m.Change(func(k *simulator.Knobs) { k.Latency = 15 * time.Second })
		m.read(map[string]any{"min_ttl": "15s"}) // to the second
	})
}

// What tokens of the role can live is known from the last one also when that is no more, so that a
// min_ttl beyond it is refused without a call; once the role is another, it is to be found out
// anew.
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
