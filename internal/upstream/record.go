// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// State is how the credential of a config fares.
type State string

// The states of a config.
const (
	Unknown  State = "unknown"  // N-central was not asked since this process started
	OK       State = "ok"       // tokens can be had
	Degraded State = "degraded" // tokens are handed out, but something needs a person
	Failing  State = "failing"  // new tokens cannot be had
)

// Record is how one config's server fared since this process started. It outlasts the config's versions.
type Record struct {
	// learning is held while what was learnt is changed, so that no change is lost.
	learning *sync.Mutex

	mu          sync.Mutex
	asked       bool
	obtaining   *Failure  // why the last attempt to obtain a token failed; nil where it did not
	dataCall    *Failure  // why the last data call failed; nil where it did not
	servedStale time.Time // until when the token lives that was last handed out for want of a new one
}

func newRecord() *Record { return &Record{learning: &sync.Mutex{}} }

// apart answers a record of its own for a config that is not stored: what is learnt lies in one place for both.
func (r *Record) apart() *Record { return &Record{learning: r.learning} }

// State says how the config fares at that time.
func (r *Record) State(config *store.Config, now time.Time) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.obtaining != nil && !now.Before(r.servedStale):
		return Failing
	case r.obtaining != nil, now.Before(r.servedStale), r.dataCall != nil, len(ExpiryWarnings(config, now)) > 0:
		return Degraded
	case !r.asked:
		return Unknown
	}
	return OK
}

// ServedStale notes that a token was handed out for want of a new one, and until when it lives.
func (r *Record) ServedStale(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servedStale = until
}

func (r *Record) obtained(failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.obtaining = true, failure
	if failure == nil {
		r.servedStale = time.Time{}
	}
}

func (r *Record) probed(failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.dataCall = true, failure
}
