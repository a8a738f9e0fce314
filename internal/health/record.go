// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package health tells the people who run the engine how a config fares: what a failed call means
// and what to do about it, whether the credential works, what expires, and what is counted.
//
// It makes no call and reads no storage. Package upstream makes the calls, and notes in a config's
// Record what came of each: NoteOutcome for every call, NoteObtaining for those that were to bring
// a token, NoteProbe for the data call that tells whether the API user works, NoteValidation and
// NoteUser. A Transition that comes back reports whether events have something to tell. The paths
// status, metrics and creds, and the events, are told from there: Record.Status for a person,
// Record.Collector for Prometheus, UserWarning and ExpiryWarnings for whoever reads a token.
//
// A Failure is the error of every call that failed. It names config, step, cause, remedy and next
// attempt; the remedies are in remedy.go and user.go, and operations.md lists each.
//
// What is noted of a server or credential that the config no longer names does not count: a Record
// counts generations. A Record's lock is never held during a call. The tests beside this file hold
// the rules; those of real servers, proxies and certificates are in
// internal/upstream/remedy_test.go.
package health

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// Record is how one config's server fared since this process started. It outlasts the config's
// versions.
type Record struct {
	counters *counters

	mu sync.Mutex
	// counts the servers and credentials before this one: what calls to those come to is not noted
	generation  int
	announced   severity // what events last told of; it outlasts a generation
	announcedIn int      // the generation in which they did
	asked       bool
	obtaining   *Failure // why the last attempt to obtain a token failed; nil where it did not
	// why the last data call failed, or what is wrong with the user; nil where neither is
	dataCall   atomic.Pointer[Failure]
	user       *ncentral.User // as N-central last told of them; nil where it did not
	validation *Failure       // why the last validation told nothing of its token; nil where it did
	// until when the token lives that was last handed out for want of a new one
	userWorkedAt      time.Time // when a data call last succeeded
	servedStale       time.Time
	lastSuccess       time.Time
	lastFailure       time.Time
	lastFailureKind   ncentral.Kind
	announcedExpiries map[string]announcement // by what expires
}

// NewRecord returns the record of a config of which nothing is known yet.
func NewRecord(config string) *Record {
	return newRecordWith(newCounters(config))
}

// Beside returns a record for a config that is not stored beside the one that is: both are counted
// in one place.
func (r *Record) Beside() *Record { return newRecordWith(r.counters) }

func newRecordWith(counters *counters) *Record {
	return &Record{counters: counters, announcedExpiries: map[string]announcement{}}
}

// Collector returns what was counted of the config since this process started.
func (r *Record) Collector() prometheus.Collector { return r.counters }

// Trace returns hooks that count the calls of a client.
func (r *Record) Trace() ncentral.Trace { return r.counters.trace() }

// InFlight is how many HTTP requests to N-central are under way.
func (r *Record) InFlight() prometheus.Gauge { return r.counters.inFlight }

// CountOverrideFallback counts a call repeated without a lifetime to ask for.
func (r *Record) CountOverrideFallback() { r.counters.overrideFallbacks.Inc() }

// CountRead counts a token that was handed out.
func (r *Record) CountRead(from Source) { r.counters.reads[from].Inc() }

// CountFailedRead counts a read that got no token. The reason is one of a fixed few, such as the
// Kind of a Failure.
func (r *Record) CountFailedRead(reason string) { r.counters.failedReads.WithLabelValues(reason).Inc() }

// CountRefreshFallback counts a rotation that authenticates because a refresh brought no token.
func (r *Record) CountRefreshFallback() { r.counters.refreshFallbacks.Inc() }

// CountDeadToken counts a token that N-central ended before its time for no reason that the engine
// knows.
func (r *Record) CountDeadToken() { r.counters.deadTokens.Inc() }

// ServedStale notes that a token was handed out for want of a new one, and until when it lives.
func (r *Record) ServedStale(until time.Time) {
	r.counters.staleReads.Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servedStale = until
}

