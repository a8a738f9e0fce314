// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// What memory holds for a role leaves with the role, unless something of it is under way.
func TestWhatMemoryHoldsLeavesWithTheRole(t *testing.T) {
	logger := hclog.NewNullLogger()
	entries := store.New(&logical.InmemStorage{}, logger)
	servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", nil)
	m := NewManager(entries, servers, func() time.Duration { return time.Hour }, events.NewSender(nil, logger), logger)
	defer m.Close()
	holds := func() bool {
		_, held := m.states.Load("monitoring")
		return held
	}
	if _, err := m.EndRole(t.Context(), "monitoring"); err != nil || holds() {
		t.Errorf("%v; memory holds the role: %t", err, holds())
	}
	underWay := m.enter("monitoring")
	if _, err := m.EndRole(t.Context(), "monitoring"); err != nil || m.state("monitoring") != underWay {
		t.Errorf("%v; a role of which something is under way has another state", err)
	}
	underWay.leave()
	if err := m.Tick(t.Context()); err != nil || holds() {
		t.Errorf("%v; memory holds the role: %t", err, holds())
	}
	if m.enter("monitoring") == underWay {
		t.Error("what was retired is used again")
	}
}

// A reader that looked before its role was deleted and made anew starts no flight that nobody else
// would find.
func TestWhatMemoryHasDroppedStartsNoFlight(t *testing.T) {
	logger := hclog.NewNullLogger()
	entries := store.New(&logical.InmemStorage{}, logger)
	servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", nil)
	m := NewManager(entries, servers, func() time.Duration { return time.Hour }, events.NewSender(nil, logger), logger)
	defer m.Close()
	config := &store.Config{Name: "default", URL: "http://localhost:1", UserAPIToken: "token", WrittenAt: time.Now()}
	role := store.Role{Name: "monitoring", Config: "default", CredentialType: store.Shared}
	write := func() {
		again := role
		if err := entries.Roles.Put(t.Context(), role.Name, &again); err != nil {
			t.Fatal(err)
		}
	}
	if err := entries.Configs.Put(t.Context(), config.Name, config); err != nil {
		t.Fatal(err)
	}
	write()
	snap, err := m.snapshot(t.Context(), role.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := entries.Roles.Delete(t.Context(), role.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := m.EndRole(t.Context(), role.Name); err != nil {
		t.Fatal(err)
	}
	write()
	if flight, err := m.join(t.Context(), snap, true); flight != nil || err != nil {
		t.Errorf("a flight was started: %t; %v", flight != nil, err)
	}
}

// A flight that has landed is not under way any more: nothing of its role stays in memory.
func TestAFlightThatLandedKeepsNothingInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nCentral := simulator.New(simulator.DefaultKnobs())
		server := simulator.ListenInMemory(nCentral)
		defer server.Close()
		token := nCentral.AddUser("api-user")
		logger := hclog.NewNullLogger()
		entries := store.New(&logical.InmemStorage{}, logger)
		servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", server.DialContext)
		sender := events.NewSender(nil, logger)
		m := NewManager(entries, servers, func() time.Duration { return time.Hour }, sender, logger)
		defer servers.Close()
		defer m.Close()
		config := &store.Config{
			Name: "default", URL: server.URL, UserAPIToken: token, WrittenAt: time.Now(),
			RequestTimeout: 10 * time.Second, MaxRequestsInFlight: 8,
		}
		role := &store.Role{Name: "monitoring", Config: "default", CredentialType: store.Shared}
		if err := errors.Join(entries.Configs.Put(t.Context(), config.Name, config),
			entries.Roles.Put(t.Context(), role.Name, role)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Read(t.Context(), role.Name, ReadOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // a flight answers before it has left
		if err := entries.Roles.Delete(t.Context(), role.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := m.EndRole(t.Context(), role.Name); err != nil {
			t.Fatal(err)
		}
		if _, held := m.states.Load(role.Name); held {
			t.Error("memory holds the role")
		}
	})
}

// failingStorage fails to read what lies under the prefix.
type failingStorage struct {
	logical.InmemStorage
	fails   string
	failing func()
}

func (s *failingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if s.fails != "" && strings.HasPrefix(key, s.fails) {
		s.failing()
		return nil, errors.New("storage is not there for a moment")
	}
	return s.InmemStorage.Get(ctx, key)
}

// What a tick could not read it tells Vault, save where its time was over: then it is tried again.
func TestTheTickTellsWhatItCouldNotRead(t *testing.T) {
	for fails, told := range map[string]bool{"": false, "config/": true, "owed/": true} {
		logger := hclog.NewNullLogger()
		storage := &failingStorage{}
		entries := store.New(storage, logger)
		servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", nil)
		sender := events.NewSender(nil, logger)
		m := NewManager(entries, servers, func() time.Duration { return time.Hour }, sender, logger)
		t.Cleanup(m.Close)
		debt := store.PendingLogout{
			Origin: store.Origin{Config: "gone"}, AccessToken: "token",
			GrantedUntil: time.Now().Add(time.Hour),
		}
		if _, err := entries.PutPendingLogout(t.Context(), "monitoring", debt); err != nil {
			t.Fatal(err)
		}
		if err := entries.Traits.Put(t.Context(), "default", &store.ServerTraits{}); err != nil {
			t.Fatal(err)
		}
		storage.fails = fails
		over, cancel := context.WithCancel(t.Context())
		storage.failing = cancel
		if err := m.Tick(over); err != nil {
			t.Errorf("%q cannot be read, and time is over: %v", fails, err)
		}
		cancel()
		if err := m.Tick(over); err == nil {
			t.Error("a tick that cannot begin tells nothing")
		}
		if err := m.Tick(t.Context()); (err != nil) != told {
			t.Errorf("%q cannot be read: %v", fails, err)
		}
	}
}
