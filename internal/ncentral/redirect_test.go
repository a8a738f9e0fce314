// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"net/http"
	"strings"
	"testing"
)

func TestRedirectShowsSchemeHostAndPortOfAnotherServerAlone(t *testing.T) {
	const within, nowhere = "a redirect within the same server", "a redirect without a target that can be read"
	long := strings.Repeat("a", 40)
	for location, want := range map[string]string{
		"https://login.example.com/a?b=c#d":        "a redirect to https://login.example.com",
		"https://login.example.com:8443":           "a redirect to https://login.example.com:8443",
		"https://[::1]:8443/x":                     "a redirect to https://[::1]:8443",
		"https://user:password@login.example.com/": "a redirect to https://login.example.com",
		"http://login.example.com/":                "a redirect to http://login.example.com",
		"//login.example.com/x":                    "a redirect to http://login.example.com",
		"https://localhost/":                       "a redirect to https://localhost",
		"https://ncod1.a-managed-service-provider.n-able.com/api": "a redirect to " +
			"https://ncod1.a-managed-service-provider.n-able.com",
		"https://" + long + ".example.com/":     "a redirect to https://[redacted].example.com",
		"https://eyJhbGciOi.eyJzdWIi.c2lnbmF0/": "a redirect to https://[redacted].[redacted].c2lnbmF0",
		"http://LOCALHOST/login":                within,
		"/login":                                within,
		"?token=x":                              within,
		"::bad::%zz":                            nowhere,
		"ftp://login.example.com/":              nowhere,
		"https://log in.example.com/":           nowhere,
		"https://" + strings.Repeat("a.", 60) + "example.com": nowhere,
		"": nowhere,
	} {
		redirecting := transportFunc(func(*http.Request) (*http.Response, error) {
			response := newResponse(302, typeHTML, strings.NewReader("<html>"))
			response.Header.Set("Location", location)
			return response, nil
		})
		failure := failureOf(t, clientOf(redirecting).Validate(t.Context(), newToken()))
		if failure.Detail != want || failure.Kind != KindMalformed ||
			(failure.Fault == FaultRedirect) != strings.HasPrefix(want, "a redirect to https") {
			t.Errorf("%s: got %q, %q, want %q", location, failure.Detail, failure.Fault, want)
		}
	}
}

func TestRedirectHoldsNoPartOfTheTokenSent(t *testing.T) {
	secret := newToken()
	redirecting := transportFunc(func(*http.Request) (*http.Response, error) {
		response := newResponse(302, "", strings.NewReader(""))
		response.Header.Set("Location", "https://"+secret[:20]+".example.com")
		return response, nil
	})
	message := clientOf(redirecting).Validate(t.Context(), secret).Error()
	if strings.Contains(message, secret[:12]) || !strings.Contains(message, "example.com") {
		t.Error("the token is in the error, or its host is not")
	}
}
