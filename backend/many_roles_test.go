// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// inBubbleOfManyRoles has so many roles in storage that no plugin has read.
func inBubbleOfManyRoles(t *testing.T, many int, value string, test func(m *mount)) {
	t.Helper()
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		for i := range many {
			if err := m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: fmt.Sprintf("role/r%06d", i), Value: []byte(value)}); err != nil {
				t.Fatal(err)
			}
		}
		m.start()
		test(m)
	})
}

const roleOfDefault = `{"config":"default","credential_type":"shared","ttl":0,"lease":true}`

// Whoever may write roles can write very many. A request that is about some of them, and a tick, work on these alone.
func TestManyRolesMakeNothingDearThatIsNotAboutThem(t *testing.T) {
	inBubbleOfManyRoles(t, 100_000, roleOfDefault, func(m *mount) {
		costs := func(what string, atMost int64, do func()) {
			t.Helper()
			before := m.storage.calls.Load()
			do()
			if calls := m.storage.calls.Load() - before; calls > atMost {
				t.Errorf("%s made %d storage calls", what, calls)
			}
		}
		for _, after := range []string{"", "r050000"} {
			costs("a page of the roles", 11, func() {
				page := m.must(opList, "roles/", map[string]any{"after": after, "limit": 10})
				if keys := page["keys"].([]string); len(keys) != 10 {
					t.Errorf("%d roles are listed", len(keys))
				}
			})
		}
		costs("a tick", 20, m.tick)
		costs("a list of the sessions", 10, func() { m.must(opList, "sessions/", nil) })
		costs("status", 10, func() { m.get("status") })
		costs("metrics", 10, func() { m.get("metrics") })
		costs("a new role", 10, func() { m.write("roles/new", nil) })
	})
}

// The deletion of a config must look at every role, once, and keeps none of them in memory; its answer is no longer for
// there being many.
func TestTheDeletionOfAConfigLooksAtManyRolesOnceAndKeepsNone(t *testing.T) {
	const many = 5000
	for name, test := range map[string]struct {
		role, config string
		isRefused    bool
	}{
		"none names it":      {roleOfDefault, "config/unused", false},
		"all name it":        {roleOfDefault, "config/default", true},
		"none can be read":   {"{", "config/unused", false},
		"nor can the one be": {"{", "config/default", true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleOfManyRoles(t, many, test.role, func(m *mount) {
				m.write("config/unused", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
				calls, before := m.storage.calls.Load(), heap()
				response, err := m.do(opDelete, test.config, nil)
				if err != nil || response.IsError() != test.isRefused {
					t.Fatal(err, response.IsError())
				}
				if made := m.storage.calls.Load() - calls; made > many+20 {
					t.Errorf("%d storage calls", made)
				}
				answer := fmt.Sprint(response.Data, response.Warnings)
				if response = nil; len(answer) > 10_000 {
					t.Errorf("the answer has %d characters", len(answer))
				}
				if grown := heap() - before; grown > many*20 {
					t.Errorf("it left %d bytes in memory", grown)
				}
			})
		})
	}
}

// Of all that cannot be read, a list names every one, and warns of some and how many more there are.
func TestAListOfManyDamagedRolesWarnsOfSome(t *testing.T) {
	const many = 1000
	inBubbleOfManyRoles(t, many, "{", func(m *mount) {
		response, err := m.do(opList, "roles/", nil)
		if err != nil || len(response.Data["keys"].([]string)) != many+1 || len(response.Warnings) != 51 || response.Warnings[50] != fmt.Sprint(many-50, " more such") {
			t.Error(err, len(response.Warnings))
		}
	})
}
