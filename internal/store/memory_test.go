// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// Vault's storage refuses a key with two dots in a row as an error, which is no answer to who asks
// for a name.
func TestANameThatStorageDoesNotTakeIsOneOfNothing(t *testing.T) {
	storage := &watchedStorage{failing: map[string]error{"role/a..b": errors.New("no")}, failsWrite: true}
	roles := New(storage, hclog.NewNullLogger()).Roles
	if role, err := roles.Find(t.Context(), "a..b"); role != nil || err != nil {
		t.Error(role, err)
	}
	if err := roles.Delete(t.Context(), "a..b"); err != nil {
		t.Error(err)
	}
	if Storable("a..b") || !Storable("a.b.") {
		t.Error("what is storable is not told by two dots in a row")
	}
}

// One copy serves all, so that pointers compare.
func TestOfTwoReadsAtOnceTheLaterAnswersTheCopyOfTheEarlier(t *testing.T) {
	storage := &watchedStorage{}
	put(t, New(storage, hclog.NewNullLogger()).Roles, "a", Role{Config: "default"})
	roles := New(storage, hclog.NewNullLogger()).Roles
	var earlier *Role
	storage.duringGet = func() { earlier = get(t, roles, "a") }
	if later := get(t, roles, "a"); later != earlier || get(t, roles, "a") != earlier {
		t.Error("there are two copies")
	}
}

// A write that fails and was done all the same is newer than what was read before it.
func TestAnInFlightReadDoesNotOutlastAWriteThatSeemedToFail(t *testing.T) {
	storage := &watchedStorage{}
	put(t, New(storage, hclog.NewNullLogger()).Roles, "a", Role{Config: "old"})
	roles := New(storage, hclog.NewNullLogger()).Roles
	storage.duringGet = func() {
		storage.failsWrite, storage.writesAllTheSame = true, true
		if err := roles.Put(t.Context(), "a", &Role{Config: "new", CredentialType: Shared}); err == nil {
			t.Error("no error")
		}
	}
	get(t, roles, "a")
	if role := get(t, roles, "a"); role.Config != "new" {
		t.Errorf("memory has %q", role.Config)
	}
}

func TestMemoryHoldsWhatWasReadOrWritten(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	if s.Roles.Holds("a") {
		t.Error("it holds what was not read")
	}
	put(t, s.Roles, "a", Role{Config: "default"})
	if !s.Roles.Holds("a") || s.Roles.IsUnstored("a") {
		t.Error("it does not hold what was written, or takes it to be unstored")
	}
	s.Invalidate("role/a")
	if s.Roles.Holds("a") {
		t.Error("it holds what was invalidated")
	}
}

func TestInvalidateReachesEveryKindOfEntry(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	s.Configs.Keep("a", &Config{})
	s.Roles.Keep("a", &Role{})
	s.Sessions.Keep("a", &Session{})
	s.Traits.Keep("a", &ServerTraits{})
	for key, holds := range map[string]func(string) bool{
		"config/a": s.Configs.Holds, "role/a": s.Roles.Holds, "session/a": s.Sessions.Holds, "learnt/a": s.Traits.Holds,
	} {
		if s.Invalidate(key); holds("a") {
			t.Errorf("%s is still in memory", key)
		}
	}
}

// An entry that cannot be written is as if it had not been.
func TestAnEntryThatHasNoFormInStorageIsRefused(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	noTime := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Sessions.Put(t.Context(), "a", &Session{LastReadAt: noTime}); err == nil || s.Sessions.Holds("a") {
		t.Error("a session is kept, or no error:", err)
	}
	if _, err := s.PutPendingLogout(t.Context(), "a", PendingLogout{
		Origin:       Origin{Config: "default"},
		GrantedUntil: noTime,
	}); err == nil {
		t.Error("a debt: no error")
	}
	if keys, err := logical.CollectKeys(t.Context(), storage); err != nil || len(keys) != 0 {
		t.Error(keys, err)
	}
}

