// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Every node of a cluster serves, and a takeover costs no reader a token.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// takeoverPatience bounds how long reads may fail after the active node was killed: Raft's election
// and the new active node's start take a few seconds, on a busy machine more.
const takeoverPatience = 30 * time.Second

// startCluster starts a Raft cluster of three nodes with the plugin registered, and mounts the
// engine through the active one.
func startCluster(t *testing.T, change func(*simulator.Knobs)) (*testbed.Cluster, *mount) {
	t.Helper()
	cluster, err := testbed.StartCluster(t.Context(), serverOptions(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, node := range slices.Backward(cluster.Nodes) {
			if err := endServer(node); err != nil {
				t.Error(err)
			}
		}
	})
	if err := cluster.Nodes[0].Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	m := newMountOn(t, cluster.Nodes[0], api.MountConfigInput{}, change)
	for _, node := range cluster.Nodes {
		m.through(node).awaitMount()
	}
	return cluster, m
}

// awaitMount waits until the node knows of the mount: a standby may do so a moment after the active
// node.
func (m *mount) awaitMount() {
	m.t.Helper()
	eventually(m.t, 10*time.Second, func() error {
		if secret, err := m.do(request{operation: opRead, path: "status"}); err != nil || secret == nil {
			return fmt.Errorf("%s does not serve the mount: %w", m.testbed.Address, err)
		}
		return nil
	})
}

// through returns the mount as it is reached through that node.
func (m *mount) through(node *testbed.Server) *mount {
	other := *m
	other.client, other.testbed = node.Client(), node
	return &other
}

func TestEveryNodeOfAClusterServes(t *testing.T) {
	t.Parallel()
	cluster, m := startCluster(t, nil)
	m.role("unleased", "0")
	m.write("roles/leased", map[string]any{})
	m.write("roles/dedicated", map[string]any{"credential_type": "dedicated"})
	m.ResetCounts()
	shared, leases := map[string]string{}, []string{}
	for _, node := range cluster.Nodes {
		via := m.through(node)
		for _, role := range []string{"unleased", "leased"} {
			answer := via.read(role)
			if shared[role] == "" {
				shared[role] = answer.token
			}
			if answer.token != shared[role] {
				t.Errorf("%s answers another token for %s", node.Address, role)
			}
		}
		answer := via.read("dedicated")
		leases = append(leases, answer.LeaseID)
		via.write("roles/written-through-"+fingerprint(node.Address), map[string]any{})
	}
	m.expectCalls(calls{simulator.EndpointAuthenticate: 2 + len(cluster.Nodes)})
	for i, lease := range leases {
		revokeThrough(t, cluster, m, cluster.Nodes[(i+1)%len(cluster.Nodes)], lease)
	}
	eventually(t, 10*time.Second, func() error {
		if open := m.OpenSessions(); open != 2 {
			return fmt.Errorf("%d sessions are open, want the two shared ones", open)
		}
		return nil
	})
	expectStandbyToAnswer(t, m, m.through(cluster.Nodes[1]))
	m.through(cluster.Nodes[2]).delete("sessions/unleased")
	other := m.through(cluster.Nodes[1])
	eventually(t, serverKind.standbyLag, func() error {
		answer, err := other.tryRead("unleased")
		if err == nil && answer.token == shared["unleased"] {
			err = errors.New("a token that was ended through one node is answered by another")
		}
		return err
	})
	other.read("unleased")
}

// revokeThrough revokes the lease through the node, and where a standby failed to do that, through
// the active one, which is the first. A standby that fails must leave the session alone.
func revokeThrough(t *testing.T, cluster *testbed.Cluster, m *mount, node *testbed.Server, lease string) {
	t.Helper()
	active, open := cluster.Nodes[0], m.OpenSessions()
	err := node.Client().Sys().RevokeWithContext(t.Context(), lease)
	if err != nil && node != active && serverKind.standbysMayFailToRevoke {
		if statusOf(err) != http.StatusInternalServerError || m.OpenSessions() != open {
			t.Errorf("a standby ended %d sessions: %v", open-m.OpenSessions(), err)
		}
		err = active.Client().Sys().RevokeWithContext(t.Context(), lease)
	}
	if err != nil {
		t.Error(err)
	}
}

