// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Sixty-four readers of twenty roles with two users, on a cluster that loses a node, while the first
// user dies and comes back in one way after the other.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	crowdOfReaders = 64
	crowdOfRoles   = 20
	// mostTries are how often a dead user may be tried in an hour.
	mostTries = 8
	// toldWithin is how soon all nodes know that a user is dead.
	toldWithin = time.Second
)

// crowd are the readers, and what they met.
type crowd struct {
	*mount  // through a node that lives to the end
	cluster *testbed.Cluster
	roles   []string

	mu       sync.Mutex
	died     time.Time // when the first user last died
	expired  bool      // whether its password is
	found    time.Time // since when that is known to the engine; zero until then
	killedAt time.Time // when a node was killed
	reads    int
	retried  int // reads that met the killed node
	failed   []error
	dead     int           // dead tokens that were handed out before the user was found dead
	latest   time.Duration // after its user's death, of those
	late     []string      // dead tokens that were handed out later
}

// Readers notice nothing of a user that dies, save that their tokens come from another config.
func TestReadersOfTwoUsersNoticeNoDeath(t *testing.T) {
	t.Parallel()
	cluster, m := startCluster(t, func(k *simulator.Knobs) { k.RegenerateEndsSessions = true })
	m.writeSecond()
	c := &crowd{mount: m.through(cluster.Nodes[1]), cluster: cluster}
	c.writeRoles()
	c.startReaders()
	eventually(t, 30*time.Second, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.reads < 4*crowdOfReaders {
			return fmt.Errorf("%d reads", c.reads)
		}
		return nil
	})
	c.eventuallyServedBy("default")

	// The order is that in which the engine's tick, once a minute, is waited for the shortest.
	var fresh string
	c.dies(func() (err error) {
		fresh, err = c.RegenerateUserAPIToken(userName)
		return err
	})
	c.eventuallyGoesOn(true)
	c.comesBack(func() error {
		c.userAPIToken = fresh
		c.write("config/default", c.config())
		return nil
	})

	c.dies(func() error { return c.SetUserLocked(userName, true) })
	c.eventuallyGoesOn(true)
	c.comesBack(func() error { return c.SetUserLocked(userName, false) })

	c.dies(c.expires)
	c.eventuallyGoesOn(false)
	c.comesBack(c.expiresNoMore)

	c.dies(c.expires)
	c.killActive()
	c.eventuallyGoesOn(false)
	c.comesBack(c.expiresNoMore)

	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d reads, and %d that met the killed node; %d dead tokens, the latest %s after its user died", c.reads,
		c.retried, c.dead, c.latest.Round(time.Millisecond))
	if len(c.failed) > 0 {
		t.Errorf("%d reads failed, the first with: %v", len(c.failed), c.failed[0])
	}
	if len(c.late) > 0 {
		t.Errorf("%d dead tokens were handed out too late, the first %s", len(c.late), c.late[0])
	}
	if c.reads < 20*crowdOfReaders || c.retried == 0 {
		t.Error("there were too few reads to see anything")
	}
}

// writeRoles writes roles of all kinds, whose tokens are rotated every few seconds.
func (c *crowd) writeRoles() {
	c.t.Helper()
	for number := range crowdOfRoles {
		kind, body := "unleased", map[string]any{"fallback_configs": "second", "ttl": "10s"}
		switch {
		case number < 4:
			kind, body["credential_type"] = "dedicated", "dedicated"
		case number < 12:
			kind = "leased"
		default:
			body["lease"] = false
		}
		if number%4 == 3 {
			body["ttl"] = "16s"
		}
		if number%5 == 4 && kind != "dedicated" {
			body["reread_interval"] = "10s"
		}
		name := fmt.Sprintf("%s-%d", kind, number)
		c.write("roles/"+name, body)
		c.roles = append(c.roles, name)
	}
}

// startReaders has readers read until the test ends, each first through another node.
func (c *crowd) startReaders() {
	ctx, stop := context.WithCancel(c.t.Context())
	var readers sync.WaitGroup
	c.t.Cleanup(func() {
		stop()
		readers.Wait()
	})
	for number := range crowdOfReaders {
		role, node := c.roles[number%len(c.roles)], number
		kind, _, _ := strings.Cut(role, "-")
		every := map[string]time.Duration{
			"unleased": 250 * time.Millisecond, "leased": time.Second, "dedicated": 2 * time.Second,
		}[kind]
		readers.Go(func() {
			wait := rand.N(every)
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
					node = c.readThrough(ctx, node, role)
					wait = every
				}
			}
		})
	}
}

