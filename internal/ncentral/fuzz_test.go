// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// fuzzedSecret is the token of every fuzzed call, so that inputs can hold it.
const fuzzedSecret = "not-a-secret.but-as-long-as-one.0123456789-abcdefghijklmnop"

// hasPartOf reports whether the text holds a part of the secret that is long enough to matter.
func hasPartOf(secret, text string) bool {
	for start := range len(secret) - secretPartLength + 1 {
		if strings.Contains(text, secret[start:start+secretPartLength]) {
			return true
		}
	}
	return false
}

// checkShown checks that text from a server is safe to show.
func checkShown(t *testing.T, what, text string, secrets ...string) {
	t.Helper()
	if characters := utf8.RuneCountInString(text); characters > maxDetailCharacters {
		t.Errorf("the %s has %d characters", what, characters)
	}
	if strings.ContainsFunc(text, func(character rune) bool { return !unicode.IsPrint(character) }) {
		t.Errorf("the %s is not printable throughout: %q", what, text)
	}
	for _, secret := range secrets {
		if hasPartOf(secret, text) {
			t.Errorf("the %s holds a part of the secret", what)
		}
	}
}

func checkSession(t *testing.T, session *Session) {
	t.Helper()
	for what, text := range map[string]string{
		"access token": session.AccessToken, "type": session.TokenType,
		"refresh token": session.RefreshToken,
	} {
		if what == "refresh token" && text == "" {
			continue
		}
		if text == "" || len(text) > maxTokenSize ||
			strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
			t.Errorf("the %s cannot be sent in a header: %q", what, text)
		}
	}
	if !session.AccessLifetimeStated && session.AccessLifetime != 0 || !session.RefreshLifetimeStated &&
		session.RefreshLifetime != 0 {
		t.Error("a lifetime without its having been stated")
	}
}

// fuzzedCalls returns every call of the API. Each checks its result where it succeeds.
func fuzzedCalls(t *testing.T, c *Client) []func() error {
	opening := func(session *Session, err error) error {
		if (session == nil) == (err == nil) {
			t.Errorf("a session beside the error %v", err)
		}
		if session != nil {
			checkSession(t, session)
		}
		return err
	}
	return []func() error{
		func() error {
			return opening(c.Authenticate(t.Context(), fuzzedSecret, Overrides{Access: time.Minute}))
		},
		func() error { return opening(c.Refresh(t.Context(), fuzzedSecret, Overrides{})) },
		func() error { return c.Validate(t.Context(), fuzzedSecret) },
		func() error { return c.Logout(t.Context(), fuzzedSecret) },
		func() error { return c.Data(t.Context(), fuzzedSecret) },
		func() error { _, err := c.Health(t.Context()); return err },
		func() error {
			info, err := c.ServerInfo(t.Context(), fuzzedSecret)
			for what, text := range map[string]string{
				"version": info.Version, "N-central's version": info.NCentral,
				"start time": info.StartTime,
			} {
				checkShown(t, what, text, fuzzedSecret)
			}
			return err
		},
		func() error {
			links, err := c.Links(t.Context())
			for what, text := range map[string]string{
				"authenticate": links.Authenticate, "refresh": links.Refresh, "validate": links.Validate,
				"logout": links.Logout, "sso": links.SSO,
			} {
				checkShown(t, "link of "+what, text)
			}
			return err
		},
		func() error {
			user, err := c.User(t.Context(), fuzzedSecret)
			checkShown(t, "user's name", user.Name, fuzzedSecret)
			checkShown(t, "two-factor type", user.TwoFactorType, fuzzedSecret)
			if err != nil && user != (User{}) {
				t.Errorf("a user beside the error %v", err)
			}
			return err
		},
	}
}

