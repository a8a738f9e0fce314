// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const testURL = "http://localhost"

// validBody is N-central's answer to validate for a valid token.
const validBody = `{"message":"The token is valid."}`

// refusedBody is the body of a 401 of N-central's.
const refusedBody = `{"status":401,"message":"[ID=1] UNAUTHORIZED: UnauthorizedException: no"}`

// transportFunc is a server that is called as a function.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reply returns a transport that answers every request in the same way.
func reply(status int, contentType, body string) transportFunc {
	return func(*http.Request) (*http.Response, error) {
		return newResponse(status, contentType, strings.NewReader(body)), nil
	}
}

func newResponse(status int, contentType string, body io.Reader) *http.Response {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body)}
}

func clientOf(transport http.RoundTripper) *Client {
	return New(Options{BaseURL: testURL, Transport: transport})
}

// newToken returns a token of 57 characters.
func newToken() string {
	return "test-" + rand.Text() + rand.Text()
}

func sessionBody(accessToken, refreshToken string) string {
	return `{"tokens":{"access":{"token":"` + accessToken + `","type":"Bearer","expirySeconds":3600},` +
		`"refresh":{"token":"` + refreshToken + `","type":"Body","expirySeconds":90000}},` +
		`"refresh":"/api/auth/refresh","validate":"/api/auth/validate"}`
}

// failureOf returns err as an *Error, which every error of a Client must be.
func failureOf(t *testing.T, err error) *Error {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) {
		t.Fatalf("error is %T %v, want *Error", err, err)
	}
	return failure
}
