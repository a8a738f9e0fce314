// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How long things take where there are very many roles. How many calls they cost is in cost_test.go.

package backend

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

const opTick = logical.RollbackOperation

// BenchmarkLiveRoles measures a read, a tick and the first read after a restart, with one live role and
// with very many. With -cpu 1, the time of a tick is that of its CPU.
func BenchmarkLiveRoles(b *testing.B) {
	for _, many := range []struct{ configs, roles int }{{1, 1}, {100, 10_000}} {
		m := newBenchmarkMount(b)
		for i := range many.configs {
			m.writeConfig(b, fmt.Sprintf("config-%d", i))
		}
		var creds []string
		for i := range many.roles {
			name := fmt.Sprintf("role-%d", i)
			m.do(b, opWrite, "roles/"+name, map[string]any{
				"config": fmt.Sprintf("config-%d", i%many.configs), "lease": false,
			})
			m.do(b, opRead, "creds/"+name, nil)
			creds = append(creds, "creds/"+name)
		}
		size := fmt.Sprintf("configs=%d/roles=%d/", many.configs, many.roles)
		b.Run(size+"read", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				m.do(b, opRead, creds[i*7919%len(creds)], nil)
			}
		})
		b.Run(size+"tick", func(b *testing.B) {
			for b.Loop() {
				m.ask(b, opTick, "", nil)
			}
		})
		b.Run(size+"first-read-after-a-restart", func(b *testing.B) {
			for b.Loop() {
				m.start(b)
				m.do(b, opRead, creds[0], nil)
			}
		})
	}
}

// BenchmarkStoredRoles measures the requests that look at roles in storage which nobody reads. The
// storage is in this process: a call of Vault's takes longer.
func BenchmarkStoredRoles(b *testing.B) {
	requests := []struct {
		name      string
		operation logical.Operation
		path      string
		data      map[string]any
	}{
		{"list-of-a-page-of-100", opList, "roles/", map[string]any{"after": "role-005000", "limit": 100}},
		{"list-of-all", opList, "roles/", nil},
		{"status", opRead, "status", nil},
		{"metrics", opRead, "metrics", nil},
		{"tick", opTick, "", nil},
		{"refused-deletion-of-a-config", opDelete, "config/default", nil},
		{"deletion-of-an-unused-config", opDelete, "config/unused", nil},
	}
	for _, many := range []int{10_000, 100_000} {
		m := newBenchmarkMount(b)
		m.writeConfig(b, "default")
		for i := range many {
			m.do(b, opWrite, fmt.Sprintf("roles/role-%06d", i), nil)
		}
		m.start(b)
		for _, request := range requests {
			b.Run(fmt.Sprintf("roles=%d/%s", many, request.name), func(b *testing.B) {
				for b.Loop() {
					m.ask(b, request.operation, request.path, request.data)
				}
			})
		}
	}
}