// FuzzAnswers makes a server answer anything to each of the calls.
func FuzzAnswers(f *testing.F) {
	const authenticate, refresh, validate, logout, data, health, info, links, user = 0, 1, 2, 3, 4, 5, 6, 7, 8
	for _, seed := range []struct {
		call        uint8
		status      uint16
		contentType string
		retryAfter  string
		body        string
	}{
		{authenticate, 200, typeJSON, "", sessionBody("access", "refresh")},
		{
			authenticate, 200, typeJSON, "",
			`{"tokens":{"access":{"token":"a","expirySeconds":-9223372036854775808},"refresh":null}}`,
		},
		{authenticate, 200, typeJSON, "", `{"tokens":{"access":{"token":"a\n"}}}`},
		{authenticate, 200, typeJSON, "", `{"tokens":{"access":{"token":"a","type":" ","expirySeconds":1.5}}}`},
		{
			authenticate, 200, typeJSON, "",
			`{"tokens":{"access":{"token":"a","expirySeconds":"3600"},"refresh":{"token":"b","expirySeconds":9e4}}}`,
		},
		{
			authenticate, 200, "application/hal+json;charset=UTF-8", "",
			`{"tokens":{"access":{"token":"a","token":"b\r\nX: y"}}}`,
		},
		{
			authenticate, 400, typeJSON, "",
			`{"status":400,"message":"no","errors":[{"field":"X-ACCESS-EXPIRY-OVERRIDE"},` +
				`{"field":"refresh.accessExpiryOverride"},5]}`,
		},
		{authenticate, 401, typeJSON, "", `{"status":401,"message":"[ID=1] UNAUTHORIZED: no ` + fuzzedSecret +
			`","errors":null}`},
		{authenticate, 403, typeHTML, "600", "<html>" + fuzzedSecret},
		{refresh, 200, typeJSON, "", `[1e999]`},
		{refresh, 401, typeJSON, "", `{"status":"401","message":"` + fuzzedSecret[20:40] + `"}`},
		{refresh, 503, "", "Fri, 31 Dec 9999 23:59:59 GMT", ""},
		{validate, 200, typeJSON, "", validBody},
		{validate, 200, typeJSON, "", `{"message":"the  TOKEN is\tvalid . . ."}`},
		{validate, 200, typeJSON, "", `{"message":"no, ` + fuzzedSecret + `"}`},
		{validate, 200, typeJSON, "", `{"error message":"core failed: ` + fuzzedSecret[:30] +
			`\u200b\u202e","Error Message":5}`},
		{logout, 204, "", "", ""},
		{logout, 404, typeHTML, "", "<html>"},
		{data, 200, typeJSON, "", `{"data":[{"soId":"50"}],"totalItems":1}`},
		{data, 500, typeJSON, "-1", `{"status":500,"message":"` + strings.Repeat("é ", 150) + `"}`},
		{data, 302, typeHTML, "", ""},
		{health, 200, typeJSON, "", `{"currentTime":"2023-09-27T15:43:16.793Z"}`},
		{health, 200, typeJSON, "", `{"currentTime":"0001-01-01T00:00:00Z"}`},
		{health, 200, typeJSON, "", `{"currentTime":"9999-12-31T23:59:59.999999999+23:59"}`},
		{info, 200, typeJSON, "", `{"version":"3.1.0","ncentral":null,"startTime":"` + fuzzedSecret +
			`","jvmVersion":5}`},
		{info, 200, typeJSON, "", `{"version":"\u0000\ud800","startTime":{"a":[1e999]}}`},
		{
			links, 200, typeJSON, "",
			`{"_links":{"authenticate":{"href":"/api/auth/authenticate\n"}},"refresh":5,"validate":null}`,
		},
		{links, 200, typeJSON, "", `{"authenticate":"/a","_links":{"logout":"/api/auth/logout","sso":["x"]}}`},
		{
			user, 200, typeJSON, "",
			`{"status":200,"data":{"username":"a@example.com","isLocked":true,"twoFactorType":"NONE"}}`,
		},
		{user, 200, typeJSON, "", `{"data":{"username":"` + fuzzedSecret +
			`\u202e","isEnabled":"yes","isPasswordExpired":null,"twoFactorType":7}}`},
		{user, 403, typeJSON, "", `{"status":403,"message":"no ` + fuzzedSecret + `"}`},
		{links, 429, "application/problem+json", "9223372036854775807", `{"message":true}`},
	} {
		f.Add(seed.call, seed.status, seed.contentType, seed.retryAfter, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, call uint8, status uint16, contentType, retryAfter string, body []byte) {
		code := 100 + int(status)%900
		client := clientOf(transportFunc(func(*http.Request) (*http.Response, error) {
			response := newResponse(code, contentType, bytes.NewReader(body))
			response.Header.Set("Retry-After", retryAfter)
			return response, nil
		}))
		calls := fuzzedCalls(t, client)
		chosen := int(call) % len(calls)
		err := calls[chosen]()
		mediaType, _, _ := strings.Cut(contentType, ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
		isLogout := chosen == logout
		if err == nil {
			if code != 200 && !(code == 204 && isLogout) || !strings.HasSuffix(mediaType, "json") &&
				!(isLogout && len(body) == 0) {
				t.Errorf("status %d with %q was taken for success", code, contentType)
			}
			return
		}
		checkFailure(t, failureOf(t, err), code, mediaType)
	})
}

func checkFailure(t *testing.T, failure *Error, code int, mediaType string) {
	t.Helper()
	var sent []string
	if failure.Call != CallHealth && failure.Call != CallLinks {
		sent = append(sent, fuzzedSecret)
	}
	checkShown(t, "detail", failure.Detail, sent...)
	if !slices.Contains(Kinds(), failure.Kind) || !slices.Contains(Calls(), failure.Call) || failure.Status != code {
		t.Errorf("got %+v", failure)
	}
	if verdict := map[Kind]int{KindUnauthorized: 401, KindForbidden: 403}[failure.Kind]; verdict != 0 &&
		(verdict != code || !strings.HasSuffix(mediaType, "json")) {
		t.Errorf("status %d with %q was taken for the verdict %d", code, mediaType, verdict)
	}
	if failure.RetryAfter < 0 || failure.RetryAfter > maxRetryAfter {
		t.Errorf("Retry-After is %s", failure.RetryAfter)
	}
	for _, field := range failure.Fields {
		if field != AccessOverride && field != RefreshOverride || code != http.StatusBadRequest {
			t.Errorf("status %d names the field %q", code, field)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{
		"", "0", "7", " 7 ", "-5", "+5", "007", "7.5", "7s", "soon", "86401", "9223372036854775807",
		"9223372036854775808", "-9223372036854775808",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 9999",
		"Mon, 01 Jan 0001 00:00:00 GMT", "0x10", "1e3", "7, 8",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := retryAfter(http.Header{"Retry-After": {value}})
		if got < 0 || got > maxRetryAfter {
			t.Fatalf("%q: got %s", value, got)
		}
		if seconds, err := strconv.ParseUint(value, 10, 16); err == nil && got != time.Duration(seconds)*time.Second {
			t.Errorf("%q: got %s", value, got)
		}
	})
}

func FuzzBaseURL(f *testing.F) {
	for _, seed := range []string{
		"https://ncentral.example.com", " HTTPS://ncentral.example.com:443//\n", "http://127.0.0.1:8080",
		"http://[::1]/x/", "http://[::ffff:127.0.0.1]", "http://LOCALHOST.",
		"https://user:password-of-user@h", "https://h/?q#f", "https://h/a%2Fb/", "https://h/%61pi", "https://h/a%2fapi",
		"https://h/..%2f", "https://h/%2e%2e/x", "https://h/a//b", "https://h:0",
		"https://h:", "https://:443", "https://", "https:///x", "https:opaque", "https://[fe80::1%25eth0]:1",
		"https://h/\x7f", "https://exämple.com", "https://h\\@evil", "https://h/ x", "https://h/%0d%0aX:y",
		"ftp://h", "//h", "https://h/;x=y", "https://h/.", "https://1", "https://h%41",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		base, err := ParseBaseURL(raw)
		if err != nil {
			if base != "" {
				t.Errorf("%q: %q beside the error %v", raw, base, err)
			}
			return
		}
		if again, err := ParseBaseURL(base); err != nil || again != base {
			t.Errorf("%q is %q, and that is %q, %v", raw, base, again, err)
		}
		request, err := http.NewRequest(http.MethodGet, base+"/api/auth/validate", http.NoBody)
		if err != nil {
			t.Fatalf("%q is %q, of which no request can be made: %v", raw, base, err)
		}
		address := request.URL
		if address.Scheme != "https" && !(address.Scheme == "http" && isLoopback(address.Hostname())) {
			t.Errorf("%q leads to %s", raw, address)
		}
		if address.User != nil || address.RawQuery != "" || address.Fragment != "" || address.Opaque != "" ||
			!strings.HasSuffix(address.Path, "/api/auth/validate") {
			t.Errorf("%q leads to %#v", raw, address)
		}
		if original, err := url.Parse(strings.TrimSpace(raw)); err != nil || original.Host != address.Host {
			t.Errorf("%q leads to the host %q", raw, address.Host)
		}
		if strings.ContainsFunc(address.RequestURI()+address.Host,
			func(character rune) bool { return character <= ' ' || character == 0x7f }) {
			t.Errorf("%q is sent as %q to %q", raw, address.RequestURI(), address.Host)
		}
	})
}

// fuzzedCertificate is self-signed; its key is kept nowhere.
const fuzzedCertificate = `-----BEGIN CERTIFICATE-----
MIIBADCBs6ADAgECAgEBMAUGAytlcDAPMQ0wCwYDVQQDEwRmdXp6MCAXDTIwMDEw
MTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDEwRmdXp6MCowBQYD
K2VwAyEA+ATvKoHUB/TGZXoseNI/Q8iGtzDJ0DrkNz9GyU39FEmjMjAwMA8GA1Ud
EwEB/wQFMAMBAf8wHQYDVR0OBBYEFD3vXCeNYv4VUEw2SxJ+HGcz6eAQMAUGAytl
cANBAAXUuz5hjL94Yx/Pu3RhDujKEXsZi8MQ4NTB0pKWdV5vPAV8rf7nm4Lh8+9w
jKa/McVuA5U3I7P3WVftr0jkLQs=
-----END CERTIFICATE-----
`

func FuzzPEMBundle(f *testing.F) {
	const certificate = fuzzedCertificate
	const key = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"
	for _, seed := range []string{
		certificate, certificate + certificate, "prose\n" + certificate + "more prose", key + certificate, certificate +
			key, strings.ReplaceAll(certificate, "\n", "\r\n"),
		"\ufeff" + certificate, certificate[:len(certificate)/2], certificate[:len(certificate)/2] + "\n" +
			certificate, strings.ReplaceAll(certificate, "\n", " "),
		strings.Replace(certificate, "\n", "\nProc-Type: 4,ENCRYPTED\n\n", 1), strings.ReplaceAll(certificate,
			"CERTIFICATE", "TRUSTED CERTIFICATE"), "-----BEGIN CERTIFICATE-----",
		"-----BEGIN CERTIFICATE-----\n-----END " +
			"CERTIFICATE-----\n", "", " \n", "\x00\x00", "-----BEGIN -----\nAAAA\n-----END -----\n",
		strings.Replace(certificate, "M", "N", 1),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, bundle string) {
		pool, err := parseAuthorities(bundle)
		if err != nil {
			if pool != nil || strings.ContainsFunc(err.Error(),
				func(character rune) bool { return !unicode.IsPrint(character) }) {
				t.Errorf("a pool, or the error %q", err)
			}
			return
		}
		blocks := 0
		for rest := []byte(bundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				blocks++
			}
		}
		if blocks == 0 || blocks < strings.Count(bundle, "-----BEGIN CERTIFICATE-----") {
			t.Errorf("%d certificates were taken of %q", blocks, bundle)
		}
		if _, err := NewTransport(TransportOptions{CACert: bundle}); (err == nil) != (bundle != "") {
			t.Errorf("the transport does not take it: %v", err)
		}
	})
}