// readThrough reads the role through that node, and again through the next while the node that was
// killed is in the way. It returns the node that answered.
func (c *crowd) readThrough(ctx context.Context, node int, role string) int {
	for {
		sent := time.Now()
		answer, err := c.through(c.cluster.Nodes[node%len(c.cluster.Nodes)]).tryRead(role)
		if err == nil || !c.isOfTheKill(err) {
			c.note(role, sent, answer, err)
			return node
		}
		node++
		select {
		case <-ctx.Done():
			return node
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// isOfTheKill reports whether the error may be that of a node that was killed, or of one that has no
// active node to hand the read to. Clients make such a request again.
func (c *crowd) isOfTheKill(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := statusOf(err)
	isOf := !c.killedAt.IsZero() && time.Since(c.killedAt) < takeoverPatience &&
		(status == 0 || status >= http.StatusInternalServerError)
	if isOf {
		c.retried++
	}
	return isOf
}

// note notes what came of a read.
func (c *crowd) note(role string, sent time.Time, answer credentials, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("%s: %w", role, err))
		return
	}
	issued, _ := c.IssuedWith(answer.token)
	died := issued.EndedAt
	switch {
	case time.Now().After(answer.expiresAt):
		return
	case !died.IsZero():
	case issued.User == userName && c.expired:
		died = c.died
	default:
		return
	}
	after := sent.Sub(died)
	if after > foundWithin || !c.found.IsZero() && sent.After(c.found.Add(toldWithin)) {
		c.late = append(c.late, fmt.Sprintf("of %s, %s after its user died, ended by %q", role, after, issued.EndedBy))
		return
	}
	c.dead++
	c.latest = max(c.latest, after)
}

// expires has the first user's password expire.
func (c *crowd) expires() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = true
	return c.SetPasswordExpired(userName, true)
}

func (c *crowd) expiresNoMore() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = false
	return c.SetPasswordExpired(userName, false)
}

// dies ends the first user.
func (c *crowd) dies(kill func() error) {
	c.t.Helper()
	c.mu.Lock()
	c.died, c.found = time.Now(), time.Time{}
	c.mu.Unlock()
	if err := kill(); err != nil {
		c.t.Fatal(err)
	}
}

// comesBack revives the first user. A check, like a write of the config, has its config back at
// once, and each role takes it at its next rotation.
func (c *crowd) comesBack(revive func() error) {
	c.t.Helper()
	if err := revive(); err != nil {
		c.t.Fatal(err)
	}
	if check := c.must(request{operation: opWrite, path: "config/default/check"}); check.Data["ok"] != true {
		c.t.Fatalf("the check failed: %v", check.Data["message"])
	}
	c.eventuallyServedBy("default")
}

// eventuallyServedBy waits until every role's tokens come from the config.
func (c *crowd) eventuallyServedBy(config string) {
	c.t.Helper()
	began := time.Now()
	eventually(c.t, foundWithin, func() error {
		list, err := c.do(request{operation: opList, path: "roles"})
		if err != nil {
			return err
		}
		for _, role := range c.roles {
			if serving := keyInfo(c.t, list, role)["serving_config"]; serving != config {
				return fmt.Errorf("%s has a token of config %v", role, serving)
			}
		}
		return nil
	})
	c.t.Logf("all tokens come from config %s after %s", config, time.Since(began).Round(100*time.Millisecond))
}

// eventuallyGoesOn waits until the dead user is found, and all tokens come from the other. Then it
// has some time pass in which nobody may try the dead user: the tick alone does, six times an hour.
// Where N-central refuses the user, the tries that found it count as well.
func (c *crowd) eventuallyGoesOn(isRefused bool) {
	c.t.Helper()
	eventually(c.t, foundWithin, func() error {
		status, err := c.do(request{operation: opRead, path: "status"})
		if err != nil {
			return err
		}
		configs, _ := status.Data["configs"].(map[string]any)
		if first, _ := configs["default"].(map[string]any); first["out_of_service_since"] == nil {
			return errors.New("the dead user is not found")
		}
		return nil
	})
	c.mu.Lock()
	c.found = time.Now()
	died, found := c.died, c.found
	c.mu.Unlock()
	c.eventuallyServedBy("second")
	time.Sleep(3 * time.Second)
	tries, since := c.authenticates(c.userAPIToken, died), c.authenticates(c.userAPIToken, found.Add(toldWithin))
	c.t.Logf("the dead user was found after %s, and tried %d times, %d of them later",
		found.Sub(died).Round(100*time.Millisecond), tries, since)
	if since > 0 || isRefused && tries > mostTries {
		c.t.Errorf("the dead user was tried %d times, %d of them when it was known to be dead", tries, since)
	}
}

// killActive kills the active node, and waits until another has taken over.
func (c *crowd) killActive() {
	c.t.Helper()
	killed, err := c.cluster.Active(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if killed != c.cluster.Nodes[0] {
		c.t.Fatal("the first node is not the active one")
	}
	c.mu.Lock()
	c.killedAt = time.Now()
	c.mu.Unlock()
	killed.Kill()
	eventually(c.t, takeoverPatience, func() error {
		_, err := c.cluster.Active(c.t.Context())
		return err
	})
	c.t.Logf("another node took over after %s", time.Since(c.killedAt).Round(100*time.Millisecond))
}
