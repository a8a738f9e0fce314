// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Whoever may write roles can write very many. A request that is about some of them, and a tick, work on these alone.
func TestManyRolesMakeNothingDearThatIsNotAboutThem(t *testing.T) {
	const many = 100_000
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		for i := range many {
			role := &logical.StorageEntry{Key: fmt.Sprintf("role/r%06d", i), Value: []byte(`{"config":"default","credential_type":"shared","ttl":0,"lease":true}`)}
			if err := m.storage.Put(m.t.Context(), role); err != nil {
				t.Fatal(err)
			}
		}
		m.start()
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
				page := m.must(logical.ListOperation, "roles/", map[string]any{"after": after, "limit": 10})
				if keys := page["keys"].([]string); len(keys) != 10 {
					t.Errorf("%d roles are listed", len(keys))
				}
			})
		}
		costs("a tick", 20, m.tick)
		costs("a list of the sessions", 10, func() { m.must(logical.ListOperation, "sessions/", nil) })
		costs("status", 10, func() { m.must(logical.ReadOperation, "status", nil) })
		costs("metrics", 10, func() { m.must(logical.ReadOperation, "metrics", nil) })
		costs("a new role", 10, func() { m.must(logical.UpdateOperation, "roles/new", nil) })
	})
}
