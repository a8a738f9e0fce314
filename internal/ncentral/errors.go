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

// Kind says how a call failed.
type Kind string

// The kinds of failure.
const (
	KindUnreachable  Kind = "unreachable"  // no connection, or none that is trusted
	KindTimeout      Kind = "timeout"      // no answer in time, of the attempt or of the call
	KindUnauthorized Kind = "refused"      // 401 in N-central's form; any other's is KindMalformed
	KindForbidden    Kind = "forbidden"    // 403, likewise
	KindRateLimited  Kind = "rate_limited" // 429
	KindUnavailable  Kind = "unavailable"  // 502, 503, 504
	KindServerError  Kind = "server_error" // 500 and every other 5xx
	KindBadRequest   Kind = "bad_request"  // 400 and every other 4xx, or a token that cannot be sent
	KindNotFound     Kind = "not_found"    // 404, 405
	KindHiddenError  Kind = "hidden_error" // "Error Message" in a 200 [D]
	KindMalformed    Kind = "malformed"    // an answer that is not N-central's: redirect, HTML, a 401 of another's, cut short, without tokens
	KindCanceled     Kind = "canceled"     // the caller gave the call up
	KindQueued       Kind = "queued"       // the transport had no place for the call in time; never a Client's own finding
)

// Kinds are all there are.
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
	KindHiddenError:  "N-central answered an error",
	KindMalformed:    "the answer is not one of N-central's API",
	KindCanceled:     "the call was given up",
	KindQueued:       "the call found no place in time among those in flight",
}

// Error is how every call of a Client fails.
type Error struct {
	Call   Call
	Kind   Kind
	Status int // of the answer; 0 where none came

	// Detail says more, on one line: N-central's message without its tokens, in at most
	// 200 printable characters, or what is wrong. It may be empty.
	Detail string

	// Fields are those of AccessOverride and RefreshOverride that the errors of a 400
	// name as what is wrong with the request; none where they name neither.
	Fields []string

	// RetryAfter is how long N-central asked to be left alone; 0 where it did not.
	RetryAfter time.Duration

	// Fault says what is wrong where that is plain to see, else "".
	Fault Fault

	// AtProxy says that the Fault is that of a proxy that the environment names.
	AtProxy bool

	// NotSent says that N-central cannot have acted on the latest attempt, for there was
	// no connection to send it on.
	NotSent bool

	// Err is the cause, for errors.Is and errors.As. It is not part of the message,
	// for it may quote what the server sent.
	Err error
}

// Error answers one sentence: the call, what happened, and the status if one came.
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

// Unwrap answers the cause, nil where there is none.
func (e *Error) Unwrap() error {
	return e.Err
}

// KindOf answers the kind of the *Error that err is or wraps, else "".
func KindOf(err error) Kind {
	var failure *Error
	if errors.As(err, &failure) {
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
