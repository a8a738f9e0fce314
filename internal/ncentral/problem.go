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

// problem is the body of an error of N-central's [S,D].
type problem struct {
	Status  json.Number     `json:"status"`
	Message any             `json:"message"`
	Errors  json.RawMessage `json:"errors"`
}

// hasStatus reports whether the body is that of an error of N-central's with this status: a JSON
// object that repeats the status and whose message is a string, which may be empty. It does not ask
// for more, since the list of errors and the ID in the message can be absent [S,D]. If it asked for
// less, it would accept the errors of gateways and web filters, such as {"message":"Forbidden"}.
func (p problem) hasStatus(status int) bool {
	_, isText := p.Message.(string)
	return p.Status.String() == strconv.Itoa(status) && isText
}

// authorizationLost matches N-central's messages about an Authorization header that is missing, at
// authenticate and at all other calls, and about one that does not begin with Bearer [O,S].
var authorizationLost = regexp.MustCompile(
	`(?i)required request header 'authorization'|missing authorization header|` +
		`authentication header is malformed or unsupported`)

// saysAuthorizationIsLost reports whether N-central did not receive the Authorization header, which
// every call with a token has.
func (p problem) saysAuthorizationIsLost() bool {
	message, _ := p.Message.(string)
	return authorizationLost.MatchString(message)
}

// overrides returns the override headers that the list of errors names.
func (p problem) overrides() (headers []string) {
	type item struct {
		Field string `json:"field"`
	}
	var stated []item
	_ = json.Unmarshal(p.Errors, &stated) // a list that cannot be decoded names nothing
	for _, header := range []string{AccessOverride, RefreshOverride} {
		if slices.ContainsFunc(stated, func(i item) bool { return overrideOf(i.Field) == header }) {
			headers = append(headers, header)
		}
	}
	return headers
}

// overrideOf returns the override header that a field of an error means, or "". How N-central names
// it is not known [?]: it may be the header, or a variable such as accessExpiryOverride with the
// name of a method before it. So the part after the last dot must mention one of the two tokens,
// and an expiry or an override.
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

// readProblem returns the error for an answer with a status of 400 or more. A 401 or 403 says that
// a token is no longer valid or that its user lacks a permission. Readers' tokens are dropped for
// it, and people generate new ones. So it counts only where N-central itself sent it.
func readProblem(ctx context.Context, r request, response *http.Response, body []byte, readError error) *Error {
	status, mediaType := response.StatusCode, mediaTypeOf(response.Header)
	failure := &Error{Call: r.call, Kind: kindOfStatus(status), Status: status, RetryAfter: retryAfter(response.Header)}
	var stated problem
	if isJSON(mediaType) {
		_ = json.Unmarshal(body, &stated) // a body that cannot be decoded states nothing
	}
	isVerdict := failure.Kind == KindUnauthorized || failure.Kind == KindForbidden
	if r.placement == inHeader && stated.hasStatus(status) && stated.saysAuthorizationIsLost() {
		// N-central did not judge the token.
		failure.Kind, failure.Fault = KindBadRequest, FaultAuthorizationLost
		isVerdict = false
	}
	switch {
	case isVerdict && readError != nil:
		failure.Kind = KindMalformed
		return brokenBody(ctx, failure, readError)
	case isVerdict && !stated.hasStatus(status):
		failure.Kind = KindMalformed
		failure.Fault = FaultIntercepted
		failure.Detail = describeBody(body, response.Header) +
			"; a proxy, firewall or web filter probably answered in N-central's place"
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
