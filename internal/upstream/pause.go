// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	firstCoolDown   = 30 * time.Second
	longestCoolDown = 10 * time.Minute
	firstBackOff    = time.Second
	longestBackOff  = 15 * time.Second
	// longestRetryAfter is how long N-central is left alone at most if it asks for it by
	// Retry-After.
	longestRetryAfter = 10 * time.Minute
)

// pause is a time during which N-central is not asked for something: a cool-down, or a back-off.
// Each failure that follows doubles the length of the next, up to the longest. A success ends it,
// and the next begins with the first length.
type pause struct {
	first, longest time.Duration

	begun, until time.Time
	length       time.Duration
	cause        *health.Failure
}

func newCoolDown() pause { return pause{first: firstCoolDown, longest: longestCoolDown} }
func newBackOff() pause  { return pause{first: firstBackOff, longest: longestBackOff} }

// begin begins the pause after an attempt that was sent at that time. If the attempt was sent
// before the last pause began, its failure is no news, and the pause stays as it is. If N-central
// said for how long it wants to be left alone, that counts.
func (p *pause) begin(sent, now time.Time, cause *health.Failure) {
	if sent.Before(p.begun) {
		cause.Next = p.until
		return
	}
	p.length = min(max(2*p.length, p.first), p.longest)
	wait := p.length
	if asked := retryAfter(cause); asked > 0 {
		wait = min(max(asked, p.first), longestRetryAfter)
	}
	p.begun, p.until, p.cause = now, now.Add(wait), cause
	cause.Next = p.until
}

func retryAfter(failure *health.Failure) time.Duration {
	if callErr, ok := errors.AsType[*ncentral.Error](failure.Cause); ok {
		return callErr.RetryAfter
	}
	return 0
}

// lift ends the pause and forgets the failures, because a call succeeded.
func (p *pause) lift() { *p = pause{first: p.first, longest: p.longest} }

// release ends the pause without forgetting the failures: if the next attempt fails too, the pause
// after it is longer.
func (p *pause) release() { p.until = p.begun }

// active returns why nothing is asked at that time, or nil if there is no pause. The pause does not
// apply to a caller whose token ended during it, once it has lasted for the first length. tokenEnd
// is zero if the caller had no token. Times are over as soon as one of the clocks says so, as for
// tokens: the machine may have been suspended.
func (p *pause) active(now, tokenEnd time.Time) *health.Failure {
	isOver := func(then time.Time) bool { return store.Remaining(then, now) <= 0 }
	switch {
	case isOver(p.until):
		return nil
	case tokenEnd.After(p.begun) && isOver(tokenEnd) && isOver(p.begun.Add(p.first)):
		return nil
	}
	return p.cause
}
