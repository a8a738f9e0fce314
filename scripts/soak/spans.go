// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"slices"
	"sync"
	"time"
)

// spans are the times in which something was so.
type spans struct {
	mu  sync.Mutex
	all []span
}

// span ends at the zero time where it goes on.
type span struct{ from, to time.Time }

// begin notes that it is so from now on, until end is called.
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

// add notes that it was so from one time to another.
func (s *spans) add(from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, span{from: from, to: to})
}

// within returns what of the spans lies between two times.
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

// during reports whether it was so at any moment from one time to another.
func (s *spans) during(from, to time.Time) bool { return len(s.within(from, to)) > 0 }

// longestCalm returns for how long at a stretch nothing of all that was so from one time to another.
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
