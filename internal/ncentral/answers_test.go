// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseSession(t *testing.T) {
	access, refresh, sentAt := newToken(), newToken(), time.Now()
	both := Session{
		AccessToken: access, TokenType: "Bearer", RefreshToken: refresh, SentAt: sentAt,
		AccessLifetime: time.Hour, AccessLifetimeStated: true, RefreshLifetime: 25 * time.Hour,
		RefreshLifetimeStated: true,
	}
	alone := Session{AccessToken: access, TokenType: "Bearer", SentAt: sentAt}
	lasting := func(lifetime time.Duration) Session {
		session := alone
		session.AccessLifetime, session.AccessLifetimeStated = lifetime, true
		return session
	}
	ofType := alone
	ofType.TokenType = "MAC"

	tests := map[string]struct {
		body string
		want Session
	}{
		"both tokens":         {sessionBody(access, refresh), both},
		"no refresh token":    {`{"tokens":{"access":{"token":"` + access + `","type":"Bearer"}}}`, alone},
		"refresh token null":  {`{"tokens":{"access":{"token":"` + access + `"},"refresh":null}}`, alone},
		"refresh token empty": {`{"tokens":{"access":{"token":"` + access + `"},"refresh":{"token":""}}}`, alone},
		"another type":        {`{"tokens":{"access":{"token":"` + access + `","type":"MAC"}}}`, ofType},
		"lifetime as text": {
			`{"tokens":{"access":{"token":"` + access + `","expirySeconds":"3600"}}}`,
			lasting(time.Hour),
		},
		"lifetime with a point": {
			`{"tokens":{"access":{"token":"` + access + `","expirySeconds":3600.0}}}`,
			lasting(time.Hour),
		},
		"lifetime as both": {
			`{"tokens":{"access":{"token":"` + access + `","expirySeconds":"3.6e3"}}}`,
			lasting(time.Hour),
		},
		"lifetime null": {`{"tokens":{"access":{"token":"` + access + `","expirySeconds":null}}}`, alone},
		"lifetime zero": {`{"tokens":{"access":{"token":"` + access + `","expirySeconds":0}}}`, lasting(0)},
		"lifetime negative": {
			`{"tokens":{"access":{"token":"` + access + `","expirySeconds":-5}}}`,
			lasting(-5 * time.Second),
		},
		"lifetime absurd": {`{"tokens":{"access":{"token":"` + access +
			`","expirySeconds":9223372036854775807}}}`, lasting(math.MaxInt64)},
		"lifetime absurdly low": {`{"tokens":{"access":{"token":"` + access +
			`","expirySeconds":-9223372036854775808}}}`, lasting(math.MinInt64)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			session, err := parseSession(CallRefresh, answer{body: []byte(test.body), sentAt: sentAt})
			if err != nil {
				t.Fatal(err)
			}
			if *session != test.want {
				t.Error(cmp.Diff(test.want, *session))
			}
		})
	}
}

