// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// FailureKind is a way to make a call fail.
type FailureKind string

// The kinds of failure. Up to FailureEndlessHeaders, the call does not do its work. A call that
// hangs ends when its client goes away, and goes on as usual when the failures are cleared. From
// FailureTruncated on, the call does its work, except that FailureSameTokens issues no new tokens.
const (
	FailureStatus         FailureKind = "status"          // Failure.Status, with Retry-After if asked for
	FailureHang           FailureKind = "hang"            // no answer until the failures are cleared
	FailureReset          FailureKind = "reset"           // the connection is reset
	FailureHTML           FailureKind = "html"            // a login page in a 200, or a block page with Failure.Status
	FailureRedirect       FailureKind = "redirect"        // a 302 to a login page
	FailureNoTokens       FailureKind = "no_tokens"       // a 200 whose JSON has no tokens
	FailureLineFeedToken  FailureKind = "line_feed_token" // a 200 whose tokens contain a line feed
	FailureControlToken   FailureKind = "control_token"   // a 200 whose tokens contain a header and control characters
	FailureErrorMessage   FailureKind = "error_message"   // an error hidden in a 200, under Knobs.HiddenErrorKey
	FailureMessage        FailureKind = "message"         // a 200 whose JSON has only the message in Failure.Message
	FailureEndlessHeaders FailureKind = "endless_headers" // a 200 whose headers go on for 64 MB
	FailureTruncated      FailureKind = "truncated"       // the answer breaks off half way
	FailureOversized      FailureKind = "oversized"       // the answer is padded to 2 MB
	FailureGzipBomb       FailureKind = "gzip_bomb"       // the answer is padded to 256 MB, and compressed
	FailureDrip           FailureKind = "drip"            // the answer comes byte by byte, Failure.Delay apart
	FailureSlow           FailureKind = "slow"            // the answer comes Failure.Delay later
	FailureLostAnswer     FailureKind = "lost_answer"     // the connection is reset instead of an answer
	FailureSameTokens     FailureKind = "same_tokens"     // the answer has the user's newest valid pair again, if any
	FailureExpiry         FailureKind = "expiry"          // the answer states Failure.ExpirySeconds
)

// Failure describes how a call fails.
type Failure struct {
	Kind FailureKind `json:"kind"`
	// Status is for FailureStatus, from 400 to 599, and for FailureHTML, from 200 to 599, where 0
	// means 200.
	Status int `json:"status,omitempty"`
	// RetryAfterSeconds is for FailureStatus and FailureHTML; 0 for no such header.
	RetryAfterSeconds int `json:"retry_after_seconds,omitempty"`
	// ExpirySeconds is for FailureExpiry: the access token's expirySeconds, any JSON number exactly
	// as it is to be written. The token lives that long, but at least 0 and at most 100 years.
	ExpirySeconds json.Number `json:"expiry_seconds,omitempty"`
	// Message is for FailureMessage.
	Message string `json:"message,omitempty"`
	// Delay is for FailureSlow and FailureDrip, and more than 0.
	Delay Delay `json:"delay,omitempty"`
}

// Delay is a time.Duration that is written as "1.5s" in JSON.
type Delay time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Delay) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("delay: must be a duration such as \"90s\"")
	}
	*d = Delay(parsed)
	return nil
}

// Check returns an error that names the first invalid field.
func (f Failure) Check() error {
	switch f.Kind {
	case FailureStatus:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("status: must be 400 to 599, not %d", f.Status)
		}
	case FailureHTML:
		if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
			return fmt.Errorf("status: must be 200 to 599, not %d", f.Status)
		}
	case FailureExpiry:
		if !isJSONNumber(f.ExpirySeconds) {
			return errors.New("expiry_seconds: must be a JSON number")
		}
	case FailureMessage:
		if f.Message == "" {
			return errors.New("message: must be given")
		}
	case FailureSlow, FailureDrip:
		if f.Delay <= 0 {
			return errors.New("delay: must be given, and more than 0")
		}
	case FailureHang, FailureReset, FailureRedirect, FailureNoTokens, FailureLineFeedToken, FailureControlToken,
		FailureErrorMessage, FailureEndlessHeaders, FailureTruncated, FailureOversized, FailureGzipBomb,
		FailureLostAnswer, FailureSameTokens:
	default:
		return fmt.Errorf("kind: no failure of kind %q", f.Kind)
	}
	return f.checkUnused()
}

// checkUnused rejects fields that belong to other kinds, since they would have no effect.
func (f Failure) checkUnused() error {
	for _, field := range []struct {
		name   string
		isUsed bool
		by     []FailureKind
	}{
		{"status", f.Status != 0, []FailureKind{FailureStatus, FailureHTML}},
		{"retry_after_seconds", f.RetryAfterSeconds != 0, []FailureKind{FailureStatus, FailureHTML}},
		{"expiry_seconds", f.ExpirySeconds != "", []FailureKind{FailureExpiry}},
		{"message", f.Message != "", []FailureKind{FailureMessage}},
		{"delay", f.Delay != 0, []FailureKind{FailureSlow, FailureDrip}},
	} {
		if field.isUsed && !slices.Contains(field.by, f.Kind) {
			return fmt.Errorf("%s: only for failures of the kinds %q", field.name, field.by)
		}
	}
	if f.RetryAfterSeconds < 0 {
		return fmt.Errorf("retry_after_seconds: must not be negative, not %d", f.RetryAfterSeconds)
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

// failureRule is a failure that is still to happen.
type failureRule struct {
	endpoint Endpoint
	left     int // negative: until the failures are cleared
	failure  Failure
}

// FailNext makes the next calls of the endpoint fail, or of any endpoint. A negative count means
// all calls until the failures are cleared; 0 means none. Failures happen in the order in which
// they were asked for. A call that gets 429, because too many are in flight, does not count.
// FailNext panics on an unknown endpoint and on a failure that Check rejects.
func (s *Simulator) FailNext(endpoint Endpoint, count int, failure Failure) {
	if err := failure.Check(); err != nil {
		panic(err)
	}
	if !endpoint.isKnown() {
		panic(fmt.Sprintf("no endpoint %q", endpoint))
	}
	if count == 0 {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failures = append(s.failures, failureRule{endpoint: endpoint, left: count, failure: failure})
}

// ClearFailures removes all failures asked for, and lets the calls that hang go on.
func (s *Simulator) ClearFailures() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.failures = nil
	close(s.cleared)
	s.cleared = make(chan struct{})
}

// nextFailure takes the failure for a call of this endpoint, or the zero Failure. It also returns
// what else the call needs before it waits.
func (s *Simulator) nextFailure(endpoint Endpoint) (failure Failure, cleared <-chan struct{}, knobs Knobs) {
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
	return failure, s.cleared, s.knobs
}
