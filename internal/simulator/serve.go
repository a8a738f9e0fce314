// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// serve answers a request. All that it changes is changed before the first byte is sent: whoever has the answer sees its
// effects.
func (s *Simulator) serve(writer http.ResponseWriter, request *http.Request) {
	incoming := readCall(request)
	record, limit := s.arrive(incoming)
	outgoing := limit
	if outgoing == nil {
		outgoing = s.handle(request.Context(), incoming)
	}
	date := s.leave(record, outgoing)
	outgoing.send(request.Context(), writer, date)
}

// arrive logs the request and counts it as in flight. Where too many are in flight it answers the refusal.
func (s *Simulator) arrive(incoming call) (*RequestRecord, *answer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	record := s.records.arrive(incoming)
	if s.records.inFlight[incoming.endpoint] <= s.knobs.MaxInFlight {
		return record, nil
	}
	refusal := errorAnswer(http.StatusTooManyRequests, "TooManyRequestsException: Too many requests are in flight for this endpoint.")
	refusal.retryAfterSeconds = s.knobs.RetryAfterSeconds
	return record, refusal
}

// leave notes how the request ends and answers what goes into the Date header.
func (s *Simulator) leave(record *RequestRecord, outgoing *answer) (date time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.records.leave(record, outgoing)
	return s.serverClock()
}

// handle waits as long as the call is to take, and then does its work, or fails as it was told to.
func (s *Simulator) handle(ctx context.Context, incoming call) *answer {
	failure, cleared, knobs := s.nextFailure(incoming.endpoint)
	incoming.failure = failure
	if !sleep(ctx, knobs.Latency) {
		return abandonedAnswer()
	}
	if failure.Kind == FailureHang {
		select {
		case <-ctx.Done():
			return failure.answerInstead(knobs)
		case <-cleared:
			incoming.failure = Failure{}
		}
	}
	if instead := incoming.failure.answerInstead(knobs); instead != nil {
		return instead
	}
	finished := incoming.failure.spoil(s.work(incoming))
	lost := incoming.failure.loses()
	if failure.Kind == FailureSlow && !sleep(ctx, time.Duration(failure.Delay)) {
		finished.delivery, lost = deliverReset, true
	}
	if lost {
		s.lose(finished)
	}
	return finished
}

// sleep answers false where the context ended first.
func sleep(ctx context.Context, duration time.Duration) bool {
	if duration <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// work does what the call is there for, in one step that no other call can come between.
func (s *Simulator) work(incoming call) *answer {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !s.has(incoming.endpoint) {
		return errorAnswer(http.StatusNotFound, "NoResourceFoundException: No static resource for this path.")
	}
	if incoming.method != incoming.allowedMethod {
		return errorAnswer(http.StatusMethodNotAllowed, fmt.Sprintf("HttpRequestMethodNotSupportedException: Request method '%s' is not supported", incoming.method))
	}
	switch incoming.endpoint {
	case EndpointRoot:
		return root()
	case EndpointLinks:
		return s.links()
	case EndpointAuthenticate:
		return s.authenticate(incoming)
	case EndpointRefresh:
		return s.refresh(incoming)
	case EndpointSSO:
		return unauthorized() // there is no identity provider whose tokens it would take
	case EndpointHealth:
		return s.health()
	default:
		return s.withAccessToken(incoming)
	}
}

// has says whether this server knows the endpoint. The caller holds the mutex.
func (s *Simulator) has(endpoint Endpoint) bool {
	switch endpoint {
	case EndpointOther:
		return false
	case EndpointLogout:
		return !s.knobs.LogoutAbsent
	case EndpointValidate:
		return !s.knobs.ValidateAbsent
	case EndpointUser:
		return !s.knobs.UserAbsent
	}
	return true
}
