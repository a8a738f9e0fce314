// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// problem is the body of N-central's errors [S,D].
type problem struct {
	Status  json.Number     `json:"status"`
	Message any             `json:"message"`
	Errors  json.RawMessage `json:"errors"`
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

// authorizationLost are N-central's words for an Authorization that is missing, at
// authenticate and at all other calls, and for one that does not begin with Bearer [O,S].
var authorizationLost = regexp.MustCompile(
	`(?i)required request header 'authorization'|missing authorization header|authentication header is malformed or unsupported`)

// saysAuthorizationIsLost reports whether N-central did not get the Authorization that
// every call with a token has.
func (p problem) saysAuthorizationIsLost() bool {
	message, _ := p.Message.(string)
	return authorizationLost.MatchString(message)
}

// overrides returns the headers of the overrides that the list of errors names.
func (p problem) overrides() (headers []string) {
	type item struct {
		Field string `json:"field"`
	}
	var stated []item
	_ = json.Unmarshal(p.Errors, &stated) // what cannot be read names nothing
	for _, header := range []string{AccessOverride, RefreshOverride} {
		if slices.ContainsFunc(stated, func(i item) bool { return overrideOf(i.Field) == header }) {
			headers = append(headers, header)
		}
	}
	return headers
}

// overrideOf returns the header of the override that a field of an error names, "" for
// neither. How N-central would name it is not known [?]: it may be the header, or a
// variable of its own such as accessExpiryOverride, with the name of a method before
// it. So the part after the last dot is to speak of one of the two tokens, and of an
// expiry or an override.
func overrideOf(field string) string {
	name := strings.ToLower(field[strings.LastIndexByte(field, '.')+1:])
	isAccess, isRefresh := strings.Contains(name, "access"), strings.Contains(name, "refresh")
	isLifetime := strings.Contains(name, "expir") || strings.Contains(name, "override")
	switch {
	case !isLifetime || isAccess == isRefresh:
		return ""
	case isAccess:
		return AccessOverride
	default:
		return RefreshOverride
	}
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
	isVerdict := failure.Kind == KindUnauthorized || failure.Kind == KindForbidden
	if r.carrier == inHeader && stated.isOf(status) && stated.saysAuthorizationIsLost() {
		// It is not the token that N-central judged.
		failure.Kind, failure.Fault = KindBadRequest, FaultAuthorizationLost
		isVerdict = false
	}
	switch {
	case isVerdict && readError != nil:
		failure.Kind = KindMalformed
		return brokenBody(ctx, failure, readError)
	case isVerdict && !stated.isOf(status):
		failure.Kind = KindMalformed
		failure.Fault = FaultIntercepted
		failure.Detail = describeBody(body, response.Header) + "; a proxy, firewall or web filter probably answered in N-central's place"
	case isJSON(mediaType):
		message, _ := stated.Message.(string)
		failure.Detail = filter(message, r.credential)
		if status == http.StatusBadRequest {
			failure.Fields = stated.overrides()
		}
	case len(body) > 0:
		failure.Detail = describeBody(body, response.Header)
		if isHTML(mediaType) {
			failure.Fault = FaultWebPage
		}
	}
	return failure
}
