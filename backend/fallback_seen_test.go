// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Sixty-four readers over twenty roles with two users, the first of which dies in one way after the
// other.

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// crowd are the readers, and what they have seen.
type crowd struct {
	*mount
	node   atomic.Pointer[engine]
	over   chan struct{}
	diedAt atomic.Int64 // when the first user died, in Unix nanoseconds; 0 while it works

	expired atomic.Bool // whether the first user's password is

	mu     sync.Mutex
	reads  int
	failed []error
	late   []time.Duration // after the user's death, of tokens of a dead user that were handed out too late
}

// readAs reads the role on the active node, and again on the next where that was stopped meanwhile.
func (c *crowd) readAs(role string) {
	var response *logical.Response
	var err error
	for range 3 {
		response, err = c.node.Load().HandleRequest(context.Background(), &logical.Request{
			Operation: opRead, Path: "creds/" + role, Storage: c.storage,
		})
		if err == nil {
			err = errorOf(response)
		}
		if err == nil {
			break
		}
		time.Sleep(time.Second) // as clients do whose node went away
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("%s: %w", role, err))
		return
	}
	issued, _ := c.IssuedWith(response.Data["access_token"].(string))
	died := c.diedAt.Load()
	isOfUse := c.AccessTokenLives(issued.Access) && !c.expired.Load()
	if issued.User == "api-user" && died != 0 && !isOfUse {
		if since := time.Since(time.Unix(0, died)); since > 70*time.Second {
			c.late = append(c.late, since)
		}
	}
}

// takeOver puts another node in the place of the active one.
func (c *crowd) takeOver() {
	c.t.Helper()
	next, err := newBackend(context.Background(), &logical.BackendConfig{
		Logger: c.logger(), System: c.system, StorageView: c.storage, EventsSender: c.core,
	}, c.dial)
	if err != nil {
		c.t.Fatal(err)
	}
	before := c.node.Swap(next)
	c.backend = next
	before.Cleanup(context.Background())
}

// The readers notice nothing of it: no read fails, no dead token is handed out later than a minute and
// ten seconds after the user died, and the dead user is tried eight times an hour at most.
func TestReadersOfTwoUsersNoticeNoDeath(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		c := &crowd{mount: m, over: make(chan struct{})}
		c.node.Store(m.backend)
		roles := c.writeRoles()
		var readers sync.WaitGroup
		for number := range 64 {
			role := roles[number%len(roles)]
			readers.Go(func() {
				// Not all at the same moment.
				time.Sleep(time.Duration(number) * 1300 * time.Millisecond)
				for every := readsEvery(role); ; time.Sleep(every) {
					select {
					case <-c.over:
						return
					default:
						c.readAs(role)
					}
				}
			})
		}
		c.pass(20 * time.Minute)
		c.dies(func() error { c.expired.Store(true); return c.SetPasswordExpired("api-user", true) })
		c.comesBack(func() error { c.expired.Store(false); return c.SetPasswordExpired("api-user", false) })
		c.takeOver()
		c.dies(func() error { return c.SetUserLocked("api-user", true) })
		c.takeOver()
		c.comesBack(func() error { return c.SetUserLocked("api-user", false) })
		var fresh string
		c.dies(func() (err error) {
			fresh, err = c.RegenerateUserAPIToken("api-user")
			return err
		})
		c.comesBack(func() error {
			c.token = fresh
			c.write("config/default", map[string]any{"user_api_token": fresh})
			return nil
		})
		close(c.over)
		readers.Wait()
		if len(c.failed) > 0 || len(c.late) > 0 {
			t.Errorf("of %d reads %d failed, and %d handed out a dead token: %v %v", c.reads, len(c.failed),
				len(c.late),
				errors.Join(c.failed[:min(3, len(c.failed))]...), c.late[:min(3, len(c.late))])
		}
		t.Logf("%d reads", c.reads)
	})
}

// writeRoles writes twenty roles of all kinds.
func (c *crowd) writeRoles() (names []string) {
	for number := range 20 {
		name, fields := fmt.Sprintf("shared-%d", number), map[string]any{"fallback_configs": "second", "lease": false}
		switch {
		case number < 4:
			name, fields = fmt.Sprintf("dedicated-%d", number), map[string]any{
				"fallback_configs": "second", "credential_type": "dedicated",
			}
		case number < 10:
			fields["lease"], fields["ttl"] = true, "20m"
		case number < 12:
			fields["reread_interval"] = "30s"
		}
		c.write("roles/"+name, fields)
		names = append(names, name)
	}
	return names
}

// readsEvery is how often a reader of the role reads.
func readsEvery(role string) time.Duration {
	if role[0] == 'd' {
		return 97 * time.Second
	}
	return 11 * time.Second
}

// pass lets time pass, with a tick a minute.
func (c *crowd) pass(d time.Duration) {
	for ; d > 0; d -= time.Minute {
		time.Sleep(time.Minute)
		c.tick()
	}
}

// dies has the first user die for an hour and a half, and holds how often it was tried.
func (c *crowd) dies(kill func() error) {
	c.t.Helper()
	if err := kill(); err != nil {
		c.t.Fatal(err)
	}
	died := time.Now()
	c.diedAt.Store(died.UnixNano())
	c.pass(90 * time.Minute)
	known := died.Add(70 * time.Second) // until then dedicated roles open sessions with it
	var tries []time.Time
	for _, request := range c.Requests() {
		if request.Endpoint == simulator.EndpointAuthenticate && request.Secret == c.token &&
			request.Time.After(known) {
			tries = append(tries, request.Time)
		}
	}
	worst := 0
	for i, from := range tries {
		within := slices.IndexFunc(tries[i:], func(at time.Time) bool { return at.Sub(from) >= time.Hour })
		if within < 0 {
			within = len(tries) - i
		}
		worst = max(worst, within)
	}
	c.t.Logf("%d tries in the worst hour", worst)
	if worst > 8 {
		c.t.Errorf("a dead user was tried %d times in an hour", worst)
	}
}

func (c *crowd) comesBack(revive func() error) {
	c.t.Helper()
	if err := revive(); err != nil {
		c.t.Fatal(err)
	}
	c.diedAt.Store(0)
	c.pass(75 * time.Minute)
	c.expectFrom("default", c.readRole("shared-19"))
}

// errorOf returns the error that a response is; nil where it is none.
func errorOf(response *logical.Response) error {
	if response == nil || !response.IsError() {
		return nil
	}
	return response.Error()
}