func TestSessionsThatAreRefused(t *testing.T) {
	token := newToken()
	tests := map[string]string{
		"no tokens":              `{"tokens":{}}`,
		"a list":                 `[]`,
		"tokens null":            `{"tokens":null}`,
		"refresh token alone":    `{"tokens":{"refresh":{"token":"` + token + `"}}}`,
		"token empty":            `{"tokens":{"access":{"token":""}}}`,
		"token a number":         `{"tokens":{"access":{"token":5}}}`,
		"token with a line feed": `{"tokens":{"access":{"token":"` + token + `\n"}}}`,
		"token with a space":     `{"tokens":{"access":{"token":"` + token + ` x"}}}`,
		"token with a control":   `{"tokens":{"access":{"token":"` + token + `\u007f"}}}`,
		"token beyond ASCII":     `{"tokens":{"access":{"token":"` + token + `é"}}}`,
		"token too long":         `{"tokens":{"access":{"token":"` + strings.Repeat("x", maxTokenSize+1) + `"}}}`,
		"refresh token with a tab": `{"tokens":{"access":{"token":"` + token + `"},"refresh":{"token":"` + token +
			`\t"}}}`,
		"type with a line feed":     `{"tokens":{"access":{"token":"` + token + `","type":"Bearer\nX: y"}}}`,
		"lifetime a fraction":       `{"tokens":{"access":{"token":"` + token + `","expirySeconds":3600.5}}}`,
		"lifetime a text":           `{"tokens":{"access":{"token":"` + token + `","expirySeconds":"an hour"}}}`,
		"lifetime an empty text":    `{"tokens":{"access":{"token":"` + token + `","expirySeconds":""}}}`,
		"lifetime infinite":         `{"tokens":{"access":{"token":"` + token + `","expirySeconds":"Inf"}}}`,
		"lifetime a unit":           `{"tokens":{"access":{"token":"` + token + `","expirySeconds":"3600s"}}}`,
		"lifetime a fraction, text": `{"tokens":{"access":{"token":"` + token + `","expirySeconds":"0.5"}}}`,
		"lifetime a truth":          `{"tokens":{"access":{"token":"` + token + `","expirySeconds":true}}}`,
		"lifetime a list":           `{"tokens":{"access":{"token":"` + token + `","expirySeconds":[3600]}}}`,
		"lifetime not to be known":  `{"tokens":{"access":{"token":"` + token + `","expirySeconds":1e17}}}`,
		"lifetime beyond 64 bits": `{"tokens":{"access":{"token":"` + token +
			`","expirySeconds":9223372036854775808}}}`,
		"refresh lifetime a text": `{"tokens":{"access":{"token":"` + token + `"},"refresh":{"token":"` + token +
			`","expirySeconds":"x"}}}`,
		"lifetime with an exponent": `{"tokens":{"access":{"token":"` + token + `","expirySeconds":1e400}}}`,
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			session, err := clientOf(reply(200, typeJSON, body)).Authenticate(t.Context(), newToken(), Overrides{})
			failure := failureOf(t, err)
			if session != nil || failure.Kind != KindMalformed || failure.Detail == "" || failure.Status != 200 {
				t.Errorf("got %+v", failure)
			}
			if strings.Contains(err.Error(), token) {
				t.Error("the error holds the token")
			}
		})
	}
}

func TestAnswerWithoutTokens(t *testing.T) {
	_, err := clientOf(reply(200, typeJSON, `{}`)).Authenticate(t.Context(), newToken(), Overrides{})
	if failure := failureOf(t, err); failure.Kind != KindMalformed || failure.Detail != "no access token in it" {
		t.Errorf("got %+v", failure)
	}
}

func TestWrongFieldIsNamed(t *testing.T) {
	body := `{"tokens":{"access":{"token":"` + newToken() + `","expirySeconds":"1h"}}}`
	_, err := clientOf(reply(200, typeJSON, body)).Authenticate(t.Context(), newToken(), Overrides{})
	if !strings.Contains(err.Error(), "tokens.access.expirySeconds") {
		t.Errorf("%q does not name the field", err)
	}
}

