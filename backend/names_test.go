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
		{opDelete, "sessions/%s"},
		{opDelete, "roles/%s"},
		{opDelete, "config/%s"},
		{opRead, "sessions/%s"},
		{opRead, "roles/%s"},
		{opRead, "config/%s"},
		{opRead, "creds/%s"},
		{opPatch, "roles/%s"},
		{opPatch, "config/%s"},
		{opWrite, "config/%s"},
		{opWrite, "config/%s/check"},
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

// The patterns of paths and the check of a name in a field must say the same: a role could else name what cannot be.
func TestANameIsTheSameInAPathAndInAField(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{"@a", "a@", "a@.", ".a@b", "a+b@c", "a b", "a/b", "a:b", "bücher", "a%40b", "", strings.Repeat("a", 129), "a..b@c", "eyJ.a@b.c"} {
			if text := m.fails(400, opWrite, "roles/monitoring", map[string]any{"config": name}); !strings.HasPrefix(text, "config: ") {
				t.Errorf("%q: %s", name, text)
			}
			m.fails(anyStatus, opWrite, "roles/"+name, map[string]any{})
		}
	})
}
