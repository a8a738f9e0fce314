// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A stored token outlives processes.

package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// TestStoredTokenOutlivesProcesses reads one token on, whatever is restarted, without a call to
// N-central.
func TestStoredTokenOutlivesProcesses(t *testing.T) {
	t.Parallel()
	server := startRaft(t)
	m := newMountOn(t, server, api.MountConfigInput{}, nil)
	m.role("monitoring", "0")
	m.write("roles/leased", map[string]any{})
	first, leased := m.read("monitoring"), m.read("leased")
	m.ResetCounts()

	for _, step := range restarts(t, server) {
		answer := m.readAfter(step, "monitoring")
		if answer.token != first.token || !m.AccessTokenLives(answer.token) {
			t.Errorf("after %s another token was answered", step.name)
		}
		if answer := m.read("leased"); answer.token != leased.token {
			t.Errorf("after %s another token was answered under a lease", step.name)
		}
		if at := m.get("sessions/monitoring")["expires_at"]; at != first.Data["expires_at"] {
			t.Errorf("after %s the session expires at %v, not %v", step.name, at, first.Data["expires_at"])
		}
		m.expectCalls(nil)
	}
	if err := m.client.Sys().RevokeWithContext(t.Context(), leased.LeaseID); err != nil {
		t.Errorf("a lease from before cannot be revoked: %v", err)
	}
}

// restart is something that ends the processes in which the engine runs.
type restart struct {
	name string
	do   func() error
}

// restarts are all of them, for a server with Raft storage.
func restarts(t *testing.T, server *testbed.Server) []restart {
	return []restart{
		{"the plugin was killed", func() error { return killPlugins(server.PluginPIDs()) }},
		{"Vault was sealed and unsealed", func() error {
			if err := server.Seal(t.Context()); err != nil {
				return err
			}
			return server.Unseal(t.Context())
		}},
		{"the server was restarted", func() error { return server.Restart(t.Context()) }},
	}
}

// readAfter takes the step, and reads the role as soon as that is possible again.
func (m *mount) readAfter(step restart, role string) (answer credentials) {
	m.t.Helper()
	if err := step.do(); err != nil {
		m.t.Fatalf("before %s: %v", step.name, err)
	}
	eventually(m.t, 20*time.Second, func() (err error) {
		answer, err = m.tryRead(role)
		return err
	})
	return answer
}

func killPlugins(pids []int, err error) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return err
}
