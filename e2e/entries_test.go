// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What configs and roles take, answer and reset.

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func expectPart(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(strings.ToLower(text), strings.ToLower(part)) {
		t.Errorf("it does not tell of %q: %s", part, text)
	}
}

func keyInfo(t *testing.T, list *api.Secret, name string) map[string]any {
	t.Helper()
	infos, _ := list.Data["key_info"].(map[string]any)
	info, ok := infos[name].(map[string]any)
	if !ok {
		t.Fatalf("key_info has nothing on %s: %v", name, list.Data["key_info"])
	}
	return info
}

func TestLists(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	for _, name := range []string{"a", "b", "c"} {
		m.write("config/"+name, with(m.config(), "verify", false))
		m.write("roles/"+name, map[string]any{"config": name, "ttl": "10m", "lease": name == "b"})
	}
	m.write("config/b/check", nil)
	answer := m.read("b")
	m.read("c")
	for path, want := range map[string]map[string]any{
		"config": {"url": m.server.URL, "state": "ok"},
		"roles": {
			"config": "b", "serving_config": "b", "credential_type": "shared", "ttl": json.Number("600"),
			"lease": true,
		},
		"sessions": {"expires_at": answer.Data["expires_at"]},
	} {
		list := m.must(request{
			operation: opList, path: path, query: map[string][]string{"after": {"a"}, "limit": {"1"}},
		})
		expectSame(t, []any{"b"}, list.Data["keys"])
		info := keyInfo(t, list, "b")
		expectSame(t, want, info)
	}
	all := m.must(request{operation: opList, path: "config"})
	expectSame(t, []any{"a", "b", "c", "default"}, all.Data["keys"])
	if state := keyInfo(t, all, "a")["state"]; state != "unknown" {
		t.Errorf("the state of a config whose server was never asked is %v", state)
	}
	expectSame(t, []any{"b", "c"}, m.must(request{operation: opList, path: "sessions"}).Data["keys"])
	rest := m.must(request{operation: opList, path: "roles", query: map[string][]string{"after": {"b"}}})
	expectSame(t, []any{"c"}, rest.Data["keys"])
	beyond := m.must(request{operation: opList, path: "roles", query: map[string][]string{"after": {"z"}}})
	if beyond != nil {
		t.Errorf("there are roles after the last: %v", beyond.Data["keys"])
	}
}

func TestWritesChangeTheFieldsGivenAndNoOther(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{"ttl": "20m", "min_ttl": "2m", "lease": false})
	for _, operation := range []operation{opWrite, opPatch} {
		m.must(request{operation: operation, path: "roles/monitoring", body: map[string]any{"min_ttl": "3m"}})
		role := m.get("roles/monitoring")
		if number(t, role, "ttl") != 1200 || number(t, role, "min_ttl") != 180 || role["lease"] != false {
			t.Errorf("after a %s of min_ttl the role is %v", operation, role)
		}
		before := m.get("config/default")
		m.must(request{operation: operation, path: "config/default", body: map[string]any{"expiry_warning": "24h"}})
		after := m.get("config/default")
		if number(t, after, "expiry_warning") != 86400 {
			t.Errorf("expiry_warning is %v", after["expiry_warning"])
		}
		delete(before, "expiry_warning")
		delete(after, "expiry_warning")
		expectSame(t, before, after)
	}
}

// resets are fields with a value that is not the default, and what a read answers after null: nil
// for nothing.
type resets []struct {
	field string
	value any
	want  any
}

// expectNullResets patches each field of the entry to null, which resets it and leaves all others
// as they are, and then back to its value. What must be patched along with a field comes from the
// function. No field of the entry may be forgotten, save those that are named as derived.
func (m *mount) expectNullResets(
	path string, fields resets, along func(field string) map[string]any, derived ...string,
) {
	m.t.Helper()
	read := func() map[string]any {
		entry := m.get(path)
		for _, field := range derived {
			delete(entry, field)
		}
		return entry
	}
	patch := func(field string, value any) {
		m.must(request{operation: opPatch, path: path, body: with(along(field), field, value)})
	}
	written := read()
	forgotten := maps.Clone(written)
	for _, reset := range fields {
		delete(forgotten, reset.field)
		want := with(written, reset.field, reset.want)
		if reset.want == nil {
			delete(want, reset.field)
		}
		patch(reset.field, nil)
		expectSame(m.t, want, read())
		patch(reset.field, reset.value)
		expectSame(m.t, written, read())
	}
	if len(forgotten) > 0 {
		m.t.Errorf("%s: null was not tried for %v", path, slices.Collect(maps.Keys(forgotten)))
	}
}

