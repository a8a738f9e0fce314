// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What configs and roles take, default to, refuse and warn of.

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestWritesWarnOfFieldsThatDoNotExist(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for path, data := range map[string]map[string]any{
			"roles/monitoring": {"tll": "25m"},
			"config/default":   {"max_retires": 1},
		} {
			response, err := m.do(opWrite, path, data)
			if err != nil || response == nil || !strings.Contains(strings.Join(response.Warnings, " "), keys(data)[0]) {
				t.Errorf("%s: no warning of %v", path, keys(data))
			}
		}
	})
}

func TestListsAnswerTheirEntriesByPage(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{"a", "b", "c"} {
			m.write("roles/"+name, nil)
		}
		tests := []struct {
			data map[string]any
			want []string
		}{
			{nil, []string{"a", "b", "c", "monitoring"}},
			{map[string]any{"limit": 2}, []string{"a", "b"}},
			{map[string]any{"after": "b"}, []string{"c", "monitoring"}},
			{map[string]any{"after": "aa", "limit": 1}, []string{"b"}},
			{map[string]any{"after": "z"}, nil},
		}
		for _, test := range tests {
			got, _ := m.must(opList, "roles/", test.data)["keys"].([]string)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%v: %s", test.data, diff)
			}
		}
		m.fails(400, opList, "roles/", map[string]any{"limit": -1}, "limit")
	})
}

// Declarative tools cannot read the token back: without the hash they take a write of it that
// failed for done.
func TestAGivenSHA256MustBeThatOfTheUserAPIToken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		of := func(text string) string { sum := sha256.Sum256([]byte(text)); return hex.EncodeToString(sum[:]) }
		other := m.AddUser("other-user")
		for _, data := range []map[string]any{
			{"user_api_token_sha256": of(m.token)},
			{"user_api_token_sha256": " " + strings.ToUpper(of(m.token)) + "\n"},
			{"user_api_token_sha256": of(m.token), "user_api_token": m.token + "\n"},
			{"user_api_token_sha256": of(other), "user_api_token": other},
			{"user_api_token_sha256": of(m.token), "user_api_token": m.token},
			{"user_api_token_sha256": nil},
		} {
			m.write("config/default", data)
			m.must(opPatch, "config/default", data)
			told := m.get("config/default")["user_api_token_sha256"]
			if data["user_api_token"] != nil && told != data["user_api_token_sha256"] {
				t.Errorf("%v is read, %v was written", told, data["user_api_token_sha256"])
			}
		}
		before := m.stored()["config/default"]
		m.ResetCounts()
		for name, test := range map[string]struct {
			data map[string]any
			told string
		}{
			"of another than the stored": {
				map[string]any{"user_api_token_sha256": of(other)}, "the stored User-API token",
			},
			"of another than the given": {
				map[string]any{"user_api_token_sha256": of(m.token), "user_api_token": other},
				"the User-API token beside it",
			},
			"with the line end": {
				map[string]any{"user_api_token_sha256": of(m.token + "\n")}, "with a line end",
			},
			"of a file of Windows": {
				map[string]any{"user_api_token_sha256": of(other + "\r\n"), "user_api_token": other + "\r\n"},
				"with a line end",
			},
			"no hash": {map[string]any{"user_api_token_sha256": of(m.token)[:63]}, "not a SHA-256"},
			"nothing": {map[string]any{"user_api_token_sha256": ""}, "not a SHA-256"},
			"as sha256sum prints it": {
				map[string]any{"user_api_token_sha256": of(m.token) + "  -"}, "not a SHA-256",
			},
		} {
			for _, operation := range []logical.Operation{opWrite, opPatch} {
				text := m.fails(400, operation, "config/default", test.data)
				if !strings.HasPrefix(text, "user_api_token_sha256: ") || !strings.Contains(text, test.told) {
					t.Errorf("%s: %s", name, text)
				}
			}
		}
		if m.stored()["config/default"] != before {
			t.Error("something was stored")
		}
		m.expectCalls(nil)
	})
}

