// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The mount that tests work on, and the requests and expectations that they share.

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
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
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

func TestMain(m *testing.M) {
	// A dependency of the SDK starts it at once and for good.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// mount is the engine as Vault mounts it, on storage in memory, with the simulator behind it over
// connections in memory: in a synctest bubble, its time is the test's.
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

// inBubble runs the test on a mount in a bubble, with config default and role monitoring unleased,
// whose tokens are replaced 5m before their end. No secret may be in the log or the events at its
// end.
func inBubble(t *testing.T, change func(*simulator.Knobs), test func(m *mount)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		knobs := simulator.DefaultKnobs()
		if change != nil {
			change(&knobs)
		}
		m := &mount{
			Simulator: simulator.New(knobs), t: t, storage: &countingStorage{}, events: logical.NewMockEventSender(),
			log: &logBuffer{},
		}
		m.core = m.events
		m.system = &systemView{
			StaticSystemView: logical.StaticSystemView{
				MaxLeaseTTLVal: 768 * time.Hour, DefaultLeaseTTLVal: 768 * time.Hour,
			},
		}
		m.server = simulator.ListenInMemory(m.Simulator)
		defer m.server.Close()
		m.token = m.AddUser("api-user")
		m.start()
		defer func() { m.backend.Cleanup(context.Background()) }()
		m.write("config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "password_max_age": 0})
		m.write("roles/monitoring", map[string]any{"lease": false, "min_ttl": "5m"})
		m.ResetCounts()
		test(m)
		m.expectNoSecrets("the log", m.log.String())
		m.expectNoSecrets("an event", fmt.Sprint(m.sent()))
	})
}

// inDedicatedBubble is inBubble with a dedicated role worker.
func inDedicatedBubble(t *testing.T, change func(*simulator.Knobs), test func(m *mount)) {
	t.Helper()
	inBubble(t, change, func(m *mount) {
		m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
		test(m)
	})
}

func (m *mount) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Trace})
}

// start makes the backend anew on the same storage, as after a restart of the plugin.
func (m *mount) start() {
	m.t.Helper()
	m.startOn(m.storage)
}

// startOn is start on that storage, which has what the mount's own has.
func (m *mount) startOn(storage logical.Storage) {
	m.t.Helper()
	m.startWith(storage, m.dial)
}

// dial connects to the server that the mount has at that moment.
func (m *mount) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return m.server.DialContext(ctx, network, address)
}

func (m *mount) startWith(storage logical.Storage, dial upstream.DialContext) {
	m.t.Helper()
	if m.backend != nil {
		m.backend.Cleanup(context.Background())
	}
	backend, err := newBackend(context.Background(), &logical.BackendConfig{
		Logger: m.logger(), System: m.system, StorageView: storage, EventsSender: m.core,
	}, dial)
	if err != nil {
		m.t.Fatal(err)
	}
	m.backend = backend
}

// The operations, by the words of the end-to-end tests.
const (
	opRead   = logical.ReadOperation
	opList   = logical.ListOperation
	opWrite  = logical.UpdateOperation
	opPatch  = logical.PatchOperation
	opDelete = logical.DeleteOperation
)

// do makes a request as core does and holds a good answer against the response that the path
// declares.
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
	if operation == opList && len(response.Data) == 0 {
		return // of which Vault makes a 404
	}
	declared := schema.GetResponseSchema(m.t, m.backend.Route(path), operation)
	if response.Data != nil {
		schema.ValidateResponse(m.t, declared, response, true)
	}
}

// must is do for requests that are to succeed. It returns the data, or none.
func (m *mount) must(operation logical.Operation, path string, data map[string]any) map[string]any {
	m.t.Helper()
	answered, _ := m.answer(operation, path, data)
	return answered
}

// answer is must that returns the warnings too, one a line.
func (m *mount) answer(
	operation logical.Operation, path string, data map[string]any,
) (answered map[string]any, warnings string) {
	m.t.Helper()
	response, err := m.do(operation, path, data)
	if err != nil {
		m.t.Fatalf("%s %s: %v", operation, path, err)
	}
	if response == nil {
		return nil, ""
	}
	if response.IsError() {
		m.t.Fatalf("%s %s: %v", operation, path, response.Error())
	}
	return response.Data, strings.Join(response.Warnings, "\n")
}

