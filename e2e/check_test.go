// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a check of a config finds and tells, and what a verification refuses to store.

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// TestConfigOfABadServerIsNotStored writes a config, with verify, whose server answers what no
// N-central does.
func TestConfigOfABadServerIsNotStored(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]simulator.Failure{
		"HTML":                   {Kind: simulator.FailureHTML},
		"redirect to login page": {Kind: simulator.FailureRedirect},
		"2 MB of JSON":           {Kind: simulator.FailureOversized},
		"JSON without tokens":    {Kind: simulator.FailureNoTokens},
		"token with line feed":   {Kind: simulator.FailureLineFeedToken},
		"error hidden in a 200":  {Kind: simulator.FailureErrorMessage},
		"half an answer":         {Kind: simulator.FailureTruncated},
		"no answer":              {Kind: simulator.FailureHang},
		"lifetime of zero":       {Kind: simulator.FailureExpiry, ExpirySeconds: "0"},
		"negative lifetime":      {Kind: simulator.FailureExpiry, ExpirySeconds: "-3600"},
		"absurd lifetime":        {Kind: simulator.FailureExpiry, ExpirySeconds: "1e15"},
		"User-API token refused": refused,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, nil)
			m.role("monitoring", "0")
			before := m.everything()
			token := m.read("monitoring").token
			m.FailNext(simulator.EndpointAuthenticate, -1, failure)
			changed := with(m.config(), "max_retries", 5)
			changed["user_api_token"] = m.AddUser("another-user")
			m.fails(badRequest, request{operation: opWrite, path: "config/new", body: changed}, "authenticate")
			m.fails(badRequest, request{operation: opWrite, path: "config/default", body: changed}, "authenticate")
			m.fails(badRequest, request{operation: opPatch, path: "config/default", body: changed}, "authenticate")
			expectSame(t, before, m.everything())
			if m.read("monitoring").token != token {
				t.Error("the token of the config that stayed was replaced")
			}
			if followed := m.Count(simulator.EndpointOther, simulator.AnyOutcome); followed > 0 {
				t.Errorf("%d redirects were followed", followed)
			}
		})
	}
}

func TestConfigOfAnUnreachableOrUntrustedServerIsNotStored(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	other := newNCentral(t, nil)
	before := m.everything()
	wrongTrust := with(m.config(), "ca_cert", string(other.server.CAPEM))
	m.fails(badRequest, request{operation: opWrite, path: "config/default", body: wrongTrust}, "links", "certificate")
	m.expectCalls(nil)
	other.server.Stop()
	m.fails(badRequest, request{operation: opWrite, path: "config/default", body: other.config()}, "links")
	m.fails(badRequest, request{operation: opWrite, path: "config/new", body: other.config()}, "links")
	expectSame(t, before, m.everything())

	m.write("config/new", with(other.config(), "verify", false))
	if m.get("config/new")["url"] != other.server.URL {
		t.Error("verify=false did not store the config as it was given")
	}
}

var allSteps = []string{
	"links", "authenticate", "authenticate_again", "validate", "user", "data", "refresh", "server_info", "logout",
}

// check asks for a check and returns its data and warnings. Whatever it finds, it must leave no
// session of its own open.
func (m *mount) check() (answer map[string]any, warnings []string) {
	m.t.Helper()
	secret := m.must(request{operation: opWrite, path: "config/default/check"})
	if open := m.OpenSessions(); open != 0 && !m.Knobs().LogoutAbsent {
		m.t.Errorf("%d sessions are open after the check", open)
	}
	return secret.Data, secret.Warnings
}

