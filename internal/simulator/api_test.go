// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

func TestLinks(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Simulator, client *testClient) {
		answered := client.call(http.MethodGet, "/api/auth", nil, "")
		want := `{"authenticate":"/api/auth/authenticate","logout":"/api/auth/logout","refresh":"/api/auth/refresh",` +
			`"sso":"/api/auth/sso","validate":"/api/auth/validate"}`
		wantEqual(t, "status", answered.status, http.StatusOK)
		wantEqual(t, "content type", answered.header.Get("Content-Type"), "application/json")
		wantEqual(t, "body", answered.body, want)
	})
}

func TestAuthenticateAnswersAPair(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		body := client.authenticate(s.AddUser("some-user"))
		wantEqual(t, "access type", body.Tokens.Access.Type, "Bearer")
		wantEqual(t, "access expiry", body.Tokens.Access.ExpirySeconds, "3600")
		wantEqual(t, "refresh type", body.Tokens.Refresh.Type, "Body")
		wantEqual(t, "refresh expiry", body.Tokens.Refresh.ExpirySeconds, "90000")
		wantEqual(t, "refresh link", body.Refresh, refreshPath)
		wantEqual(t, "validate link", body.Validate, validatePath)
		wantEqual(t, "data call", client.data(body.Tokens.Access.Token), http.StatusOK)

		issued := s.Issued()
		if len(issued) != 1 || issued[0].Access != body.Tokens.Access.Token ||
			issued[0].Refresh != body.Tokens.Refresh.Token {
			t.Fatal("Issued does not hold the pair answered, and it alone")
		}
		wantEqual(t, "user", issued[0].User, "some-user")
		wantEqual(t, "obtained by", issued[0].Endpoint, EndpointAuthenticate)
		wantEqual(t, "issued", issued[0].IssuedAt, time.Now())
		wantEqual(t, "lifetime", issued[0].ExpiresAt.Sub(issued[0].IssuedAt), time.Hour)
	})
}

func TestTokensAreHS256(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		client.authenticate(s.AddUserExpiring("some-user", time.Hour))
		s.AddUser("another-user")
		secrets := s.Secrets()
		wantEqual(t, "tokens issued", len(secrets), 4)
		for i, secret := range secrets {
			claims := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(secret, claims, func(*jwt.Token) (any, error) { return s.key, nil },
				jwt.WithValidMethods([]string{"HS256"}))
			if err != nil {
				t.Errorf("token %d: %v", i, err)
			}
			_, expires := claims["exp"]
			wantEqual(t, "has exp", expires, claims["sub"] == "some-user")
		}
	})
}

func TestAuthenticateErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		old := s.AddUser("some-user")
		current, err := s.RegenerateUserAPIToken("some-user")
		if err != nil {
			t.Fatal(err)
		}
		const refused = "UNAUTHORIZED: DmsLoginException: Login failed. Unable to obtain the login sessionId. "
		post := func(headers header) response { return client.call(http.MethodPost, authenticatePath, headers, "") }
		client.wantError(post(nil), 400,
			"BAD REQUEST: MissingRequestHeaderException: Required request header 'Authorization' ")
		client.wantError(post(header{"Authorization": "Basic abc"}), 500,
			"INTERNAL SERVER ERROR: AuthException: Authentication header is malformed or unsupported.")
		client.wantError(post(bearer("unknown")), 401, refused)
		client.wantError(post(bearer(old)), 401, refused)
		client.authenticate(current)
		wantEqual(t, "sessions", s.OpenSessions(), 1)
	})
}

func TestExpiringUserAPIToken(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUserExpiring("some-user", time.Minute)
		pass(time.Minute - time.Second)
		client.authenticate(token)
		pass(time.Second)
		wantEqual(t, "status", client.call(http.MethodPost, authenticatePath, bearer(token), "").status, 401)
	})
}

func TestAccessTokenEndsAsStated(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		pass(time.Hour - time.Second)
		wantEqual(t, "data call", client.data(access), 200)
		wantEqual(t, "lives", s.AccessTokenLives(access), true)
		pass(time.Second)
		wantEqual(t, "lives", s.AccessTokenLives(access), false)
		wantEqual(t, "sessions", s.OpenSessions(), 0)
		const expired = "UNAUTHORIZED: UnauthorizedException: "
		client.wantError(client.get("/api/service-orgs", access), 401, expired)
		client.wantError(client.get(validatePath, access), 401, expired)
		client.wantError(client.get("/api/server-info", access), 401, expired)
	})
}

func TestRefresh(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		first := client.authenticate(s.AddUser("some-user")).Tokens
		second := client.refresh(first.Refresh.Token).Tokens
		if first.Access.Token == second.Access.Token || first.Refresh.Token == second.Refresh.Token {
			t.Error("refresh answered an old token")
		}
		wantEqual(t, "predecessor", client.data(first.Access.Token), 200)
		wantEqual(t, "successor", client.data(second.Access.Token), 200)
		wantEqual(t, "refresh token, used again", client.refreshCall(first.Refresh.Token).status, 200)
		wantEqual(t, "obtained by", s.Issued()[1].Endpoint, EndpointRefresh)

		const refused = "UNAUTHORIZED: UnauthorizedException: "
		client.wantError(client.refreshCall("unknown"), 401, refused)
		client.wantError(client.refreshCall(first.Access.Token), 401, refused)
		client.wantError(client.refreshCall(""), 400, "BAD REQUEST: HttpMessageNotReadableException: ")
		pass(25 * time.Hour)
		client.wantError(client.refreshCall(first.Refresh.Token), 401, refused)
	})
}

