// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// A cluster that gets a config anew from another node, whose clock is behind, serves it.
func TestAConfigMadeAnewElsewhereIsServed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		ctx := context.Background()
		entry, err := m.storage.Get(ctx, "config/default")
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := json.Unmarshal(entry.Value, &config); err != nil {
			t.Fatal(err)
		}
		// Deleted on another node, and a tick later written anew by one whose clock is behind.
		if err := m.storage.Delete(ctx, "config/default"); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(ctx, "config/default")
		config["written_at"] = time.Now().Add(-time.Hour)
		if entry.Value, err = json.Marshal(config); err != nil {
			t.Fatal(err)
		}
		if err := m.storage.Put(ctx, entry); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(ctx, "config/default")
		time.Sleep(30 * time.Minute)
		m.tick()
		response, err := m.do(opRead, "creds/monitoring", map[string]any{"validate": true})
		if err != nil || response.IsError() {
			t.Errorf("half an hour later: %v %v", response, err)
		}
	})
}

// The count of suspicions only grows, also where a config is deleted and made anew.
func TestSuspicionOutlivesTheConfig(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for range 3 { // tokens that die and are replaced raise the count
			m.read(nil)
			m.Reboot()
			time.Sleep(2 * time.Second)
			m.expectLives(m.read(map[string]any{"validate": true}))
		}
		data := map[string]any{"url": m.server.URL, "user_api_token": m.token}
		m.write("config/other", data)
		m.write("roles/monitoring", map[string]any{"config": "other"})
		m.delete("config/default")
		m.write("config/default", data)
		m.write("roles/monitoring", map[string]any{"config": "default"})
		m.write("roles/second", map[string]any{"lease": false})
		m.expectLives(m.readRole("second"))
		m.Reboot()
		time.Sleep(2 * time.Second)
		m.expectLives(m.must(opRead, "creds/second", map[string]any{"validate": true}))
		m.expectLives(m.read(nil)) // N-central forgot every session, and the engine knows
	})
}

// LIST tells of a token to hand out only where there is one.
func TestListTellsOfATokenOnlyWhereThereIsOne(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		read := m.get("sessions/monitoring")
		info := m.must(opList, "sessions/", nil)["key_info"].(map[string]any)["monitoring"].(map[string]any)
		if info["expires_at"] != read["expires_at"] {
			t.Errorf("LIST says expires_at %v, a read says %v", info["expires_at"], read["expires_at"])
		}
	})
}

// What was learnt is not overwritten, suspicions included, because it could not be read for a moment.
func TestAFailedReadLosesNoSuspicion(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(time.Second)
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.get("sessions/other")
		fails := func(key string) error {
			if strings.HasPrefix(key, "learnt/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		m.expectLives(m.readRole("other")) // ends the session of the other role's token
		storage.get.Store(nil)
		m.expectLives(m.read(nil))
	})
}

// The same for a logout, which only learns that this server can.
func TestALogoutLosesNoSuspicion(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.expectLives(m.readRole("other")) // the other token is dead, and marked as suspect
		time.Sleep(time.Second)
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		fails := func(key string) error {
			if strings.HasPrefix(key, "learnt/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		m.delete("sessions/other")
		storage.get.Store(nil)
		m.expectLives(m.read(nil))
	})
}

// Where storage does not tell whether a token is suspect, it is not handed out.
func TestATokenOfWhichNoSuspicionCanBeReadIsNotHandedOut(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		storage := &hookedStorage{Storage: m.storage}
		m.startOn(storage)
		m.read(nil)
		m.expectLives(m.readRole("other")) // ends the session of the first
		m.backend.InvalidateKey(context.Background(), "learnt/default")
		fails := func(key string) error {
			if strings.HasPrefix(key, "learnt/") {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		m.fails(500, opRead, "creds/monitoring", nil, "storage")
	})
}

// What was found of a token counts also where storage refuses to take it, and where it takes it there is no word of that.
func TestWhatWasFoundOfATokenCountsWhereStorageRefusesIt(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			m.regenerate()
			m.write("roles/other", map[string]any{"lease": false})
			m.fails(400, opRead, "creds/other", nil) // casts suspicion
			m.storage.refuses.Store(refuses)
			m.ResetCounts()
			if m.expectLives(m.read(nil)) != first {
				t.Error("another token")
			}
			warned := strings.Contains(m.warnings(), "could not be stored")
			if warned != refuses {
				t.Errorf("storage refuses: %t; warned of it: %t", refuses, warned)
			}
			time.Sleep(2 * time.Second)
			m.read(nil)
			m.expectCalls(calls{simulator.EndpointValidate: 1}) // its answer stands
			m.expectLogged("what was found out about a token could not be stored", refuses)
		})
	}
}

// A suspicion that a node whose clock is ahead has cast outlives a change of url, and the way back.
func TestASuspicionOutlivesAChangeOfURL(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.write("config/default", map[string]any{"max_retries": 0})
		learnt, err := m.storage.Get(context.Background(), "learnt/default")
		if err != nil || learnt == nil {
			t.Fatal(learnt, err)
		}
		var known store.ServerTraits
		if err := learnt.DecodeJSON(&known); err != nil {
			t.Fatal(err)
		}
		known.Epoch = time.Now().Add(time.Hour).UnixNano()
		learnt, err = logical.StorageEntryJSON("learnt/default", known)
		if err != nil || m.storage.Put(context.Background(), learnt) != nil {
			t.Fatal(err)
		}
		m.start()
		m.expectLives(m.read(nil))
		m.Reboot()
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.fails(400, opRead, "creds/other", nil) // casts suspicion
		m.ClearFailures()
		for _, url := range []string{"http://localhost:81", m.server.URL} {
			m.write("config/default", map[string]any{"url": url, "user_api_token": m.token, "verify": false})
			if url != m.server.URL {
				m.expectLives(m.readRole("other"))
			}
		}
		m.expectLives(m.read(nil))
	})
}
