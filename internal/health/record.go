// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package health tells the people who run the engine how a config fares: what a failed call means
// and what to do about it, whether the credential works, what expires soon, and what is counted.
//
// It makes no call and reads no storage. Package upstream makes the calls, and notes the result of
// each in the config's Record: NoteOutcome for every call, NoteObtaining for a call that was to
// bring a token, NoteProbe for the data call that shows whether the API user works, NoteValidation
// and NoteUser. NoteObtaining and NoteProbe return a Transition, which reports whether an event is
// to be sent. The paths status, metrics and creds read the Record: Record.Status is for a person,
// Record.Collector for Prometheus, UserWarning and ExpiryWarnings for whoever reads a token.
//
// A Failure is the error of every call that failed. It names config, step, cause, remedy and next
// attempt. The remedies are in failure.go, remedy.go and user.go, and docs/operations.md lists
// each.
//
// A new url, credential or TLS trust begins a new generation of the Record. Results of calls that
// belong to an earlier generation are not noted. A Record's lock is never held during a call.
//
// The tests beside this file test the rules. Those with real servers, proxies and certificates are
// in internal/upstream/remedy_test.go.
package health

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// Record holds how one config's server fared since this process started. All versions of the config
// share it.
type Record struct {
	counters *counters

	mu sync.Mutex
	// generation counts how often the server or credential changed. Results of calls to an earlier
	// one are not noted.
	generation  int
	announced   severity // what the last event said; a new generation does not reset it
	announcedIn int      // the generation of that event
	asked       bool     // in this generation, a token was asked for or a data call made
	obtaining   *Failure // why the last attempt to obtain a token failed; nil if it succeeded
	// dataCall is why the last data call failed, or what is wrong with the user; nil if all is
	// well. Hot reads load it without the lock.
	dataCall     atomic.Pointer[Failure]
	user         *ncentral.User // what N-central last said about the user; nil if it said nothing
	validation   *Failure       // why the last validation was inconclusive; nil if it was not
	userWorkedAt time.Time      // when a data call last succeeded
	// servedStale is until when the stale token lives that was handed out last.
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

// Beside returns a record for a candidate: values of the config that are being tried and are not
// stored. Its calls are counted with those of the stored config, and nothing else is shared.
func (r *Record) Beside() *Record { return newRecordWith(r.counters) }

func newRecordWith(counters *counters) *Record {
	return &Record{counters: counters, announcedExpiries: map[string]announcement{}}
}

// Collector returns what was counted of the config since this process started.
func (r *Record) Collector() prometheus.Collector { return r.counters }

// Trace returns hooks that count the calls of a client.
func (r *Record) Trace() ncentral.Trace { return r.counters.trace() }

// InFlight returns the gauge of the HTTP requests to N-central that are under way.
func (r *Record) InFlight() prometheus.Gauge { return r.counters.inFlight }

// CountOverrideFallback counts a call that was repeated without asking for a lifetime.
func (r *Record) CountOverrideFallback() { r.counters.overrideFallbacks.Inc() }

// CountRead counts a token that was handed out, by where the read got it from.
func (r *Record) CountRead(from Source) { r.counters.reads[from].Inc() }

// CountFailedRead counts a read that got no token. The reason is one of failureReasons.
func (r *Record) CountFailedRead(reason string) { r.counters.failedReads.WithLabelValues(reason).Inc() }

// CountRefreshFallback counts a rotation that authenticates because a refresh brought no token.
func (r *Record) CountRefreshFallback() { r.counters.refreshFallbacks.Inc() }

// CountDeadToken counts a token that N-central ended before its time for no reason that the engine
// knows.
func (r *Record) CountDeadToken() { r.counters.deadTokens.Inc() }

// ServedStale notes that a stale token was handed out that lives until then.
func (r *Record) ServedStale(until time.Time) {
	r.counters.staleReads.Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servedStale = until
}

// EndStale notes that the token which lived until then is no longer handed out. If it was stale,
// the config's status stops saying that a stale token is in use.
func (r *Record) EndStale(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.servedStale.Equal(until) { // else the stale token is another role's
		r.servedStale = time.Time{}
	}
}

// severity is how badly a credential fares. A greater value is worse.
type severity int

const (
	healthy   severity = iota
	dataFails          // tokens can be obtained, but data calls fail or the user needs a person
	noTokens           // no token can be obtained
)

// Transition compares how a credential fares now with what the last event said.
type Transition struct{ before, after severity }

// Worsened reports whether the credential fares worse than the last event said.
func (t Transition) Worsened() bool { return t.after > t.before }

// Recovered reports whether nothing is wrong with the credential any more although the last event
// said that something was.
func (t Transition) Recovered() bool { return t.after == healthy && t.before > healthy }

// severity returns how badly the credential fares, as far as is known. The record is locked.
func (r *Record) severity() severity {
	switch {
	case r.obtaining != nil:
		return noTokens
	case r.dataCall.Load() != nil:
		return dataFails
	}
	return healthy
}

// NoteObtaining notes how an attempt to obtain a token went. A nil failure is a success. The caller
// sends the event that the transition calls for.
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

// transition returns the change since the last event, and notes that it is announced. The record is
// locked.
func (r *Record) transition() Transition {
	t := Transition{before: r.announced, after: r.severity()}
	if r.announcedIn != r.generation && t.after != healthy {
		t.before = healthy // a problem of another credential is a new one
	}
	r.announced, r.announcedIn = t.after, r.generation
	return t
}

// StartOver begins a new generation, for another server or credential, and returns its number. What
// was known of the one before is forgotten.
func (r *Record) StartOver() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
	r.asked, r.obtaining, r.user, r.validation, r.servedStale = false, nil, nil, nil, time.Time{}
	r.userWorkedAt = time.Time{}
	r.dataCall.Store(nil)
	return r.generation
}

// Generation returns the number of the current generation.
func (r *Record) Generation() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// NoteValidation notes why a validation was inconclusive. A nil failure is one that was not.
func (r *Record) NoteValidation(generation int, failure *Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.validation = failure
	}
}

// NoteUser notes what N-central says about the API user. It is nil if N-central does not say
// anything.
func (r *Record) NoteUser(generation int, user *ncentral.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		r.user = user
	}
}

// LastUser returns what N-central last said about the API user. Later attempts to ask that got no
// answer do not change it.
func (r *Record) LastUser(generation int) *ncentral.User {
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation != r.generation {
		return nil
	}
	return r.user
}

// UserWarning returns the warning for whoever gets a token of the config: why the last data call
// failed, or what N-central says about the user. It is empty if nothing is known to be wrong.
func (r *Record) UserWarning(config string) string {
	failure := r.dataCall.Load()
	if failure == nil {
		return ""
	}
	return fmt.Sprintf("config %q: N-central may refuse what is done with this token: %s", config,
		failure.Explanation())
}

// NoteProbe notes how a data call went. It is to data calls what NoteObtaining is to tokens.
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

// NoteUserWorks notes that a data call that was made to validate a token succeeded at that time. It
// does not change what N-central said about the user.
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

// ForgetUserWorks forgets when a data call last succeeded.
func (r *Record) ForgetUserWorks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.userWorkedAt = time.Time{}
}

// UserWorked reports whether a data call succeeded during that time before now.
func (r *Record) UserWorked(within time.Duration, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.userWorkedAt.IsZero() && now.Sub(r.userWorkedAt) < within
}

// NoteOutcome notes how a call went, whichever it was. A nil failure is a success.
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