// EndStale notes that the stale token that lives until then is handed out no more.
func (r *Record) EndStale(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.servedStale.Equal(until) { // else it is another role's token that is served
		r.servedStale = time.Time{}
	}
}

// severity is what ails a credential, the graver the greater.
type severity int

const (
	healthy severity = iota
	dataFails
	noTokens
)

// Transition is the turn that a credential took from what was last announced of it.
type Transition struct{ before, after severity }

// Worsened reports whether more ails the credential than was announced.
func (t Transition) Worsened() bool { return t.after > t.before }

// Recovered reports whether nothing ails the credential any more, where something was announced.
func (t Transition) Recovered() bool { return t.after == healthy && t.before > healthy }

// severity returns what is known to ail the credential. The record is locked.
func (r *Record) severity() severity {
	switch {
	case r.obtaining != nil:
		return noTokens
	case r.dataCall.Load() != nil:
		return dataFails
	}
	return healthy
}

// NoteObtaining notes how an attempt to obtain a token went, and returns what events told that
// ails the credential, and what ails it now.
func (r *Record) NoteObtaining(generation int, failure *Failure) Transition {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return Transition{}
	}
	r.asked, r.obtaining = true, failure
	if failure == nil {
		r.servedStale = time.Time{}
	}
	return r.transition()
}

// transition returns what is to be announced now, and notes that it is. The record is locked.
func (r *Record) transition() Transition {
	t := Transition{before: r.announced, after: r.severity()}
	if r.announcedIn != r.generation && t.after != healthy {
		t.before = healthy // what ails another credential is news
	}
	r.announced, r.announcedIn = t.after, r.generation
	return t
}

// StartOver forgets how another server or credential fared, and returns the new generation.
func (r *Record) StartOver() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
	r.asked, r.obtaining, r.user, r.validation, r.servedStale = false, nil, nil, nil, time.Time{}
	r.userWorkedAt = time.Time{}
	r.dataCall.Store(nil)
	return r.generation
}

// Generation returns the number of the server and credential that the record is about. What is
// noted under an earlier one is not taken.
func (r *Record) Generation() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// NoteValidation notes why a validation told nothing of its token, or nil where it did.
func (r *Record) NoteValidation(generation int, failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.validation = failure
	}
}

// NoteUser notes what N-central tells of the API user, nil where it does not.
func (r *Record) NoteUser(generation int, user *ncentral.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.user = user
	}
}

// LastUser returns what N-central last told of the API user: where it could not be asked since, that
// stands.
func (r *Record) LastUser(generation int) *ncentral.User {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return nil
	}
	return r.user
}

// UserWarning is what whoever gets a token should know of its user: why the last data call failed,
// or what N-central tells of the user. It is empty where nothing is known to be wrong.
func (r *Record) UserWarning(config string) string {
	failure := r.dataCall.Load()
	if failure == nil {
		return ""
	}
	return fmt.Sprintf("config %q: N-central may refuse what is done with this token: %s", config,
		failure.Explanation())
}

// NoteProbe notes how a data call went; see NoteObtaining.
func (r *Record) NoteProbe(generation int, failure *Failure) Transition {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return Transition{}
	}
	r.asked = true
	r.dataCall.Store(failure)
	if failure == nil {
		r.userWorkedAt = time.Now()
	}
	return r.transition()
}

// NoteUserWorks notes that a data call succeeded at that time, which was made to validate a token.
// What N-central told of the user stands.
func (r *Record) NoteUserWorks(generation int, now time.Time) Transition {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return Transition{}
	}
	r.userWorkedAt = now
	if last := r.dataCall.Load(); last == nil || last.IsOfUser() {
		return Transition{}
	}
	r.dataCall.Store(nil)
	return r.transition()
}

// UserWorked reports whether a data call succeeded within that time.
func (r *Record) UserWorked(within time.Duration, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.userWorkedAt.IsZero() && now.Sub(r.userWorkedAt) < within
}

// NoteOutcome notes how a call went that N-central answered, or did not.
func (r *Record) NoteOutcome(generation int, failure *Failure, now time.Time) {
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
