// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// watchedStorage counts reads, and can hold one up or fail writes.
type watchedStorage struct {
	logical.InmemStorage
	gets       int
	duringGet  func()
	failsWrite bool
}

func (s *watchedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.gets++
	entry, err := s.InmemStorage.Get(ctx, key)
	if during := s.duringGet; during != nil {
		s.duringGet = nil
		during()
	}
	return entry, err
}

func (s *watchedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.failsWrite {
		return errors.New("no")
	}
	return s.InmemStorage.Put(ctx, entry)
}

func put(t *testing.T, roles *Collection[Role], name string, role Role) *Role {
	t.Helper()
	if err := roles.Put(context.Background(), name, &role); err != nil {
		t.Fatal(err)
	}
	return &role
}

func get[T any](t *testing.T, entries *Collection[T], name string) *T {
	t.Helper()
	entry, err := entries.Get(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func TestMemoryServesTheReads(t *testing.T) {
	storage := &watchedStorage{}
	put(t, New(storage).Roles, "a", Role{Config: "default"})
	roles := New(storage).Roles
	first := get(t, roles, "a")
	if first == nil || first.Config != "default" || first.Name != "a" || first.Fingerprint() == "" {
		t.Fatalf("read back %+v", first)
	}
	if get(t, roles, "a") != first || storage.gets != 1 {
		t.Errorf("the second read is another copy, or made storage calls: %d", storage.gets)
	}
}

func TestAnInFlightReadDoesNotRefillMemory(t *testing.T) {
	ctx := context.Background()
	changes := map[string]func(*Store, *watchedStorage){
		"put":        func(s *Store, _ *watchedStorage) { _ = s.Roles.Put(ctx, "a", &Role{Config: "new"}) },
		"delete":     func(s *Store, _ *watchedStorage) { _ = s.Roles.Delete(ctx, "a") },
		"invalidate": func(s *Store, storage *watchedStorage) { _ = storage.Delete(ctx, "role/a"); s.Invalidate("role/a") },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			storage := &watchedStorage{}
			put(t, New(storage).Roles, "a", Role{Config: "old"})
			s := New(storage)
			storage.duringGet = func() { change(s, storage) }
			get(t, s.Roles, "a")
			if role := get(t, s.Roles, "a"); role != nil && role.Config == "old" {
				t.Error("memory holds what was read before the change")
			}
		})
	}
}

func TestInvalidateDropsExactlyWhatTheKeyNames(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage)
	put(t, s.Roles, "a", Role{})
	put(t, s.Roles, "b", Role{})
	s.Invalidate("role/a")
	s.Invalidate("config/b")
	s.Invalidate("role/")
	get(t, s.Roles, "b")
	if storage.gets != 0 {
		t.Error("more was dropped than the key names")
	}
	get(t, s.Roles, "a")
	if storage.gets != 1 {
		t.Error("what the key names was not dropped")
	}
}

func TestAbsenceIsKeptOnlyWhereNamesAreBounded(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage)
	for range 2 {
		get(t, s.Sessions, "a")
		get(t, s.Learnt, "a")
	}
	if storage.gets != 2 {
		t.Errorf("%d storage calls for two absent entries, want 2", storage.gets)
	}
	get(t, s.Roles, "a")
	get(t, s.Roles, "a")
	if storage.gets != 4 {
		t.Error("the absence of a role was kept: callers could fill memory with names")
	}
}

func TestAFailedWriteLeavesMemoryAsItWas(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage)
	before := put(t, s.Roles, "a", Role{Config: "old"})
	storage.failsWrite = true
	if err := s.Roles.Put(context.Background(), "a", &Role{Config: "new"}); err == nil {
		t.Fatal("no error")
	}
	if get(t, s.Roles, "a") != before {
		t.Error("memory changed though storage did not")
	}
}

func TestAllAnswersWhatCanBeReadBesideTheError(t *testing.T) {
	storage := &watchedStorage{}
	roles := New(storage).Roles
	put(t, roles, "b", Role{Config: "default"})
	put(t, roles, "a", Role{Config: "default"})
	if err := storage.InmemStorage.Put(t.Context(), &logical.StorageEntry{Key: "role/broken", Value: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	all, err := roles.All(t.Context())
	if err == nil || len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" {
		t.Error(all, err)
	}
	storage.duringGet = func() { // a read of the first entry that is not in memory finds the last one gone
		if err := storage.Delete(t.Context(), "role/b"); err != nil {
			t.Fatal(err)
		}
	}
	if err := storage.Delete(t.Context(), "role/broken"); err != nil {
		t.Fatal(err)
	}
	fresh := New(storage).Roles
	if all, err := fresh.All(t.Context()); err != nil || len(all) != 1 || all[0].Name != "a" {
		t.Error(all, err)
	}
}
