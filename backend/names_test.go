// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// Whoever may ask for names of their invention could else fill the memory of the process, which serves all mounts.
func TestInventedNamesLeaveNothingInMemory(t *testing.T) {
	const names = 1000
	for _, invented := range []struct {
		operation logical.Operation
		path      string
	}{
		{logical.DeleteOperation, "sessions/%s"},
		{logical.DeleteOperation, "roles/%s"},
		{logical.DeleteOperation, "config/%s"},
		{logical.ReadOperation, "sessions/%s"},
		{logical.ReadOperation, "roles/%s"},
		{logical.ReadOperation, "config/%s"},
		{logical.ReadOperation, "creds/%s"},
		{logical.PatchOperation, "roles/%s"},
		{logical.PatchOperation, "config/%s"},
		{logical.UpdateOperation, "config/%s"},
		{logical.UpdateOperation, "config/%s/check"},
	} {
		t.Run(fmt.Sprint(invented), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				ask := func(from int) {
					for i := from; i < from+names; i++ {
						name := fmt.Sprintf("%s-%d", strings.Repeat("a", 120), i)
						_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
							Operation: invented.operation, Path: fmt.Sprintf(invented.path, name), Storage: m.storage, Data: map[string]any{},
						})
					}
				}
				ask(0) // what is made once
				before := heap()
				ask(names)
				if grown := heap() - before; grown > names*100 {
					t.Errorf("%d invented names took %d bytes of memory", names, grown)
				}
			})
		})
	}
}

// A policy's template then serves all whose Vault names are e-mail addresses.
func TestNamesMayBeEMailAddresses(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		const config, role = "reader@msp.example.com", "on-call.desk_2@example.co.uk"
		m.must(logical.UpdateOperation, "config/"+config, map[string]any{"url": m.server.URL, "user_api_token": m.token})
		m.must(logical.UpdateOperation, "roles/"+role, map[string]any{"config": config})
		m.must(logical.PatchOperation, "roles/"+role, map[string]any{"ttl": "20m"})
		m.lives(m.must(logical.ReadOperation, "creds/"+role, nil))
		m.must(logical.UpdateOperation, "config/"+config+"/check", nil)
		for path, name := range map[string]string{"config": config, "roles": role, "sessions": role} {
			if keys := m.must(logical.ListOperation, path+"/", nil)["keys"]; !slices.Contains(keys.([]string), name) {
				t.Errorf("the list of %s is %v", path, keys)
			}
			if m.must(logical.ReadOperation, path+"/"+name, nil) == nil {
				t.Errorf("%s/%s is not found", path, name)
			}
		}

		m.FailNext(simulator.EndpointLogout, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: 503})
		m.must(logical.DeleteOperation, "sessions/"+role, nil)
		if owed := m.must(logical.ReadOperation, "sessions/"+role, nil)["logouts_owed"]; owed != 1 {
			t.Errorf("%v logouts are owed for the role, want 1", owed)
		}
		m.ClearFailures()
		time.Sleep(time.Minute)
		m.tick()
		if owed := m.must(logical.ReadOperation, "sessions/"+role, nil)["logouts_owed"]; owed != 0 {
			t.Errorf("%v logouts are owed for the role after the tick, want 0", owed)
		}
		if text, code := m.failure(logical.DeleteOperation, "config/"+config, nil); code != 400 || !strings.Contains(text, role) {
			t.Errorf("%d %s", code, text)
		}
		m.must(logical.DeleteOperation, "roles/"+role, nil)
		m.must(logical.DeleteOperation, "config/"+config, nil)
	})
}

// The patterns of paths and the check of a name in a field must say the same: a role could else name what cannot be.
func TestANameIsTheSameInAPathAndInAField(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{"@a", "a@", "a@.", ".a@b", "a+b@c", "a b", "a/b", "a:b", "bücher", "a%40b", "", strings.Repeat("a", 129), "a..b@c", "eyJ.a@b.c"} {
			if text, code := m.failure(logical.UpdateOperation, "roles/monitoring", map[string]any{"config": name}); code != 400 || !strings.HasPrefix(text, "config: ") {
				t.Errorf("%q: %d %s", name, code, text)
			}
			m.failure(logical.UpdateOperation, "roles/"+name, map[string]any{})
		}
	})
}
