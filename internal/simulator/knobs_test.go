// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// overridden authenticates with overrides and returns the stated lifetimes. They are "" where the
// answer is a 400.
func overridden(client *testClient, token, access, refresh string) (accessSeconds, refreshSeconds string) {
	client.t.Helper()
	headers := bearer(token)
	if access != "" {
		headers = headers.with(accessOverrideHeader, access)
	}
	if refresh != "" {
		headers = headers.with(refreshOverrideHeader, refresh)
	}
	answered := client.call(http.MethodPost, authenticatePath, headers, "")
	if answered.status == http.StatusBadRequest {
		return "", ""
	}
	tokens := client.tokens(answered).Tokens
	return tokens.Access.ExpirySeconds.String(), tokens.Refresh.ExpirySeconds.String()
}

func TestOverrides(t *testing.T) {
	tests := []struct {
		name                        string
		change                      func(*Knobs)
		access, refresh             string
		accessGranted, refreshGrant string
	}{
		{"none", nil, "", "", "3600", "90000"},
		{"seconds", nil, "90s", "", "90", "90000"},
		{"minutes", nil, "10m", "", "600", "90000"},
		{"hours, of the refresh token", nil, "", "2h", "3600", "7200"},
		{"too long: clamped", nil, "2h", "26h", "3600", "90000"},
		{"so long that it overflows: clamped", nil, "9223372036854775807h", "", "3600", "90000"},
		{"bad: no unit", nil, "90", "", "", ""},
		{"bad: unit", nil, "1d", "", "", ""},
		{"bad: negative", nil, "-1m", "", "", ""},
		{"bad: zero", nil, "0s", "", "", ""},
		{"bad: Go's form", nil, "1h30m", "", "", ""},
		{"bad: of the refresh token", nil, "", "x", "", ""},
		{"ignored", func(k *Knobs) { k.IgnoreOverrides = true }, "10m", "2h", "3600", "90000"},
		{"bad but all ignored", func(k *Knobs) { k.IgnoreOverrides = true }, "x", "", "3600", "90000"},
		{"bad ignored", func(k *Knobs) { k.IgnoreBadOverrides = true }, "x", "2h", "3600", "7200"},
		{"too long: refused", func(k *Knobs) { k.RefuseLongOverrides = true }, "61m", "", "", ""},
		{"too long for refresh: refused", func(k *Knobs) { k.RefuseLongOverrides = true }, "", "26h", "", ""},
		{"at the limit, not refused", func(k *Knobs) { k.RefuseLongOverrides = true }, "1h", "25h", "3600", "90000"},
		{
			"lower limits", func(k *Knobs) { k.AccessLimit, k.RefreshLimit = 5*time.Minute, time.Hour }, "10m", "2h",
			"300", "3600",
		},
		{
			"lower limits by default", func(k *Knobs) {
				k.AccessLimit, k.RefreshLimit = 5*time.Minute,
					time.Hour
			}, "", "",
			"300", "3600",
		},
		{"longer than asked", func(k *Knobs) { k.GrantLongerBy = 5 * time.Minute }, "10m", "", "900", "90000"},
		{"longer than the limit", func(k *Knobs) { k.GrantLongerBy = 5 * time.Minute }, "1h", "", "3900", "90000"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				if test.change != nil {
					s.Change(test.change)
				}
				access, refresh := overridden(client, s.AddUser("some-user"), test.access, test.refresh)
				wantEqual(t, "access", access, test.accessGranted)
				wantEqual(t, "refresh", refresh, test.refreshGrant)
			})
		})
	}
}

