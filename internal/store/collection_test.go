// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// watchedStorage counts reads, and can hold one up or fail writes.
type watchedStorage struct {
	logical.InmemStorage
	gets       int
	duringGet  func()
	failsWrite bool
	failsGet   bool
	failing    map[string]error // what reads of these keys fail with
	failsList  string           // the prefix of which a list fails
	reversed   bool             // lists are in the reverse order

	writesAllTheSame bool // a write that fails was done
}

func (s *watchedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.gets++
	if s.failsGet {
		return nil, errors.New("no")
	}
	if err := s.failing[key]; err != nil {
		return nil, err
	}
	entry, err := s.InmemStorage.Get(ctx, key)
	if during := s.duringGet; during != nil {
		s.duringGet = nil
		during()
	}
	return entry, err
}

func (s *watchedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.failsWrite && !s.writesAllTheSame {
		return errors.New("no")
	}
	err := s.InmemStorage.Put(ctx, entry)
	if s.failsWrite {
		return errors.New("no")
	}
	return err
}

func (s *watchedStorage) Delete(ctx context.Context, key string) error {
	if s.failsWrite && !s.writesAllTheSame {
		return errors.New("no")
	}
	err := s.InmemStorage.Delete(ctx, key)
	if s.failsWrite {
		return errors.New("no")
	}
	return err
}

func (s *watchedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if s.failsList != "" && prefix == s.failsList {
		return nil, errors.New("no")
	}
	names, err := s.InmemStorage.List(ctx, prefix)
	if s.reversed {
		slices.Reverse(names)
	}
	return names, err
}

