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
	// longestRetryAfter bounds for how long N-central may ask to be left alone.
	longestRetryAfter = 10 * time.Minute
)

// backoff is a time in which N-central is not asked for something. Each failure after it doubles
// the next, up to the longest; a success ends it and starts over with the first.
type backoff struct {
	first, longest time.Duration

	begun, until time.Time
	length       time.Duration
	cause        *health.Failure
}

func newCoolDown() backoff { return backoff{first: firstCoolDown, longest: longestCoolDown} }
func newBackOff() backoff  { return backoff{first: firstBackOff, longest: longestBackOff} }

// begin starts the pause after an attempt that was sent at that time. An attempt that was under way
// already when the last pause began tells nothing new and does not lengthen it. Where N-central
// said for how long it wants to be left alone, that counts.
func (p *backoff) begin(sent, now time.Time, cause *health.Failure) {
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

// lift ends the pause because what it waited for is well again.
func (p *backoff) lift() { *p = backoff{first: p.first, longest: p.longest} }

// release ends the pause for one attempt: if that fails too, the next pause is as much longer as it
// would have been.
func (p *backoff) release() { p.until = p.begun }

// active returns why nothing is asked at that time, or nil. A caller whose token ended during the
// pause need not wait for its end, once it has lasted as long as the first one does. A zero
// tokenEnd is that of a caller who had none. A time is over as soon as one of the clocks says so,
// as a token's is: the machine may have been suspended meanwhile.
func (p *backoff) active(now, tokenEnd time.Time) *health.Failure {
	isOver := func(then time.Time) bool { return store.Remaining(then, now) <= 0 }
	switch {
	case isOver(p.until):
		return nil
	case tokenEnd.After(p.begun) && isOver(tokenEnd) && isOver(p.begun.Add(p.first)):
		return nil
	}
	return p.cause
}
