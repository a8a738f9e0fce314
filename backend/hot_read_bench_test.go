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

// What a hot read allocates is most of what it costs: nothing may add to it unseen.
func TestAHotReadAllocatesNoMoreThanItDid(t *testing.T) {
	if raceDetected {
		t.Skip("the race detector allocates too")
	}
	engine := mountForBenchmark(t)
	storage := &logical.InmemStorage{}
	for kind, most := range map[string]float64{"unleased": 26, "leased": 27} {
		request := logical.Request{Operation: opRead, Path: "creds/" + kind, Storage: storage}
		allocations := testing.AllocsPerRun(1000, func() {
			again := request
			if response, err := engine.HandleRequest(t.Context(), &again); err != nil || response.IsError() {
				t.Fatal("the read failed", err)
			}
		})
		if allocations > most {
			t.Errorf("%s: %v allocations", kind, allocations)
		}
	}
}

// mountForBenchmark returns an engine with a role of each kind, whose tokens have been read.
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

	for _, request := range []logical.Request{
		{
			Operation: opWrite, Path: "config/default",
			Data: map[string]any{"url": server.URL, "user_api_token": ncentral.AddUser("benchmark")},
		},
		{Operation: opWrite, Path: "roles/unleased", Data: map[string]any{"lease": false}},
		{Operation: opWrite, Path: "roles/leased"},
		{Operation: opRead, Path: "creds/unleased"},
		{Operation: opRead, Path: "creds/leased"},
	} {
		request.Storage = conf.StorageView
		if response, err := backend.HandleRequest(b.Context(), &request); err != nil || response.IsError() {
			b.Fatal(request.Path, err, response.Error())
		}
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
