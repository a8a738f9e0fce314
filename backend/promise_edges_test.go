// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// A suspicion that arises while N-central is being asked is not answered by what it says.
func TestASuspicionThatArisesMeanwhileStands(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		release := g.hold(toValidate)
		reader := m.begin(opRead, "creds/monitoring", map[string]any{"validate": true})
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

// A reader that looked before a rotation landed, and comes to start one after, starts none.
func TestARotationIsNotStartedForWhatWasRotated(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.read(nil)
		time.Sleep(54 * time.Minute)
		m.ResetCounts()
		goOn := make(chan struct{})
		var once sync.Once
		holdsTheFirst := func(key string) {
			if key == "learnt/default" {
				first := false
				once.Do(func() { first = true })
				if first {
					<-goOn
				}
			}
		}
		storage.got.Store(&holdsTheFirst)
		m.backend.InvalidateKey(context.Background(), "learnt/default")
		late := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		m.read(nil)
		synctest.Wait()
		close(goOn)
		late()
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1}) // of which nothing is known since the start
	})
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
			if err != nil || response.IsError() || strings.Contains(strings.Join(response.Warnings, "\n"), "is cut to the mount's max_lease_ttl") != cut {
				t.Errorf("ttl %s: %v %v", ttl, response, err)
			}
		}
	})
}

// What was learnt of the server at one url is not used at another.
func TestWhatWasLearntElsewhereIsNotUsed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.Change(func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }) // to the engine it is another server
		m.write("config/default", map[string]any{"url": "http://localhost:81", "user_api_token": m.token, "verify": false})
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		if !m.AccessTokenLives(first) {
			t.Error("a rotation refreshed by what was learnt of another server, and ended the token that readers hold")
		}
	})
}

// A session that was stored while the tick came to remove what lapsed is not removed.
func TestTheTickRemovesNothingNew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.read(nil)
		time.Sleep(26 * time.Hour)
		goOn := make(chan struct{})
		slow := func(key string) error {
			if strings.HasPrefix(key, "session/") {
				<-goOn
			}
			return nil
		}
		storage.put.Store(&slow)
		reader := m.begin(opRead, "creds/monitoring", nil)
		synctest.Wait()
		ticked := m.begin(logical.RollbackOperation, "", nil)
		for range 100_000 { // the tick waits for the lock, during which the bubble's time stands still
			runtime.Gosched()
		}
		close(goOn)
		token := reader().token()
		ticked()
		m.start()
		if m.expectLives(m.read(nil)) != token {
			t.Error("the new session was removed")
		}
	})
}

// Of calls that were under way together, the first refusal begins the cool-down, and the others do not lengthen it.
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
					t.Errorf("at %s: next attempt at %v, want %s later", time.Now().UTC().Format(time.RFC3339), next, wait)
				}
			})
		})
	}
}

// One tick tries a bounded number of logouts of each config.
func TestATickTriesSoManyDebts(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.storage.calls.Store(0)
		for range 250 {
			debt := store.PendingLogout{Origin: store.Origin{Config: "default", URL: m.server.URL}, AccessToken: "token", GrantedUntil: time.Now().Add(time.Hour)}
			if _, err := store.New(m.storage, nil).PutPendingLogout(context.Background(), "worker", debt); err != nil {
				t.Fatal(err)
			}
		}
		m.tick()
		m.expectCalls(calls{simulator.EndpointLogout: 200})
		m.tick()
		m.expectCalls(calls{simulator.EndpointLogout: 50})
	})
}

// A disaster-recovery secondary and a standby leave the tick to others; a performance secondary does its own.
func TestWhoTicks(t *testing.T) {
	for state, ticks := range map[consts.ReplicationState]int{
		consts.ReplicationDRSecondary: 0, consts.ReplicationPerformanceStandby: 0, consts.ReplicationPerformanceSecondary: 1,
		consts.ReplicationPerformancePrimary | consts.ReplicationDRPrimary: 1,
	} {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			m.ResetCounts()
			m.system.ReplicationStateVal = state
			time.Sleep(2 * time.Second) // for as long the state is not asked for again
			m.tick()
			m.expectCalls(calls{simulator.EndpointValidate: ticks, simulator.EndpointServiceOrgs: ticks, simulator.EndpointUser: ticks})
		})
	}
}

// Where the time is no whole second, ttl is rounded up, so that nobody comes back before the rotation, and a lease down, so
// that none outlives its token.
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
		if err != nil || response.Secret.TTL != 30*time.Minute-time.Second || response.Secret.MaxTTL != response.Secret.TTL {
			t.Errorf("%v %v", response, err)
		}
	})
}

// What was deleted or changed, on this node or another, before a rotation ahead of need began is not rotated; nor is what
// storage does not tell of. The reader has a good token either way.
func TestNoRotationIsBegunForWhatIsNoMore(t *testing.T) {
	elsewhere := func(m *mount, key string) {
		if err := m.storage.Delete(context.Background(), key); err != nil {
			m.t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), key)
	}
	for name, happens := range map[string]func(m *mount, storage *hookedStorage){
		"the role is another": func(m *mount, _ *hookedStorage) {
			m.write("roles/monitoring", map[string]any{"ttl": "50m"})
		},
		"the role is no more":     func(m *mount, _ *hookedStorage) { elsewhere(m, "role/monitoring") },
		"the config is no more":   func(m *mount, _ *hookedStorage) { elsewhere(m, "config/default") },
		"the sessions were ended": func(m *mount, _ *hookedStorage) { m.delete("sessions/monitoring") },
		"storage fails": func(m *mount, storage *hookedStorage) {
			fails := func(key string) error {
				if key == "role/monitoring" {
					return errors.New("storage is not there for a moment")
				}
				return nil
			}
			storage.get.Store(&fails)
			m.backend.InvalidateKey(context.Background(), "role/monitoring")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				storage := &hookedStorage{Storage: m.storage}
				m.startOn(storage)
				m.read(nil)
				time.Sleep(54 * time.Minute)
				goOn := m.holdLook(storage, "learnt/default")
				reader := m.begin(opRead, "creds/monitoring", nil)
				synctest.Wait()
				storage.got.Store(nil)
				happens(m, storage)
				m.ResetCounts()
				close(goOn)
				if o := reader(); o.token() == "" {
					t.Error(o.err, o.response)
				}
				m.expectCalls(nil)
			})
		})
	}
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
