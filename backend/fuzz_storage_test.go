// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// No stored entry, whatever it holds, stops what has nothing to do with it.

package backend

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// FuzzStorage changes one field of one stored entry to any value that JSON has, as damage and other
// versions of the engine may. Whatever comes of that entry: what has nothing to do with it goes on,
// and it can be written anew and deleted.
func FuzzStorage(f *testing.F) {
	for seed := range uint8(5) {
		for field := range uint8(16) {
			for _, number := range []float64{-1, 1e18} {
				f.Add(seed, field, uint8(1), "", number)
			}
		}
		f.Add(seed, seed, uint8(0), "9999-12-31T23:59:59Z", 0.0)
	}
	f.Fuzz(func(t *testing.T, entry, field, kind uint8, text string, number float64) {
		inBubble(t, nil, func(m *mount) {
			m.write("config/other", map[string]any{
				"url": m.server.URL, "user_api_token": m.AddUser("other"), "verify": false,
			})
			m.write("roles/other", map[string]any{"config": "other", "lease": false})
			m.expectLives(m.readRole("other"))
			m.read(nil)
			m.read(map[string]any{"min_ttl": "30m"})
			m.FailNext(simulator.EndpointLogout, 1, status(403))
			m.write("roles/deleted", nil)
			m.readRole("deleted")
			m.delete("roles/deleted")
			m.changeStored(
				[]string{"config/default", "role/monitoring", "session/monitoring", "learnt/default", "owed/"}[entry%5],
				field, jsonValue(kind, text, number),
			)
			m.start()
			for _, path := range []string{
				"config/default", "roles/monitoring", "sessions/monitoring", "creds/monitoring",
			} {
				_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
					Operation: opRead, Path: path, Storage: m.storage,
				})
			}
			for _, path := range []string{"config/", "roles/", "sessions/"} {
				m.must(opList, path, nil)
			}
			m.get("status")
			m.get("metrics")
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: logical.RollbackOperation, Storage: m.storage,
			})
			m.expectLives(m.readRole("other"))
			m.write("config/default", map[string]any{
				"url": m.server.URL, "user_api_token": m.token, "max_retries": 3, "max_requests_in_flight": 8,
				"request_timeout": 10,
			})
			m.write("roles/monitoring", map[string]any{
				"config": "default", "credential_type": "shared", "ttl": 0, "lease": false, "min_ttl": 60,
			})
			m.delete("sessions/monitoring")
			m.expectLives(m.read(nil))
			m.delete("roles/monitoring")
			m.delete("config/default")
		})
	})
}

// jsonValue returns a value of each of the kinds that JSON has.
func jsonValue(kind uint8, text string, number float64) any {
	switch kind % 6 {
	case 0:
		return text
	case 1:
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return nil // for which JSON has no number
		}
		return number
	case 2:
		return nil
	case 3:
		return number > 0
	case 4:
		return []any{text, nil}
	}
	return map[string]any{text: text}
}

// changeStored changes a field of the stored entry whose key begins so, or of the objects in it.
func (m *mount) changeStored(prefix string, field uint8, value any) {
	m.t.Helper()
	keys, err := logical.CollectKeys(context.Background(), m.storage)
	if err != nil {
		m.t.Fatal(err)
	}
	at := slices.IndexFunc(keys, func(key string) bool { return strings.HasPrefix(key, prefix) })
	if at < 0 {
		m.t.Fatal("nothing is stored under ", prefix)
	}
	entry, err := m.storage.Get(context.Background(), keys[at])
	if err != nil {
		m.t.Fatal(err)
	}
	var stored map[string]any
	if err := json.Unmarshal(entry.Value, &stored); err != nil {
		m.t.Fatal(err)
	}
	objects := []map[string]any{stored}
	if current, isObject := stored["current"].(map[string]any); isObject {
		objects = append(objects, current)
	}
	object := objects[int(field)%len(objects)]
	names := slices.Sorted(maps.Keys(object))
	object[names[int(field)/len(objects)%len(names)]] = value
	if entry.Value, err = json.Marshal(stored); err != nil {
		m.t.Fatal(err)
	}
	if err := m.storage.Put(context.Background(), entry); err != nil {
		m.t.Fatal(err)
	}
}