func TestOverrideOnRefreshAndItsError(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		refreshToken := client.authenticate(s.AddUser("some-user")).Tokens.Refresh.Token
		plain := header{"Content-Type": "text/plain; charset=utf-8"}
		tokens := client.tokens(client.call(http.MethodPost, refreshPath, plain.with(accessOverrideHeader, "10m"),
			refreshToken)).Tokens
		wantEqual(t, "granted", tokens.Access.ExpirySeconds, "600")
		refused := client.call(http.MethodPost, refreshPath, plain.with(accessOverrideHeader, "x"), refreshToken)
		client.wantError(refused, 400, "BAD REQUEST: ConstraintViolationException: "+accessOverrideHeader)
		if !strings.Contains(refused.body, `"errors":[{"field":"`+accessOverrideHeader+`"`) {
			t.Errorf("the field is not named: %s", refused.body)
		}
		pass(10 * time.Minute)
		wantEqual(t, "after its time", client.data(tokens.Access.Token), 401)
	})
}

func TestErrorsOfOverridesNameTheirFields(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.RefuseLongOverrides = true })
		headers := bearer(s.AddUser("some-user"))
		fields := func(headers header) string {
			t.Helper()
			answered := client.call(http.MethodPost, authenticatePath, headers, "")
			client.wantError(answered, 400, "BAD REQUEST: ConstraintViolationException: ")
			_, errors, _ := strings.Cut(strings.TrimSuffix(answered.body, "}"), `"errors":`)
			return errors
		}
		const accessError = `{"field":"X-ACCESS-EXPIRY-OVERRIDE","message":"cannot exceed the system-wide setting"}`
		const refreshError = `{"field":"X-REFRESH-EXPIRY-OVERRIDE","message":"cannot exceed the system-wide setting"}`
		long := headers.with(refreshOverrideHeader, "26h")
		wantEqual(t, "one", fields(long.with(accessOverrideHeader, "1h")), "["+refreshError+"]")
		wantEqual(t, "both", fields(long.with(accessOverrideHeader, "2h")), "["+accessError+","+refreshError+"]")
		s.Change(func(k *Knobs) { k.OverrideErrorsNameField = false })
		wantEqual(t, "by the knob", fields(long), "")
	})
}

func TestOmitExpirySeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.OmitExpirySeconds = true })
		answered := client.call(http.MethodPost, authenticatePath, bearer(s.AddUser("some-user")), "")
		client.tokens(answered)
		wantEqual(t, "has it", strings.Contains(answered.body, "expirySeconds"), false)
	})
}

func TestSingleUseRefreshTokens(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.SingleUseRefreshTokens = true })
		first := client.authenticate(s.AddUser("some-user")).Tokens
		second := client.refresh(first.Refresh.Token).Tokens
		wantEqual(t, "used again", client.refreshCall(first.Refresh.Token).status, 401)
		client.refresh(second.Refresh.Token)
		wantEqual(t, "access token", client.data(first.Access.Token), 200)
	})
}

func TestRefreshEndsPredecessor(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.RefreshEndsPredecessor = true })
		token := s.AddUser("some-user")
		other, first := client.authenticate(token).Tokens, client.authenticate(token).Tokens
		second := client.refresh(first.Refresh.Token).Tokens
		wantEqual(t, "predecessor", client.data(first.Access.Token), 401)
		third := client.refresh(first.Refresh.Token).Tokens
		wantEqual(t, "predecessor, by the first refresh token", client.data(second.Access.Token), 401)
		wantEqual(t, "successor", client.data(third.Access.Token), 200)
		wantEqual(t, "other session", client.data(other.Access.Token), 200)
	})
}

func TestRefreshContentType(t *testing.T) {
	inBubble(t, func(_ *testing.T, s *Simulator, client *testClient) {
		refreshToken := client.authenticate(s.AddUser("some-user")).Tokens.Refresh.Token
		for _, headers := range []header{nil, {"Content-Type": "application/json"}} {
			s.Change(func(k *Knobs) { k.LenientRefreshContentType = false })
			client.wantError(client.call(http.MethodPost, refreshPath, headers, refreshToken), 415,
				"UNSUPPORTED MEDIA TYPE: ")
			s.Change(func(k *Knobs) { k.LenientRefreshContentType = true })
			client.tokens(client.call(http.MethodPost, refreshPath, headers, refreshToken))
		}
	})
}

