// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// heap answers how many bytes are in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

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
