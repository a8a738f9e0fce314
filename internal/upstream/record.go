// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"fmt"
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
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

	mu              sync.Mutex
	openings        openings // of all versions of the config: they end each other's sessions
	asked           bool
	obtaining       *Failure  // why the last attempt to obtain a token failed; nil where it did not
	dataCall        *Failure  // why the last data call failed; nil where it did not
	servedStale     time.Time // until when the token lives that was last handed out for want of a new one
	lastSuccess     time.Time
	lastFailure     time.Time
	lastFailureKind ncentral.Kind
}

func newRecord() *Record { return &Record{learning: &sync.Mutex{}} }

// apart answers a record of its own for a config that is not stored: what is learnt lies in one place for both.
func (r *Record) apart() *Record { return &Record{learning: r.learning} }

// Condition is how a config fares, and what of it needs a person. Times are zero where there was none such.
type Condition struct {
	State           State
	Reasons         []string
	LastSuccess     time.Time
	LastFailure     time.Time
	LastFailureKind ncentral.Kind
}

// Condition says how the config fares at that time, with so many logouts owed at its server.
func (r *Record) Condition(config *store.Config, owed int, now time.Time) Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	condition := Condition{LastSuccess: r.lastSuccess, LastFailure: r.lastFailure, LastFailureKind: r.lastFailureKind}
	for _, failure := range []*Failure{r.obtaining, r.dataCall} {
		if failure != nil {
			condition.Reasons = append(condition.Reasons, failure.Explanation())
		}
	}
	if now.Before(r.servedStale) {
		condition.Reasons = append(condition.Reasons, fmt.Sprintf("for want of a new token, one is handed out that lives until %s",
			r.servedStale.UTC().Format(time.RFC3339)))
	}
	condition.Reasons = append(condition.Reasons, ExpiryWarnings(config, now)...)
	if owed > 0 {
		condition.Reasons = append(condition.Reasons, fmt.Sprintf("logouts owed: %d, tried once a minute", owed))
	}
	switch {
	case r.obtaining != nil && !now.Before(r.servedStale):
		condition.State = Failing
	case len(condition.Reasons) > 0:
		condition.State = Degraded
	case !r.asked:
		condition.State = Unknown
	default:
		condition.State = OK
	}
	return condition
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

// startOver forgets how another server or credential fared.
func (r *Record) startOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.obtaining, r.dataCall, r.servedStale = false, nil, nil, time.Time{}
}

func (r *Record) probed(failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.dataCall = true, failure
}

// answered notes how a call went that N-central answered, or did not.
func (r *Record) answered(failure *Failure, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if failure == nil {
		r.lastSuccess = now
		return
	}
	r.lastFailure, r.lastFailureKind = now, failure.Kind
}
