// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What the nodes of a cluster tell each other, hand on and leave to each other.

package backend

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// node is the engine on one node of a cluster, reached as Vault reaches it: over gRPC.
type node struct {
	t       *testing.T
	backend logical.Backend
	storage *countingStorage
	events  *logical.MockEventSender
}

func newNode(t *testing.T, storage *countingStorage, server *simulator.Server) *node {
	t.Helper()
	client, _ := goplugin.TestPluginGRPCConn(t, false, map[string]goplugin.Plugin{
		plugin.BackendPluginName: &plugin.GRPCBackendPlugin{
			Factory: func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
				return newBackend(ctx, conf, server.DialContext)
			},
			Logger: hclog.NewNullLogger(),
		},
	})
	dispensed, err := client.Dispense(plugin.BackendPluginName)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, backend: dispensed.(logical.Backend), storage: storage, events: logical.NewMockEventSender()}
	if err := n.backend.Setup(t.Context(), &logical.BackendConfig{
		Logger:       hclog.NewNullLogger(),
		System:       &logical.StaticSystemView{MaxLeaseTTLVal: 768 * time.Hour, DefaultLeaseTTLVal: 768 * time.Hour},
		StorageView:  storage,
		EventsSender: n.events,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.backend.Cleanup(context.Background())
		// It stops the server too; a second Stop beside that one would race with it.
		_ = client.Close()
	})
	return n
}

func (n *node) do(operation logical.Operation, path string, data map[string]any) map[string]any {
	n.t.Helper()
	response, err := n.backend.HandleRequest(n.t.Context(), &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: n.storage,
	})
	if err != nil || response.IsError() {
		n.t.Fatal(operation, path, err, response)
	}
	if response == nil {
		return nil
	}
	return response.Data
}

// TestInvalidateOverTheGRPCBoundary writes on one node and reads on another, which keeps what it
// has read until Vault tells it that the key changed, and then forgets that key and no other.
func TestInvalidateOverTheGRPCBoundary(t *testing.T) {
	ncentral := simulator.New(simulator.DefaultKnobs())
	server := simulator.ListenInMemory(ncentral)
	t.Cleanup(server.Close)
	storage := &countingStorage{}
	active, other := newNode(t, storage, server), newNode(t, storage, server)
	token := ncentral.AddUser("api-user")
	for _, name := range []string{"a", "b"} {
		active.do(opWrite, "config/"+name, map[string]any{"url": server.URL, "user_api_token": token})
		active.do(opWrite, "roles/"+name, map[string]any{"config": name, "lease": false})
		active.do(opRead, "creds/"+name, nil)
	}
	changes := []struct {
		key, path, field string
		change           func()
	}{
		{"config/a", "config/a", "max_retries", func() {
			active.do(opWrite, "config/a", map[string]any{"max_retries": 1})
		}},
		{"role/a", "roles/a", "min_ttl", func() { active.do(opWrite, "roles/a", map[string]any{"min_ttl": "1m"}) }},
		{"session/a", "creds/a", "access_token", func() {
			active.do(opDelete, "sessions/a", nil)
			active.do(opRead, "creds/a", nil)
		}},
	}
	for _, test := range changes {
		t.Run(test.key, func(t *testing.T) {
			for _, path := range []string{"config/a", "config/b", "roles/a", "roles/b", "creds/a", "creds/b"} {
				other.do(opRead, path, nil)
			}
			before := other.do(opRead, test.path, nil)[test.field]
			test.change()
			if other.do(opRead, test.path, nil)[test.field] != before {
				t.Error("memory did not serve the read")
			}
			other.backend.InvalidateKey(t.Context(), test.key)
			calls := storage.calls.Load()
			if other.do(opRead, test.path, nil)[test.field] == before {
				t.Error("what the key names was not dropped")
			}
			if made := storage.calls.Load() - calls; made != 1 {
				t.Errorf("%d storage calls after one key was invalidated, want 1", made)
			}
			calls = storage.calls.Load()
			for _, path := range []string{"config/a", "config/b", "roles/a", "roles/b", "creds/a", "creds/b"} {
				other.do(opRead, path, nil)
			}
			if storage.calls.Load() != calls {
				t.Error("more was dropped than the key names")
			}
		})
	}
}

