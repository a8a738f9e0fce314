// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Wrong input is refused with a text that names the field, and changes nothing.

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// everything returns all that is stored of configs and roles.
func (m *mount) everything() map[string]any {
	m.t.Helper()
	found := map[string]any{}
	for _, kind := range []string{"config", "roles"} {
		list := m.must(request{operation: opList, path: kind})
		if list == nil {
			continue
		}
		for _, name := range list.Data["keys"].([]any) {
			path := kind + "/" + name.(string)
			found[path] = m.get(path)
		}
	}
	return found
}

// with returns the fields with one changed.
func with(fields map[string]any, field string, value any) map[string]any {
	changed := maps.Clone(fields)
	changed[field] = value
	return changed
}

// TestBadConfig writes each wrong value to a new config and to one that exists, as POST and as
// PATCH.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	before := m.everything()
	token := m.userAPIToken
	for _, bad := range []struct {
		field string
		value any
	}{
		{"url", strings.TrimPrefix(m.server.URL, "https://")},
		{"url", "http://ncentral.example.com"},
		{"url", "ftp://ncentral.example.com"},
		{"url", strings.Replace(m.server.URL, "https://", "https://user:word@", 1)},
		{"url", m.server.URL + "/api"},
		{"url", m.server.URL + "/api/auth/authenticate"},
		{"url", m.server.URL + "?a=b"},
		{"url", m.server.URL + "#a"},
		{"url", "https://"},
		{"url", ""},
		{"user_api_token", token[:30] + " " + token[30:]},
		{"user_api_token", token[:30] + "\n" + token[30:]},
		{"user_api_token", token[:len(token)/2]},
		{"user_api_token", token[:len(token)-11]},
		{"user_api_token", "Bearer " + token},
		{"user_api_token", " "},
		{"user_api_token", 12345},
		{"user_api_token", []string{token}},
		{"ca_cert", "no PEM at all"},
		{"ca_cert", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")}))},
		{"ca_cert", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("no certificate")}))},
		{"tls_server_name", "https://ncentral.example.com"},
		{"tls_skip_verify", "perhaps"},
		{"request_timeout", "500ms"},
		{"request_timeout", "0"},
		{"request_timeout", "21s"},
		{"request_timeout", "-5s"},
		{"request_timeout", "1500ms"},
		{"request_timeout", "soon"},
		{"max_retries", -1},
		{"max_retries", 11},
		{"max_retries", "many"},
		{"max_requests_in_flight", 0},
		{"max_requests_in_flight", 51},
		{"refresh_token_ttl", "59s"},
		{"refresh_token_ttl", "-1h"},
		{"refresh_token_ttl", "-500ms"},
		{"password_changed_at", "last week"},
		{"password_changed_at", time.Now().Add(72 * time.Hour).Format(time.RFC3339)},
		{"password_max_age", "-1h"},
		{"expiry_warning", "-1h"},
		{"verify", "perhaps"},
	} {
		body := with(m.config(), bad.field, bad.value)
		m.fails(badRequest, request{operation: opWrite, path: "config/new", body: body}, bad.field)
		m.fails(badRequest, request{operation: opWrite, path: "config/default", body: body}, bad.field)
		m.fails(badRequest, request{operation: opPatch, path: "config/default", body: body}, bad.field)
	}
	for _, needed := range []string{"url", "user_api_token"} {
		body := m.config()
		delete(body, needed)
		m.fails(badRequest, request{operation: opWrite, path: "config/new", body: body}, needed)
		m.fails(
			badRequest, request{operation: opPatch, path: "config/default", body: with(m.config(), needed, nil)},
			needed,
		)
	}
	expectSame(t, before, m.everything())
	m.expectCalls(nil)
}

func TestLineFeedAtTheEndOfTheUserAPITokenIsTrimmed(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("config/default", with(m.config(), "user_api_token", " "+m.userAPIToken+"\r\n"))
	sum := sha256.Sum256([]byte(m.userAPIToken))
	if got := m.get("config/default")["user_api_token_sha256"]; got != hex.EncodeToString(sum[:]) {
		t.Errorf("user_api_token_sha256 is %v, not that of the trimmed token", got)
	}
	m.write("roles/monitoring", map[string]any{})
	m.read("monitoring")
}

