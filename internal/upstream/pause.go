// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import "time"

const (
	firstCoolDown   = 30 * time.Second
	longestCoolDown = 10 * time.Minute
	firstBackOff    = time.Second
	longestBackOff  = 15 * time.Second
)

// pause is a time in which a server is left alone. Each failure after it doubles the next, up to the longest; a success
// ends it and starts over with the first.
type pause struct {
	first, longest time.Duration

	begun, until time.Time
	length       time.Duration
	cause        *Failure
}

// begin starts the pause after an attempt that was sent at that time. An attempt that was under way already when the
// last pause began tells nothing new and does not lengthen it.
func (p *pause) begin(sent, now time.Time, cause *Failure) {
	if p.cause != nil && sent.Before(p.begun) {
		cause.Next = p.until
		return
	}
	p.length = min(max(2*p.length, p.first), p.longest)
	p.begun, p.until, p.cause = now, now.Add(p.length), cause
	cause.Next = p.until
}

func (p *pause) lift() { *p = pause{first: p.first, longest: p.longest} }

// active answers why the server is left alone at that time, or nil.
func (p *pause) active(now time.Time) *Failure {
	if p.cause == nil || !now.Before(p.until) {
		return nil
	}
	return p.cause
}