// FuzzFilter places any part of a secret anywhere in a text.
func FuzzFilter(f *testing.F) {
	f.Add("Login failed.", "no", fuzzedSecret, 0, 3)
	f.Add("[ID=1] ", "\u200b", fuzzedSecret, 0, 12)
	f.Add(strings.Repeat("x ", 99), "", fuzzedSecret, 5, 57)
	f.Add("\xff\xfe[redacted]", "[ID=", fuzzedSecret, 20, 30)
	f.Add("eyJ", "eyJ", fuzzedSecret, 0, 11)
	f.Add(fuzzedSecret[:6], fuzzedSecret[12:], fuzzedSecret, 6, 12)
	f.Add("[ID=1] [ID=2]\u00a0", "\u2028\u0085", "another-secret-with-\"quotes\"-and-\\", 3, 40)
	f.Add("token aaaaaaaaaaaaa", "a", "aaaaaaaaaaaaaaaa", 0, 16)
	longRun := regexp.MustCompile(`[A-Za-z0-9_.-]{40,}`)
	f.Fuzz(func(t *testing.T, before, after, secret string, from, to int) {
		if !isToken(secret) || len(secret) < secretPartLength || strings.Contains(secret, "red") ||
			strings.ContainsAny(secret, "[]") {
			t.Skip("no secret that a call sends, or one that may be made of what stands in its place")
		}
		from = min(max(from, 0), len(secret))
		part := secret[from:max(from, min(to, len(secret)))]
		for _, text := range []string{before + part + after, before + after + part, part + before + part + after} {
			got := filter(text, secret)
			if utf8.RuneCountInString(got) > maxDetailCharacters {
				t.Errorf("%d characters", utf8.RuneCountInString(got))
			}
			if strings.ContainsFunc(got, func(character rune) bool { return !unicode.IsPrint(character) }) {
				t.Errorf("%q is not printable throughout", got)
			}
			if longRun.MatchString(got) {
				t.Errorf("%q holds what looks like a token", got)
			}
			if hasPartOf(secret, got) {
				t.Errorf("a part of %q is left: %q", secret, got)
			}
		}
	})
}
