// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// FailureKind is a way in which a call can be made to fail.
type FailureKind string

// The kinds of failure. All but the last four leave the call's work undone.
const (
	FailureStatus        FailureKind = "status"          // the error status in Failure.Status, Retry-After included if asked for
	FailureHang          FailureKind = "hang"            // no answer until the client goes away or the failures are cleared; then the call goes its usual way
	FailureReset         FailureKind = "reset"           // the connection is reset
	FailureHTML          FailureKind = "html"            // a login page, in a 200
	FailureRedirect      FailureKind = "redirect"        // a 302 to a login page
	FailureNoTokens      FailureKind = "no_tokens"       // a 200 whose JSON holds no tokens
	FailureLineFeedToken FailureKind = "line_feed_token" // a 200 whose tokens hold a line feed
	FailureErrorMessage  FailureKind = "error_message"   // an error hidden in a 200, under the key "Error Message"
	FailureTruncated     FailureKind = "truncated"       // the call does its work, and its answer breaks off half way
	FailureOversized     FailureKind = "oversized"       // the call does its work, and its answer is made 2 MB long
	FailureLostAnswer    FailureKind = "lost_answer"     // the call does its work, then the connection is reset
	FailureExpiry        FailureKind = "expiry"          // the call does its work, and states Failure.ExpirySeconds
)

// Failure says how a call fails.
type Failure struct {
	Kind FailureKind `json:"kind"`
	// Status is for FailureStatus: 400 to 599.
	Status int `json:"status,omitempty"`
	// RetryAfterSeconds is for FailureStatus; 0 for no such header.
	RetryAfterSeconds int `json:"retry_after_seconds,omitempty"`
	// ExpirySeconds is for FailureExpiry: the access token's expirySeconds, any JSON number as it is to be written. The
	// token lives that long, at least 0 and at most 100 years.
	ExpirySeconds json.Number `json:"expiry_seconds,omitempty"`
}

// Check answers an error that names the first field that makes no sense.
func (f Failure) Check() error {
	switch f.Kind {
	case FailureStatus:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("status: must be 400 to 599, not %d", f.Status)
		}
	case FailureExpiry:
		if !isJSONNumber(f.ExpirySeconds) {
			return fmt.Errorf("expiry_seconds: must be a JSON number")
		}
	case FailureHang, FailureReset, FailureHTML, FailureRedirect, FailureNoTokens, FailureLineFeedToken,
		FailureErrorMessage, FailureTruncated, FailureOversized, FailureLostAnswer:
	default:
		return fmt.Errorf("kind: no failure of kind %q", f.Kind)
	}
	return f.checkUnused()
}

// checkUnused refuses the fields of other kinds: they would do nothing.
func (f Failure) checkUnused() error {
	switch {
	case f.Kind != FailureStatus && f.Status != 0:
		return fmt.Errorf("status: only for a failure of kind %q", FailureStatus)
	case f.Kind != FailureStatus && f.RetryAfterSeconds != 0:
		return fmt.Errorf("retry_after_seconds: only for a failure of kind %q", FailureStatus)
	case f.RetryAfterSeconds < 0:
		return fmt.Errorf("retry_after_seconds: must not be negative, not %d", f.RetryAfterSeconds)
	case f.Kind != FailureExpiry && f.ExpirySeconds != "":
		return fmt.Errorf("expiry_seconds: only for a failure of kind %q", FailureExpiry)
	}
	return nil
}

func isJSONNumber(number json.Number) bool {
	var value any
	decoder := json.NewDecoder(bytes.NewReader([]byte(number)))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return false
	}
	_, ok := value.(json.Number)
	return ok && value == any(number)
}

// failureRule is a failure that waits for its calls.
type failureRule struct {
	endpoint Endpoint
	left     int // negative: until cleared
	failure  Failure
}

// FailNext makes the next calls of the endpoint, or of any, fail; a negative count means all until the failures are
// cleared, and 0 none. What is asked for first happens first. A call that is refused with 429, because too many are in
// flight, uses up none. It panics on an unknown endpoint and on a failure that Check refuses.
func (s *Simulator) FailNext(endpoint Endpoint, count int, failure Failure) {
	if err := failure.Check(); err != nil {
		panic(err)
	}
	if !endpoint.known() {
		panic(fmt.Sprintf("no endpoint %q", endpoint))
	}
	if count == 0 {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failures = append(s.failures, failureRule{endpoint: endpoint, left: count, failure: failure})
}

// ClearFailures forgets all failures asked for, and lets the calls that hang go on.
func (s *Simulator) ClearFailures() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failures = nil
	close(s.cleared)
	s.cleared = make(chan struct{})
}

