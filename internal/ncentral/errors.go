// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Kind is the way in which a call failed.
type Kind string

// The kinds of failure.
const (
	KindUnreachable  Kind = "unreachable"  // no connection, or none that is trusted
	KindTimeout      Kind = "timeout"      // no answer in time for the attempt or for the call
	KindUnauthorized Kind = "refused"      // a 401 in N-central's form; any other 401 is KindMalformed
	KindForbidden    Kind = "forbidden"    // a 403, likewise
	KindRateLimited  Kind = "rate_limited" // 429
	KindUnavailable  Kind = "unavailable"  // 502, 503, 504
	KindServerError  Kind = "server_error" // 500 and every other 5xx
	KindBadRequest   Kind = "bad_request"  // 400 and every other 4xx, or a token that cannot be sent
	KindNotFound     Kind = "not_found"    // 404, 405
	KindHiddenError  Kind = "hidden_error" // "Error Message" in a 200 [D]
	KindMalformed    Kind = "malformed"    // not N-central's: a redirect, HTML, a foreign 401, cut short, no tokens
	KindCanceled     Kind = "canceled"     // the caller cancelled the call
	KindQueued       Kind = "queued"       // the transport had no place in time; only a transport returns it
)

// Kinds returns every Kind.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kindPhrases)) }

var kindPhrases = map[Kind]string{
	KindUnreachable:  "N-central cannot be reached",
	KindTimeout:      "N-central did not answer in time",
	KindUnauthorized: "N-central refused the credential",
	KindForbidden:    "N-central denied permission",
	KindRateLimited:  "N-central has too many requests in flight",
	KindUnavailable:  "N-central is unavailable",
	KindServerError:  "N-central failed",
	KindBadRequest:   "N-central rejected the request",
	KindNotFound:     "N-central does not know the call",
	KindHiddenError:  "N-central answered with an error",
	KindMalformed:    "the answer is not one of N-central's API",
	KindCanceled:     "the call was canceled",
	KindQueued:       "the call waited too long for a place among the requests in flight",
}

// Error is the error of every call that fails.
type Error struct {
	Call   Call
	Kind   Kind
	Status int // of the answer; 0 without an answer

	// Detail says more, on one line: N-central's message without its tokens, in at most 200
	// printable characters, or what is wrong. It may be empty.
	Detail string

	// Fields are AccessOverride, RefreshOverride, both or neither: the headers that a 400 names in
	// its list of errors.
	Fields []string

	// RetryAfter is how long N-central asked the client to wait; 0 where it did not ask.
	RetryAfter time.Duration

	// Fault says what is wrong where that is plain to see; otherwise it is empty.
	Fault Fault

	// AtProxy reports whether the Fault concerns a proxy from the environment.
	AtProxy bool

	// NotSent reports that N-central cannot have acted on the latest attempt, because there was no
	// connection to send it on.
	NotSent bool

	// Err is the cause, for errors.Is and errors.As. It is not part of the message, because it may
	// quote what the server sent.
	Err error
}

// Error returns one sentence: the call, what happened, and the status of the answer.
func (e *Error) Error() string {
	text := string(e.Call) + ": " + kindPhrases[e.Kind]
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error {
	return e.Err
}

// KindOf returns the kind of the *Error that err is or wraps, and "" where there is none.
func KindOf(err error) Kind {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.Kind
	}
	return ""
}

func malformed(call Call, detail string) *Error {
	return &Error{Call: call, Kind: KindMalformed, Status: http.StatusOK, Detail: detail}
}

func kindOfStatus(status int) Kind {
	switch status {
	case http.StatusUnauthorized:
		return KindUnauthorized
	case http.StatusForbidden:
		return KindForbidden
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return KindNotFound
	case http.StatusTooManyRequests:
		return KindRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return KindUnavailable
	}
	if status >= http.StatusInternalServerError {
		return KindServerError
	}
	return KindBadRequest
}