func TestWhatValidateAnswers(t *testing.T) {
	token := newToken()
	const another = "it does not say that the token is valid, but:"
	tests := map[string]struct {
		status     int
		mediaType  string
		body       string
		kind       Kind // "" where the token is valid
		wantDetail string
	}{
		"valid":                    {200, typeJSON, validBody, "", ""},
		"valid, other case":        {200, typeJSON, `{"message":"THE TOKEN is Valid."}`, "", ""},
		"valid, no full stop":      {200, typeJSON, `{"message":"The token is valid"}`, "", ""},
		"valid, other white space": {200, typeJSON, `{"message":" The  token\nis valid .\t"}`, "", ""},
		"valid, and more beside": {
			200, typeJSON,
			`{"status":200,"message":"The token is valid.","data":null}`, "", "",
		},
		"invalid": {
			200, typeJSON, `{"message":"The token is invalid."}`, KindMalformed,
			another + " The token is invalid.",
		},
		"not valid": {
			200, typeJSON, `{"message":"The token is not valid."}`, KindMalformed,
			another + " The token is not valid.",
		},
		"valid only in part": {
			200, typeJSON, `{"message":"The token is valid. Not."}`, KindMalformed,
			another + " The token is valid. Not.",
		},
		"no message": {200, typeJSON, `{}`, KindMalformed, another},
		"a message that is no text": {
			200, typeJSON, `{"message":true}`, KindMalformed,
			"its field message does not have the right type",
		},
		"a list": {
			200, typeJSON, `[` + validBody + `]`, KindMalformed,
			"its JSON does not have the form of this call's answer",
		},
		"a message with the token": {
			200, typeJSON, `{"message":"no: ` + token + `"}`, KindMalformed,
			another + " no: [redacted]",
		},
		"hidden error": {
			200, typeJSON, `{"message":"The token is valid.","Error Message":"no"}`,
			KindHiddenError, "no",
		},
		"a page that says it":         {200, typeHTML, "The token is valid.", KindMalformed, ""},
		"dead":                        {401, typeJSON, refusedBody, KindUnauthorized, ""},
		"forbidden":                   {403, typeJSON, `{"status":403,"message":"no"}`, KindForbidden, ""},
		"absent, as behind a proxy":   {404, typeHTML, "<html>", KindNotFound, ""},
		"another 4xx":                 {400, typeJSON, `{"status":400,"message":"no"}`, KindBadRequest, ""},
		"a block page with a 401":     {401, typeHTML, "<html>", KindMalformed, ""},
		"a failure":                   {500, typeJSON, `{"status":500,"message":"no"}`, KindServerError, ""},
		"valid by its words, not 200": {201, typeJSON, validBody, KindMalformed, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := clientOf(reply(test.status, test.mediaType, test.body)).Validate(t.Context(), token)
			if test.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failure := failureOf(t, err)
			if failure.Kind != test.kind || test.wantDetail != "" && failure.Detail != test.wantDetail {
				t.Errorf("got %s, %q", failure.Kind, failure.Detail)
			}
		})
	}
}