// write writes to a path and returns the warnings.
func (m *mount) write(path string, data map[string]any) string {
	m.t.Helper()
	_, warnings := m.answer(opWrite, path, data)
	return warnings
}

// get reads a path. It fails the test where there is nothing.
func (m *mount) get(path string) map[string]any {
	m.t.Helper()
	data := m.must(opRead, path, nil)
	if data == nil {
		m.t.Fatalf("there is nothing at %s", path)
	}
	return data
}

// delete deletes a path and returns the warnings.
func (m *mount) delete(path string) string {
	m.t.Helper()
	_, warnings := m.answer(opDelete, path, nil)
	return warnings
}

// anyStatus is for requests whose failure may have any status.
const anyStatus = 0

// fails is do for requests that are to fail with the status and a text that holds all of the parts.
// It returns the text.
func (m *mount) fails(
	status int, operation logical.Operation, path string, data map[string]any, parts ...string,
) string {
	m.t.Helper()
	text, got := m.failure(operation, path, data)
	if status != anyStatus && got != status {
		m.t.Errorf("%s %s with %v: %d, want %d: %s", operation, path, keys(data), got, status, text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			m.t.Errorf("%s %s with %v: the error does not tell of %q: %s", operation, path, keys(data), part, text)
		}
	}
	return text
}

// failure returns the text with which a request failed, and its status.
func (m *mount) failure(operation logical.Operation, path string, data map[string]any) (text string, status int) {
	m.t.Helper()
	response, err := m.do(operation, path, data)
	switch {
	case err == nil && !response.IsError():
		m.t.Fatalf("%s %s with %v: no error", operation, path, keys(data))
	case err == nil:
		return response.Error().Error(), 400
	}
	if coded, ok := errors.AsType[logical.HTTPCodedError](err); ok {
		return coded.Error(), coded.Code()
	}
	return err.Error(), 500
}

func (m *mount) tick() {
	m.t.Helper()
	_, err := m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RollbackOperation, Storage: m.storage,
	})
	if err != nil && !errors.Is(err, logical.ErrUnsupportedOperation) {
		m.t.Fatal(err)
	}
}

type outcome struct {
	response *logical.Response
	err      error
	took     time.Duration
}

func (o outcome) token() string {
	if o.err != nil || o.response == nil || o.response.IsError() {
		return ""
	}
	return o.response.Data["access_token"].(string)
}

// begin starts a request and returns a function that waits for it.
func (m *mount) begin(operation logical.Operation, path string, data map[string]any) func() outcome {
	done := make(chan outcome, 1)
	began := time.Now()
	go func() {
		response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
			Operation: operation, Path: path, Data: data, Storage: m.storage,
		})
		done <- outcome{response, err, time.Since(began)}
	}()
	return func() outcome { return <-done }
}

// beginRead is begin for a read of the role.
func (m *mount) beginRead(role string, data map[string]any) func() outcome {
	return m.begin(opRead, "creds/"+role, data)
}

// setPasswordExpired has the password of the user expire, or be set anew.
func (m *mount) setPasswordExpired(user string, expired bool) {
	m.t.Helper()
	if err := m.SetPasswordExpired(user, expired); err != nil {
		m.t.Fatal(err)
	}
}

// beginTick starts a tick and returns a function that waits for it.
func (m *mount) beginTick() (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.tick()
	}()
	return func() { <-done }
}

// beginAll starts a read of each role.
func (m *mount) beginAll(roles []string) (waits []func() outcome) {
	m.t.Helper()
	for _, role := range roles {
		waits = append(waits, m.begin(opRead, "creds/"+role, nil))
	}
	return waits
}

// wire returns data as a plugin gets it: Vault sends requests to plugins as JSON, so numbers arrive
// as float64.
func wire(t *testing.T, data map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	var received map[string]any
	if err := json.Unmarshal(raw, &received); err != nil {
		t.Fatal(err)
	}
	return received
}

func (m *mount) read(data map[string]any) map[string]any {
	m.t.Helper()
	return m.must(opRead, "creds/monitoring", data)
}

func (m *mount) readRole(name string) map[string]any {
	m.t.Helper()
	return m.must(opRead, "creds/"+name, nil)
}

