// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What writes of roles and configs do while tokens are obtained, replaced and tried: readers get a
// token if one of the configs that are named by then gives one.

package backend

import (
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// meanwhile starts a read, changes something while N-central's answer to the authenticate that it
// waits for is held back, and returns what the read got.
func (m *mount) meanwhile(g *gates, role string, change func()) outcome {
	m.t.Helper()
	release := g.hold(toAuthenticate)
	wait := m.beginRead(role, nil)
	time.Sleep(time.Second)
	change()
	release()
	return wait()
}

// Readers of a flight that fails start over if the role has a config by now that was not asked.
func TestAFallbackThatIsWrittenDuringAFailingFlightServesItsReaders(t *testing.T) {
	for name, test := range map[string]struct {
		role   map[string]any
		change func(m *mount)
		from   string
	}{
		"its first": {
			change: func(m *mount) { m.write("roles/changed", map[string]any{"fallback_configs": "third"}) },
			from:   "third",
		},
		"its first, by PATCH": {
			change: func(m *mount) {
				m.must(opPatch, "roles/changed", map[string]any{"fallback_configs": []string{"third"}})
			},
			from: "third",
		},
		"one more": {
			role:   map[string]any{"fallback_configs": "dead"},
			change: func(m *mount) { m.write("roles/changed", map[string]any{"fallback_configs": "dead,third"}) },
			from:   "third",
		},
		"another": {
			role:   map[string]any{"fallback_configs": "dead"},
			change: func(m *mount) { m.write("roles/changed", map[string]any{"fallback_configs": "third"}) },
			from:   "third",
		},
		"the token of the first config": {
			role: map[string]any{"fallback_configs": "dead"},
			change: func(m *mount) {
				m.write("config/default", map[string]any{"user_api_token": m.AddUser("api-user"), "verify": false})
			},
			from: "default",
		},
		"the token of the first config, which has no fallback": {
			change: func(m *mount) {
				m.write("config/default", map[string]any{"user_api_token": m.AddUser("api-user"), "verify": false})
			},
			from: "default",
		},
	} {
		for _, kind := range []string{"shared", "dedicated"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				inBubble(t, nil, func(m *mount) {
					m.addConfig("dead")
					m.addConfig("third")
					m.write("roles/changed", map[string]any{"credential_type": kind})
					if test.role != nil {
						m.write("roles/changed", test.role)
					}
					g := m.gated()
					for _, user := range []string{"api-user", "dead-user"} {
						if _, err := m.RegenerateUserAPIToken(user); err != nil {
							t.Fatal(err)
						}
					}
					got := m.meanwhile(g, "changed", func() { test.change(m) })
					if got.token() == "" {
						t.Fatal("the reader got no token:", got.err, errorOf(got.response))
					}
					m.expectFrom(test.from, got.response.Data)
				})
			})
		}
	}
}

// A fallback that the role does not name any more is not asked, or its session is ended, and its
// readers get what the role gives now.
func TestAFallbackThatIsTakenAwayDuringAFlightGivesNoToken(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.addConfig("third")
		g := m.gated()
		m.regenerate()
		got := m.meanwhile(g, "monitoring", func() {
			m.write("roles/monitoring", map[string]any{"fallback_configs": "third"})
			m.delete("config/second")
		})
		if got.token() == "" {
			t.Fatal("the reader got no token:", got.err, errorOf(got.response))
		}
		m.expectFrom("third", got.response.Data)
		m.onlySession(got.token())
	})
}

// An answer to an earlier version of a config takes no later one out of service, and brings none
// back.
func TestWhatIsFoundOutAboutAnEarlierVersionOfAConfigSaysNothingOfThisOne(t *testing.T) {
	for name, works := range map[string]bool{"which works": true, "which is out": false} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				m.write("roles/worker", map[string]any{"credential_type": "dedicated", "fallback_configs": "second"})
				g := m.gated()
				token := m.regenerate()
				if !works {
					m.regenerate()
				}
				m.meanwhile(g, "worker", func() {
					m.write("config/default", map[string]any{"user_api_token": token, "verify": false})
					m.read(nil)
				})
				if isOut := m.status()["out_of_service_since"] != nil; isOut == works {
					t.Errorf("out of service: %t", isOut)
				}
				if works {
					m.expectFrom("default", m.read(nil))
					m.expectLogged("a config is out of service", false)
				}
			})
		})
	}
}

// The order of a chain holds, whichever of its configs work.
func TestTheFirstConfigOfAChainThatWorksServes(t *testing.T) {
	chain := []string{"default", "second", "third", "fourth"}
	users := []string{"api-user", "second-user", "third-user", "fourth-user"}
	for dead := range 1 << len(chain) {
		withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = dead%2 == 0 }, func(m *mount) {
			m.addConfig("third")
			m.addConfig("fourth")
			m.write("roles/monitoring", map[string]any{"fallback_configs": chain[1:]})
			m.write("roles/around", map[string]any{
				"config": "fourth", "fallback_configs": "third,second,default", "lease": false,
			})
			m.read(nil)
			m.readRole("around")
			m.tick()
			want, wantAround := "", ""
			for i, user := range users {
				if dead>>i&1 == 0 {
					wantAround = chain[i]
					if want == "" {
						want = chain[i]
					}
					continue
				}
				m.setPasswordExpired(user, true)
			}
			for range 2 {
				time.Sleep(time.Minute)
				m.tick()
			}
			time.Sleep(5 * time.Second)
			if want == "" {
				return
			}
			if answer := m.read(nil); answer["config"] != want {
				t.Errorf("dead %04b: monitoring is served from %v, not %s", dead, answer["config"], want)
			}
			if answer := m.readRole("around"); answer["config"] != wantAround {
				t.Errorf("dead %04b: around is served from %v, not %s", dead, answer["config"], wantAround)
			}
			m.delete("sessions/monitoring")
			m.delete("sessions/around")
			for range 15 { // every session of the engine's own is logged out
				time.Sleep(time.Minute)
				m.tick()
			}
			time.Sleep(5 * time.Second)
			if open := m.OpenSessions(); open != 0 {
				t.Errorf("dead %04b: %d sessions are open", dead, open)
			}
		})
	}
}
