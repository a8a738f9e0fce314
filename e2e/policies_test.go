// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The policies of the documentation allow what they are for, and nothing else.

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// documentedPolicy returns the policy that stands below the heading in docs/security.md.
func documentedPolicy(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n### "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n##")
	_, block, hasBlock := strings.Cut(section, "\n```hcl\n")
	policy, _, hasEnd := strings.Cut(block, "\n```\n")
	if !found || !hasBlock || !hasEnd {
		t.Fatalf("there is no policy under %q", heading)
	}
	return policy
}

// TestDocumentedPolicies tries the four policies of docs/security.md as they stand there, each on
// an engine that is mounted where they expect it.
func TestDocumentedPolicies(t *testing.T) {
	t.Parallel()
	for heading, try := range map[string]func(*mount, string){
		"Reader": tryReader, "Poller": tryPoller, "Operator": tryOperator, "Administrator": tryAdministrator,
	} {
		t.Run(heading, func(t *testing.T) { try(documentedMount(t), documentedPolicy(t, heading)) })
	}
}

// documentedMount mounts the engine at ncentral/, with a shared role "monitoring", another
// "reporting", and a dedicated one "worker".
func documentedMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{
		ncentral: newNCentral(t, nil), t: t, testbed: sharedServer, client: sharedServer.Client(), path: "ncentral",
	}
	if err := sharedServer.Mount(t.Context(), m.path, plugin, api.MountConfigInput{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.unmount)
	m.write("config/default", m.config())
	m.write("roles/monitoring", map[string]any{})
	m.write("roles/reporting", map[string]any{})
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	m.ResetCounts()
	return m
}

// by makes requests the client's.
func by(client *api.Client, requests ...request) []request {
	for i := range requests {
		requests[i].client = client
	}
	return requests
}

func (m *mount) denies(client *api.Client, requests ...request) {
	m.t.Helper()
	for _, r := range by(client, requests...) {
		m.fails(forbidden, r)
	}
}

func (m *mount) allows(client *api.Client, requests ...request) {
	m.t.Helper()
	for _, r := range by(client, requests...) {
		if _, err := m.do(r); err != nil {
			m.t.Errorf("%s %s: %v", r.operation, r.path, err)
		}
	}
}

// sending returns a client whose requests have that body in the place of their own.
func sending(client *api.Client, contentType, body string) *api.Client {
	return client.WithRequestCallbacks(func(r *api.Request) {
		r.Headers.Set("Content-Type", contentType)
		r.BodyBytes = []byte(body)
	})
}

const (
	formEncoded = "application/x-www-form-urlencoded"
	jsonBody    = "application/json"
	mergePatch  = "application/merge-patch+json"
)

// withRule adds a rule to a policy.
func withRule(policy, path string) string {
	return policy + "\npath \"" + path + "\" { capabilities = [\"create\", \"read\", \"update\", \"patch\"] }\n"
}

func tryReader(m *mount, policy string) {
	reader := m.clientFor(policy)
	m.expectNameIgnored(reader, m.expectGetAndPost(reader))
	m.expectNoOtherPath(reader)
	m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
	m.allows(
		reader, credsRequest("monitoring", "validate", "true"), credsRequest("monitoring", "min_ttl", "20m"),
		request{operation: opWrite, path: "creds/monitoring", body: map[string]any{"min_ttl": "20m", "validate": true}},
	)
	m.expectLeaseIDIsWorthLittle(reader)
}

// expectGetAndPost reads the role's token in both ways, and returns it.
func (m *mount) expectGetAndPost(reader *api.Client) map[string]bool {
	m.t.Helper()
	tokens := map[string]bool{}
	for _, r := range by(reader, credsRequest("monitoring"), request{operation: opWrite, path: "creds/monitoring"}) {
		tokens[m.must(r).Data["access_token"].(string)] = true
	}
	if reporting := m.read("reporting").token; len(tokens) != 1 || tokens[reporting] {
		m.t.Error("GET and POST answered other tokens than the role's")
	}
	return tokens
}

func tryPoller(m *mount, policy string) {
	poller := m.clientFor(policy)
	tokens := m.expectGetAndPost(poller)
	m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
	m.expectParametersDenied(poller)
	m.expectNameIgnored(poller, tokens)
	m.expectNoOtherPath(poller)

	// The same, and farther off.
	for _, path := range []string{"ncentral/creds/monitoring", "ncentral/creds/+", "ncentral/*"} {
		m.expectParametersDenied(m.clientFor(withRule(policy, path)))
	}
	m.expectCalls(nil)
}