func TestNullInAPatchResetsEachFieldOfAConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	fields := resets{
		{"ca_cert", string(m.server.CAPEM), ""},
		{"tls_server_name", "ncentral.example.com", ""},
		{"tls_skip_verify", true, false},
		{"request_timeout", "5s", json.Number("10")},
		{"max_retries", 0, json.Number("3")},
		{"max_requests_in_flight", 3, json.Number("8")},
		{"refresh_token_ttl", "2h", json.Number("0")},
		{"password_changed_at", time.Now().UTC().Add(-time.Hour).Format(time.RFC3339), nil},
		{"password_max_age", "10d", json.Number("7776000")},
		{"expiry_warning", "25h", json.Number("1209600")},
	}
	body := with(m.config(), "verify", false)
	for _, reset := range fields {
		body[reset.field] = reset.value
	}
	m.write("config/default", body)
	m.ResetCounts()
	m.expectNullResets("config/default", fields, func(field string) map[string]any {
		along := map[string]any{"verify": false}
		if field == "ca_cert" || strings.HasPrefix(field, "tls_") {
			along["user_api_token"] = m.userAPIToken
		}
		return along
	}, "url", "password_expires_at", "user_api_token_sha256", "user_api_token_set_at", "user_api_token_expires_at")
	m.expectCalls(nil)
	before := m.get("config/default")
	for _, field := range []string{"url", "user_api_token"} {
		m.fails(
			badRequest,
			request{operation: opPatch, path: "config/default", body: map[string]any{field: nil, "verify": false}},
			field, "no default",
		)
	}
	expectSame(t, before, m.get("config/default"))
}

func TestNullVerifyInAPatchVerifies(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	unknown := map[string]any{"user_api_token": newNCentral(t, nil).userAPIToken, "verify": nil}
	m.fails(
		badRequest, request{operation: opPatch, path: "config/default", body: unknown},
		"verification failed at step authenticate",
	)
	m.must(request{operation: opPatch, path: "config/default", body: with(unknown, "verify", false)})
	m.must(request{
		operation: opPatch, path: "config/default",
		body: map[string]any{"user_api_token": m.userAPIToken, "verify": nil},
	})
}

func TestNullInAPatchResetsEachFieldOfARole(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("config/other", with(m.config(), "verify", false))
	m.write("config/third", with(m.config(), "verify", false))
	alone := func(string) map[string]any { return map[string]any{} }
	config := resets{{"config", "other", "default"}}
	config = append(config, resets{{"fallback_configs", []any{"third"}, []any{}}}...)
	lifetime := resets{{"ttl", "20m", json.Number("0")}, {"min_ttl", "2m", json.Number("300")}}
	reading := resets{{"lease", false, true}, {"reread_interval", "1m", json.Number("0")}}
	m.write("roles/shared", map[string]any{
		"config": "other", "ttl": "20m", "min_ttl": "2m", "lease": false, "fallback_configs": "third",
		"reread_interval": "1m",
	})
	m.expectNullResets("roles/shared", slices.Concat(config, lifetime, reading), alone, "credential_type")
	// What is dedicated must have a lease.
	m.write("roles/dedicated", map[string]any{
		"config": "other", "ttl": "20m", "min_ttl": "2m", "credential_type": "dedicated", "fallback_configs": "third",
	})
	m.expectNullResets(
		"roles/dedicated", slices.Concat(config, lifetime, resets{{"credential_type", "dedicated", "shared"}}), alone,
		"lease", "reread_interval",
	)

	m.delete("config/default")
	m.fails(
		badRequest, request{operation: opPatch, path: "roles/shared", body: map[string]any{"config": nil}}, "config",
		"default",
	)
	for _, path := range []string{"roles/missing", "config/missing"} {
		m.fails(notFound, request{operation: opPatch, path: path, body: map[string]any{"ttl": nil}}, "missing")
	}
}