func TestLogoutAbsent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.LogoutAbsent = true })
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		client.wantError(client.call(http.MethodPost, logoutPath, bearer(access), ""), 404, "NOT FOUND: ")
		wantEqual(t, "lives", s.AccessTokenLives(access), true)
		wantEqual(t, "count", s.Count(EndpointLogout, OutcomeNotFound), 1)
	})
}

func TestLogoutEndsChain(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		other := client.authenticate(token).Tokens
		logOutSecond := func() (third tokensBody) {
			t.Helper()
			first := client.authenticate(token)
			second := client.refresh(first.Tokens.Refresh.Token)
			third = client.refresh(second.Tokens.Refresh.Token)
			wantEqual(t, "status", client.call(http.MethodPost, logoutPath, bearer(second.Tokens.Access.Token),
				"").status, 200)
			wantEqual(t, "its own token", client.data(second.Tokens.Access.Token), 401)
			return third
		}
		wantEqual(t, "refreshed, by default", client.data(logOutSecond().Tokens.Access.Token), 200)
		s.Change(func(k *Knobs) { k.LogoutEndsChain = true })
		third := logOutSecond()
		wantEqual(t, "refreshed", client.data(third.Tokens.Access.Token), 401)
		wantEqual(t, "its refresh token", client.refreshCall(third.Tokens.Refresh.Token).status, 401)
		wantEqual(t, "another session", client.data(other.Access.Token), 200)
		issued, _ := s.IssuedWith(third.Tokens.Access.Token)
		wantEqual(t, "ended by", issued.EndedBy, EndedByLogout)
	})
}

func TestValidateAbsent(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.ValidateAbsent = true })
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		client.wantError(client.get(validatePath, access), 404, "NOT FOUND: ")
		wantEqual(t, "data", client.data(access), 200)
		wantEqual(t, "count", s.Count(EndpointValidate, OutcomeNotFound), 1)
	})
}

func TestAuthenticateEndsEarlierSessions(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		one, other := s.AddUser("some-user"), s.AddUser("another-user")
		kept := client.authenticate(one).Tokens
		client.authenticate(one)
		wantEqual(t, "by default", client.data(kept.Access.Token), 200)
		s.Change(func(k *Knobs) { k.AuthenticateEndsEarlierSessions = true })
		others := client.authenticate(other).Tokens
		client.authenticate(one)
		wantEqual(t, "access token", client.data(kept.Access.Token), 401)
		wantEqual(t, "refresh token", client.refreshCall(kept.Refresh.Token).status, 401)
		wantEqual(t, "another user's", client.data(others.Access.Token), 200)
	})
}

func TestRegenerateEndsSessions(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		regenerate := func() {
			t.Helper()
			if _, err := s.RegenerateUserAPIToken("some-user"); err != nil {
				t.Fatal(err)
			}
		}
		regenerate()
		wantEqual(t, "by default", client.data(access), 200)
		s.Change(func(k *Knobs) { k.RegenerateEndsSessions = true })
		regenerate()
		wantEqual(t, "by the knob", client.data(access), 401)
	})
}

func TestPasswordChangeEndsSessions(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		tokens := client.authenticate(token).Tokens
		change := func() {
			t.Helper()
			if err := s.ChangePassword("some-user"); err != nil {
				t.Fatal(err)
			}
		}
		change()
		wantEqual(t, "by default", client.data(tokens.Access.Token), 200)
		s.Change(func(k *Knobs) { k.PasswordChangeEndsSessions = true })
		change()
		wantEqual(t, "by the knob", client.data(tokens.Access.Token), 401)
		wantEqual(t, "refresh token", client.refreshCall(tokens.Refresh.Token).status, 401)
		wantEqual(t, "ended by", s.Issued()[0].EndedBy, EndedByPassword)
		client.authenticate(token)
	})
}

