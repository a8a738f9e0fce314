// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is the body of N-central's errors [S,D].
type problem struct {
	Status  json.Number `json:"status"`
	Message any         `json:"message"`
}

// isOf reports whether the body is that of N-central's errors of this status: a JSON
// object that repeats the status and has a text as its message, be it empty. More is
// not asked for, since the list of errors and the ID in the message can be absent
// [S,D]. Less would not tell it from gateways and web filters, which answer
// {"message":"Forbidden"} and the like.
func (p problem) isOf(status int) bool {
	_, isText := p.Message.(string)
	return p.Status.String() == strconv.Itoa(status) && isText
}

// readProblem makes an error of an answer whose status is 400 or more. A 401 or 403
// says that a token is dead or its user may not, and has readers' tokens dropped and
// people generate new ones: it counts only where it is N-central that says so.
func readProblem(ctx context.Context, r request, response *http.Response, body []byte, readError error) *Error {
	status, mediaType := response.StatusCode, mediaTypeOf(response.Header)
	failure := &Error{Call: r.call, Kind: kindOfStatus(status), Status: status, RetryAfter: retryAfter(response.Header)}
	var stated problem
	if isJSON(mediaType) {
		_ = json.Unmarshal(body, &stated) // what cannot be read is missing
	}
	isVerdict := failure.Kind == KindRefused || failure.Kind == KindForbidden
	switch {
	case isVerdict && readError != nil:
		failure.Kind = KindMalformed
		return brokenBody(ctx, failure, readError)
	case isVerdict && !stated.isOf(status):
		failure.Kind = KindMalformed
		failure.Detail = describeBody(body, response.Header) + "; a proxy, firewall or web filter probably answered in N-central's place"
	case isJSON(mediaType):
		message, _ := stated.Message.(string)
		failure.Detail = filter(message, r.credential)
	case len(body) > 0:
		failure.Detail = describeBody(body, response.Header)
	}
	return failure
}