func TestLinks(t *testing.T) {
	want := Links{Authenticate: "/api/auth/authenticate", Refresh: "/api/auth/refresh", Validate: "/api/auth/validate"}
	flat := `{"authenticate":"/api/auth/authenticate","refresh":"/api/auth/refresh","validate":"/api/auth/validate"}`
	five := want
	five.Logout, five.SSO = "/api/auth/logout", "/api/auth/sso"
	flatFive := strings.TrimSuffix(flat, "}") + `,"logout":"/api/auth/logout","sso":"/api/auth/sso"}`
	tests := map[string]struct {
		body string
		want Links
	}{
		"flat":          {flat, want},
		"under _links":  {`{"_links":` + flat + `}`, want},
		"five":          {flatFive, five},
		"five under it": {`{"_links":` + flatFive + `}`, five},
		"as objects": {
			`{"_links":{"authenticate":{"href":"/api/auth/authenticate"}}}`,
			Links{Authenticate: want.Authenticate},
		},
		"of other forms":   {`{"authenticate":5,"refresh":["x"],"validate":null}`, Links{}},
		"none":             {`{}`, Links{}},
		"with odd letters": {`{"authenticate":"/api\u001b[31m/\nauth"}`, Links{Authenticate: "/api[31m/ auth"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			links, err := clientOf(reply(200, typeJSON, test.body)).Links(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, links); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := clientOf(reply(200, typeJSON, `["x"]`)).Links(t.Context()); KindOf(err) != KindMalformed {
		t.Errorf("a list: got %v", err)
	}
}

func TestServerInfo(t *testing.T) {
	token := newToken()
	full := `{"version":"3.1.0","ncentral":"2026.2.0.17","startTime":"2026-01-02T03:04:05Z","jvmVersion":"21.0.1"}`
	tests := map[string]struct {
		body string
		want ServerInfo
	}{
		"full": {full, ServerInfo{"3.1.0", "2026.2.0.17", "2026-01-02T03:04:05Z"}},
		"older": {
			`{"version":"3.1.0","ncentral":null,"startTime":null,"jvmVersion":"21.0.1"}`,
			ServerInfo{Version: "3.1.0"},
		},
		"start in another form": {
			`{"startTime":"Jan 2, 2026, 3:04 AM"}`,
			ServerInfo{StartTime: "Jan 2, 2026, 3:04 AM"},
		},
		"start as a number": {`{"startTime":1767323045000}`, ServerInfo{StartTime: "1767323045000"}},
		"start empty":       {`{"startTime":""}`, ServerInfo{}},
		"echoing":           {`{"version":"` + token + `"}`, ServerInfo{Version: redacted}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			info, err := clientOf(reply(200, typeJSON, test.body)).ServerInfo(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if info != test.want {
				t.Errorf("got %+v, want %+v", info, test.want)
			}
		})
	}
	if _, err := clientOf(reply(200, typeJSON, `{"version":3}`)).ServerInfo(t.Context(),
		token); KindOf(err) != KindMalformed {
		t.Errorf("a version that is no text: got %v", err)
	}
}

func TestUser(t *testing.T) {
	token := newToken()
	known := User{
		Name: "api@example.com", Enabled: new(true), Locked: new(false), PasswordExpired: new(true),
		PasswordResetRequired: new(false),
		TwoFactorType:         "NONE",
	}
	full := `"userId":7,"username":"api@example.com","isEnabled":true,"isLocked":false,"isPasswordExpired":true,` +
		`"isPasswordResetRequired":false,"twoFactorType":"NONE","generation":1`
	tests := map[string]struct {
		body string
		want User
	}{
		"full":           {`{"status":200,"message":"ok","data":{` + full + `}}`, known},
		"nothing told":   {`{"data":{}}`, User{}},
		"null":           {`{"data":{"username":null,"isLocked":null,"twoFactorType":null}}`, User{}},
		"of other types": {`{"data":{"username":["x"],"isLocked":"no","isEnabled":1,"twoFactorType":{}}}`, User{}},
		"one of another": {
			`{"data":{"username":"a","isLocked":0,"isEnabled":false}}`,
			User{Name: "a", Enabled: new(false)},
		},
		"with odd letters": {
			`{"data":{"username":"a\u001b[31m\nb","twoFactorType":"T\u0000OTP"}}`,
			User{Name: "a[31m b", TwoFactorType: "TOTP"},
		},
		"echoing the token": {`{"data":{"username":"` + token + `"}}`, User{Name: redacted}},
		"a name without end": {
			`{"data":{"username":"` + strings.Repeat("a b ", 100) + `"}}`,
			User{Name: strings.Repeat("a b ", 50)},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			user, err := clientOf(reply(200, typeJSON, test.body)).User(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, user); diff != "" {
				t.Error(diff)
			}
		})
	}
	for status, kind := range map[int]Kind{
		401: KindUnauthorized, 403: KindForbidden, 404: KindNotFound,
		500: KindServerError,
	} {
		body := fmt.Sprintf(`{"status":%d,"message":"no"}`, status)
		if _, err := clientOf(reply(status, typeJSON, body)).User(t.Context(), token); KindOf(err) != kind {
			t.Errorf("status %d: got %v", status, err)
		}
	}
	for _, body := range []string{`{}`, `{"data":null}`, `{"data":[]}`, `{"data":"x"}`, `[]`} {
		if _, err := clientOf(reply(200, typeJSON, body)).User(t.Context(), token); KindOf(err) != KindMalformed {
			t.Errorf("%s: got %v", body, err)
		}
	}
}

func TestTwoFactor(t *testing.T) {
	for twoFactorType, want := range map[string]bool{
		"": false, "NONE": false, "none": false, "TOTP": true,
		"EMAIL": true,
	} {
		if got := (User{TwoFactorType: twoFactorType}).HasTwoFactor(); got != want {
			t.Errorf("%q: got %t", twoFactorType, got)
		}
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, ahead = 2 * time.Second, -90 * time.Second
		client := clientOf(transportFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(latency / 2)
			body := `{"currentTime":"` + time.Now().Add(ahead).UTC().Format(time.RFC3339Nano) + `"}`
			time.Sleep(latency / 2)
			return reply(200, typeJSON, body)(r)
		}))
		health, err := client.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if health.ClockOffset != ahead {
			t.Errorf("offset %v, want %v", health.ClockOffset, ahead)
		}
	})
	for _, body := range []string{`{}`, `{"currentTime":"noon"}`, `{"currentTime":5}`, `[]`} {
		if _, err := clientOf(reply(200, typeJSON, body)).Health(t.Context()); KindOf(err) != KindMalformed {
			t.Errorf("%s: got %v", body, err)
		}
	}
}