func TestConfigIsReadWithoutItsToken(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	changed := time.Now().UTC().Truncate(time.Second).Add(-100 * 24 * time.Hour)
	body := with(m.config(), "password_changed_at", changed.Format(time.RFC3339))
	body["password_max_age"] = "2160h"
	body["user_api_token"] = m.AddUserExpiring("expiring-user", 48*time.Hour)
	warnings := m.write("config/default", body)
	config := m.get("config/default")
	if _, ok := config["user_api_token"]; ok {
		t.Error("the User-API token was answered")
	}
	if want := changed.Add(90 * 24 * time.Hour).Format(time.RFC3339); config["password_expires_at"] != want {
		t.Errorf("password_expires_at is %v, want %s", config["password_expires_at"], want)
	}
	for _, field := range []string{"user_api_token_set_at", "user_api_token_expires_at"} {
		if _, err := time.Parse(time.RFC3339, config[field].(string)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, part := range []string{"password expired", "User-API token expires"} {
		if !warns(warnings, part) {
			t.Errorf("no warning that the %s: %q", part, warnings)
		}
	}
}

func TestConfigInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("one", "0")
	m.role("two", "0")
	m.fails(badRequest, request{operation: opDelete, path: "config/default"}, "one", "two")
	m.delete("roles/one")
	m.delete("roles/two")
	m.delete("config/default")
	if left := m.everything(); len(left) > 0 {
		t.Errorf("%d entries are left", len(left))
	}
}

// TestRetiredTokensLapseUnlessTheSessionsAreDeleted changes what retires a role's token, and ends
// all in one move.
func TestRetiredTokensLapseUnlessTheSessionsAreDeleted(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "30m")
	tokens := []string{m.read("monitoring").token}
	m.write("roles/monitoring", map[string]any{"lease": true, "min_ttl": "2m"})
	if m.read("monitoring").token != tokens[0] {
		t.Error("a change of lease and min_ttl retired the token")
	}
	m.role("monitoring", "20m")
	tokens = append(tokens, m.read("monitoring").token)
	body := m.config()
	body["user_api_token"] = m.AddUser("another-user")
	m.write("config/default", body)
	tokens = append(tokens, m.read("monitoring").token)
	for i, token := range tokens {
		if !m.AccessTokenLives(token) {
			t.Errorf("token %d was ended, not left to lapse", i)
		}
	}
	if tokens[0] == tokens[1] || tokens[1] == tokens[2] {
		t.Error("a retired token was handed out")
	}
	if earlier := number(t, m.get("sessions/monitoring"), "earlier_tokens"); earlier != 2 {
		t.Errorf("%d earlier tokens, want 2", earlier)
	}
	m.ResetCounts()
	if warnings := m.delete("sessions/monitoring"); len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	m.expectCalls(calls{simulator.EndpointLogout: 3})
	if open := m.OpenSessions(); open != 0 {
		t.Errorf("%d sessions are still open", open)
	}
	m.read("monitoring")
	m.delete("roles/monitoring")
	eventually(t, 10*time.Second, func() error {
		if m.OpenSessions() > 0 {
			return errors.New("deleting the role left its session open")
		}
		return nil
	})
}

// TestDeclaredDefaultsAreTheRealOnes holds the defaults of the OpenAPI document against what
// entries have that were written without those fields.
func TestDeclaredDefaultsAreTheRealOnes(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("config/bare", map[string]any{"url": m.server.URL, "user_api_token": m.userAPIToken, "verify": false})
	m.write("roles/bare", map[string]any{})
	for kind, fields := range map[string]int{"config": 7, "roles": 5} {
		entry := m.get(kind + "/bare")
		checked := 0
		body := declared["POST "+kind+"/{name}"].RequestBody.Value.Content["application/json"].Schema.Value
		for field, property := range body.Properties {
			got, answered := entry[field]
			if property.Value.Default == nil || !answered {
				continue
			}
			checked++
			want := fmt.Sprint(property.Value.Default)
			if property.Value.Format == "duration" {
				duration, err := parseutil.ParseDurationSecond(want)
				if err != nil {
					t.Fatal(err)
				}
				want = fmt.Sprint(int64(duration.Seconds()))
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%s of a new entry is %v, declared is %s", field, got, want)
			}
		}
		if checked != fields {
			t.Errorf("%s: %d fields have a declared default, want %d", kind, checked, fields)
		}
	}
}
