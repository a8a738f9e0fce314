// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// bench is a registry on storage in memory, with N-central out of reach.
type bench struct {
	*Registry
	t       *testing.T
	storage *refusingStorage
	events  *logical.MockEventSender
	log     *strings.Builder
	dialled int
}

// refusingStorage refuses reads and writes of keys that begin so, on demand.
type refusingStorage struct {
	logical.InmemStorage
	refusesReads, refusesWrites string
}

func (s *refusingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if s.refusesReads != "" && strings.HasPrefix(key, s.refusesReads) {
		return nil, errors.New("no")
	}
	return s.InmemStorage.Get(ctx, key)
}

func (s *refusingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if s.refusesReads != "" && strings.HasPrefix(prefix, s.refusesReads) {
		return nil, errors.New("no")
	}
	return s.InmemStorage.List(ctx, prefix)
}

func (s *refusingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.refusesWrites != "" && strings.HasPrefix(entry.Key, s.refusesWrites) {
		return errors.New("no")
	}
	return s.InmemStorage.Put(ctx, entry)
}

func withRegistry(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, storage: &refusingStorage{}, events: logical.NewMockEventSender(), log: &strings.Builder{}}
		logger := hclog.New(&hclog.LoggerOptions{Output: b.log})
		b.Registry = NewRegistry(store.New(b.storage, logger), events.NewSender(b.events, logger), logger, "test",
			func(context.Context, string, string) (net.Conn, error) {
				b.dialled++
				return nil, &net.OpError{Op: "dial", Err: errors.New("no route")}
			})
		defer b.Close()
		test(t, b)
	})
}

// config makes one that is not stored, written now.
func (b *bench) config(name, url, token string) *store.Config {
	return &store.Config{
		Name: name, URL: url, UserAPIToken: token, RequestTimeout: time.Second, MaxRequestsInFlight: 8,
		WrittenAt: time.Now(),
	}
}

const testURL = "https://ncentral.example.com"

func (b *bench) stored(name, url, token string) *store.Config {
	b.t.Helper()
	config := b.config(name, url, token)
	if err := b.store.Configs.Put(b.t.Context(), name, config); err != nil {
		b.t.Fatal(err)
	}
	return config
}

func (b *bench) server(config *store.Config) *Server {
	b.t.Helper()
	server, err := b.Server(config)
	if err != nil {
		b.t.Fatal(err)
	}
	return server
}

var storeConfig = store.Config{
	Name: "default", URL: testURL, UserAPIToken: "token", RequestTimeout: time.Second,
	MaxRequestsInFlight: 8,
}

func failureOf(step ncentral.Call, detail string) *health.Failure {
	return &health.Failure{
		Step: step, Kind: ncentral.KindServerError,
		Cause: &ncentral.Error{Call: step, Kind: ncentral.KindServerError, Detail: detail},
	}
}

// counted returns the sum of the metric's values that have all those labels.
func counted(t *testing.T, record *health.Record, name string, labels ...string) (sum float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(record.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var values []string
			for _, label := range metric.GetLabel() {
				values = append(values, label.GetValue())
			}
			hasAll := !slices.ContainsFunc(labels, func(label string) bool { return !slices.Contains(values, label) })
			if family.GetName() == name && hasAll {
				sum += metric.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (b *bench) status(config *store.Config) health.Status {
	b.t.Helper()
	status, err := b.Status(b.t.Context(), config, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	return status
}

func (b *bench) sentEvents() (types []string) {
	for _, sent := range b.events.Events {
		types = append(types, string(sent.Type))
	}
	return types
}

func TestAConfigsServerIsThatOfTheVersionInForce(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		first := b.stored("default", testURL, "token")
		server := b.server(first)
		if b.server(first) != server {
			t.Error("one version has two servers")
		}
		time.Sleep(time.Second)
		second := b.stored("default", testURL, "token")
		newer := b.server(second)
		if newer == server {
			t.Error("a new version has the server of the one before")
		}
		if _, err := b.Server(first); !errors.Is(err, ErrOutdated) || b.server(second) != newer {
			t.Errorf("a version that another has followed: %v", err)
		}
		if err := b.store.Configs.Put(t.Context(), "default", first); err != nil { // by a node whose clock is behind
			t.Fatal(err)
		}
		if b.server(first) == newer {
			t.Error("what is stored is not in force")
		}
		b.store.Invalidate("config/default")
		b.storage.refusesReads = "config/"
		if _, err := b.Server(b.config("default", testURL, "token")); err != nil {
			t.Errorf("a newer version needs storage: %v", err)
		}
		if _, err := b.Server(first); !errors.Is(err, ErrOutdated) {
			t.Errorf("where storage does not tell what is in force: %v", err)
		}
		b.storage.refusesReads = ""
		if err := b.store.Configs.Delete(t.Context(), "default"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Server(first); !errors.Is(err, ErrOutdated) {
			t.Errorf("where nothing is in force: %v", err)
		}
		if server, err := b.replace(server, first); server != nil || err != nil {
			t.Errorf("a server that was replaced is replaced again: %v", err)
		}
	})
}

func TestAConfigWhoseTrustCannotBeReadHasNoServer(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		config := b.config("default", testURL, "token")
		config.CACert = "none"
		if _, err := b.Server(config); err == nil || !strings.Contains(err.Error(), `config "default"`) {
			t.Error(err)
		}
		if b.known("default") != nil {
			t.Error("it is known all the same")
		}
	})
}

func TestAStaleTokenThatIsGoneIsServedNoMore(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		config, until := b.config("default", testURL, "token"), time.Now().Add(time.Hour)
		b.Record("default").ServedStale(until)
		if state := b.status(config).State; state != health.StateDegraded {
			t.Errorf("the state is %s", state)
		}
		if b.EndStale("default", until); b.status(config).State != health.StateUnknown {
			t.Errorf("the state is %s", b.status(config).State)
		}
	})
}

