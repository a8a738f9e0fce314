// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func admin(s *Simulator, method, path, body string) response {
	recorder := httptest.NewRecorder()
	s.AdminHandler().ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	return response{
		status: recorder.Code, header: recorder.Header(),
		body: strings.TrimSuffix(recorder.Body.String(), "\n"),
	}
}

func wantAdmin(t *testing.T, s *Simulator, method, path, body string, status int, want string) {
	t.Helper()
	answered := admin(s, method, path, body)
	if answered.status != status || answered.body != want {
		t.Errorf("%s %s %s: got %d %s, want %d %s", method, path, body, answered.status, answered.body, status, want)
	}
}

// adminToken returns the User-API token in the answer to an admin call.
func adminToken(t *testing.T, answered response) string {
	t.Helper()
	var body struct {
		Token string `json:"user_api_token"`
	}
	if err := json.Unmarshal([]byte(answered.body), &body); err != nil || answered.status != 200 || body.Token == "" {
		t.Fatalf("no token, status %d: %v", answered.status, err)
	}
	return body.Token
}

func TestAdminUsers(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		first := adminToken(t, admin(s, http.MethodPost, "/users", `{"name":"a/lice"}`))
		access := client.authenticate(first).Tokens.Access.Token
		wantAdmin(t, s, http.MethodGet, "/sessions", "", 200, `{"open":1}`)
		second := adminToken(t, admin(s, http.MethodPost, "/users/a%2Flice/regenerate", ""))
		wantEqual(t, "old token", client.call(http.MethodPost, authenticatePath, bearer(first), "").status, 401)

		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/password-expired", `{"expired":true}`, 204, "")
		wantEqual(t, "expired", client.data(access), 500)
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/password-expired", `{"expired":false}`, 204, "")
		wantEqual(t, "not expired", client.data(access), 200)
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/disabled", `{"disabled":true}`, 204, "")
		wantEqual(t, "disabled", client.call(http.MethodPost, authenticatePath, bearer(second), "").status, 401)
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/disabled", `{"disabled":false}`, 204, "")
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/locked", `{"locked":true}`, 204, "")
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/two-factor", `{"type":"TOTP"}`, 204, "")
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/password-reset", `{"required":true}`, 204, "")
		profile := profileOf(client, access)
		wantEqual(t, "locked", profile["isLocked"], any(true))
		wantEqual(t, "two-factor", profile["twoFactorType"], any("TOTP"))
		wantEqual(t, "reset", profile["isPasswordResetRequired"], any(true))
		wantAdmin(t, s, http.MethodPost, "/users/a%2Flice/change-password", "", 204, "")
		wantEqual(t, "reset", profileOf(client, access)["isPasswordResetRequired"], any(false))

		expiring := adminToken(t, admin(s, http.MethodPost, "/users", `{"name":"another-user","lifetime":"90s"}`))
		client.authenticate(expiring)
		pass(90 * time.Second)
		wantEqual(t, "lapsed", client.call(http.MethodPost, authenticatePath, bearer(expiring), "").status, 401)
	})
}

func TestAdminCountsAndFailures(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		wantAdmin(t, s, http.MethodPost, "/fail",
			`{"endpoint":"health","count":-1,"kind":"status","status":429,"retry_after_seconds":4}`, 204, "")
		answered := client.call(http.MethodGet, "/api/health", nil, "")
		wantEqual(t, "status", answered.status, 429)
		wantEqual(t, "Retry-After", answered.header.Get("Retry-After"), "4")
		wantAdmin(t, s, http.MethodGet, "/counts", "", 200, `{"health":{"failed":1}}`)
		wantAdmin(t, s, http.MethodDelete, "/fail", "", 204, "")
		wantAdmin(t, s, http.MethodPost, "/counts/reset", "", 204, "")
		wantAdmin(t, s, http.MethodGet, "/counts", "", 200, `{}`)
		wantEqual(t, "status", client.call(http.MethodGet, "/api/health", nil, "").status, 200)

		wantAdmin(t, s, http.MethodPost, "/fail",
			`{"endpoint":"health","count":1,"kind":"slow","delay":"1.5s"}`, 204, "")
		begin := time.Now()
		client.call(http.MethodGet, "/api/health", nil, "")
		wantEqual(t, "took", time.Since(begin), 1500*time.Millisecond)
		client.undescribed = true
		wantAdmin(t, s, http.MethodPost, "/fail",
			`{"endpoint":"validate","count":1,"kind":"message","message":"no"}`, 204, "")
		wantEqual(t, "body", client.get(validatePath, "x").body, `{"message":"no"}`)
		wantAdmin(t, s, http.MethodPost, "/fail",
			`{"endpoint":"validate","count":1,"kind":"html","status":401}`, 204, "")
		wantEqual(t, "status", client.get(validatePath, "x").status, 401)

		wantAdmin(t, s, http.MethodPost, "/fail",
			`{"endpoint":"any","count":1,"kind":"expiry","expiry_seconds":-1e3}`, 204, "")
		stated := client.authenticate(s.AddUser("some-user")).Tokens.Access.ExpirySeconds
		wantEqual(t, "expiry", stated, "-1e3")
	})
}

