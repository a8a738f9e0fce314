// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which names configs and roles may have.

package backend

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The patterns of paths and the check of a name in a field must say the same: a role could else
// name what cannot be.
func TestANameIsTheSameInAPathAndInAField(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{
			"@a", "a@", "a@.", ".a@b", "a+b@c", "a b", "a/b", "a:b", "bücher", "a%40b", "", strings.Repeat("a", 129),
			"a..b@c", "eyJ.a@b.c",
		} {
			text := m.fails(400, opWrite, "roles/monitoring", map[string]any{"config": name})
			if !strings.HasPrefix(text, "config: ") {
				t.Errorf("%q: %s", name, text)
			}
			m.fails(anyStatus, opWrite, "roles/"+name, map[string]any{})
		}
	})
}

// Names may be e-mail addresses, so that one policy's template serves all whose Vault names are
// such.
func TestNamesMayBeEMailAddresses(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		const config, role = "reader@msp.example.com", "on-call.desk_2@example.co.uk"
		m.write("config/"+config, map[string]any{"url": m.server.URL, "user_api_token": m.token})
		m.write("roles/"+role, map[string]any{"config": config})
		m.must(opPatch, "roles/"+role, map[string]any{"ttl": "20m"})
		m.expectLives(m.readRole(role))
		m.write("config/"+config+"/check", nil)
		for path, name := range map[string]string{"config": config, "roles": role, "sessions": role} {
			if keys := m.must(opList, path+"/", nil)["keys"]; !slices.Contains(keys.([]string), name) {
				t.Errorf("the list of %s is %v", path, keys)
			}
			if m.must(opRead, path+"/"+name, nil) == nil {
				t.Errorf("%s/%s is not found", path, name)
			}
		}

		m.FailNext(simulator.EndpointLogout, -1, status(503))
		m.delete("sessions/" + role)
		if owed := m.get("sessions/" + role)["logouts_owed"]; owed != 1 {
			t.Errorf("%v logouts are owed for the role, want 1", owed)
		}
		m.ClearFailures()
		time.Sleep(time.Minute)
		m.tick()
		if owed := m.get("sessions/" + role)["logouts_owed"]; owed != 0 {
			t.Errorf("%v logouts are owed for the role after the tick, want 0", owed)
		}
		m.fails(400, opDelete, "config/"+config, nil, role)
		m.delete("roles/" + role)
		m.delete("config/" + config)
	})
}

// Names that are those of the engine's own prefixes, paths and keys are names like any other.
func TestNamesThatLookLikeTheEnginesOwn(t *testing.T) {
	names := []string{
		"config", "role", "session", "owed", "learnt", "default", "check", "status", "metrics", "creds", "0", "_",
	}
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
		for _, name := range []string{
			"..", "a..b", "a/../b", "../config/default", ".", "a.", "-a", "a b", "a%2fb", "a\x00b",
		} {
			for _, path := range []string{"config/", "roles/", "creds/", "sessions/", "config/%s/check"} {
				path += name
				for _, operation := range []logical.Operation{opWrite, opRead, opDelete, opPatch} {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: operation, Path: path, Storage: m.storage,
						Data: map[string]any{
							"url": m.server.URL, "user_api_token": m.token, "verify": false, "config": "default",
						},
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

// A name with two dots, which storage takes for no key, is the caller's mistake and never a
// failure.
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
