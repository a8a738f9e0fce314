// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// credential is a User-API token at one URL. All configs with this token and URL share it.
type credential struct {
	mu       sync.Mutex // guards what follows
	coolDown pause      // after N-central refused the User-API token
	calls    authCalls
}

// authCalls counts the authenticate calls with one credential. Calls that overlap may end each
// other's sessions.
type authCalls struct{ underWay, begun int }

type credentialKey struct{ url, userAPIToken string }

func keyOf(config *store.Config) credentialKey { return credentialKey{config.URL, config.UserAPIToken} }

func newCredential() *credential { return &credential{coolDown: newCoolDown()} }

// beginAuthenticate notes that an authenticate begins. The returned function notes its end, and
// reports whether another one was under way at any time between.
func (c *credential) beginAuthenticate() (end func() (overlapped bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	others := c.calls.underWay
	c.calls.begun++
	c.calls.underWay++
	begun := c.calls.begun
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls.underWay--
		return others > 0 || c.calls.begun > begun
	}
}

// authCallsSoFar returns the counts now. Two of them show whether an authenticate was under way
// between.
func (c *credential) authCallsSoFar() authCalls {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// beginCoolDown begins the cool-down after an authenticate that was sent at that time. It reports
// whether this was the first refusal since the credential last worked.
func (c *credential) beginCoolDown(sent time.Time, failure *health.Failure) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.coolDown.cause == nil
	c.coolDown.begin(sent, time.Now(), failure)
	return first
}

// refusal returns why N-central refused the User-API token when it was last tried, or nil if it did
// not.
func (c *credential) refusal() *health.Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.coolDown.cause
}

// noteAccepted notes that N-central accepted the User-API token: the cool-down is over.
func (c *credential) noteAccepted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.coolDown.lift()
}

// endWait ends the wait of the cool-down, since somebody has written the config. Earlier
// refusals are not forgotten.
func (c *credential) endWait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.coolDown.release()
}

// pausedAt returns why the User-API token is not tried at that time, or nil if it is, and until
// when. See pause.active about tokenEnd.
func (c *credential) pausedAt(now, tokenEnd time.Time) (cause *health.Failure, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.coolDown.active(now, tokenEnd), c.coolDown.until
}