func TestUserKnobs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		me := func() response { return client.get("/api/users/me", access) }
		s.Change(func(k *Knobs) { k.UserForbidden = true })
		client.wantError(me(), 403, "FORBIDDEN: AccessDeniedException: ")
		s.Change(func(k *Knobs) { k.UserAbsent = true })
		client.wantError(me(), 404, "NOT FOUND: ")
		s.Change(func(k *Knobs) { *k = DefaultKnobs(); k.ExpiredPasswordFailsUser = true })
		wantEqual(t, "a working user", me().status, 200)
		if err := s.SetPasswordExpired("some-user", true); err != nil {
			t.Fatal(err)
		}
		client.wantError(me(), 500, "INTERNAL SERVER ERROR: UnexpectedDmsResponseException: ")
	})
}

func TestExpiredPasswordRefusesAuthenticate(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.ExpiredPasswordRefusesAuthenticate = true })
		token := s.AddUser("some-user")
		if err := s.SetPasswordExpired("some-user", true); err != nil {
			t.Fatal(err)
		}
		client.wantError(client.call(http.MethodPost, authenticatePath, bearer(token), ""), 401,
			"UNAUTHORIZED: DmsLoginException: ")
	})
}

func TestDataForbidden(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.DataForbidden = true })
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		client.wantError(client.get("/api/service-orgs", access), 403, "FORBIDDEN: AccessDeniedException: ")
		wantEqual(t, "count", s.Count(EndpointServiceOrgs, OutcomeRefused), 1)
		wantEqual(t, "validate", client.get(validatePath, access).status, 200)
	})
}

func TestHideCoreErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.HideCoreErrors = true })
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		wantEqual(t, "a healthy user", client.data(access), 200)
		if err := s.SetPasswordExpired("some-user", true); err != nil {
			t.Fatal(err)
		}
		for _, answered := range []response{
			client.get("/api/service-orgs", access),
			client.call(http.MethodPost, authenticatePath, bearer("unknown"), ""),
		} {
			wantEqual(t, "status", answered.status, 200)
			wantEqual(t, "hidden", strings.HasPrefix(answered.body, `{"Error Message":`), true)
		}
		wantEqual(t, "data", s.Count(EndpointServiceOrgs, OutcomeServerError), 1)
		wantEqual(t, "login", s.Count(EndpointAuthenticate, OutcomeRefused), 1)
	})
}

func TestHiddenErrorKey(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.HideCoreErrors, k.HiddenErrorKey = true, "error message" })
		s.FailNext(EndpointHealth, 1, Failure{Kind: FailureErrorMessage})
		for _, answered := range []response{
			client.call(http.MethodPost, authenticatePath, bearer("unknown"), ""),
			client.call(http.MethodGet, "/api/health", nil, ""),
		} {
			wantEqual(t, "the key", strings.HasPrefix(answered.body, `{"error message":`), true)
		}
	})
}

func TestLinksNested(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.LinksNested = true })
		body := client.call(http.MethodGet, "/api/auth", nil, "").body
		wantEqual(t, "nested", strings.HasPrefix(body, `{"_links":{"authenticate":"`+authenticatePath+`"`), true)
	})
}

// A server without logout is older, and lists three links.
func TestThreeLinks(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		for _, change := range []func(*Knobs){
			func(k *Knobs) { k.ThreeLinks = true },
			func(k *Knobs) { k.LogoutAbsent = true },
		} {
			s.Change(func(k *Knobs) { *k = DefaultKnobs(); change(k) })
			wantEqual(t, "links", client.call(http.MethodGet, linksPath, nil, "").body,
				`{"authenticate":"/api/auth/authenticate","refresh":"/api/auth/refresh",`+
					`"validate":"/api/auth/validate"}`)
		}
	})
}

func TestServerInfoKnobs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		s.Change(func(k *Knobs) { k.ServerVersion, k.OmitStartTime = "", true })
		wantEqual(t, "body", client.get("/api/server-info", access).body,
			`{"jvmVersion":"17.0.12","ncentral":null,"version":"3.1.0"}`)
		s.Change(func(k *Knobs) { k.ServerVersion = "2025.3.1.1" })
		wantEqual(t, "version", strings.Contains(client.get("/api/server-info", access).body,
			`"ncentral":"2025.3.1.1"`), true)
	})
}