func TestBadRole(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("known", "10m")
	before := m.everything()
	for _, bad := range []struct {
		field string
		body  map[string]any
	}{
		{"config", map[string]any{"config": "missing"}},
		{"config", map[string]any{"config": "a/b"}},
		{"config", map[string]any{"config": "a b"}},
		{"config", map[string]any{"config": ""}},
		{"config", map[string]any{"config": strings.Repeat("a", 300)}},
		{"credential_type", map[string]any{"credential_type": "borrowed"}},
		{"credential_type", map[string]any{"credential_type": ""}},
		{"ttl", map[string]any{"ttl": "-1s"}},
		{"ttl", map[string]any{"ttl": -1}},
		{"ttl", map[string]any{"ttl": "500ms"}},
		{"ttl", map[string]any{"ttl": "-500ms"}},
		{"ttl", map[string]any{"ttl": "soon"}},
		{"min_ttl", map[string]any{"ttl": "10m", "min_ttl": "301s"}},
		{"min_ttl", map[string]any{"ttl": 0, "min_ttl": "31m"}},
		{"min_ttl", map[string]any{"min_ttl": "-1s"}},
		{"min_ttl", map[string]any{"min_ttl": "500ms"}},
		{"lease", map[string]any{"lease": "perhaps"}},
	} {
		m.fails(badRequest, request{operation: opWrite, path: "roles/new", body: bad.body}, bad.field)
		m.fails(badRequest, request{operation: opWrite, path: "roles/known", body: bad.body}, bad.field)
		m.fails(badRequest, request{operation: opPatch, path: "roles/known", body: bad.body}, bad.field)
	}
	expectSame(t, before, m.everything())
	m.expectCalls(nil)
}

func TestBadNames(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	before := m.everything()
	long := strings.Repeat("a", 300)
	m.fails(badRequest, request{operation: opWrite, path: "config/" + long, body: m.config()}, "name")
	m.fails(badRequest, request{operation: opWrite, path: "roles/" + long, body: map[string]any{}}, "name")
	m.fails(badRequest, credsRequest(long), "unknown role")
	m.fails(badRequest, credsRequest("missing"), "unknown role", "missing")
	m.fails(notFound, request{operation: opWrite, path: "config/missing/check"}, "missing")
	m.fails(notFound, request{operation: opDelete, path: "sessions/missing"}, "missing")
	for _, name := range []string{"a/b", "a b"} {
		m.fails(notFound, request{operation: opWrite, path: "config/" + name, body: m.config()})
		m.fails(notFound, request{operation: opWrite, path: "roles/" + name, body: map[string]any{}})
		m.fails(notFound, request{operation: opWrite, path: "creds/" + name})
	}
	for _, path := range []string{"config/missing", "roles/missing", "sessions/missing"} {
		if secret := m.must(request{operation: opRead, path: path}); secret != nil {
			t.Errorf("there is something at %s", path)
		}
	}
	expectSame(t, before, m.everything())
	m.expectCalls(nil)
}

func TestBadParametersOfARead(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	for _, bad := range []struct{ field, value string }{
		{"min_ttl", "-1s"},
		{"min_ttl", "500ms"},
		{"min_ttl", "soon"},
		{"validate", "perhaps"},
	} {
		m.fails(badRequest, credsRequest("monitoring", bad.field, bad.value), bad.field)
		m.fails(
			badRequest,
			request{operation: opWrite, path: "creds/monitoring", body: map[string]any{bad.field: bad.value}},
			bad.field,
		)
	}
	m.expectCalls(nil)
	for range 3 {
		m.fails(badRequest, credsRequest("monitoring", "min_ttl", "31m"), "min_ttl", "30m", "dedicated")
	}
	m.expectCalls(calls{simulator.EndpointAuthenticate: 1}) // before which nobody knows what N-central grants
	if answer := m.read("monitoring", "min_ttl", "30m"); time.Until(answer.expiresAt) < 30*time.Minute {
		t.Error("the token lives no 30m")
	}
	for _, kind := range []string{"config", "roles", "sessions"} {
		m.fails(
			badRequest, request{operation: opList, path: kind, query: map[string][]string{"limit": {"-1"}}}, "limit",
		)
	}
}