func TestAdminKnobsRebootAndDown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		wantEqual(t, "PATCH", admin(s, http.MethodPatch, "/knobs", `{"latency":"2s","logout_absent":true}`).status, 200)
		wantEqual(t, "latency", s.Knobs().Latency, 2*time.Second)
		wantEqual(t, "limit as before", s.Knobs().AccessLimit, time.Hour)
		wantEqual(t, "GET", strings.Contains(admin(s, http.MethodGet, "/knobs", "").body, `"latency":"2s"`), true)

		client.authenticate(s.AddUser("some-user"))
		wantAdmin(t, s, http.MethodPost, "/reboot", "", 204, "")
		wantEqual(t, "sessions", s.OpenSessions(), 0)

		wantAdmin(t, s, http.MethodPost, "/down", `{"down":true}`, 204, "")
		if _, err := client.try(t.Context(), http.MethodGet, "/api/health", nil, ""); err == nil {
			t.Error("answers while down")
		}
		wantAdmin(t, s, http.MethodPost, "/down", `{"down":false}`, 204, "")
		wantEqual(t, "status", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
	})
}

func TestAdminBadRequests(t *testing.T) {
	s := New(DefaultKnobs())
	s.AddUser("some-user")
	tests := []struct {
		method, path, body string
		status             int
		names              string
	}{
		{http.MethodPatch, "/knobs", `{"nonsense":1}`, 400, "nonsense: no such knob"},
		{http.MethodPatch, "/knobs", `{"latency":1}`, 400, "latency: must be a duration"},
		{http.MethodPatch, "/knobs", ``, 400, "unexpected end of JSON input"},
		{
			http.MethodPost, "/fail", `{"endpoint":"nowhere","count":1,"kind":"hang"}`, 400,
			`endpoint: no endpoint \"nowhere\"`,
		},
		{http.MethodPost, "/fail", `{"endpoint":"any","kind":"hang"}`, 400, "count: must be given"},
		{http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"x"}`, 400, "kind: no failure"},
		{
			http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"hang","pause":1}`, 400,
			`unknown field \"pause\"`,
		},
		{
			http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"hang","delay":"1s"}`, 400,
			"delay: only for failures",
		},
		{
			http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"slow","delay":"1"}`, 400,
			"delay: must be a duration",
		},
		{http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"slow","delay":1}`, 400, "delay"},
		{http.MethodPost, "/fail", `{"endpoint":"any","count":1,"kind":"slow"}`, 400, "delay: must be given"},
		{http.MethodPost, "/fail", `{"endpoint":"any","count":"1","kind":"hang"}`, 400, "count"},
		{http.MethodPost, "/fail", `{} {}`, 400, "one JSON object"},
		{http.MethodPost, "/users", ``, 400, "must be a JSON object"},
		{http.MethodPost, "/users", `{}`, 400, "name: must be given"},
		{http.MethodPost, "/users", `{"name":"some-user"}`, 400, "name: there is a user"},
		{http.MethodPost, "/users", `{"name":"another-user","lifetime":"0s"}`, 400, "lifetime: must be a duration"},
		{http.MethodPost, "/users", `{"name":"another-user","lifetime":"x"}`, 400, "lifetime: must be a duration"},
		{http.MethodPost, "/users/nobody/regenerate", ``, 404, `no user \"nobody\"`},
		{http.MethodPost, "/users/nobody/disabled", `{"disabled":true}`, 404, `no user \"nobody\"`},
		{http.MethodPost, "/users/nobody/password-expired", `{"expired":true}`, 404, `no user \"nobody\"`},
		{http.MethodPost, "/users/some-user/disabled", `{}`, 400, "disabled: must be"},
		{http.MethodPost, "/users/some-user/disabled", `{"disabled":true,"x":true}`, 400, `unknown field \"x\"`},
		{http.MethodPost, "/users/some-user/disabled", `{"disabled":1}`, 400, "disabled: "},
		{http.MethodPost, "/users/some-user/locked", `{}`, 400, "locked: must be"},
		{http.MethodPost, "/users/some-user/password-reset", `{}`, 400, "required: must be"},
		{http.MethodPost, "/users/some-user/two-factor", `{}`, 400, "type: must be given"},
		{http.MethodPost, "/users/nobody/two-factor", `{"type":"NONE"}`, 404, `no user \"nobody\"`},
		{http.MethodPost, "/users/nobody/change-password", ``, 404, `no user \"nobody\"`},
		{http.MethodPost, "/users/some-user/password-expired", `{}`, 400, "expired: must be"},
		{http.MethodPost, "/users/some-user/password-expired", `{"expired":"yes"}`, 400, "expired"},
		{http.MethodPost, "/down", `{}`, 400, "down: must be"},
		{http.MethodPost, "/down", `{"down":1}`, 400, "down"},
		{http.MethodPost, "/down", `{"down":true}`, 409, "no server listens"},
	}
	for _, test := range tests {
		answered := admin(s, test.method, test.path, test.body)
		if answered.status != test.status || !strings.Contains(answered.body, test.names) ||
			!strings.HasPrefix(answered.body, `{"error":`) {
			t.Errorf("%s %s %s: got %d %s, want %d with %s", test.method, test.path, test.body, answered.status,
				answered.body, test.status, test.names)
		}
	}
}
