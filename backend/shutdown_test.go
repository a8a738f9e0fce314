// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How the backend ends: it waits for what is being written down, and for nothing that N-central has
// to answer.

package backend

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The end of the backend waits for nothing that N-central has to answer, and nothing begins after
// it.
func TestTheEndOfTheBackendWaitsForNobody(t *testing.T) {
	tests := map[string]func(m *mount){
		"a flight":     func(m *mount) { m.beginRead("monitoring", nil) },
		"a validation": func(m *mount) { m.beginRead("monitoring", map[string]any{"validate": true}) },
		"learning, before a rotation": func(m *mount) {
			time.Sleep(54 * time.Minute)
			m.read(nil)
		},
		"a tick": func(m *mount) {
			time.Sleep(54 * time.Minute)
			m.begin(logical.RollbackOperation, "", nil)
		},
		"a dedicated read":  func(m *mount) { m.beginRead("worker", nil) },
		"its probe":         func(m *mount) { m.open(nil) },
		"an end of a lease": func(m *mount) { lease := m.open(nil); go func() { _ = m.revoke(lease) }() },
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, nil, func(m *mount) {
				m.delete("roles/monitoring")
				m.delete("roles/worker")
				m.delete("config/default")
				m.write("config/default", map[string]any{
					"url": m.server.URL, "user_api_token": m.token, "verify": false, "request_timeout": "20s",
				})
				m.write("roles/monitoring", map[string]any{"lease": false})
				m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
				if !strings.HasPrefix(name, "a flight") {
					m.read(nil)
				}
				m.FailNext(simulator.EndpointServiceOrgs, -1, hang)
				if !strings.Contains(name, "probe") && !strings.Contains(name, "lease") {
					m.FailNext(simulator.AnyEndpoint, -1, hang)
				}
				m.FailNext(simulator.EndpointLogout, -1, hang)
				begin(m)
				synctest.Wait()
				began := time.Now()
				m.backend.Cleanup(context.Background())
				if took := time.Since(began); took > time.Second {
					t.Errorf("it waited %s for N-central", took)
				}
				m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
				m.ClearFailures()
			})
		})
	}
}

// The end of the backend waits for what is being written down.
func TestTheEndWaitsForWhatIsBeingStored(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		slow := func(key string) error {
			if key == "session/monitoring" {
				time.Sleep(3 * time.Second)
			}
			return nil
		}
		storage.put.Store(&slow)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.backend.Cleanup(context.Background())
		stored, err := m.storage.InmemStorage.Get(context.Background(), "session/monitoring")
		if stored == nil || err != nil {
			t.Errorf("the session was not stored when the backend had ended: %v", err)
		}
		reader()
	})
}

// The tick is over when all its work is, so that the end of the backend breaks off nothing that it
// does not know of.
func TestTheTickWaitsForTheLogoutsOfDeletedRoles(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		// Deleted on the primary cluster.
		if err := m.storage.Delete(context.Background(), "role/monitoring"); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), "role/monitoring")
		m.Change(func(k *simulator.Knobs) { k.Latency = time.Second })
		m.tick()
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open when the tick is over", open)
		}
		m.expectLogged("could not be", false)
	})
}

// A session that could not be answered when the backend ended is owed, and the log tells where it
// cannot be.
func TestASessionThatIsLeftAtTheEndIsOwed(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		inDedicatedBubble(t, nil, func(m *mount) {
			storage := m.hooked()
			m.FailNext(simulator.EndpointServiceOrgs, -1, hang)
			m.Change(func(k *simulator.Knobs) { k.Latency = time.Second })
			reader := m.beginRead("worker", nil)
			synctest.Wait()
			goOn := make(chan struct{})
			holds := func(key string) error {
				if key == "role/worker" {
					<-goOn
				}
				return nil
			}
			storage.get.Store(&holds)
			m.backend.InvalidateKey(context.Background(), "role/worker")
			time.Sleep(2 * time.Second) // the session is open, and the role is looked at again
			if err := m.storage.Delete(context.Background(), "role/worker"); err != nil {
				t.Fatal(err)
			}
			m.backend.Cleanup(context.Background())
			m.storage.refuses.Store(refuses)
			close(goOn)
			if o := reader(); o.token() != "" {
				t.Error("a token of a role that is no more was answered")
			}
			if owed := len(m.owedKeys()); refuses == (owed == 1) {
				t.Errorf("storage refuses: %t; %d logouts are owed", refuses, owed)
			}
			m.expectLogged("a session that is not handed out could not be ended", refuses)
			m.ClearFailures()
		})
	}
}

// What is asked of the engine after its end is refused, so that Vault tries it again with the next
// process.
func TestNothingIsEndedAfterTheEnd(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.read(nil)
		lease := m.open(nil)
		synctest.Wait()
		m.backend.Cleanup(context.Background())
		m.ResetCounts()
		if err := m.revoke(lease); err == nil || !strings.Contains(err.Error(), "is being stopped") {
			t.Errorf("a revoke was answered %v", err)
		}
		m.fails(503, opDelete, "sessions/monitoring", nil, "is being stopped")
		m.write("roles/cold", map[string]any{"lease": false})
		for _, path := range []string{"creds/cold", "creds/worker"} {
			m.fails(503, opRead, path, nil, "is being stopped")
		}
		m.tick()
		m.expectCalls(nil)
	})
}