func put(t *testing.T, roles *Collection[Role], name string, role Role) {
	t.Helper()
	role.CredentialType = Shared
	if err := roles.Put(context.Background(), name, &role); err != nil {
		t.Fatal(err)
	}
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
	put(t, New(storage, hclog.NewNullLogger()).Roles, "a", Role{Config: "default"})
	roles := New(storage, hclog.NewNullLogger()).Roles
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
		"put":    func(s *Store, _ *watchedStorage) { _ = s.Roles.Put(ctx, "a", &Role{Config: "new"}) },
		"delete": func(s *Store, _ *watchedStorage) { _ = s.Roles.Delete(ctx, "a") },
		"invalidate": func(s *Store, storage *watchedStorage) {
			_ = storage.Delete(ctx,
				"role/a")
			s.Invalidate("role/a")
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			storage := &watchedStorage{}
			put(t, New(storage, hclog.NewNullLogger()).Roles, "a", Role{Config: "old"})
			s := New(storage, hclog.NewNullLogger())
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
	s := New(storage, hclog.NewNullLogger())
	put(t, s.Roles, "a", Role{Config: "default"})
	put(t, s.Roles, "b", Role{Config: "default"})
	s.Invalidate("role/a")
	s.Invalidate("config/b")
	s.Invalidate("role/")
	get(t, s.Roles, "b")
	if storage.gets != 0 {
		t.Error("more was dropped than the key names")
	}
	storage.duringGet = func() { s.Invalidate("session/a") }
	get(t, s.Roles, "a")
	if storage.gets != 1 {
		t.Error("what the key names was not dropped")
	}
	if !s.Roles.Holds("a") {
		t.Error("a read was not kept for what the key of another kind names")
	}
}

func TestAbsenceIsKeptOnlyWhereNamesAreBounded(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	for range 2 {
		get(t, s.Sessions, "a")
		get(t, s.Traits, "a")
	}
	if storage.gets != 2 {
		t.Errorf("%d storage calls for two absent entries, want 2", storage.gets)
	}
	get(t, s.Roles, "a")
	get(t, s.Roles, "a")
	if storage.gets != 4 {
		t.Error("the absence of a role was kept: callers could fill memory with names")
	}
	for range 2 {
		if session, err := s.Sessions.Find(t.Context(), "invented"); session != nil || err != nil {
			t.Error(session, err)
		}
	}
	if storage.gets != 6 {
		t.Error("the absence of what a caller may have invented was kept")
	}
}

// A write that failed may have been done all the same: storage is asked again. What memory holds
// stays while that does not answer.
func TestAfterAFailedWriteStorageSaysWhatIs(t *testing.T) {
	for _, done := range []bool{false, true} {
		for _, operation := range []string{"put", "delete"} {
			t.Run(fmt.Sprintf("%s, done: %t", operation, done), func(t *testing.T) {
				storage := &watchedStorage{}
				roles := New(storage, hclog.NewNullLogger()).Roles
				put(t, roles, "a", Role{Config: "old"})
				storage.failsWrite, storage.writesAllTheSame = true, done
				var err error
				if operation == "put" {
					err = roles.Put(t.Context(), "a", &Role{Config: "new", CredentialType: Shared})
				} else {
					err = roles.Delete(t.Context(), "a")
				}
				if err == nil {
					t.Fatal("no error")
				}
				storage.failsGet = true
				if kept := get(t, roles, "a"); kept == nil || kept.Config != "old" {
					t.Errorf("while storage does not answer, memory has %v", kept)
				}
				storage.failsGet = false
				found := get(t, roles, "a")
				switch {
				case !done && (found == nil || found.Config != "old"):
					t.Errorf("what was not done counts: %v", found)
				case done && operation == "put" && (found == nil || found.Config != "new"):
					t.Errorf("what was done does not count: %v", found)
				case done && operation == "delete" && found != nil:
					t.Errorf("what was deleted is still there: %v", found)
				}
				gets := storage.gets
				if get(t, roles, "a"); found != nil && storage.gets != gets {
					t.Error("storage is asked again and again")
				}
				storage.failsGet = true
				if kept, _ := roles.Get(t.Context(), "a"); kept != found {
					t.Errorf("after storage said %v, memory has %v", found, kept)
				}
			})
		}
	}
}

// What storage refused is newer than what storage holds, whatever else it refuses.
func TestWhatMemoryAloneHoldsStaysWhereFurtherWritesFail(t *testing.T) {
	changes := map[string]func(*Collection[Session]) error{
		"put": func(s *Collection[Session]) error {
			return s.Put(t.Context(), "a",
				&Session{RoleFingerprint: "third"})
		},
		"delete": func(s *Collection[Session]) error { return s.Delete(t.Context(), "a") },
	}
	for operation, change := range changes {
		t.Run(operation, func(t *testing.T) {
			storage := &watchedStorage{}
			sessions := New(storage, hclog.NewNullLogger()).Sessions
			if err := sessions.Put(t.Context(), "a", &Session{RoleFingerprint: "first"}); err != nil {
				t.Fatal(err)
			}
			storage.failsWrite = true
			second := &Session{RoleFingerprint: "second"}
			sessions.Keep("a", second)
			if err := change(sessions); err == nil {
				t.Fatal("no error")
			}
			if kept := get(t, sessions, "a"); kept != second || !sessions.IsUnstored("a") {
				t.Errorf("memory has %+v", kept)
			}
		})
	}
}

// The seal of Vault's storage finds most damage first: of that, a read fails for good, and of an
// outage for a while.
func TestDamageThatStorageFindsIsToldFromAnOutage(t *testing.T) {
	damaged := errors.New("decryption failed: cipher: message authentication failed")
	for name, test := range map[string]struct {
		failure error
		damaged bool
	}{"damage": {damaged, true}, "outage": {errors.New("no route to host"), false}} {
		t.Run(name, func(t *testing.T) {
			storage := &watchedStorage{failing: map[string]error{}}
			s := New(storage, hclog.NewNullLogger())
			for _, key := range []string{"config/a", "role/a", "session/a", "learnt/a"} {
				storage.failing[key] = test.failure
			}
			_, configErr := s.Configs.Get(t.Context(), "a")
			_, roleErr := s.Roles.Get(t.Context(), "a")
			for _, err := range []error{configErr, roleErr} {
				var unreadable *UnreadableError
				if err == nil || errors.As(err, &unreadable) != test.damaged {
					t.Error(err)
				}
			}
			_, sessionErr := s.Sessions.Get(t.Context(), "a")
			traits, traitsErr := s.Traits.Get(t.Context(), "a")
			if (sessionErr == nil) != test.damaged || (traitsErr == nil) != test.damaged || test.damaged &&
				traits.Epoch == 0 {
				t.Error(sessionErr, traitsErr, traits)
			}
		})
	}
}

func TestAnEntryThatCannotBeReadIsNamed(t *testing.T) {
	for name, value := range map[string]string{
		"damaged": `{"config":`, "of another kind": `["config"]`, "lacking": `{}`,
		"newer": `{"format":2,"config":"default","credential_type":"shared"}`,
	} {
		t.Run(name, func(t *testing.T) {
			storage := &watchedStorage{}
			roles := New(storage, hclog.NewNullLogger()).Roles
			if err := storage.InmemStorage.Put(t.Context(), &logical.StorageEntry{
				Key:   "role/a",
				Value: []byte(value),
			}); err != nil {
				t.Fatal(err)
			}
			_, err := roles.Get(t.Context(), "a")
			var unreadable *UnreadableError
			if !errors.As(err, &unreadable) || unreadable.Key != "role/a" ||
				strings.Contains(err.Error(), "newer version") != (name == "newer") {
				t.Error(err)
			}
			put(t, roles, "a", Role{Config: "default"})
			get(t, roles, "a")
		})
	}
}

// What one cluster keeps of its own stands in nobody's way: a session counts as absent, what was
// learnt as unknown.
func TestWhatThisClusterKeepsIsDoneWithoutWhereItCannotBeRead(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	for key, value := range map[string]string{
		"session/a": `{"format":2}`, "learnt/a": `{"format":2}`,
		"session/lacking": `{"current":{"expires_at":"9999-01-01T00:00:00Z"}}`, "learnt/lacking": `{}`,
	} {
		if err := storage.InmemStorage.Put(t.Context(), &logical.StorageEntry{
			Key:   key,
			Value: []byte(value),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if session := get(t, s.Sessions, "a"); session != nil {
		t.Error(session)
	}
	if session := get(t, s.Sessions, "lacking"); session != nil {
		t.Error(session)
	}
	if traits := get(t, s.Traits, "lacking"); traits == nil || traits.Epoch == 0 {
		t.Errorf("%+v", traits)
	}
	traits := get(t, s.Traits, "a")
	if traits == nil || traits.Epoch < time.Now().Add(-time.Minute).UnixNano() || traits.URL != "" {
		t.Errorf("%+v", traits)
	}
	if get(t, s.Traits, "a") != traits {
		t.Error("suspicion is raised at every look")
	}
}

func TestAllAnswersWhatCanBeReadBesideTheError(t *testing.T) {
	storage := &watchedStorage{}
	roles := New(storage, hclog.NewNullLogger()).Roles
	put(t, roles, "b", Role{Config: "default"})
	put(t, roles, "a", Role{Config: "default"})
	if err := storage.InmemStorage.Put(t.Context(), &logical.StorageEntry{
		Key:   "role/broken",
		Value: []byte("{"),
	}); err != nil {
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
	fresh := New(storage, hclog.NewNullLogger()).Roles
	if all, err := fresh.All(t.Context()); err != nil || len(all) != 1 || all[0].Name != "a" {
		t.Error(all, err)
	}
}

// Two writes of one name change memory in the order in which they changed storage.
func TestWritesKeepTheirOrder(t *testing.T) {
	put := func(config string) func(*Collection[Role]) error {
		return func(roles *Collection[Role]) error {
			return roles.Put(t.Context(), "a", &Role{Config: config, CredentialType: Shared})
		}
	}
	remove := func(roles *Collection[Role]) error { return roles.Delete(t.Context(), "a") }
	for name, writes := range map[string][2]func(*Collection[Role]) error{
		"put, put": {put("first"), put("second")}, "put, delete": {put("first"), remove},
		"delete, put": {remove, put("second")},
	} {
		t.Run(name, func(t *testing.T) {
			storage := &slowStorage{written: make(chan struct{}), goOn: make(chan struct{})}
			roles := New(storage, hclog.NewNullLogger()).Roles
			var underWay sync.WaitGroup
			underWay.Go(func() { _ = writes[0](roles) })
			<-storage.written
			underWay.Go(func() { _ = writes[1](roles) })
			for range 10_000 { // for the second to overtake the first, if it can
				runtime.Gosched()
			}
			close(storage.goOn)
			underWay.Wait()
			inMemory, stored := get(t, roles, "a"), get(t, New(storage, hclog.NewNullLogger()).Roles, "a")
			if (inMemory == nil) != (stored == nil) || inMemory != nil && inMemory.Config != stored.Config {
				t.Errorf("memory has %v, and storage %v", inMemory, stored)
			}
		})
	}
}

// slowStorage keeps the first writer waiting once its write is done, and no other.
type slowStorage struct {
	logical.InmemStorage
	held          atomic.Bool
	written, goOn chan struct{}
}

func (s *slowStorage) hold() {
	if s.held.CompareAndSwap(false, true) {
		close(s.written)
		<-s.goOn
	}
}

func (s *slowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	defer s.hold()
	return s.InmemStorage.Put(ctx, entry)
}

func (s *slowStorage) Delete(ctx context.Context, key string) error {
	defer s.hold()
	return s.InmemStorage.Delete(ctx, key)
}

// What a stored entry names and cannot be used is not looked for by every reader, but found as soon as
// it is there.
func TestThatANamedEntryCannotBeUsedIsKeptUntilItIsThere(t *testing.T) {
	const name = "a"
	restore := func(t *testing.T, storage *watchedStorage, value string) {
		t.Helper()
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: "role/a", Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	const good = `{"config":"default","credential_type":"shared"}`
	heals := map[string]func(t *testing.T, s *Store, storage *watchedStorage){
		"it is written": func(t *testing.T, s *Store, _ *watchedStorage) {
			put(t, s.Roles, name, Role{Config: "default"})
		},
		"another node writes it": func(t *testing.T, s *Store, storage *watchedStorage) {
			restore(t, storage, good)
			s.Invalidate("role/a")
		},
		"a write seems to fail": func(t *testing.T, s *Store, storage *watchedStorage) {
			storage.failsWrite, storage.writesAllTheSame = true, true
			if err := s.Roles.Put(t.Context(), name, &Role{Config: "default", CredentialType: Shared}); err == nil {
				t.Error("no error")
			}
		},
		"it is restored and somebody reads it": func(t *testing.T, s *Store, storage *watchedStorage) {
			restore(t, storage, good)
			get(t, s.Roles, name)
		},
	}
	for lack, value := range map[string]string{"absent": "", "damaged": "{"} {
		for healed, heal := range heals {
			t.Run(lack+" until "+healed, func(t *testing.T) {
				storage := &watchedStorage{}
				s := New(storage, hclog.NewNullLogger())
				if value != "" {
					restore(t, storage, value)
				}
				for range 3 {
					_, err := s.Roles.Named(t.Context(), name)
					if _, damaged := errors.AsType[*UnreadableError](err); damaged != (lack == "damaged") {
						t.Error("it is not told whether it is damaged:", err)
					}
				}
				if storage.gets != 1 {
					t.Errorf("storage was asked %d times", storage.gets)
				}
				heal(t, s, storage)
				if role, err := s.Roles.Named(t.Context(), name); role == nil || err != nil {
					t.Error("it is not found:", err)
				}
			})
		}
	}
}

// An outage says nothing about an entry, and what was read before an invalidation nothing about now.
func TestANamedEntryOfWhichNothingIsKnownIsLookedForAgain(t *testing.T) {
	storage := &watchedStorage{failsGet: true}
	s := New(storage, hclog.NewNullLogger())
	if _, err := s.Roles.Named(t.Context(), "a"); err == nil {
		t.Error("no error")
	}
	storage.failsGet = false
	storage.duringGet = func() { s.Invalidate("role/a") }
	for range 3 {
		if role, err := s.Roles.Named(t.Context(), "a"); role != nil || err != nil {
			t.Error(role, err)
		}
	}
	if storage.gets != 3 {
		t.Errorf("storage was asked %d times, want 3: the outage, the overtaken read, and one more", storage.gets)
	}
}
