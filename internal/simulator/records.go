// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"maps"
	"net/http"
	"time"
)

// Outcome is how a call ended.
type Outcome string

// The outcomes. OutcomePending is for calls in flight. AnyOutcome matches all, including pending.
const (
	OutcomeOK          Outcome = "ok"
	OutcomeRefused     Outcome = "refused"      // 401 or 403
	OutcomeBadRequest  Outcome = "bad_request"  // 400 and any other 4xx
	OutcomeNotFound    Outcome = "not_found"    // 404 or 405
	OutcomeRateLimited Outcome = "rate_limited" // 429
	OutcomeServerError Outcome = "server_error" // 5xx
	OutcomeFailed      Outcome = "failed"       // an injected failure, except FailureExpiry and FailureSlow
	OutcomeAbandoned   Outcome = "abandoned"    // the client went away before the call did its work
	OutcomePending     Outcome = "pending"
	AnyOutcome         Outcome = "any"
)

func outcomeOf(status int) Outcome {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return OutcomeRefused
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return OutcomeNotFound
	case status == http.StatusTooManyRequests:
		return OutcomeRateLimited
	case status >= 500:
		return OutcomeServerError
	case status >= 400:
		return OutcomeBadRequest
	}
	return OutcomeOK
}

// RequestRecord is one request in the access log, which is held in memory only.
type RequestRecord struct {
	Time            time.Time // of its arrival
	Endpoint        Endpoint
	Method          string
	Path            string
	Outcome         Outcome
	Status          int    // 0 while pending, or where no answer was made before a reset
	Secret          string // the token of the Authorization header, or else the body
	AccessOverride  string // the header as received
	RefreshOverride string // the header as received
	UserAgent       string // the header as received
}

// maxRecords limits the access log.
const maxRecords = 100_000

// records holds the access log and the counters.
type records struct {
	log         []*RequestRecord
	received    map[string]bool
	finished    map[Endpoint]map[Outcome]int
	inFlight    map[Endpoint]int
	maxInFlight map[Endpoint]int
}

func newRecords() records {
	return records{
		received:    map[string]bool{},
		finished:    map[Endpoint]map[Outcome]int{},
		inFlight:    map[Endpoint]int{},
		maxInFlight: map[Endpoint]int{},
	}
}

func (r *records) begin(incoming call) *RequestRecord {
	record := &RequestRecord{
		Time:            time.Now(),
		Endpoint:        incoming.endpoint,
		Method:          incoming.method,
		Path:            incoming.path,
		Outcome:         OutcomePending,
		AccessOverride:  incoming.accessOverride,
		RefreshOverride: incoming.refreshOverride,
		UserAgent:       incoming.userAgent,
	}
	secrets := incoming.secrets()
	if len(secrets) > 0 {
		record.Secret = secrets[0]
	}
	for _, secret := range secrets {
		r.received[secret] = true
	}
	r.log = append(r.log, record)
	r.log = r.log[max(0, len(r.log)-maxRecords):]
	r.inFlight[incoming.endpoint]++
	r.maxInFlight[incoming.endpoint] = max(r.maxInFlight[incoming.endpoint], r.inFlight[incoming.endpoint])
	return record
}

func (r *records) finish(record *RequestRecord, outgoing *answer) {
	record.Outcome = outgoing.outcome
	record.Status = outgoing.status
	r.inFlight[record.Endpoint]--
	if r.finished[record.Endpoint] == nil {
		r.finished[record.Endpoint] = map[Outcome]int{}
	}
	r.finished[record.Endpoint][record.Outcome]++
}

// counts returns the finished calls and those in flight.
func (r *records) counts() map[Endpoint]map[Outcome]int {
	counts := map[Endpoint]map[Outcome]int{}
	for endpoint, outcomes := range r.finished {
		counts[endpoint] = maps.Clone(outcomes)
	}
	for endpoint, pending := range r.inFlight {
		if pending == 0 {
			continue
		}
		if counts[endpoint] == nil {
			counts[endpoint] = map[Outcome]int{}
		}
		counts[endpoint][OutcomePending] = pending
	}
	return counts
}

// Counts returns the number of calls by endpoint and outcome. Combinations that never happened are
// left out.
func (s *Simulator) Counts() map[Endpoint]map[Outcome]int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.records.counts()
}

// Count returns the number of calls of an endpoint with an outcome. AnyEndpoint and AnyOutcome
// match all.
func (s *Simulator) Count(endpoint Endpoint, outcome Outcome) int {
	sum := 0
	for e, outcomes := range s.Counts() {
		for o, count := range outcomes {
			if (endpoint == AnyEndpoint || endpoint == e) && (outcome == AnyOutcome || outcome == o) {
				sum += count
			}
		}
	}
	return sum
}

// ResetCounts sets the counts, and those of MaxInFlight, to zero. Calls in flight count when they
// end. The access log stays.
func (s *Simulator) ResetCounts() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.records.finished = map[Endpoint]map[Outcome]int{}
	s.records.maxInFlight = maps.Clone(s.records.inFlight)
}

// MaxInFlight returns the highest number of requests that were in flight at an endpoint at once,
// including those that got 429.
func (s *Simulator) MaxInFlight(endpoint Endpoint) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.records.maxInFlight[endpoint]
}

// Requests returns the access log, oldest first: the newest 100,000 requests, including those to
// unknown paths.
func (s *Simulator) Requests() []RequestRecord {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	copies := make([]RequestRecord, 0, len(s.records.log))
	for _, record := range s.records.log {
		copies = append(copies, *record)
	}
	return copies
}

// Received reports whether any request, to any path, ever brought this secret as the token of its
// Authorization header or as its body.
func (s *Simulator) Received(secret string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.records.received[secret]
}
