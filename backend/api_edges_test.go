// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// The tick strikes a debt whose config cannot be read just now.
func TestDebtOutlivesAStorageFailure(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, -1, status(500))
		m.delete("sessions/monitoring")
		if owed := m.get("sessions/monitoring")["logouts_owed"]; owed != 1 {
			t.Fatalf("%v logouts are owed, want 1", owed)
		}
		m.ClearFailures()

		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage) // so that the config is read from storage
		fails := func(key string) error {
			if strings.HasPrefix(key, "config/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: storage})
		storage.get.Store(nil)
		m.tick()
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: the debt was struck for a failure of storage", open)
		}
	})
}

// The same for a logout that becomes a debt.
func TestLogoutIsOwedWhenTheConfigCannotBeRead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.get("roles/monitoring")
		fails := func(key string) error {
			if strings.HasPrefix(key, "config/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		m.delete("sessions/monitoring")
		storage.get.Store(nil)
		m.tick()
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: the logout was not written down as owed", open)
		}
	})
}

// Null resets verify to its default, true.
func TestNullVerifyIsTheDefault(t *testing.T) {
	for _, operation := range []logical.Operation{opPatch, opWrite} {
		t.Run(string(operation), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.server.Stop()
				response, err := m.do(operation, "config/default", map[string]any{"max_retries": 1, "verify": nil})
				if err != nil || !response.IsError() {
					t.Errorf("verify=null left the verification out: %v %v", response, err)
				}
			})
		})
	}
}

// Names with two dots.
func TestNamesWithTwoDotsAreTheCallersMistake(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.startOn(logical.NewStorageView(m.storage, ""))
		m.fails(400, opWrite, "roles/other", map[string]any{"config": "a..b"}, "config")
		for _, path := range []string{"roles/a..b", "config/a..b"} {
			request := &logical.Request{Operation: opWrite, Path: path, Storage: m.storage, Data: map[string]any{}}
			if _, _, err := m.backend.HandleExistenceCheck(context.Background(), request); err != nil {
				t.Errorf("%s: the existence check failed, which core answers with 500: %v", path, err)
			}
			m.fails(400, opWrite, path, map[string]any{"url": m.server.URL, "user_api_token": m.token})
		}
		m.fails(400, opRead, "creds/a..b", nil)
		for _, path := range []string{"roles/a..b", "config/a..b", "sessions/a..b"} {
			if response, err := m.do(opRead, path, nil); response != nil || err != nil {
				t.Errorf("read of %s, which is unknown: %v %v", path, response, err)
			}
		}
	})
}

// Numbers as they arrive at a plugin.
func TestNumbersAsPluginsGetThem(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		changed := time.Now().Add(-48 * time.Hour).Unix()
		response, err := m.do(opWrite, "config/default", wire(t, map[string]any{"password_changed_at": changed}))
		if err != nil || response.IsError() {
			t.Errorf("Unix time as a number: %v %v", response, err)
		}
		for _, bad := range []struct {
			path, field string
			value       any
		}{
			{"roles/monitoring", "ttl", 0.5},
			{"roles/monitoring", "ttl", -0.5},
			{"roles/monitoring", "min_ttl", 0.5},
			{"roles/monitoring", "ttl", 90.9},
			{"config/default", "max_retries", 3.7},
			{"config/default", "max_requests_in_flight", 0.5},
			{"config/default", "max_requests_in_flight", 50.5},
			{"config/default", "password_max_age", 0.5},
			{"creds/monitoring", "min_ttl", 0.5},
		} {
			response, err := m.do(opWrite, bad.path, wire(t, map[string]any{bad.field: bad.value}))
			if err != nil || !response.IsError() {
				t.Errorf("%s: %s=%v was taken", bad.path, bad.field, bad.value)
			}
		}
	})
}

// A role that is deleted while it is being changed stays deleted.
func TestDeletedRoleStaysDeleted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		reached, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		holds := func(key string) error {
			if key == "config/default" {
				once.Do(func() { close(reached); <-goOn })
			}
			return nil
		}
		storage.get.Store(&holds)
		patched := make(chan struct{})
		go func() {
			defer close(patched)
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opPatch, Path: "roles/monitoring", Storage: storage, Data: map[string]any{"min_ttl": "1m"},
			})
		}()
		<-reached
		deleted := make(chan struct{})
		go func() {
			defer close(deleted)
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opDelete, Path: "roles/monitoring", Storage: storage,
			})
		}()
		for range 1000 {
			runtime.Gosched() // the delete may go on if nothing holds it back
		}
		close(goOn)
		<-patched
		<-deleted
		if role := m.must(opRead, "roles/monitoring", nil); role != nil {
			t.Error("the role that was deleted is there again")
		}
	})
}

// A verification that passed may have ended other sessions, whether or not its config could be stored.
func TestVerificationThatWasNotStoredMakesTokensSuspect(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.expectLives(m.read(nil))
		fails := func(key string) error {
			if strings.HasPrefix(key, "config/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.put.Store(&fails)
		m.fails(500, opWrite, "config/default", map[string]any{"max_retries": 1})
		storage.put.Store(nil)
		m.expectLives(m.read(nil))
	})
}

// The same for a write that another overtook.
func TestOvertakenVerificationMakesTokensSuspect(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLinks, 1, hang)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opWrite, Path: "config/default", Storage: m.storage, Data: map[string]any{"max_retries": 1},
			})
			var coded logical.HTTPCodedError
			if !errors.As(err, &coded) {
				t.Error("no conflict: ", err)
				return
			}
			t.Log("status of the overtaken write: ", coded.Code())
		}()
		time.Sleep(time.Second)
		m.write("config/default", map[string]any{"max_retries": 2, "verify": false})
		m.ClearFailures()
		<-done
		m.expectLives(m.read(nil))
	})
}