// expectParametersDenied tries validate and min_ttl in every place and form in which Vault takes
// parameters.
func (m *mount) expectParametersDenied(reader *api.Client) {
	m.t.Helper()
	for field, values := range map[string][]any{
		"validate": {true, false, nil, "1", "", 0, []string{"true"}},
		"min_ttl":  {"10m", 600, nil, "", "0", map[string]any{}},
		"Validate": {true},
		"MIN_TTL":  {"10m"},
	} {
		for _, value := range values {
			m.denies(reader, request{operation: opWrite, path: "creds/monitoring", body: map[string]any{field: value}})
			if text, isText := value.(string); isText {
				m.denies(
					reader, credsRequest("monitoring", field, text),
					credsRequest("monitoring", field, text, "other", "1"),
				)
			}
		}
		m.denies(reader, credsRequest("monitoring", field, "true"))
		m.denies(sending(reader, formEncoded, field+"=true"), request{operation: opWrite, path: "creds/monitoring"})
		m.denies(sending(reader, jsonBody, `{"other": 1, "`+field+`": true}`), request{
			operation: opWrite, path: "creds/monitoring",
		})
	}
}

// expectNameIgnored tries to reach another role by a parameter.
func (m *mount) expectNameIgnored(reader *api.Client, tokens map[string]bool) {
	m.t.Helper()
	for _, r := range by(
		reader, credsRequest("monitoring", "name", "reporting"),
		request{operation: opWrite, path: "creds/monitoring", body: map[string]any{"name": "reporting"}},
	) {
		if answer := m.must(r); !tokens[answer.Data["access_token"].(string)] {
			m.t.Errorf("%s: a name in the parameters reached another role", r.operation)
		}
	}
}

func (m *mount) expectNoOtherPath(reader *api.Client) {
	m.t.Helper()
	slashed := reader.WithRequestCallbacks(func(r *api.Request) { r.URL.Path += "/" })
	m.denies(slashed, credsRequest("monitoring"), credsRequest("monitoring", "validate", "true"))
	m.denies(
		reader,
		credsRequest("reporting"), credsRequest("worker"), credsRequest("missing"),
		request{operation: opWrite, path: "creds/reporting"},
		request{operation: opPatch, path: "creds/monitoring", body: map[string]any{}},
		request{operation: opDelete, path: "creds/monitoring"},
		request{operation: opList, path: "creds"},
		request{operation: opList, path: "config"},
		request{operation: opRead, path: "config/default"},
		request{operation: opWrite, path: "config/default", body: m.config()},
		request{operation: opPatch, path: "config/default", body: map[string]any{"max_retries": 1}},
		request{operation: opDelete, path: "config/default"},
		request{operation: opWrite, path: "config/default/check"},
		request{operation: opList, path: "roles"},
		request{operation: opRead, path: "roles/monitoring"},
		request{operation: opWrite, path: "roles/monitoring", body: map[string]any{"lease": false}},
		request{operation: opPatch, path: "roles/monitoring", body: map[string]any{"lease": false}},
		request{operation: opDelete, path: "roles/monitoring"},
		request{operation: opList, path: "sessions"},
		request{operation: opRead, path: "sessions/monitoring"},
		request{operation: opDelete, path: "sessions/monitoring"},
		request{operation: opRead, path: "status"},
		request{operation: opRead, path: "metrics"},
	)
}

