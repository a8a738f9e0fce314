// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"slices"
	"sync"
	"time"
)

// spans are the times during which something was the case.
type spans struct {
	mu  sync.Mutex
	all []span
}

// span is a time from a start to an end. A zero end means that it goes on.
type span struct{ from, to time.Time }

// begin starts a span, which goes on until end is called.
func (s *spans) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index := len(s.all)
	s.all = append(s.all, span{from: time.Now()})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all[index].to = time.Now()
	}
}

// add adds a span.
func (s *spans) add(from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, span{from: from, to: to})
}

// within returns the parts of the spans between two times.
func (s *spans) within(from, to time.Time) []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []span
	for _, one := range s.all {
		if one.to.IsZero() || one.to.After(to) {
			one.to = to
		}
		if one.from.Before(from) {
			one.from = from
		}
		if !one.to.Before(one.from) {
			found = append(found, one)
		}
	}
	return found
}

// during reports whether any span has a moment in common with the time between from and to.
func (s *spans) during(from, to time.Time) bool { return len(s.within(from, to)) > 0 }

// longestCalm returns the longest time between from and to without any of the spans.
func longestCalm(from, to time.Time, all ...*spans) (longest time.Duration) {
	var troubles []span
	for _, s := range all {
		troubles = append(troubles, s.within(from, to)...)
	}
	slices.SortFunc(troubles, func(a, b span) int { return a.from.Compare(b.from) })
	for _, trouble := range troubles {
		longest = max(longest, trouble.from.Sub(from))
		if trouble.to.After(from) {
			from = trouble.to
		}
	}
	return max(longest, to.Sub(from))
}