// addRoles adds shared roles without a lease, named role-0 and so on.
func (m *mount) addRoles(count int, data map[string]any) (names []string) {
	m.t.Helper()
	for i := range count {
		name := fmt.Sprintf("role-%d", i)
		role := map[string]any{"lease": false}
		maps.Copy(role, data)
		m.write("roles/"+name, role)
		names = append(names, name)
	}
	return names
}

// warnings returns what a read of the role monitoring warns of.
func (m *mount) warnings() string {
	m.t.Helper()
	_, warnings := m.answer(opRead, "creds/monitoring", nil)
	return warnings
}

// open reads the dedicated role.
func (m *mount) open(data map[string]any) *logical.Response {
	m.t.Helper()
	response, err := m.do(opRead, "creds/worker", data)
	if err != nil || response.IsError() {
		m.t.Fatal(response, err)
	}
	m.expectLives(response.Data)
	return response
}

// openMany starts reads of the dedicated role and returns a function that waits for them and tells
// how many got a token, how many a 503, and how many of those a text that names the limit.
func (m *mount) openMany(ctx context.Context, count int) (wait func() (tokens, failed, told int)) {
	return m.openManyOf(ctx, "worker", count)
}

func (m *mount) openManyOf(ctx context.Context, role string, count int) (wait func() (tokens, failed, told int)) {
	var group sync.WaitGroup
	var mu sync.Mutex
	tokens, failed, told := 0, 0, 0
	for range count {
		group.Go(func() {
			response, err := m.backend.HandleRequest(ctx, &logical.Request{
				Operation: opRead, Path: "creds/" + role, Storage: m.storage,
			})
			var coded logical.HTTPCodedError
			mu.Lock()
			defer mu.Unlock()
			if err == nil && !response.IsError() {
				tokens++
			}
			if errors.As(err, &coded) && coded.Code() == 503 {
				failed++
			}
			if err != nil && strings.Contains(err.Error(), "max_requests_in_flight") {
				told++
			}
		})
	}
	return func() (int, int, int) {
		group.Wait()
		return tokens, failed, told
	}
}

// revoke ends a lease as core does, which keeps it as JSON.
func (m *mount) revoke(response *logical.Response) error {
	m.t.Helper()
	var kept map[string]any
	raw, err := json.Marshal(response.Secret.InternalData)
	if err == nil {
		err = json.Unmarshal(raw, &kept)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/worker", Storage: m.storage,
		Secret: &logical.Secret{InternalData: kept},
	})
	return err
}

func (m *mount) mustRevoke(response *logical.Response) {
	m.t.Helper()
	if err := m.revoke(response); err != nil {
		m.t.Fatal(err)
	}
}

// check returns what a check of config default answered, without the times, and its warnings.
func (m *mount) check() (answer map[string]any, steps []string, warnings string) {
	m.t.Helper()
	response, err := m.do(opWrite, "config/default/check", nil)
	if err != nil || response.IsError() {
		m.t.Fatal(response, err)
	}
	for _, step := range response.Data["steps"].([]any) {
		steps = append(steps, step.(map[string]any)["name"].(string))
	}
	return response.Data, steps, strings.Join(response.Warnings, "\n")
}

// status returns what status tells of config default.
func (m *mount) status() map[string]any {
	m.t.Helper()
	configs := m.get("status")["configs"].(map[string]any)
	return configs["default"].(map[string]any)
}

// metricsText returns what metrics answers.
func (m *mount) metricsText() string {
	m.t.Helper()
	answer := m.get("metrics")
	if answer[logical.HTTPContentType] != "text/plain; version=0.0.4; charset=utf-8" ||
		answer[logical.HTTPStatusCode] != 200 {
		m.t.Errorf("%v %v", answer[logical.HTTPContentType], answer[logical.HTTPStatusCode])
	}
	text := string(answer[logical.HTTPRawBody].([]byte))
	m.expectNoSecrets("metrics", text)
	return text
}

// metrics returns the metrics of config default by name and further labels, as in
// calls_total{call=links,outcome=success}.
func (m *mount) metrics() map[string]float64 {
	m.t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(m.metricsText()))
	if err != nil {
		m.t.Fatal(err)
	}
	values := map[string]float64{}
	for name, family := range families {
		name, ours := strings.CutPrefix(name, "vault_ncentral_")
		if !ours {
			m.t.Errorf("%s has another beginning than the others", name)
		}
		for _, metric := range family.Metric {
			key, value := name+labels(metric.Label), 0.0
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				value = metric.Counter.GetValue()
			case dto.MetricType_GAUGE:
				value = metric.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				value = float64(metric.Histogram.GetSampleCount())
			}
			values[key] = value
		}
	}
	return values
}

