// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Record is how one config's server fared since this process started. It outlasts the config's versions.
type Record struct {
	counters *counters

	mu                sync.Mutex
	generation        int      // counts the servers and credentials before this one: what calls to those come to is not noted
	announced         severity // what events last told of; it outlasts a life
	announcedIn       int      // the life in which they did
	asked             bool
	obtaining         *Failure                // why the last attempt to obtain a token failed; nil where it did not
	dataCall          atomic.Pointer[Failure] // why the last data call failed, or what is wrong with the user; nil where neither is
	user              *ncentral.User          // as N-central last told of them; nil where it did not
	validation        *Failure                // why the last validation told nothing of its token; nil where it did
	servedStale       time.Time               // until when the token lives that was last handed out for want of a new one
	lastSuccess       time.Time
	lastFailure       time.Time
	lastFailureKind   ncentral.Kind
	announcedExpiries map[string]announcement // by what expires
}

func newRecord(config string) *Record {
	return newRecordWith(newCounters(config))
}

// beside returns a record for a config that is not stored beside the one that is: both are counted in one place.
func (r *Record) beside() *Record { return newRecordWith(r.counters) }

func newRecordWith(counters *counters) *Record {
	return &Record{counters: counters, announcedExpiries: map[string]announcement{}}
}

// status says how the config fares at that time, with what is known of its server and so many logouts owed there.
func (r *Record) status(config *store.Config, known outlook, traits store.ServerTraits, owed int, now time.Time) Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := Status{
		LastSuccess: r.lastSuccess, LastFailure: r.lastFailure, LastFailureKind: r.lastFailureKind, LogoutsOwed: owed,
		User: r.user, Traits: traits,
	}
	obtaining, lastOutage := cmp.Or(r.obtaining, known.refusal), known.lastOutage
	if obtaining != nil {
		lastOutage = nil // it says no more
	}
	for _, failure := range []*Failure{obtaining, lastOutage, r.validation, r.dataCall.Load()} {
		if failure != nil {
			status.Reasons = append(status.Reasons, failure.Explanation())
		}
	}
	if now.Before(r.servedStale) {
		status.Reasons = append(status.Reasons, fmt.Sprintf("for want of a new token, one is handed out that lives until %s",
			r.servedStale.UTC().Format(time.RFC3339)))
	}
	status.Reasons = append(status.Reasons, ExpiryWarnings(config, now)...)
	if warning := ClockWarning(traits); warning != "" {
		status.Reasons = append(status.Reasons, warning)
	}
	if owed > 0 {
		status.Reasons = append(status.Reasons, fmt.Sprintf("logouts owed: %d, tried once a minute", owed))
	}
	switch {
	case obtaining != nil && !now.Before(r.servedStale):
		status.State = StateFailing
	case len(status.Reasons) > 0:
		status.State = StateDegraded
	case !r.asked:
		status.State = StateUnknown
	default:
		status.State = StateOK
	}
	return status
}

// CountRead counts a token that was handed out.
func (r *Record) CountRead(from Source) { r.counters.reads[from].Inc() }

// CountFailedRead counts a read that got no token. The reason is one of a fixed few, such as the Kind of a Failure.
func (r *Record) CountFailedRead(reason string) { r.counters.failedReads.WithLabelValues(reason).Inc() }

// CountRefreshFallback counts a rotation that authenticates because a refresh brought no token.
func (r *Record) CountRefreshFallback() { r.counters.refreshFallbacks.Inc() }

// CountDeadToken counts a token that N-central ended before its time for no reason that the engine knows.
func (r *Record) CountDeadToken() { r.counters.deadTokens.Inc() }

// ServedStale notes that a token was handed out for want of a new one, and until when it lives.
func (r *Record) ServedStale(until time.Time) {
	r.counters.staleReads.Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servedStale = until
}

func (r *Record) servesStaleNoMore(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.servedStale.Equal(until) { // else it is another role's token that is served
		r.servedStale = time.Time{}
	}
}

// ailment is what ails a credential, the graver the greater.
type severity int

const (
	healthy severity = iota
	dataFails
	noTokens
)

// ailment says what is known to ail the credential. The record is locked.
func (r *Record) severity() severity {
	switch {
	case r.obtaining != nil:
		return noTokens
	case r.dataCall.Load() != nil:
		return dataFails
	}
	return healthy
}

// recordObtaining notes how an attempt to obtain a token went, and answers what events told that ails the credential, and what
// ails it now.
func (r *Record) recordObtaining(generation int, failure *Failure) (before, after severity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return healthy, healthy
	}
	r.asked, r.obtaining = true, failure
	if failure == nil {
		r.servedStale = time.Time{}
	}
	return r.transition()
}

// turn answers what events told of and what they are to tell of now. The record is locked.
func (r *Record) transition() (before, after severity) {
	before, after = r.announced, r.severity()
	if r.announcedIn != r.generation && after != healthy {
		before = healthy // what ails another credential is news
	}
	r.announced, r.announcedIn = after, r.generation
	return before, after
}

// startOver forgets how another server or credential fared, and answers the new life.
func (r *Record) startOver() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
	r.asked, r.obtaining, r.user, r.validation, r.servedStale = false, nil, nil, nil, time.Time{}
	r.dataCall.Store(nil)
	return r.generation
}

func (r *Record) currentGeneration() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// recordValidation notes why a validation told nothing of its token, or nil where it did.
func (r *Record) recordValidation(generation int, failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.validation = failure
	}
}

// recordUser notes what N-central tells of the API user, nil where it does not.
func (r *Record) recordUser(generation int, user *ncentral.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.user = user
	}
}

// lastUser is what N-central last told of the API user: where it could not be asked since, that stands.
func (r *Record) lastUser(generation int) *ncentral.User {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return nil
	}
	return r.user
}

// UserWarning is what whoever gets a token should know of its user: why the last data call failed, or what N-central tells
// of the user. It is empty where nothing is known to be wrong.
func (r *Record) UserWarning(config string) string {
	failure := r.dataCall.Load()
	if failure == nil {
		return ""
	}
	return fmt.Sprintf("config %q: N-central may refuse what is done with this token: %s", config, failure.Explanation())
}

// recordProbe notes how a data call went; see recordObtaining.
func (r *Record) recordProbe(generation int, failure *Failure) (before, after severity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return healthy, healthy
	}
	r.asked = true
	r.dataCall.Store(failure)
	return r.transition()
}

// recordOutcome notes how a call went that N-central answered, or did not.
func (r *Record) recordOutcome(generation int, failure *Failure, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return
	}
	if failure == nil {
		r.lastSuccess = now
		return
	}
	r.lastFailure, r.lastFailureKind = now, failure.Kind
}
