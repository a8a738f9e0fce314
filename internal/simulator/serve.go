// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// serve handles a request. It makes all changes before it sends the first byte: a client that has
// the answer sees their effects.
func (s *Simulator) serve(writer http.ResponseWriter, request *http.Request) {
	incoming := readCall(request)
	record, limit := s.begin(incoming)
	outgoing := limit
	if outgoing == nil {
		outgoing = s.handle(request.Context(), incoming)
	}
	date := s.finish(record, outgoing)
	outgoing.send(request.Context(), writer, date)
}

// begin logs the request and counts it as in flight. It returns a refusal where too many are in
// flight.
func (s *Simulator) begin(incoming call) (*RequestRecord, *answer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	record := s.records.begin(incoming)
	if s.records.inFlight[incoming.endpoint] <= s.knobs.MaxInFlight {
		return record, nil
	}
	refusal := errorAnswer(http.StatusTooManyRequests,
		"TooManyRequestsException: Too many requests are in flight for this endpoint.")
	refusal.retryAfterSeconds = s.knobs.RetryAfterSeconds
	return record, refusal
}

// finish records how the request ended and returns the time for the Date header.
func (s *Simulator) finish(record *RequestRecord, outgoing *answer) (date time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.records.finish(record, outgoing)
	return s.serverClock()
}

// handle waits as long as the call takes, and then does its work or fails as asked.
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
	lost := incoming.failure.losesAnswer()
	if failure.Kind == FailureSlow && !sleep(ctx, time.Duration(failure.Delay)) {
		finished.delivery, lost = deliverReset, true
	}
	if lost {
		s.markLost(finished)
	}
	return finished
}

// sleep reports whether the time passed before the context ended.
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

// work does what the call is for. No other call can come in between.
func (s *Simulator) work(incoming call) *answer {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !s.hasEndpoint(incoming.endpoint) {
		return errorAnswer(http.StatusNotFound, "NoResourceFoundException: No static resource for this path.")
	}
	if incoming.method != incoming.allowedMethod {
		return errorAnswer(http.StatusMethodNotAllowed,
			fmt.Sprintf("HttpRequestMethodNotSupportedException: Request method '%s' is not supported",
				incoming.method))
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
		return unauthorized() // there is no identity provider whose tokens it would accept
	case EndpointHealth:
		return s.health()
	default:
		return s.withAccessToken(incoming)
	}
}

// hasEndpoint reports whether this server has the endpoint. The caller holds the mutex.
func (s *Simulator) hasEndpoint(endpoint Endpoint) bool {
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
