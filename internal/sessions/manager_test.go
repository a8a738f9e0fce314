// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// What memory holds for a role leaves with the role, unless something of it is under way.
func TestWhatMemoryHoldsLeavesWithTheRole(t *testing.T) {
	logger := hclog.NewNullLogger()
	entries := store.New(&logical.InmemStorage{}, logger)
	servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", nil)
	m := NewManager(entries, servers, func() time.Duration { return time.Hour }, logger)
	defer m.Close()
	holds := func() bool {
		_, held := m.slots.Load("monitoring")
		return held
	}
	if _, err := m.EndRole(t.Context(), "monitoring"); err != nil || holds() {
		t.Errorf("%v; memory holds the role: %t", err, holds())
	}
	underWay := m.enter("monitoring")
	if _, err := m.EndRole(t.Context(), "monitoring"); err != nil || m.slot("monitoring") != underWay {
		t.Errorf("%v; a role of which something is under way has another state", err)
	}
	underWay.leave()
	if err := m.Tick(t.Context()); err != nil || holds() {
		t.Errorf("%v; memory holds the role: %t", err, holds())
	}
	if m.enter("monitoring") == underWay {
		t.Error("what was retired is used again")
	}
}