func TestPatchChangesTheFieldsGivenAndNullResets(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.must(opPatch, "config/default", map[string]any{
			"request_timeout": "5s", "max_retries": 1, "password_changed_at": "2000-01-01T00:00:00Z",
			"password_max_age": "10d", "verify": false,
		})
		config := m.get("config/default")
		if config["request_timeout"] != int64(5) || config["max_retries"] != 1 ||
			config["password_expires_at"] != "2000-01-11T00:00:00Z" {
			t.Errorf("%v", config)
		}
		m.must(opPatch, "config/default", map[string]any{
			"request_timeout": nil, "max_retries": nil, "password_changed_at": nil, "verify": false,
		})
		config = m.get("config/default")
		if config["request_timeout"] != int64(10) || config["max_retries"] != 3 ||
			config["password_changed_at"] != nil || config["password_max_age"] != int64(864000) {
			t.Errorf("%v", config)
		}
		m.must(opPatch, "roles/monitoring", map[string]any{"lease": nil, "ttl": "20m", "min_ttl": "10m"})
		m.must(opPatch, "roles/monitoring", map[string]any{"min_ttl": nil})
		want := map[string]any{
			"config": "default", "credential_type": "shared", "ttl": int64(1200), "min_ttl": int64(300), "lease": true,
			"fallback_configs": []string{}, "reread_interval": int64(0),
		}
		if diff := cmp.Diff(want, m.get("roles/monitoring")); diff != "" {
			t.Error(diff)
		}
		for _, path := range []string{"config/other", "roles/other"} {
			m.fails(404, opPatch, path, map[string]any{})
		}
		for _, field := range []string{"url", "user_api_token"} {
			text := m.fails(400, opPatch, "config/default", map[string]any{field: nil})
			if !strings.HasPrefix(text, field) {
				t.Errorf("null %s: %s", field, text)
			}
		}
	})
}

func TestWarningsOfExpiry(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		token := m.AddUserExpiring("other", 10*24*time.Hour)
		m.write("config/other", map[string]any{
			"url": m.server.URL, "user_api_token": token,
			"password_changed_at": time.Now().Add(-80 * 24 * time.Hour).Format(time.RFC3339),
		})
		response, err := m.do(opRead, "config/other", nil)
		if err != nil {
			t.Fatal(err)
		}
		warnings := strings.Join(response.Warnings, "\n")
		if !strings.Contains(warnings, "the API user's password expires at 2000-01-11") ||
			!strings.Contains(warnings, "the User-API token expires at 2000-01-11") {
			t.Error(warnings)
		}
		if response.Data["user_api_token_expires_at"] != "2000-01-11T00:00:00Z" {
			t.Error(response.Data["user_api_token_expires_at"])
		}
	})
}

func TestPasswordChangedAtTakesDaysOfOurTimeAlone(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, value := range []any{"2000-01-01", "2000-01-01T00:00:00Z", 946684800.0, "946684800"} {
			m.write("config/default", map[string]any{"password_changed_at": nil})
			m.write("config/default", map[string]any{"password_changed_at": value})
			if got := m.get("config/default")["password_changed_at"]; got != "2000-01-01T00:00:00Z" {
				t.Errorf("%v became %v", value, got)
			}
		}
		for _, value := range []any{
			"-62167219201", -1e14, 5.0, "20261103", "0001-01-01", "1969-12-31T23:59:59Z", "2000-13-01", "",
		} {
			text := m.fails(400, opWrite, "config/default", map[string]any{"password_changed_at": value})
			if !strings.HasPrefix(text, "password_changed_at: ") {
				t.Errorf("%v: %s", value, text)
			}
		}
	})
}

// Whoever counts in milliseconds means no time in the far future: the text says what is wrong.
func TestAPasswordChangedAtInMillisecondsIsToldSo(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		yesterday := time.Now().Add(-24 * time.Hour).UnixMilli()
		for _, value := range []any{yesterday, fmt.Sprint(yesterday)} {
			text := m.fails(400, opWrite, "config/default", wire(t, map[string]any{"password_changed_at": value}))
			if text != "password_changed_at: it is Unix time in milliseconds: give it in seconds, without the last "+
				"three digits" {
				t.Errorf("%T: %s", value, text)
			}
		}
		for _, value := range []any{time.Now().Add(48 * time.Hour).Unix(), "2100-01-01"} {
			m.fails(400, opWrite, "config/default", map[string]any{"password_changed_at": value}, "in the future")
		}
	})
}

// Days are what these are given in, and what a number without a unit is most likely meant to be.
func TestDurationsOfDaysTakeDaysAndNoFewSeconds(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, field := range []string{"expiry_warning", "password_max_age"} {
			for given, want := range map[any]int64{
				"14d": 14 * 86400, "1d": 86400, "24h": 86400, 86400: 86400, 0: 0, "0": 0,
			} {
				m.write("config/default", map[string]any{field: given})
				if got := m.get("config/default")[field]; got != want {
					t.Errorf("%s: %v became %v", field, given, got)
				}
			}
			for _, given := range []any{14, "90", "23h59m59s"} {
				text := m.fails(400, opWrite, "config/default", map[string]any{field: given})
				if !strings.HasSuffix(text, "like 14d") {
					t.Errorf("%s=%v: %s", field, given, text)
				}
			}
		}
	})
}

