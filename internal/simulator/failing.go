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

// answerInstead is what is answered in place of the call's own answer, or nil where the call is to do its work.
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
		failed.body = evilTokens("a-line\nanother", "Bearer", "Body")
	case FailureControlToken:
		const evil = "a-token\r\nX-Evil: 1\x00\x1b[31m\u202e\u200b"
		failed.body = evilTokens(evil, evil, evil)
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

// page is what something else than N-central answers: a login page, or with an error status the page of who blocks.
func page(status int) []byte {
	if status >= http.StatusBadRequest {
		return []byte("<!DOCTYPE html><html><head><title>Blocked</title></head><body>This request was blocked.</body></html>")
	}
	return []byte("<!DOCTYPE html><html><head><title>Log in</title></head><body><form action=\"/login\"></form></body></html>")
}

func evilTokens(token, accessType, refreshType string) []byte {
	var body tokensBody
	body.Tokens.Access = tokenBody{Token: token, Type: accessType, ExpirySeconds: "3600"}
	body.Tokens.Refresh = tokenBody{Token: token, Type: refreshType, ExpirySeconds: "90000"}
	return toJSON(body)
}

const oversizedBytes = 2_000_000

// loses says whether the answer does not reach the client whole, though the call does its work.
func (f Failure) loses() bool {
	switch f.Kind {
	case FailureTruncated, FailureOversized, FailureGzipBomb, FailureDrip, FailureLostAnswer:
		return true
	}
	return false
}

// spoil does to the finished call's answer what the failure says.
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

// padding is what goes before and behind a long text to make it a member of a JSON object that is well formed.
func padding(object []byte) (begin, end []byte) {
	begin = []byte("{")
	if len(object) > 0 {
		begin = append(bytes.TrimSuffix(object, []byte("}")), ',')
	}
	return append(begin, `"padding":"`...), []byte(`"}`)
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