// expectStandbyToAnswer tells by the active node's last_read_at whether it saw an unleased
// read through the standby, which answers it itself or hands it on, as this kind of server does.
func expectStandbyToAnswer(t *testing.T, active, standby *mount) {
	t.Helper()
	lastRead := func() any { return active.get("sessions/unleased")["last_read_at"] }
	before := lastRead()
	time.Sleep(1100 * time.Millisecond) // the time is told in seconds
	standby.read("unleased")
	if answeredItself := lastRead() == before; answeredItself != serverKind.answersOnStandbys {
		t.Errorf("the standby answered the read itself: %t", answeredItself)
	}
}

// TestTakeover kills the active node under load. The role "long" needs one authenticate for the
// whole test; "short" is rotated over and over, so that the takeover meets it at any point of its
// life.
func TestTakeover(t *testing.T) {
	t.Parallel()
	cluster, m := startCluster(t, nil)
	m.role("long", "0")
	m.role("short", "16s")
	m.read("long")
	m.read("short")

	var load loadOfReads
	ctx, stop := context.WithCancel(t.Context())
	for _, node := range cluster.Nodes[1:] {
		for _, role := range []string{"long", "short", "short"} {
			load.group.Go(func() { load.read(ctx, m.through(node), role) })
		}
	}
	time.Sleep(5 * time.Second)
	killed, err := cluster.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if killed != cluster.Nodes[0] {
		t.Fatal("the first node is not the active one: the load would be killed with it")
	}
	killedAt := time.Now()
	killed.Kill()
	eventually(t, takeoverPatience, func() error {
		_, err := cluster.Active(t.Context())
		return err
	})
	time.Sleep(30 * time.Second)
	stop()
	load.group.Wait()

	t.Logf("reads failed until %s after the kill", load.lastFailure.Sub(killedAt).Round(time.Millisecond))
	if load.dead > 0 {
		t.Errorf("%d dead tokens were answered", load.dead)
	}
	if gap := load.lastFailure.Sub(killedAt); gap > takeoverPatience {
		t.Errorf("a read failed %s after the kill: %v", gap, load.failure)
	}
	if !load.firstFailure.IsZero() && load.firstFailure.Before(killedAt) {
		t.Error("reads failed before the kill")
	}
	if load.lastSuccess.Before(killedAt.Add(takeoverPatience)) {
		t.Error("no read succeeded after the takeover")
	}
	if count := m.Count(simulator.EndpointAuthenticate, simulator.OutcomeOK); count != 2 {
		t.Errorf("%d authenticates for two roles over the whole cluster", count)
	}
	// A token of 16 s is due after 8, and rotated ahead of that from 6.4 s on. What the killed node
	// had obtained and not stored yet is obtained once more.
	var last time.Time
	for _, issued := range m.Issued() {
		if issued.Endpoint != simulator.EndpointRefresh {
			continue
		}
		lost := last.Before(killedAt) && issued.IssuedAt.After(killedAt)
		if apart := issued.IssuedAt.Sub(last); apart < 6*time.Second && !lost {
			t.Errorf("a token was rotated %s after the one before", apart)
		}
		last = issued.IssuedAt
	}
	if last.Before(killedAt) {
		t.Error("no token was rotated after the takeover")
	}
}

// loadOfReads notes how reads went.
type loadOfReads struct {
	group sync.WaitGroup

	mu                                     sync.Mutex
	dead                                   int
	firstFailure, lastFailure, lastSuccess time.Time
	failure                                error
}

// read reads the role over and over until the context ends.
func (l *loadOfReads) read(ctx context.Context, m *mount, role string) {
	for ctx.Err() == nil {
		answer, err := m.tryRead(role)
		now := time.Now()
		l.mu.Lock()
		switch {
		case err != nil:
			if l.firstFailure.IsZero() {
				l.firstFailure = now
			}
			l.lastFailure, l.failure = now, err
		case now.Before(answer.expiresAt) && !m.AccessTokenLives(answer.token):
			l.dead++
		default:
			l.lastSuccess = now
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}