// A config that was never stored is not said to be unchanged.
func TestAConfigWhoseFirstVerificationFailsWasNotStored(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.server.Stop()
		for path, want := range map[string]string{
			"config/new": `config "new" was not stored`, "config/default": `config "default" was not changed`,
		} {
			text := m.fails(400, opWrite, path, map[string]any{"url": m.server.URL, "user_api_token": m.token})
			if !strings.HasPrefix(text, want+", because its verification failed at step links: ") {
				t.Error(text)
			}
		}
	})
}

// Values come as JSON's types from applications, and as text from the command line.
func TestFieldsTakeTheirValuesInEveryForm(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, value := range []any{600.0, 600, json.Number("600"), "600", "10m", "600s"} {
			m.write("roles/monitoring", map[string]any{"ttl": value})
			if got := m.get("roles/monitoring")["ttl"]; got != int64(600) {
				t.Errorf("%v became %v", value, got)
			}
		}
		for _, value := range []any{true, "true", "1", 1.0, json.Number("1"), "TRUE", "t"} {
			m.write("roles/monitoring", map[string]any{"lease": false})
			m.write("roles/monitoring", map[string]any{"lease": value})
			if got := m.get("roles/monitoring")["lease"]; got != true {
				t.Errorf("%v became %v", value, got)
			}
		}
		for _, value := range []any{5.0, 5, "5", json.Number("5")} {
			m.write("config/default", map[string]any{"max_retries": value, "no_such_field": []any{1}})
			if got := m.get("config/default")["max_retries"]; got != 5 {
				t.Errorf("%v became %v", value, got)
			}
		}
	})
}

// A shell variable that is not set gives an empty value: verify= must not store a config untried.
func TestAnEmptyValueIsNoFalseAndNoZero(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, given := range []struct{ path, field string }{
			{"config/default", "verify"},
			{"config/default", "tls_skip_verify"},
			{"config/default", "max_retries"},
			{"config/default", "password_max_age"},
			{"roles/monitoring", "lease"},
			{"roles/monitoring", "ttl"},
			{"roles/monitoring", "min_ttl"},
			{"creds/monitoring", "validate"},
		} {
			text := m.fails(400, opWrite, given.path, map[string]any{given.field: ""})
			if !strings.HasPrefix(text, given.field+": give ") {
				t.Errorf("%s of %s: %s", given.field, given.path, text)
			}
		}
	})
}

// Null resets verify to its default, true.
func TestNullVerifyIsTheDefault(t *testing.T) {
	for _, operation := range []logical.Operation{opPatch, opWrite} {
		t.Run(string(operation), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.server.Stop()
				response, err := m.do(operation, "config/default", map[string]any{"max_retries": 1, "verify": nil})
				if err != nil || !response.IsError() {
					t.Errorf("verify=null left the verification out: %v %v", response, err)
				}
			})
		})
	}
}

// Vault sends numbers to plugins as JSON. Whole ones are taken; fractions are refused, not cut.
func TestWholeNumbersAreTakenAndFractionsRefused(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		changed := time.Now().Add(-48 * time.Hour).Unix()
		response, err := m.do(opWrite, "config/default", wire(t, map[string]any{"password_changed_at": changed}))
		if err != nil || response.IsError() {
			t.Errorf("Unix time as a number: %v %v", response, err)
		}
		for _, bad := range []struct {
			path, field string
			value       any
		}{
			{"roles/monitoring", "ttl", 0.5},
			{"roles/monitoring", "ttl", -0.5},
			{"roles/monitoring", "min_ttl", 0.5},
			{"roles/monitoring", "ttl", 90.9},
			{"config/default", "max_retries", 3.7},
			{"config/default", "max_requests_in_flight", 0.5},
			{"config/default", "max_requests_in_flight", 50.5},
			{"config/default", "password_max_age", 0.5},
			{"creds/monitoring", "min_ttl", 0.5},
		} {
			response, err := m.do(opWrite, bad.path, wire(t, map[string]any{bad.field: bad.value}))
			if err != nil || !response.IsError() {
				t.Errorf("%s: %s=%v was taken", bad.path, bad.field, bad.value)
			}
		}
	})
}