// Debts that cannot be paid do not keep others from it.
func TestDebtsOfADeadServerDoNotStarveOthers(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/down", map[string]any{"url": "https://down.example.com", "user_api_token": m.token, "verify": false})
		entries := store.New(m.storage, hclog.NewNullLogger())
		for range 200 {
			debt := store.PendingLogout{
				Origin: store.Origin{Config: "down", URL: "https://down.example.com"}, AccessToken: "access-token", GrantedUntil: time.Now().Add(time.Hour),
			}
			if _, err := entries.PutPendingLogout(context.Background(), "a-role", debt); err != nil {
				t.Fatal(err)
			}
		}
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointLogout, 2, status(500))
		m.delete("sessions/monitoring")
		for range 10 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if open := m.OpenSessions(); open != 0 {
			t.Errorf("%d sessions are open: their logout was never tried", open)
		}
	})
}

// A reader of a config's last version does not bring it back and lift the cool-down of the one that is in force.
func TestAnOldReaderDoesNotLiftTheCoolDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, hang)
		done := make(chan struct{})
		go func() { // waits with a token in hand on the version of the config that is now in force
			defer close(done)
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
			})
		}()
		time.Sleep(time.Second)
		m.write("config/default", map[string]any{"max_retries": 0, "verify": false})
		if _, err := m.RegenerateUserAPIToken("api-user"); err != nil {
			t.Fatal(err)
		}
		m.ResetCounts()
		m.fails(400, opRead, "creds/other", nil)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointRefresh: 1})
		time.Sleep(10 * time.Second) // the hanging attempt times out, and its reader gets the stale token
		<-done
		m.ResetCounts()
		m.fails(400, opRead, "creds/other", nil)
		m.expectCalls(nil)
	})
}

// What a check finds shows in the state.
func TestCheckShowsInTheState(t *testing.T) {
	state := func(m *mount) any {
		return m.must(opList, "config/", nil)["key_info"].(map[string]any)["default"].(map[string]any)["state"]
	}
	t.Run("expired password", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.FailNext(simulator.EndpointServiceOrgs, -1, status(500))
			if m.must(opWrite, "config/default/check", nil)["ok"] != false {
				t.Fatal("the check passed")
			}
			if got := state(m); got != "degraded" {
				t.Errorf("after a check whose data call was answered with 500 the state is %v, want degraded", got)
			}
		})
	})
	t.Run("down", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.server.Stop()
			m.write("config/default/check", nil)
			if got := state(m); got != "failing" {
				t.Errorf("after a check that could not reach N-central the state is %v, want failing", got)
			}
		})
	})
}

// Metadata mode.
func TestFactoryWithoutSystem(t *testing.T) {
	if _, err := Factory(context.Background(), &logical.BackendConfig{}); err != nil {
		t.Fatal(err)
	}
}

// Readers of one token do not share the array of its warnings.
func TestWarningsAreNotShared(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AccessLimit = 10 * time.Minute; k.RefuseLongOverrides = true }, func(m *mount) {
		m.system.MaxLeaseTTLVal = 40 * time.Minute
		m.write("roles/monitoring", map[string]any{"ttl": "50m", "min_ttl": "20m"})
		t.Log(m.warnings())
		m.start()
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for range 50 {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: opRead, Path: "creds/monitoring", Storage: m.storage, Data: map[string]any{fmt.Sprint("unknown", i): "x"},
					})
					if err != nil || response.IsError() {
						t.Error(err, response)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func TestHotLeasedRead(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/leased", nil)
		m.readRole("leased")
		storage, system := m.storage.calls.Load(), m.system.calls.Load()
		m.readRole("leased")
		if m.storage.calls.Load() != storage || m.system.calls.Load() != system {
			t.Error("a hot read asked storage or core")
		}
	})
}

// What the OpenAPI document calls the default of a field is what a new entry has to which the field was not given.
func TestADeclaredDefaultIsWhatANewEntryHas(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		follows := map[string]bool{"user_api_token_sha256": true, "min_ttl": true} // from the token, and from the ttl
		for path, given := range map[string]map[string]any{
			"config/new": {"url": m.server.URL, "user_api_token": m.token},
			"roles/new":  {},
		} {
			m.write(path, given)
			declared := m.backend.Route(path).Fields
			for name, has := range m.get(path) {
				field := declared[name]
				if field == nil || given[name] != nil || follows[name] {
					continue
				}
				if want := field.DefaultOrZero(); fmt.Sprint(has) != fmt.Sprint(want) {
					t.Errorf("%s: %s is %v, and declared as %v", path, name, has, want)
				}
			}
		}
	})
}

func TestTheLeastAndTheMostThatAreAllowedAreTaken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, test := range []struct {
			field          string
			taken, refused []any
		}{
			{"request_timeout", []any{"1s", "20s"}, []any{0, "999ms", "20001ms", "21s"}},
			{"max_retries", []any{0, 10}, []any{-1, 11}},
			{"max_requests_in_flight", []any{1, 50}, []any{0, 51}},
			{"refresh_token_ttl", []any{0, "1m"}, []any{"59s"}},
			{"password_max_age", []any{0, "24h"}, []any{"23h"}},
			{"expiry_warning", []any{0, "24h"}, []any{"23h"}},
		} {
			for _, value := range test.taken {
				m.write("config/default", map[string]any{test.field: value})
			}
			for _, value := range test.refused {
				if text := m.fails(400, opWrite, "config/default", map[string]any{test.field: value}); !strings.HasPrefix(text, test.field+": ") {
					t.Errorf("%s %v: %s", test.field, value, text)
				}
			}
		}
	})
}
