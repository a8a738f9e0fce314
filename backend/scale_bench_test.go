// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How long things take where there are very many roles. How many calls they cost is in cost_test.go.

package backend

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
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

// BenchmarkColdReaders measures how long a thousand readers of a role without a token wait, beyond the
// one authenticate for which they all wait.
func BenchmarkColdReaders(b *testing.B) {
	const readers, latency = 1000, 200 * time.Millisecond
	m := newBenchmarkMount(b)
	m.writeConfig(b, "default")
	m.do(b, opWrite, "roles/cold", map[string]any{"lease": false})
	m.ncentral.Change(func(k *simulator.Knobs) { k.Latency = latency })
	var beyond time.Duration
	for b.Loop() {
		m.do(b, opDelete, "sessions/cold", nil)
		began := time.Now()
		var reads sync.WaitGroup
		for range readers {
			reads.Go(func() { m.do(b, opRead, "creds/cold", nil) })
		}
		reads.Wait()
		beyond += time.Since(began) - latency
	}
	b.ReportMetric(float64(beyond.Milliseconds())/float64(b.N), "ms-beyond-the-call")
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
