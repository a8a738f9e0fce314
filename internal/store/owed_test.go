// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

func owe(t *testing.T, s *Store, config, role string, dies time.Time) PendingLogout {
	t.Helper()
	debt, err := s.PutPendingLogout(t.Context(), role, PendingLogout{
		Origin: Origin{Config: config, URL: "https://ncentral.example.com"}, AccessToken: fmt.Sprint(role, dies.Unix()),
		GrantedUntil: dies,
	})
	if err != nil {
		t.Fatal(err)
	}
	return debt
}

func listOwed(t *testing.T, s *Store, limit int) []PendingLogout {
	t.Helper()
	debts, err := s.ListPendingLogouts(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	return debts
}

func TestDebtsAreListedOfEachConfigRolesInTurnTheFirstToExpireFirst(t *testing.T) {
	s := New(&logical.InmemStorage{}, hclog.NewNullLogger())
	now := time.Now()
	for i := range 5 {
		owe(t, s, "one", "busy", now.Add(time.Duration(10-i)*time.Minute))
	}
	owe(t, s, "one", "calm", now.Add(time.Hour))
	owe(t, s, "two", "other@example.com", now.Add(time.Hour))
	var roles []string
	debts := listOwed(t, s, 3)
	for _, debt := range debts {
		roles = append(roles, debt.Role)
	}
	if !slices.Equal(roles, []string{"busy", "calm", "busy", "other@example.com"}) {
		t.Error(roles)
	}
	if !debts[0].GrantedUntil.Equal(now.Add(6*time.Minute)) || !debts[2].GrantedUntil.Equal(now.Add(7*time.Minute)) {
		t.Error("not the first to expire: ", debts)
	}
}

// Expired debts are struck, and neither read nor counted.
func TestExpiredDebtsCostNothing(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	for range 50 {
		owe(t, s, "default", "monitoring", time.Now().Add(-time.Minute))
	}
	live := owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	debts := listOwed(t, s, 200)
	if len(debts) != 1 || debts[0].Key != live.Key || storage.gets != 1 {
		t.Errorf("%d debts, %d of them read", len(debts), storage.gets)
	}
	if count, err := s.CountOwedOfConfig(t.Context(), "default"); err != nil || count != 1 {
		t.Error(count, err)
	}
	if err := s.DeleteExpiredLogouts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, _ := storage.List(t.Context(), "owed/default/monitoring/"); len(keys) != 1 || storage.gets != 1 {
		t.Errorf("%d debts are stored, %d were read", len(keys), storage.gets)
	}
	if err := s.DeletePendingLogout(t.Context(), debts[0]); err != nil {
		t.Fatal(err)
	}
	if count, err := s.CountOwedOfRole(t.Context(), "monitoring"); err != nil || count != 0 {
		t.Error(count, err)
	}
}

func TestADebtThatCannotBeReadIsStruckAndStandsInNobodysWay(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	for _, key := range []string{"owed/aaa/worker/1", "owed/default/monitoring/000000000000"} {
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
	}
	sealed := owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	storage.failing = map[string]error{
		sealed.Key: errors.New("decryption failed: cipher: message authentication failed"),
	}
	live := owe(t, s, "default", "worker", time.Now().Add(time.Minute))
	if debts := listOwed(t, s, 200); len(debts) != 1 || debts[0].Key != live.Key {
		t.Error(debts)
	}
	// the one that has expired
	for folder, want := range map[string]int{"owed/aaa/worker/": 0, "owed/default/monitoring/": 1} {
		if keys, _ := storage.List(t.Context(), folder); len(keys) != want {
			t.Error(folder, keys)
		}
	}
}

// A read that fails may succeed at the next tick: the debt stays, and the others are paid.
func TestADebtThatStorageDoesNotAnswerHoldsUpNoOther(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	first := owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	live := owe(t, s, "other", "worker", time.Now().Add(time.Minute))
	storage.failing = map[string]error{first.Key: errors.New("no")}
	debts, err := s.ListPendingLogouts(t.Context(), 200)
	if err == nil || len(debts) != 1 || debts[0].Key != live.Key {
		t.Error(debts, err)
	}
	storage.failing = nil
	if debts := listOwed(t, s, 200); len(debts) != 2 {
		t.Error(debts)
	}
}

func TestADebtIsOwedUntilItsLastSecondIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(&logical.InmemStorage{}, hclog.NewNullLogger())
		debt := owe(t, s, "default", "monitoring", time.Now())
		if debt.Role != "monitoring" {
			t.Errorf("it is that of the role %q", debt.Role)
		}
		for _, want := range []int{1, 0} {
			if count, err := s.CountOwedOfRole(t.Context(), "monitoring"); err != nil || count != want ||
				len(listOwed(t, s, 1)) != want {
				t.Errorf("%d are owed, want %d: %v", count, want, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// What tells no expiry is taken to be owed still.
func TestADebtWhoseKeyTellsNoExpiryHasNotExpired(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	for _, id := range []string{"none", "0", "twelveletter", "twelveletter-1"} {
		if err := storage.Put(t.Context(), &logical.StorageEntry{
			Key:   "owed/default/monitoring/" + id,
			Value: []byte("{}"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if count, err := s.CountOwedOfConfig(t.Context(), "default"); err != nil || count != 4 {
		t.Error(count, err)
	}
	if last, err := s.OwedUntil(t.Context(), "default"); err != nil || !last.IsZero() {
		t.Error(last, err)
	}
	if err := s.DeleteExpiredLogouts(t.Context()); err != nil || len(listOwed(t, s, 10)) != 4 {
		t.Error("one was struck:", err)
	}
}

func TestAConfigOwesUntilTheLastOfItsDebtsExpires(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	if last, err := s.OwedUntil(t.Context(), "default"); err != nil || !last.IsZero() {
		t.Error("without debts:", last, err)
	}
	now := time.Now().Truncate(time.Second)
	owe(t, s, "default", "aaa", now.Add(time.Hour))
	owe(t, s, "default", "aaa", now.Add(3*time.Hour))
	owe(t, s, "default", "bbb", now.Add(2*time.Hour))
	owe(t, s, "other", "aaa", now.Add(4*time.Hour))
	for _, storage.reversed = range []bool{false, true} {
		if last, err := s.OwedUntil(t.Context(), "default"); err != nil || last != now.Add(3*time.Hour).UTC() {
			t.Errorf("%s, want %s: %v", last, now.Add(3*time.Hour).UTC(), err)
		}
	}
}

func TestDebtsAreListedUpToTheLimitWhateverOrderStorageListsThemIn(t *testing.T) {
	storage := &watchedStorage{reversed: true}
	s := New(storage, hclog.NewNullLogger())
	now := time.Now()
	for i := range 5 {
		owe(t, s, "one", "busy", now.Add(time.Duration(10-i)*time.Minute))
	}
	for limit := range 7 {
		debts := listOwed(t, s, limit)
		if len(debts) != min(limit, 5) || !slices.IsSortedFunc(debts,
			func(a, b PendingLogout) int { return a.GrantedUntil.Compare(b.GrantedUntil) }) {
			t.Errorf("up to %d: %v", limit, debts)
		}
	}
	storage.gets = 0
	if listOwed(t, s, 2); storage.gets != 2 {
		t.Errorf("to list two, %d were read", storage.gets)
	}
}

// A count that storage could not make is none, and the debts of one config hold up no other's.
func TestWhereStorageDoesNotListThatIsTheError(t *testing.T) {
	for folder, test := range map[string]struct{ ofRole, ofConfig bool }{
		"owed/":                    {ofRole: true},
		"owed/default/":            {ofConfig: true},
		"owed/default/monitoring/": {ofRole: true, ofConfig: true},
	} {
		t.Run(folder, func(t *testing.T) {
			storage := &watchedStorage{}
			s := New(storage, hclog.NewNullLogger())
			owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
			live := owe(t, s, "other", "worker", time.Now().Add(time.Minute))
			storage.failsList = folder
			if count, err := s.CountOwedOfRole(t.Context(), "monitoring"); (err != nil) != test.ofRole ||
				(count == 0) != test.ofRole {
				t.Error("of the role:", count, err)
			}
			if count, err := s.CountOwedOfConfig(t.Context(), "default"); (err != nil) != test.ofConfig ||
				(count == 0) != test.ofConfig {
				t.Error("of the config:", count, err)
			}
			if _, err := s.OwedUntil(t.Context(), "default"); (err != nil) != test.ofConfig {
				t.Error("until:", err)
			}
			if err := s.DeleteExpiredLogouts(t.Context()); err == nil {
				t.Error("struck without an error")
			}
			debts, err := s.ListPendingLogouts(t.Context(), 10)
			if err == nil || folder != "owed/" && (len(debts) != 1 || debts[0].Key != live.Key) {
				t.Error("listed:", debts, err)
			}
		})
	}
}

func TestADebtThatStorageDoesNotTakeOrStrikeIsTheError(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	expired := owe(t, s, "default", "monitoring", time.Now().Add(-time.Minute))
	live := owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	storage.failsWrite = true
	if _, err := s.PutPendingLogout(t.Context(), "monitoring", expired); err == nil {
		t.Error("written without an error")
	}
	if s.DeletePendingLogout(t.Context(), live) == nil || s.DeleteExpiredLogouts(t.Context()) == nil {
		t.Error("struck without an error")
	}
}

func TestADebtThatIsStruckWhileItIsListedIsLeftOut(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	later := owe(t, s, "default", "monitoring", time.Now().Add(time.Hour))
	storage.duringGet = func() {
		if err := s.DeletePendingLogout(t.Context(), later); err != nil {
			t.Error(err)
		}
	}
	if debts := listOwed(t, s, 10); len(debts) != 1 || debts[0].Key == later.Key {
		t.Error(debts)
	}
}

func TestTheListingOfDebtsEndsWithItsTime(t *testing.T) {
	storage := &watchedStorage{}
	s := New(storage, hclog.NewNullLogger())
	owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	owe(t, s, "default", "monitoring", time.Now().Add(time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	storage.duringGet = cancel
	if debts, err := s.ListPendingLogouts(ctx, 10); len(debts) != 1 || storage.gets != 1 ||
		!errors.Is(err, context.Canceled) {
		t.Error(debts, storage.gets, err)
	}
}