func TestCheckOfAGoodServer(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	found, warnings := m.check()
	var names []string
	for _, entry := range found["steps"].([]any) {
		step := entry.(map[string]any)
		names = append(names, step["name"].(string))
		if step["ok"] != true {
			t.Errorf("step %v failed: %v", step["name"], step["message"])
		}
		number(t, step, "milliseconds")
	}
	expectSame(t, allSteps, names)
	offset, ok := found["clock_offset_seconds"].(json.Number)
	if seconds, err := offset.Float64(); !ok || err != nil || seconds < -2 || seconds > 2 {
		t.Errorf("clock_offset_seconds is %v", found["clock_offset_seconds"])
	}
	expectSame(t, len(allSteps)+1, len(strings.Split(found["report"].(string), "\n")))
	delete(found, "steps")
	delete(found, "report")
	delete(found, "clock_offset_seconds")
	expectSame(t, map[string]any{
		"ok": true, "failed_step": "", "message": found["message"], "server_version": m.Knobs().ServerVersion,
		"can_log_out": true, "can_validate": true, "refresh_ends_predecessor": false,
		"authenticate_ends_earlier_sessions": false,
		"user": map[string]any{
			"name": userName, "enabled": true, "locked": false, "password_expired": false,
			"password_reset_required": false, "two_factor": "NONE",
		},
	}, found)
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestCheckTellsWhatTheServerIsLike(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	for field, change := range map[string]func(*simulator.Knobs, bool){
		"refresh_ends_predecessor": func(k *simulator.Knobs, on bool) { k.RefreshEndsPredecessor = on },
		"authenticate_ends_earlier_sessions": func(k *simulator.Knobs, on bool) {
			k.AuthenticateEndsEarlierSessions = on
		},
	} {
		m.Change(func(k *simulator.Knobs) { change(k, true) })
		if found, _ := m.check(); found["ok"] != true || found[field] != true {
			t.Errorf("%s is %v, want true; %v", field, found[field], found["message"])
		}
		m.Change(func(k *simulator.Knobs) { change(k, false) })
	}
	m.Change(func(k *simulator.Knobs) { k.DataForbidden, k.LogoutAbsent = true, true })
	found, _ := m.check()
	if found["ok"] != true || found["can_log_out"] != false {
		t.Errorf("a server that lets the user see no data and has no logout: %v", found)
	}
}

func TestCheckOfABadServer(t *testing.T) {
	t.Parallel()
	status := func(status int) simulator.Failure {
		return simulator.Failure{Kind: simulator.FailureStatus, Status: status}
	}
	for name, test := range map[string]struct {
		step    string
		message string
		spoil   func(m *mount)
	}{
		"down": {"links", "cannot be reached", func(m *mount) { m.server.Stop() }},
		"no N-central": {"links", "login page", func(m *mount) {
			m.FailNext(simulator.EndpointLinks, -1, simulator.Failure{Kind: simulator.FailureHTML})
		}},
		"refused": {
			"authenticate", "user_api_token",
			func(m *mount) { m.FailNext(simulator.EndpointAuthenticate, -1, refused) },
		},
		"overloaded": {
			"authenticate", "429", func(m *mount) { m.FailNext(simulator.EndpointAuthenticate, -1, status(429)) },
		},
		"validation broken": {
			"validate", "500", func(m *mount) { m.FailNext(simulator.EndpointValidate, -1, status(500)) },
		},
		"password expired": {"user", "the API user's password has expired", expirePassword},
		"password expired, and nobody tells": {"data", "password has most likely expired", func(m *mount) {
			expirePassword(m)
			m.Change(func(k *simulator.Knobs) { k.UserAbsent = true })
		}},
		"refresh overloaded": {
			"refresh", "503", func(m *mount) { m.FailNext(simulator.EndpointRefresh, -1, status(503)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t, nil)
			before := m.everything()
			test.spoil(m)
			found, _ := m.check()
			if found["ok"] != false || found["failed_step"] != test.step {
				t.Errorf("ok is %v, failed_step %v, want %s", found["ok"], found["failed_step"], test.step)
			}
			expectPart(t, found["message"].(string), test.message)
			expectSame(t, before, m.everything())
			if m.Count(simulator.EndpointLinks, simulator.AnyOutcome) > 1 {
				t.Error("a step was retried")
			}
		})
	}
}

func expirePassword(m *mount) {
	if err := m.SetPasswordExpired(userName, true); err != nil {
		m.t.Fatal(err)
	}
}

func TestCheckThatPassesLiftsTheCoolDown(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	disable := func(disabled bool) {
		if err := m.SetUserDisabled(userName, disabled); err != nil {
			t.Fatal(err)
		}
	}
	disable(true)
	m.fails(badRequest, credsRequest("monitoring"), "user_api_token")
	m.check()
	disable(false)
	m.ResetCounts()
	m.fails(badRequest, credsRequest("monitoring"), "user_api_token")
	m.expectCalls(nil) // the check that was refused lifted nothing
	if found, _ := m.check(); found["ok"] != true {
		t.Fatalf("the check failed: %v", found["message"])
	}
	m.read("monitoring")
}