// nextFailure takes the failure that a call of this endpoint is to suffer, the zero one if none, with what else the call
// has to know before it waits.
func (s *Simulator) nextFailure(endpoint Endpoint) (failure Failure, cleared <-chan struct{}, latency time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for i := range s.failures {
		rule := &s.failures[i]
		if rule.endpoint != AnyEndpoint && rule.endpoint != endpoint {
			continue
		}
		failure = rule.failure
		rule.left--
		if rule.left == 0 {
			s.failures = slices.Delete(s.failures, i, i+1)
		}
		break
	}
	return failure, s.cleared, s.knobs.Latency
}

// answerInstead is what is answered in place of the call's own answer, or nil where the call is to do its work.
func (f Failure) answerInstead() *answer {
	failed := &answer{outcome: OutcomeFailed, status: http.StatusOK, contentType: "application/json"}
	switch f.Kind {
	case FailureStatus:
		failed = errorAnswer(f.Status, exceptionOf(f.Status)+": Injected failure.")
		failed.outcome = OutcomeFailed
		failed.retryAfterSeconds = f.RetryAfterSeconds
	case FailureHang, FailureReset:
		failed.status = 0
		failed.delivery = deliverReset
	case FailureHTML:
		failed.contentType = "text/html"
		failed.body = loginPage()
	case FailureRedirect:
		failed.status = http.StatusFound
		failed.location = "/login"
		failed.contentType = "text/html"
		failed.body = loginPage()
	case FailureNoTokens:
		failed.body = toJSON(map[string]string{"refresh": refreshPath, "validate": validatePath})
	case FailureLineFeedToken:
		var body tokensBody
		body.Tokens.Access = tokenBody{Token: "a-line\nanother", Type: "Bearer", ExpirySeconds: "3600"}
		body.Tokens.Refresh = tokenBody{Token: "a-line\nanother", Type: "Body", ExpirySeconds: "90000"}
		failed.body = toJSON(body)
	case FailureErrorMessage:
		return hiddenErrorAnswer(OutcomeFailed)
	default:
		return nil
	}
	return failed
}

// exceptionOf names the Java exception that N-central's errors of this status begin with [S,O].
func exceptionOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UnauthorizedException"
	case http.StatusForbidden:
		return "AccessDeniedException"
	case http.StatusInternalServerError:
		return "UnexpectedDmsResponseException"
	}
	return "ResponseStatusException"
}

func loginPage() []byte {
	return []byte("<!DOCTYPE html><html><head><title>Log in</title></head><body><form action=\"/login\"></form></body></html>")
}

const oversizedBytes = 2_000_000

// spoil does to the finished call's answer what the failure says.
func (f Failure) spoil(finished *answer) *answer {
	switch f.Kind {
	case FailureTruncated:
		finished.delivery = deliverHalf
	case FailureOversized:
		finished.contentType = "application/json"
		finished.body = pad(finished.body)
	case FailureLostAnswer:
		finished.delivery = deliverReset
	default:
		return finished
	}
	finished.outcome = OutcomeFailed
	return finished
}

// pad adds a member to a JSON object, so that a client that reads without a limit finds it well formed.
func pad(object []byte) []byte {
	begin := []byte("{")
	if len(object) > 0 {
		begin = append(bytes.TrimSuffix(object, []byte("}")), ',')
	}
	padding := bytes.Repeat([]byte("x"), oversizedBytes)
	return slices.Concat(begin, []byte(`"padding":"`), padding, []byte(`"}`))
}

// alterGrant states another lifetime, and keeps to it as far as that is possible.
func (f Failure) alterGrant(granted grant) grant {
	if f.Kind != FailureExpiry {
		return granted
	}
	seconds, _ := strconv.ParseFloat(string(f.ExpirySeconds), 64) // out of range is infinite, which is right
	seconds = min(max(seconds, 0), maxLifetime.Seconds())
	return grant{lifetime: time.Duration(seconds * float64(time.Second)), stated: f.ExpirySeconds}
}
