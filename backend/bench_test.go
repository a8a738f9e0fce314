// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"go.uber.org/goleak"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestMain(m *testing.M) {
	// A dependency of the SDK starts it at once and for good.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// mount is the engine as Vault mounts it, on storage in memory, with the simulator behind it over connections in memory:
// in a synctest bubble, its time is the test's.
type mount struct {
	*simulator.Simulator
	t       *testing.T
	server  *simulator.Server
	backend *engine
	storage *countingStorage
	system  *systemView
	events  *logical.MockEventSender
	core    logical.EventSender // the server's event system: events, unless a test gives another
	log     *logBuffer          // of all levels
	token   string
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// systemView is core's view, with what a test changes of it.
type systemView struct {
	logical.StaticSystemView
	calls atomic.Int64
}

func (v *systemView) ReplicationState() consts.ReplicationState {
	v.calls.Add(1)
	return v.StaticSystemView.ReplicationState()
}

func (v *systemView) MaxLeaseTTL() time.Duration {
	v.calls.Add(1)
	return v.StaticSystemView.MaxLeaseTTL()
}

// countingStorage counts the calls that reach it, and refuses writes, and reads of keys that begin so, on demand.
type countingStorage struct {
	logical.InmemStorage
	calls        atomic.Int64
	refuses      atomic.Bool
	refusesReads atomic.Pointer[string]
}

func (s *countingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	if prefix := s.refusesReads.Load(); prefix != nil && strings.HasPrefix(key, *prefix) {
		return nil, errors.New("storage refuses reads")
	}
	return s.InmemStorage.Get(ctx, key)
}

// damage puts an entry in the place of another that the engine cannot read.
func (m *mount) damage(key string) {
	m.t.Helper()
	if err := m.storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(`{"url": 1, "current": 1, "config": `)}); err != nil {
		m.t.Fatal(err)
	}
}

func (s *countingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.calls.Add(1)
	if s.refuses.Load() {
		return errors.New("storage refuses writes")
	}
	return s.InmemStorage.Put(ctx, entry)
}

func (s *countingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.calls.Add(1)
	return s.InmemStorage.List(ctx, prefix)
}

// inBubble runs the test on a mount in a bubble, with config default and role monitoring unleased, whose tokens are replaced
// 5m before their end. No secret may be in the log or the events at its end.
func inBubble(t *testing.T, change func(*simulator.Knobs), test func(m *mount)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		knobs := simulator.DefaultKnobs()
		if change != nil {
			change(&knobs)
		}
		m := &mount{Simulator: simulator.New(knobs), t: t, storage: &countingStorage{}, events: logical.NewMockEventSender(), log: &logBuffer{}}
		m.core = m.events
		m.system = &systemView{StaticSystemView: logical.StaticSystemView{MaxLeaseTTLVal: 768 * time.Hour, DefaultLeaseTTLVal: 768 * time.Hour}}
		m.server = simulator.ListenInMemory(m.Simulator)
		defer m.server.Close()
		m.token = m.AddUser("api-user")
		m.start()
		defer func() { m.backend.Cleanup(context.Background()) }()
		m.must(logical.UpdateOperation, "config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "password_max_age": 0})
		m.must(logical.UpdateOperation, "roles/monitoring", map[string]any{"lease": false, "min_ttl": "5m"})
		m.ResetCounts()
		test(m)
		m.expectNoSecrets("the log", m.log.String())
		m.expectNoSecrets("an event", fmt.Sprint(m.sent()))
	})
}

func (m *mount) expectNoSecrets(where, text string) {
	m.t.Helper()
	for _, secret := range m.Secrets() {
		if strings.Contains(text, secret) {
			m.t.Errorf("%s holds a secret", where)
		}
	}
}

func (m *mount) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace})
}

// logged fails the test unless the log holds, or does not hold, the text.
func (m *mount) logged(text string, want bool) {
	m.t.Helper()
	if strings.Contains(m.log.String(), text) != want {
		m.t.Errorf("%q is in the log: %t, want %t", text, !want, want)
	}
}