func TestLatency(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.Latency = 3 * time.Second })
		begin := time.Now()
		client.call(http.MethodGet, "/api/health", nil, "")
		wantEqual(t, "took", time.Since(begin), 3*time.Second)

		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		token := s.AddUser("some-user")
		if _, err := client.try(ctx, http.MethodPost, authenticatePath, bearer(token), ""); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		pass(time.Second)
		wantEqual(t, "abandoned", s.Count(EndpointAuthenticate, OutcomeAbandoned), 1)
		wantEqual(t, "sessions", s.OpenSessions(), 0)
	})
}

func TestClockOffset(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.ClockOffset = -time.Hour })
		answered := client.call(http.MethodGet, "/api/health", nil, "")
		wantEqual(t, "currentTime", answered.body, `{"currentTime":"1999-12-31T23:00:00.000Z"}`)
		wantEqual(t, "Date", answered.header.Get("Date"), "Fri, 31 Dec 1999 23:00:00 GMT")
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		pass(time.Hour - time.Second)
		wantEqual(t, "lives by the true clock", client.data(access), 200)
	})
}

func TestKnobsAsJSON(t *testing.T) {
	wantEqual(t, "flags and fields", countFlags(), reflect.TypeFor[Knobs]().NumField())

	knobs := DefaultKnobs()
	knobs.Latency, knobs.ClockOffset, knobs.LogoutAbsent, knobs.ServerVersion = 1500*time.Millisecond, -time.Minute,
		true, "x"
	encoded, err := json.Marshal(knobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"access_limit":"1h"`, `"refresh_limit":"25h"`, `"latency":"1.5s"`,
		`"clock_offset":"-1m"`, `"max_in_flight":50`, `"logout_absent":true`,
	} {
		if !strings.Contains(string(encoded), part) {
			t.Errorf("no %s in %s", part, encoded)
		}
	}
	var decoded Knobs
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(knobs, decoded); diff != "" {
		t.Error(diff)
	}
}

func countFlags() int {
	count := 0
	new(Knobs).flagSet().VisitAll(func(knob *flag.Flag) {
		count++
		if knob.Usage == "" {
			panic("no usage: " + knob.Name)
		}
	})
	return count
}

func TestBadKnobs(t *testing.T) {
	tests := map[string]string{
		`{"latency":"1s","nonsense":1}`: "nonsense: no such knob",
		`{"access-limit":"1h"}`:         "access-limit: no such knob",
		`{"latency":5}`:                 `latency: must be a duration such as "90s"`,
		`{"latency":"x"}`:               `latency: must be a duration such as "90s"`,
		`{"latency":"-1s"}`:             "latency: must not be negative, not -1s",
		`{"max_in_flight":"5"}`:         "max_in_flight: must be an integer",
		`{"max_in_flight":0}`:           "max_in_flight: must be at least 1, not 0",
		`{"max_in_flight":null}`:        "max_in_flight: must not be null",
		`{"retry_after_seconds":-1}`:    "retry_after_seconds: must not be negative, not -1",
		`{"logout_absent":"true"}`:      "logout_absent: must be true or false",
		`{"server_version":7}`:          "server_version: must be a string",
		`{"access_limit":"999ms"}`:      "access_limit: must be at least 1s, not 999ms",
		`{"refresh_limit":"0s"}`:        "refresh_limit: must be at least 1s, not 0s",
		`{"hidden_error_key":"x"}`: `hidden_error_key: must be one of ` +
			`["Error Message" "error message"], not "x"`,
		`{"hidden_error_key":""}`:         `hidden_error_key: must be one of ["Error Message" "error message"], not ""`,
		`{"grant_longer_by":"-5m"}`:       "grant_longer_by: must not be negative, not -5m",
		`{"access_limit":"2h","latency"}`: "invalid character '}' after object key",
	}
	for document, want := range tests {
		knobs := DefaultKnobs()
		err := json.Unmarshal([]byte(document), &knobs)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", document, err, want)
		}
		if diff := cmp.Diff(DefaultKnobs(), knobs); diff != "" {
			t.Errorf("%s: changed something: %s", document, diff)
		}
	}
}
