// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestFilter(t *testing.T) {
	secret := newToken()
	shortJWT := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30."
	tests := map[string]struct{ text, want string }{
		"plain":             {"Login failed.", "Login failed."},
		"with an ID":        {"[ID=4f-a b] UNAUTHORIZED: x", "UNAUTHORIZED: x"},
		"ID not in front":   {"x [ID=4f]", "x [ID=4f]"},
		"ID alone":          {" [ID=4f] ", ""},
		"over lines":        {"a\r\nb\tc", "a  b c"},
		"control letters":   {"a\x1b[31m\x00b\u202ec", "a[31mbc"},
		"secret":            {"token " + secret + " unknown", "token [redacted] unknown"},
		"secret twice":      {secret + "/" + secret, "[redacted]/[redacted]"},
		"its beginning":     {"token " + secret[:12] + "...", "token [redacted]..."},
		"its end":           {"token ..." + secret[len(secret)-12:], "token ...[redacted]"},
		"too little of it":  {"token " + secret[:11], "token " + secret[:11]},
		"short JWT":         {"token " + shortJWT + " is bad", "token [redacted] is bad"},
		"another long one":  {"key " + newToken(), "key [redacted]"},
		"39 letters":        {strings.Repeat("x", 39), strings.Repeat("x", 39)},
		"40 letters":        {strings.Repeat("x", 40), "[redacted]"},
		"base64":            {strings.Repeat("a+b/", 10), "[redacted]"},
		"class name":        {"com.nable.api.UnauthorizedException: no", "com.nable.api.UnauthorizedException: no"},
		"too much":          {strings.Repeat("é ", 300), strings.Repeat("é ", 100)},
		"secret at the cut": {strings.Repeat("é ", 95) + secret, strings.Repeat("é ", 95) + "[redacted]"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := filter(test.text, secret); got != test.want {
				t.Errorf("filter(%q) = %q, want %q", test.text, got, test.want)
			}
		})
	}
}

func TestFilterHidesShortSecrets(t *testing.T) {
	if got := filter("the token abc is unknown", "abc"); got != "the token [redacted] is unknown" {
		t.Errorf("got %q", got)
	}
}
