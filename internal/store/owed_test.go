// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

func owe(t *testing.T, s *Store, config, role string, dies time.Time) Owed {
	t.Helper()
	debt, err := s.PutOwed(t.Context(), role, Owed{
		Origin: Origin{Config: config, URL: "https://ncentral.example.com"}, AccessToken: fmt.Sprint(role, dies.Unix()), DiesAt: dies,
	})
	if err != nil {
		t.Fatal(err)
	}
	return debt
}

func listOwed(t *testing.T, s *Store, limit int) []Owed {
	t.Helper()
	debts, err := s.ListOwed(t.Context(), limit)
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
	if !debts[0].DiesAt.Equal(now.Add(6*time.Minute)) || !debts[2].DiesAt.Equal(now.Add(7*time.Minute)) {
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
	if err := s.StrikeExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, _ := storage.List(t.Context(), "owed/default/monitoring/"); len(keys) != 1 || storage.gets != 1 {
		t.Errorf("%d debts are stored, %d were read", len(keys), storage.gets)
	}
	if err := s.DeleteOwed(t.Context(), debts[0]); err != nil {
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
	storage.failing = map[string]error{sealed.Key: errors.New("decryption failed: cipher: message authentication failed")}
	live := owe(t, s, "default", "worker", time.Now().Add(time.Minute))
	if debts := listOwed(t, s, 200); len(debts) != 1 || debts[0].Key != live.Key {
		t.Error(debts)
	}
	for folder, want := range map[string]int{"owed/aaa/worker/": 0, "owed/default/monitoring/": 1} { // the one that has expired
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
	debts, err := s.ListOwed(t.Context(), 200)
	if err == nil || len(debts) != 1 || debts[0].Key != live.Key {
		t.Error(debts, err)
	}
	storage.failing = nil
	if debts := listOwed(t, s, 200); len(debts) != 2 {
		t.Error(debts)
	}
}
