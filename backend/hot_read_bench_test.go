// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a read of a good token costs.

package backend

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// BenchmarkHotRead measures a read of a shared token that is in memory, from HandleRequest to its
// answer: without Vault, its storage and gRPC. Beside it, as the floor, a handler that answers a
// constant in the same framework.
func BenchmarkHotRead(b *testing.B) {
	engine := mountForBenchmark(b)
	constant := constantBackend(b)
	for _, kind := range []string{"unleased", "leased"} {
		b.Run("engine/"+kind, func(b *testing.B) { benchmarkRead(b, engine, kind) })
		b.Run("constant/"+kind, func(b *testing.B) { benchmarkRead(b, constant, kind) })
	}
}

func benchmarkRead(b *testing.B, backend logical.Backend, kind string) {
	storage := &logical.InmemStorage{} // of a constant, and of an engine that has all in memory: never asked
	b.ReportAllocs()
	for b.Loop() {
		response, err := backend.HandleRequest(b.Context(), &logical.Request{
			Operation: opRead, Path: "creds/" + kind, Storage: storage,
		})
		if err != nil || response.IsError() || (response.Secret != nil) != (kind == "leased") {
			b.Fatal("the read failed", err)
		}
	}
}

// hotRoles are the kinds of shared roles, and how much a hot read of each allocates. That is most of what
// it costs: nothing may add to it unseen.
var hotRoles = map[string]struct {
	role        map[string]any
	allocations float64
}{
	"unleased":      {map[string]any{"lease": false}, 21},
	"leased":        {nil, 22},
	"with-fallback": {map[string]any{"lease": false, "fallback_configs": "second"}, 21},
	"read-again":    {map[string]any{"lease": false, "reread_interval": "1m"}, 21},
}

func TestAHotReadAllocatesNoMoreThanItDid(t *testing.T) {
	if raceDetected {
		t.Skip("the race detector allocates too")
	}
	engine := mountForBenchmark(t)
	storage := &logical.InmemStorage{}
	for kind, hot := range hotRoles {
		request := logical.Request{Operation: opRead, Path: "creds/" + kind, Storage: storage}
		allocations := testing.AllocsPerRun(1000, func() {
			again := request
			if response, err := engine.HandleRequest(t.Context(), &again); err != nil || response.IsError() {
				t.Fatal("the read failed", err)
			}
		})
		if allocations > hot.allocations {
			t.Errorf("%s: %v allocations", kind, allocations)
		}
	}
}

func TestAHotReadAsksNeitherStorageNorCoreNorNCentral(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		for kind, hot := range hotRoles {
			m.write("roles/"+kind, hot.role)
			m.readRole(kind)
			m.ResetCounts()
			storage, system := m.storage.calls.Load(), m.system.calls.Load()
			for range 100 {
				m.readRole(kind)
			}
			if asked := m.storage.calls.Load() - storage; asked != 0 {
				t.Errorf("%s: storage was asked %d times", kind, asked)
			}
			if asked := m.system.calls.Load() - system; asked != 0 {
				t.Errorf("%s: core was asked %d times", kind, asked)
			}
			m.expectCalls(nil)
		}
	})
}

// mountForBenchmark returns an engine with the hot roles, whose tokens have been read.
func mountForBenchmark(b testing.TB) logical.Backend {
	ncentral := simulator.New(simulator.DefaultKnobs())
	server := simulator.ListenInMemory(ncentral)
	b.Cleanup(server.Close)
	conf := benchmarkConfig()
	backend, err := newBackend(b.Context(), conf, server.DialContext)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { backend.Cleanup(context.Background()) })

	do := func(operation logical.Operation, path string, data map[string]any) {
		response, err := backend.HandleRequest(b.Context(), &logical.Request{
			Operation: operation, Path: path, Data: data, Storage: conf.StorageView,
		})
		if err != nil || response.IsError() {
			b.Fatal(path, err, response.Error())
		}
	}
	for _, config := range []string{"default", "second"} {
		do(opWrite, "config/"+config, map[string]any{"url": server.URL, "user_api_token": ncentral.AddUser(config)})
	}
	for kind, hot := range hotRoles {
		do(opWrite, "roles/"+kind, hot.role)
		do(opRead, "creds/"+kind, nil)
	}
	return backend
}

// constantBackend answers as much as the engine does.
func constantBackend(b *testing.B) logical.Backend {
	read := func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		answer := map[string]any{
			"access_token": "constant", "token_type": "Bearer", "url": "https://127.0.0.1",
			"expires_at": "2030-01-01T00:00:00Z", "expires_at_seconds": int64(1893456000),
		}
		if req.Path == "creds/unleased" {
			answer["ttl"], answer["rotation_period"] = int64(3300), int64(3300)
			answer["last_vault_rotation"] = "2029-12-31T23:00:00Z"
			return &logical.Response{Data: answer}, nil
		}
		return &logical.Response{Data: answer, Secret: &logical.Secret{
			LeaseOptions: logical.LeaseOptions{TTL: time.Hour, MaxTTL: time.Hour},
			InternalData: map[string]any{"secret_type": "constant", "role": "leased", "credential_type": "shared"},
		}}, nil
	}
	backend := &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "creds/" + framework.GenericNameWithAtRegex("name"),
			Fields:  map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
			Operations: map[logical.Operation]framework.OperationHandler{
				opRead: &framework.PathOperation{Callback: read},
			},
		}},
	}
	if err := backend.Setup(b.Context(), benchmarkConfig()); err != nil {
		b.Fatal(err)
	}
	return backend
}

func benchmarkConfig() *logical.BackendConfig {
	return &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		System:      &logical.StaticSystemView{MaxLeaseTTLVal: 768 * time.Hour, DefaultLeaseTTLVal: 768 * time.Hour},
		StorageView: &logical.InmemStorage{},
	}
}