// What memory alone holds is served without a look at storage, until storage takes what follows it.
func TestWhatStorageRefusedIsServedFromMemoryUntilAWriteSucceeds(t *testing.T) {
	storage := &watchedStorage{}
	sessions := New(storage, hclog.NewNullLogger()).Sessions
	write := func() error { return sessions.Put(t.Context(), "a", &Session{RoleFingerprint: "next"}) }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	storage.failsWrite = true
	if write() == nil {
		t.Fatal("no error")
	}
	kept := &Session{RoleFingerprint: "kept"}
	sessions.Keep("a", kept)
	sessions.Keep("0", kept)
	if get(t, sessions, "a") != kept || storage.gets != 0 || !sessions.IsUnstored("a") {
		t.Error("storage was asked after what it refused")
	}
	storage.reversed = true
	if names, err := sessions.Names(t.Context()); err != nil || !slices.Equal(names, []string{"0", "a"}) {
		t.Error(names, err)
	}
	storage.failsWrite = false
	if err := write(); err != nil || sessions.IsUnstored("a") {
		t.Error("what was written counts as unstored:", err)
	}
	if err := sessions.Delete(t.Context(), "0"); err != nil || sessions.IsUnstored("0") {
		t.Error("what was deleted counts as unstored:", err)
	}
	if names, err := sessions.Names(t.Context()); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Error(names, err)
	}
	if err := write(); err != nil {
		t.Error("after a deletion:", err)
	}
	storage.failsList = "session/"
	if names, err := sessions.Names(t.Context()); err == nil {
		t.Error("storage does not answer, and there are", names)
	}
}

// What memory alone holds, be it that there is no entry, is served without a look at storage, and
// storage takes it later.
func TestStorageTakesLaterWhatMemoryHolds(t *testing.T) {
	entry := &OutOfService{Since: time.Now(), Reason: "r"}
	for name, kept := range map[string]*OutOfService{"an entry": entry, "that there is none": nil} {
		t.Run(name, func(t *testing.T) {
			storage := &watchedStorage{failsWrite: true}
			out := New(storage, hclog.NewNullLogger()).OutOfService
			before, err := encode("out/a", &OutOfService{Since: time.Now(), Reason: "before"})
			if err == nil {
				err = storage.InmemStorage.Put(t.Context(), before)
			}
			if err != nil {
				t.Fatal(err)
			}
			out.Keep("a", kept)
			if out.Store(t.Context(), "a") == nil || !out.IsUnstored("a") {
				t.Error("storage refuses, and that is not told")
			}
			storage.failsWrite = false
			if err := out.Store(t.Context(), "a"); err != nil || out.IsUnstored("a") {
				t.Error("storage takes it, and that is not told:", err)
			}
			if get(t, out, "a") != kept || storage.gets != 0 {
				t.Error("storage was asked for what memory holds")
			}
			if names, err := out.Names(t.Context()); err != nil || (len(names) == 1) != (kept != nil) {
				t.Error("stored:", names, err)
			}
		})
	}
}

