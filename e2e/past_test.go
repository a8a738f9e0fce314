// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Storage of the past hands out no dead token.

package e2e

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// TestStorageOfThePastHandsOutNoDeadToken puts Vault's storage behind what has happened at
// N-central, as a restored snapshot does, and a reboot of N-central while Vault is sealed.
func TestStorageOfThePastHandsOutNoDeadToken(t *testing.T) {
	t.Parallel()
	server := startRaft(t)
	m := newMountOn(t, server, api.MountConfigInput{}, nil)
	roles := []string{"one", "two", "three"}
	for _, role := range roles {
		m.role(role, "0")
		m.read(role)
	}
	expectLiving := func(after string) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			_, err := m.tryRead(roles[0])
			return err
		})
		for range 2 {
			for _, role := range roles {
				if answer := m.read(role); !m.AccessTokenLives(answer.token) {
					t.Errorf("after %s, %s is answered a dead token", after, role)
				}
			}
		}
	}

	var snapshot bytes.Buffer
	if err := m.client.Sys().RaftSnapshotWithContext(t.Context(), &snapshot); err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		m.delete("sessions/" + role)
	}
	if err := m.client.Sys().RaftSnapshotRestoreWithContext(t.Context(), &snapshot, true); err != nil {
		t.Fatal(err)
	}
	expectLiving("a snapshot was restored")

	if err := server.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Reboot()
	if err := server.Unseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectLiving("N-central was rebooted while Vault was sealed")
}