// expectLeaseIDIsWorthLittle tries what Vault's own policy "default", which every token has, allows
// with another's lease.
func (m *mount) expectLeaseIDIsWorthLittle(other *api.Client) {
	m.t.Helper()
	leased := m.read("worker")
	found, err := other.Logical().WriteWithContext(m.t.Context(), "sys/leases/lookup", map[string]any{
		"lease_id": leased.LeaseID,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	expectSame(m.t, []string{"expire_time", "id", "issue_time", "last_renewal", "renewable", "ttl"}, fields(found.Data))
	if _, err := other.Sys().RenewWithContext(m.t.Context(), leased.LeaseID, 3600); statusOf(err) != badRequest {
		m.t.Errorf("renewing the lease: %v, want 400", err)
	}
	if err := other.Sys().RevokeWithContext(m.t.Context(), leased.LeaseID); statusOf(err) != forbidden {
		m.t.Errorf("revoking the lease: %v, want 403", err)
	}
	if !m.AccessTokenLives(leased.token) {
		m.t.Error("the token of the lease was ended")
	}
}

func tryOperator(m *mount, policy string) {
	operator := m.clientFor(policy)
	shared, dedicated := m.read("monitoring"), m.read("worker")
	for _, r := range by(operator, request{operation: opWrite, path: "config/default/check"}) {
		if answer := m.must(r); answer.Data["ok"] != true {
			m.t.Errorf("check: %v", answer.Data["message"])
		}
	}
	m.allows(
		operator,
		request{operation: opRead, path: "status"},
		request{operation: opList, path: "roles"},
		request{operation: opList, path: "sessions"},
		request{operation: opRead, path: "sessions/monitoring"},
		request{operation: opDelete, path: "sessions/monitoring"},
	)
	if m.AccessTokenLives(shared.token) {
		m.t.Error("deleting the sessions left the shared token alive")
	}
	for _, r := range by(operator, request{operation: opRead, path: "metrics"}) {
		if _, err := m.do(r); statusOf(err) == forbidden {
			m.t.Errorf("metrics: %v", err)
		}
	}
	m.expectNothingButSessions(operator)
	m.expectLeasesOfTheEngineAlone(operator, dedicated)
}

func (m *mount) expectNothingButSessions(operator *api.Client) {
	m.t.Helper()
	before := m.everything()
	m.denies(
		operator,
		credsRequest("monitoring"), credsRequest("worker"),
		request{operation: opWrite, path: "creds/monitoring"},
		request{operation: opList, path: "config"},
		request{operation: opRead, path: "config/default"},
		request{operation: opRead, path: "config/default/check"},
		request{operation: opWrite, path: "config/default", body: map[string]any{"max_retries": 1}},
		request{operation: opWrite, path: "config/check", body: m.config()},
		request{operation: opPatch, path: "config/default", body: map[string]any{"max_retries": 1}},
		request{operation: opDelete, path: "config/default"},
		request{operation: opRead, path: "roles/monitoring"},
		request{operation: opWrite, path: "roles/monitoring", body: map[string]any{"lease": false}},
		request{operation: opPatch, path: "roles/monitoring", body: map[string]any{"lease": false}},
		request{operation: opDelete, path: "roles/monitoring"},
		request{operation: opWrite, path: "sessions/monitoring"},
	)
	expectSame(m.t, before, m.everything())
}

func (m *mount) expectLeasesOfTheEngineAlone(operator *api.Client, dedicated credentials) {
	m.t.Helper()
	ctx, sys := m.t.Context(), operator.Sys()
	for what, revoke := range map[string]func() error{
		"leases of another mount": func() error { return sys.RevokePrefixWithContext(ctx, "elsewhere/creds") },
		"all leases of the mount": func() error { return sys.RevokePrefixWithContext(ctx, m.path) },
		"leases by force":         func() error { return sys.RevokeForceWithContext(ctx, m.path+"/creds/worker") },
		"a lease by its id":       func() error { return sys.RevokeWithContext(ctx, dedicated.LeaseID) },
	} {
		if err := revoke(); statusOf(err) != forbidden {
			m.t.Errorf("revoking %s: %v, want 403", what, err)
		}
	}
	if !m.AccessTokenLives(dedicated.token) {
		m.t.Error("the dedicated token is dead before its lease was revoked")
	}
	if err := sys.RevokePrefixWithContext(ctx, m.path+"/creds/worker"); err != nil {
		m.t.Fatal(err)
	}
	m.eventuallyOpen(0)
}

func tryAdministrator(m *mount, policy string) {
	administrator := m.clientFor(policy)
	m.expectEntriesKept(administrator)
	before := m.everything()
	m.expectVerificationKept(administrator)
	m.expectVerificationKept(m.clientFor(policy + "\n" + documentedPolicy(m.t, "Operator")))
	m.expectVerificationKept(m.clientFor(withRule(policy, "ncentral/config/*")))
	m.expectVerificationKept(m.clientFor(withRule(policy, "ncentral/*")))
	m.denies(
		administrator,
		credsRequest("monitoring"),
		request{operation: opWrite, path: "creds/monitoring"},
		request{operation: opRead, path: "sessions/monitoring"},
		request{operation: opDelete, path: "sessions/monitoring"},
		request{operation: opRead, path: "status"},
	)
	expectSame(m.t, before, m.everything())
	m.expectSkippingLeftAlone(administrator)

	// What the page warns of: a rule on a closer path is not bound by the policy.
	unbound := m.clientFor(withRule(policy, "ncentral/config/default"))
	m.allows(unbound, request{
		operation: opPatch, path: "config/default", body: with(m.config(), "tls_skip_verify", true),
	})
}

func (m *mount) expectEntriesKept(administrator *api.Client) {
	m.t.Helper()
	m.allows(
		administrator,
		request{operation: opWrite, path: "config/another", body: m.config()},
		request{operation: opWrite, path: "config/another", body: map[string]any{"max_retries": 1}},
		request{operation: opPatch, path: "config/another", body: map[string]any{"max_retries": nil}},
		request{operation: opRead, path: "config/another"},
		request{operation: opList, path: "config"},
		request{operation: opWrite, path: "config/another/check"},
		request{operation: opWrite, path: "roles/another", body: map[string]any{"config": "another"}},
		request{operation: opWrite, path: "roles/another", body: map[string]any{"ttl": "20m"}},
		request{operation: opPatch, path: "roles/another", body: map[string]any{"ttl": nil}},
		request{operation: opRead, path: "roles/another"},
		request{operation: opList, path: "roles"},
		request{operation: opDelete, path: "roles/another"},
		request{operation: opDelete, path: "config/another"},
	)
}

// expectVerificationKept tries to switch off the verification of certificates, in every form in
// which Vault takes it.
func (m *mount) expectVerificationKept(client *api.Client) {
	m.t.Helper()
	for _, value := range []any{true, false, nil, "true", "True", "TRUE", "t", "T", "1", "", 1, 1.5, 2, -1} {
		m.expectFieldDenied(client, "tls_skip_verify", value)
	}
	for _, field := range []string{"TLS_SKIP_VERIFY", "Tls_Skip_Verify", "tls_skip_Verify"} {
		m.expectFieldDenied(client, field, true)
	}
	write := request{operation: opWrite, path: "config/default"}
	m.denies(sending(client, formEncoded, "tls_skip_verify=true"), write)
	m.denies(sending(client, formEncoded, "max_retries=1&tls%5fskip%5fverify=1"), write)
	for _, malformed := range []string{
		`{"tls_skip_verify": [true]}`, `{"tls_skip_verify": {"": true}}`,
		`{"tls_skip_verify": false, "tls_skip_verify": true}`,
	} {
		for _, r := range by(sending(client, jsonBody, malformed), write) {
			if _, err := m.do(r); statusOf(err) < badRequest { // before it looks at policies, Vault refuses the form
				m.t.Errorf("%s was not refused: %v", malformed, err)
			}
		}
	}
	m.denies(sending(client, jsonBody, `{"tls\u005fskip_verify": true}`), write)
	m.denies(sending(client, mergePatch, `{"tls\u005fskip_verify": true}`), request{
		operation: opPatch, path: "config/default",
	})
}

func (m *mount) expectFieldDenied(client *api.Client, field string, value any) {
	m.t.Helper()
	body := with(m.config(), field, value)
	m.denies(
		client,
		request{operation: opWrite, path: "config/default", body: body},
		request{operation: opPatch, path: "config/default", body: body},
		request{operation: opWrite, path: "config/new", body: body},
		request{operation: opWrite, path: "config/default", body: map[string]any{field: value, "verify": false}},
	)
}

// expectSkippingLeftAlone holds what the page says of a config that skips verification already.
func (m *mount) expectSkippingLeftAlone(administrator *api.Client) {
	m.t.Helper()
	m.write("config/skipping", with(m.config(), "tls_skip_verify", true))
	m.allows(administrator, request{
		operation: opWrite, path: "config/skipping", body: map[string]any{"max_retries": 1},
	})
	m.denies(administrator, request{
		operation: opPatch, path: "config/skipping", body: map[string]any{"tls_skip_verify": nil},
	})
	if m.get("config/skipping")["tls_skip_verify"] != true {
		m.t.Error("a write of another field changed tls_skip_verify")
	}
	m.allows(administrator, request{operation: opDelete, path: "config/skipping"}, request{
		operation: opWrite, path: "config/skipping", body: m.config(),
	})
	if m.get("config/skipping")["tls_skip_verify"] != false {
		m.t.Error("a config made anew skips verification")
	}
}