// What memory has been given while storage took the entry before stays, and is still to be stored.
func TestWhatMemoryIsGivenWhileStorageTakesTheEntryBeforeStays(t *testing.T) {
	storage := &slowStorage{written: make(chan struct{}), goOn: make(chan struct{})}
	out := New(storage, hclog.NewNullLogger()).OutOfService
	out.Keep("a", &OutOfService{Since: time.Now(), Reason: "r"})
	stored := make(chan error)
	go func() { stored <- out.Store(t.Context(), "a") }()
	<-storage.written
	out.Keep("a", nil)
	close(storage.goOn)
	if err := <-stored; err != nil {
		t.Fatal(err)
	}
	if get(t, out, "a") != nil || !out.IsUnstored("a") {
		t.Error("what memory was given is lost, or counts as stored")
	}
	if err := out.Store(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if names, err := out.Names(t.Context()); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
}

// There may be very many entries: a walk fills memory with none, and of several that are damaged
// each is told.
func TestAWalkVisitsWhatCanBeReadAndLeavesMemoryAsItWas(t *testing.T) {
	storage := &watchedStorage{failing: map[string]error{}}
	before := New(storage, hclog.NewNullLogger()).Roles
	for _, name := range []string{"a", "b", "c", "gone"} {
		put(t, before, name, Role{Config: "default"})
	}
	for _, key := range []string{"role/damaged1", "role/damaged2"} {
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
	}
	roles := New(storage, hclog.NewNullLogger()).Roles
	held := get(t, roles, "b")
	storage.gets = 0
	last := ""
	walk := func() (visited []string, err error) {
		err = roles.Each(t.Context(), func(role *Role) bool {
			visited = append(visited, role.Name)
			if role.Name == "b" && role != held {
				t.Error("another copy than memory's is visited")
			}
			return role.Name != last
		})
		return visited, err
	}
	storage.duringGet = func() {
		if err := storage.Delete(t.Context(), "role/gone"); err != nil {
			t.Error(err)
		}
	}
	visited, err := walk()
	var joined interface{ Unwrap() []error }
	if !slices.Equal(visited, []string{"a", "b", "c"}) || !errors.As(err, &joined) || len(joined.Unwrap()) != 2 {
		t.Error(visited, err)
	}
	if storage.gets != 5 || roles.Holds("a") || !roles.Holds("b") {
		t.Errorf("%d entries were read, or memory is another", storage.gets)
	}
	last, storage.gets = "b", 0
	if visited, err := walk(); !slices.Equal(visited, []string{"a", "b"}) || err != nil || storage.gets != 1 {
		t.Error("the walk was to end:", visited, err)
	}
	last = ""
	storage.failing["role/c"] = errors.New("no")
	var damaged *UnreadableError
	if visited, err := walk(); !slices.Equal(visited, []string{"a", "b"}) || err == nil || errors.As(err, &damaged) {
		t.Error("storage does not answer:", visited, err)
	}
	storage.failsList = "role/"
	if visited, err := walk(); visited != nil || err == nil {
		t.Error("storage does not list:", visited, err)
	}
}

// All that holds a token is wrapped by the seal; what is each cluster's own is not replicated.
func TestEachKindOfEntryLiesWhereItBelongs(t *testing.T) {
	storage := &logical.InmemStorage{}
	s := New(storage, hclog.NewNullLogger())
	put(t, s.Roles, "a", Role{})
	err := errors.Join(s.Configs.Put(t.Context(), "a", &Config{}), s.Sessions.Put(t.Context(), "a", &Session{}),
		s.Traits.Put(t.Context(), "a", &ServerTraits{}))
	if err != nil {
		t.Fatal(err)
	}
	owe(t, s, "a", "a", time.Now())
	folders, err := storage.List(t.Context(), "")
	if err != nil || !slices.Equal(folders, []string{"config/", "learnt/", "owed/", "role/", "session/"}) {
		t.Error(folders, err)
	}
	if wrapped := SealWrapped(); !slices.Equal(wrapped, []string{"config/", "session/", "owed/"}) {
		t.Error("seal-wrapped:", wrapped)
	}
	if local := Local(); !slices.Equal(local, []string{"session/", "owed/", "learnt/", "out/"}) {
		t.Error("local:", local)
	}
}

func TestWhatWasLearntIsReadAsItWasWritten(t *testing.T) {
	storage := &watchedStorage{}
	traits := ServerTraits{URL: "https://ncentral.example.com", ServerVersion: "2026.1", Epoch: 7}
	if err := New(storage, hclog.NewNullLogger()).Traits.Put(t.Context(), "a", &traits); err != nil {
		t.Fatal(err)
	}
	if read := get(t, New(storage, hclog.NewNullLogger()).Traits, "a"); *read != traits {
		t.Errorf("%+v", *read)
	}
}

// What is done without is lost: the log tells of it.
func TestTheLogNamesWhatCannotBeRead(t *testing.T) {
	storage := &watchedStorage{}
	var log strings.Builder
	s := New(storage, hclog.New(&hclog.LoggerOptions{Output: &log}))
	for key, read := range map[string]func(){
		"session/of-a-role":                   func() { get(t, s.Sessions, "of-a-role") },
		"learnt/of-a-config":                  func() { get(t, s.Traits, "of-a-config") },
		"owed/default/worker/999999999999-id": func() { listOwed(t, s, 1) },
	} {
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
		read()
		if name := key[strings.LastIndex(key, "/")+1:]; strings.Count(log.String(), name) != 1 {
			t.Errorf("of %s the log says: %s", key, log.String())
		}
	}
}
