// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// Its readers start over, and find the config in service.
func TestAConfigThatComesBackBetweenTheLookAndTheAttemptIsNoTokenWithoutAnError(t *testing.T) {
	logger := hclog.NewNullLogger()
	entries := store.New(&logical.InmemStorage{}, logger)
	servers := upstream.NewRegistry(entries, events.NewSender(nil, logger), logger, "test", nil)
	m := NewManager(entries, servers, func() time.Duration { return time.Hour }, events.NewSender(nil, logger), logger)
	defer m.Close()
	now := time.Now()
	for _, name := range []string{"first", "second"} {
		config := &store.Config{Name: name, URL: "http://localhost:1", UserAPIToken: name, WrittenAt: now}
		if err := entries.Configs.Put(t.Context(), name, config); err != nil {
			t.Fatal(err)
		}
		if err := entries.OutOfService.Put(t.Context(), name,
			&store.OutOfService{ConfigWrittenAt: now, Since: now, Kind: "k", Reason: "r"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := entries.Roles.Put(t.Context(), "monitoring", &store.Role{
		Name: "monitoring", Config: "first",
		FallbackConfigs: []string{"second"}, CredentialType: store.Shared,
	}); err != nil {
		t.Fatal(err)
	}
	snap, err := m.snapshot(t.Context(), "monitoring")
	if err != nil {
		t.Fatal(err)
	}
	if err := entries.OutOfService.Delete(t.Context(), "first"); err != nil { // a check brings it back
		t.Fatal(err)
	}
	snap.state.mu.Lock()
	f := m.start(snap)
	snap.state.mu.Unlock()
	<-f.done
	if !errors.Is(f.result, ErrSuperseded) {
		t.Error("the flight's readers do not start over:", f.result)
	}
}