func TestValidate(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		tokens := client.authenticate(s.AddUser("some-user")).Tokens
		wantEqual(t, "body", client.get(validatePath, tokens.Access.Token).body, `{"message":"The token is valid."}`)
		wantEqual(t, "refresh token as access token", client.get(validatePath, tokens.Refresh.Token).status, 401)
	})
}

// Only authenticate distinguishes a missing header from one that it does not understand.
func TestCallsWithoutABearerToken(t *testing.T) {
	inBubble(t, func(_ *testing.T, _ *Simulator, client *testClient) {
		const missing = "UNAUTHORIZED: UnauthorizedException: Missing authorization header bearer."
		for path, method := range map[string]string{
			validatePath: http.MethodGet, logoutPath: http.MethodPost, serverInfoPath: http.MethodGet,
			"/api/server-info/time": http.MethodGet,
			"/api/users/me":         http.MethodGet, "/api/service-orgs": http.MethodGet,
		} {
			client.wantError(client.call(method, path, nil, ""), 401, missing)
			client.wantError(client.call(method, path, header{"Authorization": "Basic abc"}, ""), 401, missing)
		}
	})
}

func TestLogoutEndsThePair(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		first, second := client.authenticate(token).Tokens, client.authenticate(token).Tokens
		answered := client.call(http.MethodPost, logoutPath, bearer(first.Access.Token), "")
		wantEqual(t, "status", answered.status, 200)
		wantEqual(t, "body", answered.body, "")
		wantEqual(t, "access token", s.AccessTokenLives(first.Access.Token), false)
		wantEqual(t, "refresh token", client.refreshCall(first.Refresh.Token).status, 401)
		wantEqual(t, "other session", client.data(second.Access.Token), 200)
		wantEqual(t, "sessions", s.OpenSessions(), 1)
		wantEqual(t, "second logout",
			client.call(http.MethodPost, logoutPath, bearer(first.Access.Token), "").status, 401)
	})
}

func TestHealthAndServerInfo(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		wantEqual(t, "health", client.call(http.MethodGet, "/api/health", nil, "").body,
			`{"currentTime":"2000-01-01T00:00:00.000Z"}`)
		var info map[string]any
		if err := json.Unmarshal([]byte(client.get("/api/server-info", access).body), &info); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"version": "3.1.0", "ncentral": "2026.4.1.12", "startTime": "2000-01-01T00:00:00.000Z",
			"jvmVersion": "17.0.12",
		}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRootAndServerTime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		wantEqual(t, "root", client.call(http.MethodGet, "/api", nil, "").body,
			`{"_links":{"auth":"/api/auth","health":"/api/health","root":"/api","server-info":"/api/server-info"}}`)
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		wantEqual(t, "time", client.get("/api/server-info/time", access).body,
			`{"serverTime":"2000-01-01T00:00:00+00:00","timezone":"Etc/UTC","utcOffset":"+00:00"}`)
		wantEqual(t, "sso", client.call(http.MethodPost, ssoPath, bearer("of an identity provider"), "").status, 401)
	})
}

// profileOf returns users/me for the access token's user.
func profileOf(client *testClient, access string) map[string]any {
	client.t.Helper()
	answered := client.get("/api/users/me", access)
	var body struct {
		Status int            `json:"status"`
		Data   map[string]any `json:"data"`
	}
	if err := json.Unmarshal([]byte(answered.body), &body); err != nil || answered.status != 200 || body.Status != 200 {
		client.t.Fatalf("status %d, in the body %d: %v", answered.status, body.Status, err)
	}
	return body.Data
}

func TestUserIsToldWhoTheyAre(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user@example.com")).Tokens.Access.Token
		want := map[string]any{
			"username": "some-user@example.com", "isEnabled": true, "isLocked": false, "isPasswordExpired": false,
			"isPasswordResetRequired": false, "twoFactorType": "NONE",
		}
		holds := func() {
			t.Helper()
			profile := profileOf(client, access)
			for field, value := range want {
				wantEqual(t, field, profile[field], value)
			}
		}
		holds()
		s.Change(func(k *Knobs) { k.BarredUsersAuthenticate = true })
		for field, change := range map[string]struct {
			value any
			set   func(string, bool) error
		}{
			"isEnabled":               {false, s.SetUserDisabled},
			"isLocked":                {true, s.SetUserLocked},
			"isPasswordExpired":       {true, s.SetPasswordExpired},
			"isPasswordResetRequired": {true, s.SetPasswordResetRequired},
		} {
			if err := change.set("some-user@example.com", true); err != nil {
				t.Fatal(err)
			}
			want[field] = change.value
			holds()
		}
		if err := s.SetTwoFactorType("some-user@example.com", "TOTP"); err != nil {
			t.Fatal(err)
		}
		want["twoFactorType"] = "TOTP"
		holds()
		if err := s.ChangePassword("some-user@example.com"); err != nil {
			t.Fatal(err)
		}
		want["isPasswordExpired"], want["isPasswordResetRequired"] = false, false
		holds()
	})
}