func TestEventsOverTheGRPCBoundary(t *testing.T) {
	ncentral := simulator.New(simulator.DefaultKnobs())
	server := simulator.ListenInMemory(ncentral)
	t.Cleanup(server.Close)
	n := newNode(t, &countingStorage{}, server)
	n.do(opWrite, "config/a", map[string]any{"url": server.URL, "user_api_token": ncentral.AddUser("api-user")})
	n.do(opWrite, "roles/a", map[string]any{"config": "a"})
	n.do(opDelete, "roles/a", nil)
	want := []string{"ncentral/config-write", "ncentral/role-write", "ncentral/role-delete"}
	if diff := cmp.Diff(want, typesOf(sentTo(n.events))); diff != "" {
		t.Error(diff)
	}
}

func TestStandbyHandsOnWhatNeedsTheActiveNode(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.write("roles/leased", nil)
		m.read(nil)
		dedicated := m.open(nil)
		synctest.Wait()
		m.ResetCounts()
		m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		time.Sleep(2 * time.Second) // the state is asked for once a second
		handedOn := func(operation logical.Operation, path string, data map[string]any) bool {
			_, err := m.do(operation, path, data)
			return errors.Is(err, logical.ErrReadOnly)
		}
		m.expectLives(m.read(nil))
		for _, path := range []string{"creds/worker", "creds/leased"} {
			if !handedOn(opRead, path, nil) {
				t.Errorf("%s was not handed on", path)
			}
		}
		if !handedOn(opRead, "creds/monitoring", map[string]any{"validate": true}) {
			t.Error("a read that needs N-central was not handed on")
		}
		for what, longest := range map[string]string{"unknown": "0", "monitoring": "2h"} {
			if !handedOn(opRead, "creds/"+what, map[string]any{"min_ttl": longest}) {
				t.Errorf("a read of %s that a standby which lags behind may refuse wrongly was not handed on", what)
			}
		}
		if err := m.revoke(dedicated); !errors.Is(err, logical.ErrReadOnly) {
			t.Errorf("the end of a lease was not left to the active node: %v", err)
		}
		for _, path := range []string{"config/default", "roles/monitoring", "config/default/check"} {
			if !handedOn(opWrite, path, nil) {
				t.Errorf("a write of %s was not handed on", path)
			}
		}
		if !handedOn(opDelete, "sessions/monitoring", nil) {
			t.Error("the end of sessions was not handed on")
		}
		time.Sleep(53*time.Minute + 30*time.Second)
		if !handedOn(opRead, "creds/monitoring", nil) {
			t.Error("a read that starts a rotation was not handed on")
		}
		m.tick()
		m.expectCalls(nil)
	})
}

// A disaster-recovery secondary and a standby leave the tick to others; a performance secondary
// does its own.
func TestWhichNodesTick(t *testing.T) {
	for state, ticks := range map[consts.ReplicationState]int{
		consts.ReplicationDRSecondary: 0, consts.ReplicationPerformanceStandby: 0,
		consts.ReplicationPerformanceSecondary:                             1,
		consts.ReplicationPerformancePrimary | consts.ReplicationDRPrimary: 1,
	} {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			m.ResetCounts()
			m.system.ReplicationStateVal = state
			time.Sleep(2 * time.Second) // for as long the state is not asked for again
			m.tick()
			m.expectCalls(calls{
				simulator.EndpointValidate: ticks, simulator.EndpointServiceOrgs: ticks, simulator.EndpointUser: ticks,
			})
		})
	}
}
