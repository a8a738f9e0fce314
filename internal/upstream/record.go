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
	// learning is held while what was learnt is changed, so that no change is lost.
	learning *sync.Mutex
	counters *counters

	// storageProven is set once N-central was asked after a token that came from storage, and storageDoubted once that was
	// tried in vain.
	storageProven, storageDoubted atomic.Bool

	mu sync.Mutex
	// watchedUntil is until when a token lives that the tick asks after, and that a reboot would be found by; unwatched is
	// set where one was obtained later than that, and at first, for nobody knows what was before this process started.
	watchedUntil time.Time
	unwatched    bool

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
	return &Record{learning: &sync.Mutex{}, counters: newCounters(config), announcedExpiries: map[string]announcement{}, unwatched: true}
}

// apart answers a record for a config that is not stored beside the one that is: what is learnt and counted lies in one
// place for both.
func (r *Record) apart() *Record { return &Record{learning: r.learning, counters: r.counters} }

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

// StorageIsProven reports whether N-central was asked, since this process started, after a token of the config that came from
// storage. Until then what is stored may be of the past: a restored snapshot, or from before a reboot of N-central.
func (r *Record) StorageIsProven() bool { return r.storageProven.Load() }

// ProveStorage notes that N-central was asked after a token that came from storage.
func (r *Record) ProveStorage() { r.storageProven.Store(true) }

// DoubtStorage notes that N-central could not be asked after a token that came from storage.
func (r *Record) DoubtStorage() { r.storageDoubted.Store(true) }

// StorageWasDoubted reports whether that was tried in vain.
func (r *Record) StorageWasDoubted() bool { return r.storageDoubted.Load() }

// opened notes that a token was obtained that is looked after until then.
func (r *Record) opened(until, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.After(r.watchedUntil) {
		r.unwatched = true
	}
	r.watchedUntil = latest(r.watchedUntil, until)
}

// outlived notes that a token is accepted that was there before, and is looked after until then.
func (r *Record) outlived(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchedUntil = latest(r.watchedUntil, until)
}

// confirmed notes that what is known of the server holds at that time.
func (r *Record) confirmed(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwatched, r.watchedUntil = false, latest(r.watchedUntil, now)
}

// WatchNoMore notes that tokens were ended by which a reboot would have been found.
func (r *Record) WatchNoMore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchedUntil = time.Time{}
}

// wasUnwatched reports whether there was a time, since what is known of the server was found out, in which no token would
// have told of a reboot.
func (r *Record) wasUnwatched() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unwatched
}

func latest(one, other time.Time) time.Time {
	if other.After(one) {
		return other
	}
	return one
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
