// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// answerInstead returns the answer that replaces the call's own, or nil where the call does its
// work.
func (f Failure) answerInstead(knobs Knobs) *answer {
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
		failed.status = cmp.Or(f.Status, http.StatusOK)
		failed.retryAfterSeconds = f.RetryAfterSeconds
		failed.contentType = "text/html"
		failed.body = page(failed.status)
	case FailureRedirect:
		failed.status = http.StatusFound
		failed.location = "/login"
		failed.contentType = "text/html"
		failed.body = page(failed.status)
	case FailureNoTokens:
		failed.body = toJSON(map[string]string{"refresh": refreshPath, "validate": validatePath})
	case FailureLineFeedToken:
		failed.body = hostileTokens("a-line\nanother", "Bearer", "Body")
	case FailureControlToken:
		const evil = "a-token\r\nX-Evil: 1\x00\x1b[31m\u202e\u200b"
		failed.body = hostileTokens(evil, evil, evil)
	case FailureErrorMessage:
		return hiddenErrorAnswer(knobs.HiddenErrorKey, OutcomeFailed)
	case FailureMessage:
		failed.body = toJSON(map[string]string{"message": f.Message})
	case FailureEndlessHeaders:
		failed.delivery = deliverHeaders
	default:
		return nil
	}
	return failed
}

// exceptionOf returns the name of the Java exception with which N-central's errors of this status
// begin [S,O].
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

// page returns the page of something other than N-central: a login page, or a block page for an
// error status.
func page(status int) []byte {
	if status >= http.StatusBadRequest {
		return []byte("<!DOCTYPE html><html><head><title>Blocked</title></head><body>This request was " +
			"blocked.</body></html>")
	}
	return []byte("<!DOCTYPE html><html><head><title>Log in</title></head><body><form " +
		"action=\"/login\"></form></body></html>")
}

func hostileTokens(token, accessType, refreshType string) []byte {
	var body tokensBody
	body.Tokens.Access = tokenBody{Token: token, Type: accessType, ExpirySeconds: "3600"}
	body.Tokens.Refresh = tokenBody{Token: token, Type: refreshType, ExpirySeconds: "90000"}
	return toJSON(body)
}

const oversizedBytes = 2_000_000

// losesAnswer reports whether the call does its work, but its answer does not reach the client
// whole.
func (f Failure) losesAnswer() bool {
	switch f.Kind {
	case FailureTruncated, FailureOversized, FailureGzipBomb, FailureDrip, FailureLostAnswer:
		return true
	}
	return false
}

// spoil applies the failure to the answer of a call that has done its work.
func (f Failure) spoil(finished *answer) *answer {
	switch f.Kind {
	case FailureTruncated:
		finished.delivery = deliverHalf
	case FailureOversized:
		finished.contentType = "application/json"
		begin, end := padding(finished.body)
		finished.body = slices.Concat(begin, bytes.Repeat([]byte("x"), oversizedBytes), end)
	case FailureGzipBomb:
		finished.contentType = "application/json"
		finished.delivery = deliverBomb
	case FailureDrip:
		finished.delivery, finished.pace = deliverDrip, time.Duration(f.Delay)
	case FailureLostAnswer:
		finished.delivery = deliverReset
	default:
		return finished
	}
	finished.outcome = OutcomeFailed
	return finished
}

// padding returns what goes before and after a long text to make it a field of a well-formed JSON
// object.
func padding(object []byte) (begin, end []byte) {
	begin = []byte("{")
	if len(object) > 0 {
		begin = append(bytes.TrimSuffix(object, []byte("}")), ',')
	}
	return append(begin, `"padding":"`...), []byte(`"}`)
}

// alterGrant states another lifetime, and keeps to it as far as possible.
func (f Failure) alterGrant(granted grant) grant {
	if f.Kind != FailureExpiry {
		return granted
	}
	seconds, _ := strconv.ParseFloat(string(f.ExpirySeconds), 64) // out of range is infinite, which is right here
	seconds = min(max(seconds, 0), maxLifetime.Seconds())
	return grant{lifetime: time.Duration(seconds * float64(time.Second)), stated: f.ExpirySeconds}
}