// What is known of a User-API token holds for every config that has it at that URL, and is
// forgotten with the last of them.
func TestConfigsWithOneUserAPITokenShareWhatIsKnownOfIt(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		one, two := b.server(b.config("one", testURL, "token")), b.server(b.config("two", testURL, "token"))
		if one.credential != two.credential {
			t.Error("they do not share it")
		}
		if b.server(b.config("three", testURL, "other")).credential == one.credential ||
			b.server(b.config("four", testURL+"/x", "token")).credential == one.credential {
			t.Error("another token, or another URL, shares it")
		}
		b.Evict("three")
		b.Evict("one")
		if len(b.credentials) != 2 || b.server(b.config("five", testURL, "token")).credential != two.credential {
			t.Errorf("%d credentials are known, want 2", len(b.credentials))
		}
		b.Evict("two")
		b.Evict("four")
		time.Sleep(time.Second)
		if b.server(b.config("five", testURL, "third")); len(b.credentials) != 1 {
			t.Errorf("%d credentials are known, want 1", len(b.credentials))
		}
	})
}

func TestAWriteOfAConfigHasItsTokenTriedAtOnceAndAnotherTokenAnew(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		first := b.server(b.config("default", testURL, "token"))
		failure := health.NewFailure(first.config, ncentral.CallAuthenticate,
			&ncentral.Error{Kind: ncentral.KindUnauthorized, Status: 401})
		first.noteRefused(t.Context(), time.Now(), failure)
		if first.NextAttempt(time.Now()).IsZero() {
			t.Fatal("a refusal begins no cool-down")
		}
		time.Sleep(time.Second)
		rewritten := b.config("default", testURL, "token")
		rewritten.MaxRetries = 1
		second := b.server(rewritten)
		if !second.NextAttempt(time.Now()).IsZero() || second.credential.refusal() == nil ||
			second.generation != first.generation {
			t.Error("it is not tried, or the refusal forgotten, or counts as another's")
		}
		if state := b.status(rewritten).State; state != health.StateFailing {
			t.Errorf("the state is %s", state)
		}
		other := b.config("other", testURL, "token")
		if b.server(other); b.status(other).State != health.StateFailing {
			t.Error("another config with the token does not tell that it was refused")
		}
		time.Sleep(time.Second)
		replaced := b.stored("default", testURL, "another")
		third := b.server(replaced)
		if third.generation == second.generation || third.credential.refusal() != nil {
			t.Error("what became of the token before is noted of another")
		}
		if state := b.status(replaced).State; state != health.StateUnknown {
			t.Errorf("the state is %s", state)
		}
		time.Sleep(time.Second)
		if fourth := b.server(b.stored("default", testURL, "another")); fourth.generation != third.generation {
			t.Error("a new version counts as another's")
		}
	})
}

