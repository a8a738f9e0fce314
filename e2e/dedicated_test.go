// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A dedicated session ends with its lease.

package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// openMany reads the dedicated role that many times at once.
func (m *mount) openMany(role string, count int) []credentials {
	m.t.Helper()
	answers := make([]credentials, count)
	failures := make([]error, count)
	var group sync.WaitGroup
	for i := range count {
		group.Go(func() { answers[i], failures[i] = m.tryRead(role) })
	}
	group.Wait()
	for _, err := range failures {
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return answers
}

// givePatience lets reads wait for their turn for a minute: many at once take long on a machine
// that does other work too.
func (m *mount) givePatience() {
	m.t.Helper()
	m.write("config/default", map[string]any{"request_timeout": "20s", "verify": false})
}

func (m *mount) eventuallyOpen(want int) {
	m.t.Helper()
	eventually(m.t, 60*time.Second, func() error {
		if open := m.OpenSessions(); open != want {
			return fmt.Errorf("%d sessions are open, want %d", open, want)
		}
		return nil
	})
}

// logoutsOwed are what status counts for the config "default".
func (m *mount) logoutsOwed() int64 {
	m.t.Helper()
	configs, _ := m.get("status")["configs"].(map[string]any)
	described, _ := configs["default"].(map[string]any)
	return number(m.t, described, "logouts_owed")
}

func TestDedicatedTokensEndWithTheirLeases(t *testing.T) {
	t.Parallel()
	m := newMount(t, func(k *simulator.Knobs) { k.MaxInFlight = 9 })
	m.givePatience()
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	const reads = 500
	answers := m.openMany("worker", reads)
	if most := m.MaxInFlight(simulator.EndpointAuthenticate); most > 8 {
		t.Errorf("%d requests were in flight, with max_requests_in_flight of 8", most)
	}
	// The hourly data call.
	m.expectCalls(calls{simulator.EndpointAuthenticate: reads, simulator.EndpointServiceOrgs: 1})
	seen := map[string]bool{}
	for _, answer := range answers {
		if seen[answer.token] || answer.Renewable || answer.LeaseDuration > 3600 || answer.LeaseDuration < 3500 {
			t.Fatalf(
				"a token was answered twice, or under a lease of %d s, renewable %t", answer.LeaseDuration,
				answer.Renewable,
			)
		}
		seen[answer.token] = true
	}
	if err := m.client.Sys().RevokeWithContext(t.Context(), answers[0].LeaseID); err != nil {
		t.Fatal(err)
	}
	m.eventuallyOpen(reads - 1)
	if m.AccessTokenLives(answers[0].token) {
		t.Error("another session was ended than that of the lease")
	}
	if err := m.client.Sys().RevokePrefixWithContext(t.Context(), m.path+"/creds/worker"); err != nil {
		t.Fatal(err)
	}
	m.eventuallyOpen(0)
}

func TestDisablingTheMountEndsDedicatedSessions(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, sharedServer, api.MountConfigInput{}, nil)
	m.givePatience()
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	m.openMany("worker", 500)
	m.unmount()
	m.eventuallyOpen(0)
}

func TestTheEndOfTheReadersTokenEndsItsDedicatedSessions(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	reader := m.clientFor(`path "MOUNT/creds/worker" { capabilities = ["read"] }`)
	m.must(request{client: reader, operation: opRead, path: "creds/worker"})
	if err := reader.Auth().Token().RevokeSelfWithContext(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	m.eventuallyOpen(0)
}

func TestRevokeSucceedsWhileNCentralIsDown(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	answers := m.openMany("worker", 20)
	m.server.Stop()
	if err := m.client.Sys().RevokePrefixWithContext(t.Context(), m.path+"/creds/worker"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		if owed := m.logoutsOwed(); owed != int64(len(answers)) {
			return fmt.Errorf("%d logouts are owed, want %d", owed, len(answers))
		}
		return nil
	})
	if err := m.server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 100*time.Second, func() error { // the tick comes once a minute
		if owed, open := m.logoutsOwed(), m.OpenSessions(); owed != 0 || open != 0 {
			return fmt.Errorf("%d logouts are owed and %d sessions open", owed, open)
		}
		return nil
	})
}

func TestLeasesOutliveARestart(t *testing.T) {
	t.Parallel()
	server := startRaft(t)
	m := newMountOn(t, server, api.MountConfigInput{}, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	answer := m.read("worker")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.client.Sys().RevokeWithContext(t.Context(), answer.LeaseID); err != nil {
		t.Fatal(err)
	}
	m.eventuallyOpen(0)
}