// A role that is deleted while it is being changed stays deleted.
func TestDeletedRoleStaysDeleted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		reached, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		holds := func(key string) error {
			if key == "config/default" {
				once.Do(func() { close(reached); <-goOn })
			}
			return nil
		}
		storage.get.Store(&holds)
		patched := make(chan struct{})
		go func() {
			defer close(patched)
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opPatch, Path: "roles/monitoring", Storage: storage, Data: map[string]any{"min_ttl": "1m"},
			})
		}()
		<-reached
		deleted := make(chan struct{})
		go func() {
			defer close(deleted)
			_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
				Operation: opDelete, Path: "roles/monitoring", Storage: storage,
			})
		}()
		for range 1000 {
			runtime.Gosched() // the delete may go on if nothing holds it back
		}
		close(goOn)
		<-patched
		<-deleted
		if role := m.must(opRead, "roles/monitoring", nil); role != nil {
			t.Error("the role that was deleted is there again")
		}
	})
}

// What the OpenAPI document calls the default of a field is what a new entry has to which the field
// was not given.
func TestADeclaredDefaultIsWhatANewEntryHas(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		follows := map[string]bool{"user_api_token_sha256": true, "min_ttl": true} // from the token, and from the ttl
		for path, given := range map[string]map[string]any{
			"config/new": {"url": m.server.URL, "user_api_token": m.token},
			"roles/new":  {},
		} {
			m.write(path, given)
			declared := m.backend.Route(path).Fields
			for name, has := range m.get(path) {
				field := declared[name]
				if field == nil || given[name] != nil || follows[name] {
					continue
				}
				if want := field.DefaultOrZero(); fmt.Sprint(has) != fmt.Sprint(want) {
					t.Errorf("%s: %s is %v, and declared as %v", path, name, has, want)
				}
			}
		}
	})
}

func TestTheLeastAndTheMostThatAreAllowedAreTaken(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, test := range []struct {
			field          string
			taken, refused []any
		}{
			{"request_timeout", []any{"1s", "20s"}, []any{0, "999ms", "20001ms", "21s"}},
			{"max_retries", []any{0, 10}, []any{-1, 11}},
			{"max_requests_in_flight", []any{1, 50}, []any{0, 51}},
			{"refresh_token_ttl", []any{0, "1m"}, []any{"59s"}},
			{"password_max_age", []any{0, "24h"}, []any{"23h"}},
			{"expiry_warning", []any{0, "24h"}, []any{"23h"}},
		} {
			for _, value := range test.taken {
				m.write("config/default", map[string]any{test.field: value})
			}
			for _, value := range test.refused {
				text := m.fails(400, opWrite, "config/default", map[string]any{test.field: value})
				if !strings.HasPrefix(text, test.field+": ") {
					t.Errorf("%s %v: %s", test.field, value, text)
				}
			}
		}
	})
}

func TestAWrongTypeIsToldWithWhatTheFieldTakes(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, test := range []struct {
			path, field string
			value       any
			want        string
		}{
			{"config/default", "max_retries", "abc", "max_retries: give a whole number"},
			{"config/default", "verify", "perhaps", "verify: give true or false"},
			{
				"config/default", "request_timeout", "soon",
				"request_timeout: give a duration that is not negative: whole seconds, or a number with a unit " +
					"like 90s, 5m or 1h",
			},
			{"config/default", "url", []any{"a"}, "url: give text"},
			{"config/default", "user_api_token", 7, "user_api_token: give text"},
			{"creds/monitoring", "validate", "x", "validate: give true or false"},
		} {
			if text := m.fails(400, opWrite, test.path, map[string]any{test.field: test.value}); text != test.want {
				t.Errorf("%s: %s", test.field, text)
			}
		}
	})
}

// Whether an entry exists decides whether a policy must allow create or update. It does not depend
// on what is written.
func TestWhetherAnEntryExistsDoesNotDependOnWhatIsWritten(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for path, exists := range map[string]bool{
			"roles/new": false, "roles/monitoring": true, "config/new": false, "config/default": true,
		} {
			for _, data := range []map[string]any{
				nil, {"ttl": "abc", "max_retries": "x"}, {"ttl": "5m", "max_retries": 3.0},
			} {
				checked, found, err := m.backend.HandleExistenceCheck(context.Background(), &logical.Request{
					Operation: logical.CreateOperation, Path: path, Data: data, Storage: m.storage,
				})
				if !checked || found != exists || err != nil {
					t.Errorf("%s with %v: %t %t %v", path, keys(data), checked, found, err)
				}
			}
		}
	})
}