func TestWhatIsForgottenOfAConfigDoesNotComeBack(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		config := b.config("default", testURL, "token")
		server, record := b.server(config), b.Record("default")
		failure := health.NewFailure(server.config, ncentral.CallRefresh,
			&ncentral.Error{Kind: ncentral.KindServerError})
		b.Evict("default")
		server.reportObtaining(t.Context(), failure)
		if b.Record("default") == record || b.known("default") != nil || b.status(config).State != health.StateUnknown {
			t.Error("it is still known")
		}
		if len(record.Status(config, health.Pauses{}, store.ServerTraits{}, 0, time.Now()).Reasons) != 0 ||
			len(b.sentEvents()) != 0 {
			t.Error("a call that ends late is told of:", b.sentEvents())
		}
		b.Evict("never there")
		b.EndStale("never there", time.Now())
		if len(b.configs) != 1 {
			t.Error("a record of what was never there is kept")
		}
	})
}

func TestAConditionTellsWhatIsOwedAndLearntOfThatServer(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		config := b.stored("default", testURL, "token")
		if _, err := b.store.PutPendingLogout(t.Context(), "a",
			store.PendingLogout{
				Origin:       store.Origin{Config: "default"},
				GrantedUntil: time.Now().Add(time.Hour),
			}); err != nil {
			t.Fatal(err)
		}
		if err := b.store.Traits.Put(t.Context(), "default",
			&store.ServerTraits{URL: testURL, ServerVersion: "2026.1"}); err != nil {
			t.Fatal(err)
		}
		if got := b.status(config); got.LogoutsOwed != 1 || got.Traits.ServerVersion != "2026.1" ||
			!got.NextAttempt.IsZero() {
			t.Errorf("%+v", got)
		}
		server := b.server(config)
		server.backOff.begin(time.Now(), time.Now(), failed())
		if got := b.status(config); !got.NextAttempt.Equal(time.Now().Add(time.Second)) {
			t.Errorf("the next attempt is at %s", got.NextAttempt)
		}
		moved := b.config("default", testURL+"/moved", "token")
		if got := b.status(moved); got.Traits.ServerVersion != "" {
			t.Errorf("of another URL: %+v", got.Traits)
		}
		for _, prefix := range []string{"owed/", "learnt/"} {
			b.store.Invalidate("learnt/default")
			b.storage.refusesReads = prefix
			if _, err := b.Status(t.Context(), config, time.Now()); err == nil {
				t.Errorf("%s cannot be read, and there is no error", prefix)
			}
		}
	})
}

// How the version before fared is nothing to one that another node wrote.
func TestAConditionIsThatOfTheVersionAskedAfter(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.stored("default", testURL, "token"))
		server.outage.begin(time.Now(), time.Now(), failureOf(ncentral.CallValidate, "silence"))
		time.Sleep(time.Second)
		written := b.stored("default", testURL, "token")
		if got := b.status(written); got.State != health.StateUnknown || len(got.Reasons) != 0 ||
			b.known("default") == server {
			t.Errorf("%+v", got)
		}
		if b.status(b.config("other", testURL, "token")); b.known("other") != nil {
			t.Error("to be asked after makes a server")
		}
	})
}

// A call that was not answered tells of the server as long as the tick would have asked again.
func TestSilenceTellsOfTheServerForFiveMinutes(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		config := b.config("default", testURL, "token")
		server := b.server(config)
		if _, _ = server.Validate(t.Context(), &store.Token{AccessToken: "token"}); b.dialled == 0 {
			t.Fatal("no call was made")
		}
		for after, want := range map[time.Duration]health.State{
			0:               health.StateDegraded,
			5 * time.Minute: health.StateDegraded, 5*time.Minute + 1: health.StateUnknown,
		} {
			status, err := b.Status(t.Context(), config, time.Now().Add(after))
			if err != nil || status.State != want {
				t.Errorf("after %s: %s, %v", after, status.State, err)
			}
		}
	})
}