func TestReboot(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		tokens := client.authenticate(token).Tokens
		pass(time.Minute)
		s.Reboot()
		wantEqual(t, "access token", client.data(tokens.Access.Token), 401)
		wantEqual(t, "refresh token", client.refreshCall(tokens.Refresh.Token).status, 401)
		access := client.authenticate(token).Tokens.Access.Token
		if body := client.get("/api/server-info", access).body; !strings.Contains(body,
			`"startTime":"2000-01-01T00:01:00.000Z"`) {
			t.Errorf("no new start time in %s", body)
		}
	})
}

func TestPathsAndMethods(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		for _, path := range []string{"//api/auth", "/api//auth", "/api/auth/", "/api/", "/login", "/"} {
			client.wantError(client.call(http.MethodGet, path, nil, ""), 404, "NOT FOUND: ")
		}
		client.wantError(client.call(http.MethodGet, authenticatePath, nil, ""), 405, "METHOD NOT ALLOWED: ")
		wantEqual(t, "not found", s.Count(EndpointOther, OutcomeNotFound), 6)
		wantEqual(t, "wrong method", s.Count(EndpointAuthenticate, OutcomeNotFound), 1)
	})
}

func TestDisabledUser(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		tokens := client.authenticate(token).Tokens
		set := func(disabled bool) {
			t.Helper()
			if err := s.SetUserDisabled("some-user", disabled); err != nil {
				t.Fatal(err)
			}
		}
		set(true)
		wantEqual(t, "authenticate", client.call(http.MethodPost, authenticatePath, bearer(token), "").status, 401)
		wantEqual(t, "data", client.data(tokens.Access.Token), 401)
		wantEqual(t, "validate", client.get(validatePath, tokens.Access.Token).status, 401)
		wantEqual(t, "refresh", client.refreshCall(tokens.Refresh.Token).status, 401)
		wantEqual(t, "lives", s.AccessTokenLives(tokens.Access.Token), false)
		set(false)
		wantEqual(t, "data", client.data(tokens.Access.Token), 200)
	})
}

// A locked user keeps the sessions that are open. Whether N-central ends them is not known.
func TestUsersWhoMayNotLogIn(t *testing.T) {
	for name, bar := range map[string]func(*Simulator) error{
		"locked":     func(s *Simulator) error { return s.SetUserLocked("some-user", true) },
		"two-factor": func(s *Simulator) error { return s.SetTwoFactorType("some-user", "TOTP") },
		"disabled":   func(s *Simulator) error { return s.SetUserDisabled("some-user", true) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				token := s.AddUser("some-user")
				tokens := client.authenticate(token).Tokens
				if err := bar(s); err != nil {
					t.Fatal(err)
				}
				refused := client.call(http.MethodPost, authenticatePath, bearer(token), "")
				client.wantError(refused, 401, "UNAUTHORIZED: DmsLoginException: ")
				wantEqual(t, "a session of before lives", s.AccessTokenLives(tokens.Access.Token), name != "disabled")
				s.Change(func(k *Knobs) { k.BarredUsersAuthenticate = true })
				client.refresh(tokens.Refresh.Token)
				wantEqual(t, "data, by the knob", client.data(client.authenticate(token).Tokens.Access.Token), 200)
			})
		})
	}
}

func TestExpiredPassword(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		if err := s.SetPasswordExpired("some-user", true); err != nil {
			t.Fatal(err)
		}
		tokens := client.refresh(client.authenticate(token).Tokens.Refresh.Token).Tokens
		wantEqual(t, "validate", client.get(validatePath, tokens.Access.Token).status, 200)
		wantEqual(t, "server info", client.get("/api/server-info", tokens.Access.Token).status, 200)
		client.wantError(client.get("/api/service-orgs", tokens.Access.Token), 500,
			"INTERNAL SERVER ERROR: UnexpectedDmsResponseException: ")
	})
}

func TestUnknownUser(t *testing.T) {
	s := New(DefaultKnobs())
	_, err := s.RegenerateUserAPIToken("nobody")
	for _, err := range []error{
		err, s.SetPasswordExpired("nobody", true), s.SetPasswordResetRequired("nobody", true),
		s.SetUserDisabled("nobody", true),
		s.SetUserLocked("nobody", true), s.SetTwoFactorType("nobody", "TOTP"), s.ChangePassword("nobody"),
	} {
		if err == nil || err.Error() != `no user "nobody"` {
			t.Errorf("got %v", err)
		}
	}
}

func TestAddUserAgainEndsTheOldToken(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		old, current := s.AddUser("some-user"), s.AddUser("some-user")
		wantEqual(t, "old token", client.call(http.MethodPost, authenticatePath, bearer(old), "").status, 401)
		client.authenticate(current)
	})
}