// start makes the backend anew on the same storage, as after a restart of the plugin.
func (m *mount) start() {
	m.t.Helper()
	if m.backend != nil {
		m.backend.Cleanup(context.Background())
	}
	backend, err := newBackend(context.Background(), &logical.BackendConfig{
		Logger: m.logger(), System: m.system, StorageView: m.storage,
		EventsSender: m.core,
	}, func(ctx context.Context, network, address string) (net.Conn, error) {
		return m.server.DialContext(ctx, network, address)
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.backend = backend
}

// do makes a request as core does and holds a good answer against the response that the path declares.
func (m *mount) do(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: m.storage,
	})
	if err == nil && response != nil && !response.IsError() && operation != logical.HelpOperation {
		m.validate(operation, path, response)
	}
	return response, err
}

func (m *mount) validate(operation logical.Operation, path string, response *logical.Response) {
	m.t.Helper()
	if operation == logical.ListOperation && len(response.Data) == 0 {
		return // of which Vault makes a 404
	}
	declared := schema.GetResponseSchema(m.t, m.backend.Route(path), operation)
	if response.Data != nil {
		schema.ValidateResponse(m.t, declared, response, true)
	}
}

// must is do for requests that succeed; it answers the data, or none.
func (m *mount) must(operation logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	response, err := m.do(operation, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", operation, path, err)
	}
	if response == nil {
		return nil
	}
	if response.IsError() {
		m.t.Fatalf("%s %s: %v", operation, path, response.Error())
	}
	return response.Data
}

// failure answers the text with which a request failed, and its status.
func (m *mount) failure(operation logical.Operation, path string, data map[string]any) (string, int) {
	m.t.Helper()
	response, err := m.do(operation, path, data)
	switch {
	case err == nil && !response.IsError():
		m.t.Fatalf("%s %s with %v: no error", operation, path, keys(data))
	case err == nil:
		return response.Error().Error(), 400
	}
	var coded logical.HTTPCodedError
	if errors.As(err, &coded) {
		return coded.Error(), coded.Code()
	}
	return err.Error(), 500
}

func (m *mount) read(data map[string]any) map[string]any {
	m.t.Helper()
	return m.must(logical.ReadOperation, "creds/monitoring", data)
}

// warnings answers what a read of the role warns of.
func (m *mount) warnings() string {
	m.t.Helper()
	response, err := m.do(logical.ReadOperation, "creds/monitoring", nil)
	if err != nil || response.IsError() {
		m.t.Fatal(err, response)
	}
	return strings.Join(response.Warnings, "\n")
}

func (m *mount) tick() {
	m.t.Helper()
	_, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	if err != nil && !errors.Is(err, logical.ErrUnsupportedOperation) {
		m.t.Fatal(err)
	}
}

// calls fails the test unless exactly these calls were made since the last look: pairs of endpoint and number.
func (m *mount) calls(want map[simulator.Endpoint]int) {
	m.t.Helper()
	synctest.Wait()
	for endpoint, outcomes := range m.Counts() {
		total := 0
		for _, count := range outcomes {
			total += count
		}
		if total != want[endpoint] {
			m.t.Errorf("%s was called %d times, want %d", endpoint, total, want[endpoint])
		}
		delete(want, endpoint)
	}
	for endpoint, count := range want {
		if count != 0 {
			m.t.Errorf("%s was called 0 times, want %d", endpoint, count)
		}
	}
	m.ResetCounts()
}

// lives fails the test unless the simulator accepts the token of the answer.
func (m *mount) lives(answer map[string]any) string {
	m.t.Helper()
	token := answer["access_token"].(string)
	if !m.AccessTokenLives(token) {
		m.t.Fatal("a dead token was handed out")
	}
	return token
}

func keys(data map[string]any) []string {
	var names []string
	for name := range data {
		names = append(names, name)
	}
	return names
}