func (m *mount) sent() []map[string]string { return sentTo(m.events) }

// sentTo returns the events that were sent since the last look: each with its type under "type"
// among its metadata.
func sentTo(core *logical.MockEventSender) []map[string]string {
	core.Lock()
	defer core.Unlock()
	var sent []map[string]string
	for _, event := range core.Events {
		told := map[string]string{"type": string(event.Type)}
		for key, value := range event.Event.Metadata.Fields {
			told[key] = value.GetStringValue()
		}
		sent = append(sent, told)
	}
	core.Events = nil
	return sent
}

func typesOf(sent []map[string]string) []string {
	var types []string
	for _, event := range sent {
		types = append(types, event["type"])
	}
	return types
}

// unverified gives the role monitoring a config of which nothing was learnt.
func (m *mount) unverified() {
	m.t.Helper()
	m.write("config/fresh", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
	m.write("roles/monitoring", map[string]any{"config": "fresh"})
}

func (m *mount) regenerate() (token string) {
	m.t.Helper()
	token, err := m.RegenerateUserAPIToken("api-user")
	if err != nil {
		m.t.Fatal(err)
	}
	return token
}

// calls are how often endpoints were called.
type calls = map[simulator.Endpoint]int

// expectCalls fails the test unless exactly these calls were made since the last look.
func (m *mount) expectCalls(want calls) {
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

// all counts the calls of one endpoint, whatever came of them.
func (m *mount) all(endpoint simulator.Endpoint) int { return m.Count(endpoint, simulator.AnyOutcome) }

// expectLives fails the test unless N-central accepts the token of the answer, and returns it.
func (m *mount) expectLives(answer map[string]any) string {
	m.t.Helper()
	token := answer["access_token"].(string)
	if !m.AccessTokenLives(token) {
		m.t.Fatal("a dead token was handed out")
	}
	return token
}

// onlySession fails the test unless the token's session is the only one open at the simulator; none
// is for "".
func (m *mount) onlySession(token string) {
	m.t.Helper()
	synctest.Wait()
	want := 0
	if token != "" {
		want = 1
		if !m.AccessTokenLives(token) {
			m.t.Error("the reader got a dead token")
		}
	}
	if open := m.OpenSessions(); open != want {
		m.t.Errorf("%d sessions are open, want %d", open, want)
	}
}

// expectLogged fails the test unless the log holds, or does not hold, the text.
func (m *mount) expectLogged(text string, want bool) {
	m.t.Helper()
	if strings.Contains(m.log.String(), text) != want {
		m.t.Errorf("%q is in the log: %t, want %t", text, !want, want)
	}
}

func (m *mount) expectNoSecrets(where, text string) {
	m.t.Helper()
	for _, secret := range m.Secrets() {
		if strings.Contains(text, secret) {
			m.t.Errorf("%s holds a secret", where)
		}
	}
}

// owedKeys are the debts that storage holds.
func (m *mount) owedKeys() []string {
	m.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), &m.storage.InmemStorage, "owed/")
	if err != nil {
		m.t.Fatal(err)
	}
	return keys
}

// stored returns what storage holds of configs and roles.
func (m *mount) stored() map[string]string {
	m.t.Helper()
	entries := map[string]string{}
	for _, prefix := range []string{"config/", "role/"} {
		names, err := m.storage.List(m.t.Context(), prefix)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, name := range names {
			entry, err := m.storage.Get(m.t.Context(), prefix+name)
			if err != nil {
				m.t.Fatal(err)
			}
			entries[prefix+name] = string(entry.Value)
		}
	}
	return entries
}

// keys are the names of the fields, for a test's output: the values may be secrets.
func keys(data map[string]any) []string {
	var names []string
	for name := range data {
		names = append(names, name)
	}
	return names
}

// heap returns how many bytes are in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC() //nolint:revive // garbage is not in use
	runtime.GC() //nolint:revive // pools let go at the second
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