func TestTheNextAttemptIsAtTheEndOfTheLongestPause(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server, now := b.server(b.config("default", testURL, "token")), time.Now()
		for name, test := range map[string]struct {
			outage, backOff, coolDown int // times that it began
			want                      time.Duration
		}{
			"none":      {0, 0, 0, 0},
			"silence":   {2, 0, 0, 2 * time.Second},
			"back-off":  {2, 3, 0, 4 * time.Second},
			"cool-down": {3, 2, 1, 30 * time.Second},
		} {
			server.outage, server.backOff, server.credential.coolDown = newBackOff(), newBackOff(), newCoolDown()
			for p, times := range map[*pause]int{
				&server.outage: test.outage, &server.backOff: test.backOff,
				&server.credential.coolDown: test.coolDown,
			} {
				for range times {
					p.begin(now, now, failed())
				}
			}
			next := server.NextAttempt(now)
			if test.want == 0 && !next.IsZero() || test.want != 0 && !next.Equal(now.Add(test.want)) {
				t.Errorf("%s: %s", name, next)
			}
			if !server.NextAttempt(now.Add(time.Hour)).IsZero() {
				t.Errorf("%s: an attempt waits for what is over", name)
			}
			for _, gate := range []struct {
				gate gate
				shut bool
			}{
				{server.noOutage, test.outage > 0},
				{server.mayRefresh(time.Time{}), test.outage+test.backOff > 0},
				{server.mayAuthenticate(time.Time{}), test.outage+test.backOff+test.coolDown > 0},
			} {
				if shut := gate.gate(now) != nil; shut != gate.shut {
					t.Errorf("%s: a gate is shut: %t", name, shut)
				}
			}
		}
	})
}

// Whoever asks for nothing while N-central is silent calls nothing.
func TestNoCallIsMadeWhileTheServerIsLeftAlone(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		calls := map[string]func() error{
			"validate": func() error {
				_, err := server.Validate(t.Context(),
					&store.Token{AccessToken: "token"})
				return err
			},
			"logout":       func() error { _, err := server.Logout(t.Context(), "token"); return err },
			"data":         func() error { failure, _ := server.Probe(t.Context(), "token"); return failure },
			"refresh":      func() error { _, err := server.Refresh(t.Context(), "token", Asked{}); return err },
			"authenticate": func() error { _, err := server.Authenticate(t.Context(), Asked{}); return err },
		}
		if err := calls["validate"](); ncentral.KindOf(err) != ncentral.KindUnreachable || b.dialled != 1 {
			t.Fatalf("%v after %d dials", err, b.dialled)
		}
		for name, call := range calls {
			var failure *health.Failure
			if err := call(); !errors.As(err, &failure) || !failure.NotMade || string(failure.Step) != name ||
				failure.Next.IsZero() {
				t.Errorf("%s: %v", name, err)
			}
		}
		if b.dialled != 1 {
			t.Errorf("%d connections were tried, want 1", b.dialled)
		}
		time.Sleep(time.Second)
		if err := calls["logout"](); err == nil || b.dialled != 2 {
			t.Error("it is left alone for longer than a second")
		}
	})
}

func TestAFailureThatIsOfTheNatureOfACallTellsOfNothingThatFails(t *testing.T) {
	expected := map[ncentral.Kind]func(ncentral.Call) bool{
		ncentral.KindCanceled:     func(ncentral.Call) bool { return true },
		ncentral.KindUnauthorized: func(step ncentral.Call) bool { return step != ncentral.CallAuthenticate },
		ncentral.KindNotFound:     func(step ncentral.Call) bool { return step == ncentral.CallLogout },
		ncentral.KindForbidden:    func(step ncentral.Call) bool { return step == ncentral.CallData },
	}
	// Whoever is not told of the user asks by the data call.
	isOfUser := func(step ncentral.Call, kind ncentral.Kind) bool {
		return step == ncentral.CallUser && !health.IsDown(kind)
	}
	for _, kind := range ncentral.Kinds() {
		for _, step := range ncentral.Calls() {
			if want := expected[kind] != nil && expected[kind](step) ||
				isOfUser(step, kind); isExpected(step, kind) != want {
				t.Errorf("%s, %s: %t", step, kind, !want)
			}
		}
	}
}

// A connection that is not made in its own time was not cut short by what came before: the server
// does not answer.
func TestAConnectionThatIsNotMadeInTimeIsTheServersSilence(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		b.dial = func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(10 * time.Second)
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}
		config := b.config("default", testURL, "token")
		config.RequestTimeout = 20 * time.Second
		server := b.server(config)
		if failure, _ := server.Probe(t.Context(), "token"); failure == nil || failure.Kind != ncentral.KindTimeout ||
			server.noOutage(time.Now()) == nil {
			t.Errorf("%v; the server counts as silent: %t", failure, server.noOutage(time.Now()) != nil)
		}
	})
}
