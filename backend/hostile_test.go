// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// Names that are those of the engine's own prefixes, paths and keys are names like any other.
func TestNamesThatLookLikeTheEnginesOwn(t *testing.T) {
	names := []string{"config", "role", "session", "owed", "learnt", "default", "check", "status", "metrics", "creds", "0", "_"}
	inBubble(t, nil, func(m *mount) {
		tokens := map[string]string{}
		for _, name := range names {
			m.write("config/"+name, map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
			m.write("roles/"+name, map[string]any{"config": name, "lease": false})
			tokens[name] = m.expectLives(m.readRole(name))
		}
		m.start()
		for i, name := range names {
			if m.expectLives(m.readRole(name)) != tokens[name] {
				t.Errorf("role %q has another token after a restart", name)
			}
			m.FailNext(simulator.EndpointLogout, 1, status(403))
			m.delete("sessions/" + name)
			for _, other := range names[i+1:] {
				if m.expectLives(m.readRole(other)) != tokens[other] {
					t.Errorf("deleting the sessions of %q ended those of %q", name, other)
				}
			}
			if owed := m.get("sessions/" + name)["logouts_owed"]; owed != 1 {
				t.Errorf("role %q owes %v logouts", name, owed)
			}
		}
		m.tick()
		if open := m.OpenSessions(); open != 0 || len(m.owedKeys()) != 0 {
			t.Errorf("%d sessions are open, owed is %v", open, m.owedKeys())
		}
	})
}

// A name that would lead elsewhere in storage is refused or unknown, and nothing is stored.
func TestNamesThatLeadElsewhereLeadNowhere(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		before, _ := logical.CollectKeys(context.Background(), &m.storage.InmemStorage)
		for _, name := range []string{"..", "a..b", "a/../b", "../config/default", ".", "a.", "-a", "a b", "a%2fb", "a\x00b"} {
			for _, path := range []string{"config/", "roles/", "creds/", "sessions/", "config/%s/check"} {
				path += name
				for _, operation := range []logical.Operation{opWrite, opRead, opDelete, opPatch} {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: operation, Path: path, Storage: m.storage,
						Data: map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false, "config": "default"},
					})
					if response != nil && !response.IsError() && len(response.Data) > 0 {
						t.Errorf("%s %q was answered %v", operation, path, keys(response.Data))
					}
					_ = err // an error of whichever kind is well
				}
			}
		}
		after, _ := logical.CollectKeys(context.Background(), &m.storage.InmemStorage)
		if len(after) != len(before) {
			t.Errorf("storage held %v, and holds %v", before, after)
		}
	})
}

// One process serves every mount: none sees what is another's.
func TestMountsShareNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &logical.InmemStorage{}
		other, err := newBackend(context.Background(), &logical.BackendConfig{
			Logger: hclog.NewNullLogger(), System: m.system, StorageView: storage,
		}, func(ctx context.Context, network, address string) (net.Conn, error) {
			return m.server.DialContext(ctx, network, address)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Cleanup(context.Background())
		request := func(operation logical.Operation, path string, data map[string]any) *logical.Response {
			t.Helper()
			response, err := other.HandleRequest(context.Background(), &logical.Request{Operation: operation, Path: path, Data: data, Storage: storage})
			if err != nil {
				t.Fatal(err)
			}
			return response
		}
		token := m.expectLives(m.read(nil))
		if response := request(opRead, "creds/monitoring", nil); !response.IsError() {
			t.Errorf("a mount without roles answered %v", keys(response.Data))
		}
		request(opWrite, "config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token})
		request(opWrite, "roles/monitoring", map[string]any{"lease": false})
		if response := request(opRead, "creds/monitoring", nil); response.Data["access_token"] == token {
			t.Error("two mounts hand out one token")
		}
		request(opDelete, "sessions/monitoring", nil)
		if m.expectLives(m.read(nil)) != token {
			t.Error("deleting the sessions of one mount ended those of the other")
		}
	})
}

// A reader who polls as fast as they can costs N-central a bounded number of calls, whatever they ask for, and nobody else
// anything.
func TestAReaderWhoPollsCostsLittle(t *testing.T) {
	for name, test := range map[string]struct {
		data map[string]any
		most int // calls in the hour
	}{
		"validate":             {map[string]any{"validate": true}, 3600 + 10},
		"min_ttl":              {map[string]any{"min_ttl": "30m"}, 5},
		"min_ttl and validate": {map[string]any{"min_ttl": "30m", "validate": true}, 3600 + 10},
		"more than is granted": {map[string]any{"min_ttl": "31m"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("roles/other", map[string]any{"lease": false})
				m.read(nil)
				m.ResetCounts()
				for range 4 * 3600 {
					_, _ = m.do(opRead, "creds/monitoring", test.data)
					time.Sleep(250 * time.Millisecond)
				}
				synctest.Wait()
				if calls := m.all(simulator.AnyEndpoint); calls > test.most {
					t.Errorf("an hour of polling made %d calls, want %d at most", calls, test.most)
				}
				m.expectLives(m.readRole("other"))
			})
		})
	}
}

// A name with two dots, which storage takes for no key, is the caller's mistake and never a failure.
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
