// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A token is sent to the url that it came from, and nowhere else.

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// expectNothingOf fails the test if this server was ever sent a secret of the other.
func (n *ncentral) expectNothingOf(t *testing.T, other *ncentral) {
	t.Helper()
	for _, secret := range other.Secrets() {
		if n.Received(secret) {
			t.Errorf("secret %s was sent to a server that it is not of", fingerprint(secret))
		}
	}
}

func TestRepointedURLNeedsTheUserAPIToken(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	other := newNCentral(t, nil)
	before := m.get("config/default")
	for field, value := range map[string]any{
		"url":             other.server.URL,
		"ca_cert":         string(other.server.CAPEM),
		"tls_server_name": "localhost",
		"tls_skip_verify": true,
	} {
		for _, operation := range []operation{opWrite, opPatch} {
			m.fails(
				badRequest, request{operation: operation, path: "config/default", body: map[string]any{field: value}},
				field, "user_api_token",
			)
			m.fails(
				badRequest,
				request{
					operation: operation, path: "config/default", body: map[string]any{field: value, "verify": false},
				},
				field, "user_api_token",
			)
		}
	}
	m.fails(badRequest, request{operation: opWrite, path: "config/default", body: map[string]any{
		"url": other.server.URL, "ca_cert": string(other.server.CAPEM), "tls_skip_verify": true,
	}}, "user_api_token")
	expectSame(t, before, m.get("config/default"))
	m.expectCalls(nil)
	if got := len(other.Requests()); got != 0 {
		t.Errorf("the other server got %d requests", got)
	}
}

// TestRepointedURLGetsNoTokenOfTheOldServer leaves all kinds of tokens of the old server behind:
// one in hand, a retired one, one of a flight, and one whose logout is owed.
func TestRepointedURLGetsNoTokenOfTheOldServer(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	other := newNCentral(t, nil)
	m.write("config/default", with(m.config(), "request_timeout", "20s"))
	for _, role := range []string{"held", "owing", "flying", "deleted"} {
		m.role(role, "0")
	}
	m.read("owing")
	m.FailNext(simulator.EndpointLogout, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
	m.delete("sessions/owing")
	held, deleted := m.read("held"), m.read("deleted")
	m.ResetCounts()
	landed := m.startRead("flying")

	m.write("config/default", other.config())
	if reader := <-landed; reader.err != nil || !other.AccessTokenLives(reader.answer.token) {
		t.Errorf("the reader of the flight got no token of the new server: %v", reader.err)
	}
	for role, before := range map[string]credentials{"held": held, "deleted": deleted} {
		answer, err := m.tryRead(role)
		if err != nil {
			t.Fatal(err)
		}
		if answer.token == before.token || !other.AccessTokenLives(answer.token) ||
			answer.Data["url"] != other.server.URL {
			t.Errorf("creds/%s answered no token of the new server", role)
		}
		if !m.AccessTokenLives(before.token) {
			t.Errorf("the retired token of %s was ended, not left to lapse", role)
		}
	}
	if warnings := m.delete("sessions/held"); !warns(warnings, "url") {
		t.Errorf("no warning that the session at the old server was not ended: %q", warnings)
	}
	m.delete("roles/deleted")
	m.write("config/default/check", nil)

	eventually(t, tickPatience, func() error {
		if owed := m.get("sessions/owing")["logouts_owed"]; owed != json.Number("0") {
			return fmt.Errorf("no tick gave up the logout owed to the old server: %v", owed)
		}
		return nil
	})
	other.expectNothingOf(t, m.ncentral)
	m.expectNothingOf(t, other)
}
