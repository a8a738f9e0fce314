// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a read of a good token costs.

package backend

import (
	"context"
	"errors"
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
	"unleased":      {map[string]any{"lease": false}, 20},
	"leased":        {nil, 21},
	"with-fallback": {map[string]any{"lease": false, "fallback_configs": "second"}, 20},
	"read-again":    {map[string]any{"lease": false, "reread_interval": "1m"}, 19},
	// config third is out of service, and the answer warns of that
	"by-fallback": {map[string]any{"lease": false, "config": "third", "fallback_configs": "second"}, 20},
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
			t.Errorf("%s: %v allocations, want %v", kind, allocations, hot.allocations)
		}
	}
}

func TestAHotReadAsksNeitherStorageNorCoreNorNCentral(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		for kind, hot := range hotRoles {
			if hot.role["config"] == "third" {
				continue // see TestAReadOfAGoodTokenAsksNobodyWhateverElseIsAmiss
			}
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
	m := newBenchmarkMount(b)
	m.writeConfig(b, "default")
	m.writeConfig(b, "second")
	m.writeConfig(b, "third")
	if _, err := m.ncentral.RegenerateUserAPIToken("third"); err != nil { // so that it is out at once
		b.Fatal(err)
	}
	for kind, hot := range hotRoles {
		m.do(b, opWrite, "roles/"+kind, hot.role)
		m.do(b, opRead, "creds/"+kind, nil)
	}
	return m.backend
}

// benchmarkMount is the engine as tests mount it, but without a bubble: its time is the clock's.
type benchmarkMount struct {
	ncentral *simulator.Simulator
	server   *simulator.Server
	conf     *logical.BackendConfig
	backend  *engine
}

func newBenchmarkMount(b testing.TB) *benchmarkMount {
	m := &benchmarkMount{ncentral: simulator.New(simulator.DefaultKnobs()), conf: benchmarkConfig()}
	m.server = simulator.ListenInMemory(m.ncentral)
	b.Cleanup(m.server.Close)
	m.start(b)
	b.Cleanup(func() { m.backend.Cleanup(context.Background()) })
	return m
}

// start makes the backend anew on the same storage.
func (m *benchmarkMount) start(b testing.TB) {
	if m.backend != nil {
		m.backend.Cleanup(context.Background())
	}
	var err error
	if m.backend, err = newBackend(context.Background(), m.conf, m.server.DialContext); err != nil {
		b.Fatal(err)
	}
}

func (m *benchmarkMount) writeConfig(b testing.TB, name string) {
	m.do(b, opWrite, "config/"+name, map[string]any{"url": m.server.URL, "user_api_token": m.ncentral.AddUser(name)})
}

// do makes a request that is to succeed.
func (m *benchmarkMount) do(b testing.TB, operation logical.Operation, path string, data map[string]any) {
	if response := m.ask(b, operation, path, data); response.IsError() {
		b.Fatal(path, response.Error())
	}
}

// ask makes a request that may be refused.
func (m *benchmarkMount) ask(
	b testing.TB, operation logical.Operation, path string, data map[string]any,
) *logical.Response {
	response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: m.conf.StorageView,
	})
	if err != nil && !errors.Is(err, logical.ErrUnsupportedOperation) { // which is a tick's
		b.Fatal(path, err)
	}
	return response
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
