// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"strings"
	"testing"
)

func TestParseBaseURL(t *testing.T) {
	tests := map[string]string{
		"https://ncentral.example.com":   "https://ncentral.example.com",
		"https://ncentral.example.com/":  "https://ncentral.example.com",
		"https://ncentral.example.com//": "https://ncentral.example.com",
		//nolint:gocritic // white space is pasted too
		" https://ncentral.example.com\n":    "https://ncentral.example.com",
		"HTTPS://ncentral.example.com":       "https://ncentral.example.com",
		"https://ncentral.example.com:443":   "https://ncentral.example.com:443",
		"https://ncentral.example.com:8443/": "https://ncentral.example.com:8443",
		"https://example.com/ncentral/":      "https://example.com/ncentral",
		"https://example.com/my-api/v1":      "https://example.com/my-api/v1",
		"https://example.com/a%2Fb/":         "https://example.com/a%2Fb",
		"https://api.example.com":            "https://api.example.com",
		"https://[2001:db8::1]:8443":         "https://[2001:db8::1]:8443",
		"http://localhost":                   "http://localhost",
		"http://LOCALHOST:8080/":             "http://LOCALHOST:8080",
		"http://127.0.0.1:8080":              "http://127.0.0.1:8080",
		"http://127.9.9.9":                   "http://127.9.9.9",
		"http://[::1]:8080":                  "http://[::1]:8080",
	}
	for raw, want := range tests {
		if got, err := ParseBaseURL(raw); err != nil || got != want {
			t.Errorf("ParseBaseURL(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
}

func TestBaseURLsThatAreRefused(t *testing.T) {
	password := newToken()
	tests := map[string]string{
		"":                                "does not begin with https://",
		"ncentral.example.com":            "does not begin with https://",
		"ncentral.example.com:443":        "does not begin with https://",
		"//ncentral.example.com":          "does not begin with https://",
		"ftp://ncentral.example.com":      "scheme other than https",
		"http://ncentral.example.com":     "use https",
		"http://10.0.0.1":                 "use https",
		"http://127.0.0.1.example.com":    "use https",
		"http://localhost.example.com":    "use https",
		"http://[::2]":                    "use https",
		"https://":                        "has no host",
		"https:///path":                   "has no host",
		"https://:443":                    "has no host",
		"https://example.com:":            "colon without a port",
		"https://example.com:0":           "port must be between",
		"https://example.com:65536":       "port must be between",
		"https://example.com:x":           "cannot be read",
		"https://exa mple.com":            "cannot be read",
		"https://example.com/%zz":         "cannot be read",
		"https://example.com/a\nb":        "cannot be read",
		"https://example.com?":            "query or a fragment",
		"https://example.com/?a=b":        "query or a fragment",
		"https://example.com#":            "query or a fragment",
		"https://example.com/#top":        "query or a fragment",
		"https://example.com/api":         "without /api",
		"https://example.com/api/":        "without /api",
		"https://example.com/API/auth":    "without /api",
		"https://example.com/x/api/auth":  "without /api",
		"https://example.com/%61pi":       "without /api",
		"https://example.com/a//b":        "doubled slash",
		"https://example.com/a/../b":      "dot segment",
		"https://user@example.com":        "user name or a password",
		"https://u:" + password + "@h":    "user name or a password",
		"https://u:" + password + "@h:x":  "cannot be read",
		"https://u:" + password + "@h/?a": "query or a fragment",
	}
	for raw, want := range tests {
		got, err := ParseBaseURL(raw)
		switch {
		case err == nil:
			t.Errorf("ParseBaseURL(%q) = %q, want an error", raw, got)
		case !strings.Contains(err.Error(), want):
			t.Errorf("ParseBaseURL(%q): %q does not say %q", raw, err, want)
		case strings.Contains(err.Error(), password):
			t.Errorf("the error %q holds the password", want)
		}
	}
}
