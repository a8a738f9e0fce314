// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The audit log tells who took which token, and nothing that is written down holds a secret.

package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// auditEntry is what the tests read of an entry of an audit log.
type auditEntry struct {
	Type  string
	Error string
	Auth  struct {
		Policies []string
	}
	Request struct {
		Operation string
		Path      string
		Data      map[string]any
	}
	Response struct {
		Data     map[string]any
		Warnings []string
		Secret   struct {
			LeaseID string `json:"lease_id"`
		}
	}
}

// audited returns the audit log's entries of the answers at a path below the mount.
func (m *mount) audited(path string) []auditEntry {
	m.t.Helper()
	log, err := os.Open(m.testbed.AuditFile)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	var found []auditEntry
	for decoder := json.NewDecoder(bufio.NewReader(log)); decoder.More(); {
		decoder.UseNumber()
		var entry auditEntry
		if err := decoder.Decode(&entry); err != nil {
			m.t.Fatal(err)
		}
		if entry.Type == "response" && entry.Request.Path == m.path+"/"+path {
			found = append(found, entry)
		}
	}
	if len(found) == 0 {
		m.t.Fatalf("the audit log has nothing of %s", path)
	}
	return found
}

// auditHash returns what the audit log has in the place of a text.
func (m *mount) auditHash(text string) string {
	m.t.Helper()
	hash, err := m.client.Sys().AuditHashWithContext(m.t.Context(), "file", text)
	if err != nil {
		m.t.Fatal(err)
	}
	return hash
}

// TestAuditLogTellsWhoTookWhichToken follows a token from the audit log to who read it, as after a
// leak.
func TestAuditLogTellsWhoTookWhichToken(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, startRaft(t), api.MountConfigInput{}, nil)
	m.write("roles/leased", map[string]any{})
	m.role("unleased", "20m")
	reader := m.clientFor(`path "MOUNT/creds/*" { capabilities = ["read"] }`)
	for _, role := range []string{"leased", "unleased"} {
		answer := m.must(request{client: reader, operation: opRead, path: "creds/" + role})
		entries := m.audited("creds/" + role)
		entry := entries[len(entries)-1]
		if entry.Request.Operation != "read" || !slices.ContainsFunc(entry.Auth.Policies, func(policy string) bool {
			return strings.HasPrefix(policy, m.path)
		}) {
			t.Errorf(
				"the entry tells of %q by somebody with the policies %q", entry.Request.Operation, entry.Auth.Policies,
			)
		}
		token := answer.Data["access_token"].(string)
		hash, _ := entry.Response.Data["access_token"].(string)
		if !strings.HasPrefix(hash, "hmac-sha256:") || hash != m.auditHash(token) {
			t.Errorf("access_token of creds/%s does not stand as its hash", role)
		}
		for field, value := range answer.Data {
			if _, isNumber := value.(json.Number); isNumber {
				expectSame(t, value, entry.Response.Data[field])
			}
		}
		number(t, entry.Response.Data, "expires_at_seconds")
		if entry.Response.Secret.LeaseID != answer.LeaseID {
			t.Errorf("the entry has the lease %q, the answer %q", entry.Response.Secret.LeaseID, answer.LeaseID)
		}
	}
	number(t, m.audited("creds/unleased")[0].Response.Data, "ttl")
}

// TestNothingSecretIsLeftBehindInClear does with secrets all that users do, the wrong things too,
// on a server whose log, audit log and storage are searched when it ends, as those of every server
// are. The test itself proves that what is searched holds what it should.
func TestNothingSecretIsLeftBehindInClear(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, startRaft(t), api.MountConfigInput{}, nil)
	m.typeSecretsWrongly()
	m.configureAnEchoingServer()
	m.readInEveryWay()
	m.endInEveryWay()
	m.expectLogOfThePlugin()
	m.expectSessionInStorage("unleased")
	if err := m.testbed.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		_, err := m.tryRead("unleased")
		return err
	})
}

// typeSecretsWrongly gives secrets in forms that are refused, and that no answer or audit entry may
// quote.
func (m *mount) typeSecretsWrongly() {
	m.t.Helper()
	token, noJWT := m.userAPIToken, rand.Text()+rand.Text()
	for _, value := range []any{
		[]any{token},
		[]any{map[string]any{"token": token}},
		map[string]any{"token": token},
		map[string]any{"tokens": []any{token, noJWT}},
		noJWT,
		"Bearer " + token,
		token + "." + noJWT,
		withTypo(token),
	} {
		body := with(m.config(), "user_api_token", value)
		m.fails(badRequest, request{operation: opWrite, path: "config/typed", body: body}, "user_api_token")
		m.fails(badRequest, request{operation: opPatch, path: "config/default", body: body}, "user_api_token")
	}
	m.fails(
		badRequest, request{operation: opPatch, path: "config/default", body: with(m.config(), "user_api_token", nil)},
		"user_api_token",
	)
	for _, field := range []string{
		"url", "ca_cert", "tls_server_name", "max_retries", "request_timeout", "password_changed_at", "verify",
	} {
		m.fails(
			badRequest, request{operation: opWrite, path: "config/default", body: with(m.config(), field, token)},
			field,
		)
		m.fails(
			badRequest,
			request{
				operation: opWrite, path: "config/default",
				body: with(m.config(), field, []any{token, map[string]any{"token": token}}),
			},
			field,
		)
	}
	password := rand.Text()
	secrets.addTyped(password)
	body := with(m.config(), "url", strings.Replace(m.server.URL, "https://", "https://user:"+password+"@", 1))
	m.fails(badRequest, request{operation: opWrite, path: "config/typed", body: body}, "url")

	for _, entry := range m.audited("config/typed") {
		m.expectHashed(entry.Request.Data["user_api_token"])
	}
}

// expectHashed fails the test where a value in an audit entry is not hashed in all that it consists
// of.
func (m *mount) expectHashed(value any) {
	m.t.Helper()
	switch value := value.(type) {
	case string:
		if !strings.HasPrefix(value, "hmac-sha256:") {
			m.t.Error("a secret in a request is not hashed in the audit log")
		}
	case []any:
		for _, element := range value {
			m.expectHashed(element)
		}
	case map[string]any:
		for _, element := range value {
			m.expectHashed(element)
		}
	default:
		m.t.Errorf("a secret in a request is a %T in the audit log", value)
	}
}

// configureAnEchoingServer has a server answer every authenticate with an error that repeats what
// it was sent.
func (m *mount) configureAnEchoingServer() {
	m.t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "{}")
			return
		}
		sent := r.Header.Get("Authorization")
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"status":  500,
			"message": fmt.Sprintf("no session for %s, %s", sent, base64.StdEncoding.EncodeToString([]byte(sent))),
		})
	}))
	m.t.Cleanup(server.Close)
	config := with(m.config(), "url", server.URL)
	config["ca_cert"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	config["user_api_token"] = m.AddUser("echoed")
	m.fails(badRequest, request{operation: opWrite, path: "config/echoing", body: config}, "no session for")
	m.write("config/echoing", with(config, "verify", false))
	m.write("roles/echoed", map[string]any{"config": "echoing"})
	m.fails(badGateway, credsRequest("echoed"), "no session for")
	expectPart(m.t, m.audited("creds/echoed")[0].Error, "no session for") // this kind of error stands there in clear
	m.get("status")
	m.write("config/echoing/check", nil)
}

// readInEveryWay leaves the roles "unleased", "leased" and "dedicated" behind, each read in every
// way that there is.
func (m *mount) readInEveryWay() {
	m.t.Helper()
	m.role("unleased", "0")
	m.write("roles/leased", map[string]any{})
	m.write("roles/dedicated", map[string]any{"credential_type": "dedicated"})
	wrapping, err := m.testbed.ClientWithToken(m.testbed.RootToken)
	if err != nil {
		m.t.Fatal(err)
	}
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	for _, role := range []string{"unleased", "leased", "dedicated"} {
		m.read(role)
		m.read(role, "validate", "true")
		m.must(request{operation: opWrite, path: "creds/" + role})
		for range 2 { // of which one is never unwrapped
			m.must(request{client: wrapping, operation: opRead, path: "creds/" + role})
		}
		wrapped := m.must(request{client: wrapping, operation: opRead, path: "creds/" + role})
		answer, err := m.client.Logical().UnwrapWithContext(m.t.Context(), wrapped.WrapInfo.Token)
		if err != nil {
			m.t.Fatal(err)
		}
		m.expectDeclared(request{operation: opRead, path: "creds/" + role}, answer)
		if token, _ := answer.Data["access_token"].(string); !m.AccessTokenLives(token) {
			m.t.Errorf("what was wrapped for %s holds no live token", role)
		}
	}
	for _, path := range []string{"config", "roles", "sessions"} {
		m.must(request{operation: opList, path: path})
	}
	for _, path := range []string{"config/default", "roles/leased", "sessions/unleased", "status"} {
		m.get(path)
		help, err := m.client.HelpWithContext(m.t.Context(), m.path+"/"+path)
		if err != nil {
			m.t.Fatal(err)
		}
		secrets.addShown("the help on "+path, help.Help)
	}
	m.write("config/default/check", nil)
}

// endInEveryWay ends sessions where that succeeds and where it does not, and leaves one of the role
// "unleased".
func (m *mount) endInEveryWay() {
	m.t.Helper()
	m.FailNext(simulator.EndpointLogout, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
	if warnings := m.delete("sessions/unleased"); !warns(warnings, "owed") {
		m.t.Errorf("no warning that a logout is owed: %q", warnings)
	}
	revoked := m.read("dedicated")
	if err := m.client.Sys().RevokeWithContext(m.t.Context(), revoked.LeaseID); err != nil {
		m.t.Error(err)
	}
	m.ClearFailures()
	m.delete("sessions/leased")
	if err := m.client.Sys().RevokePrefixWithContext(m.t.Context(), m.path+"/creds/dedicated"); err != nil {
		m.t.Error(err)
	}
	m.fails(badRequest, request{operation: opDelete, path: "config/default"}, "unleased")
	if _, err := m.RegenerateUserAPIToken(userName); err != nil {
		m.t.Fatal(err)
	}
	m.fails(badRequest, credsRequest("leased"), "user_api_token")
	m.userAPIToken = m.AddUser(userName)
	m.write("config/default", m.config())
	m.read("unleased")
	entries := m.audited("sessions/unleased")
	ended := entries[len(entries)-1]
	if ended.Request.Operation != "delete" || !warns(ended.Response.Warnings, "owed") {
		m.t.Errorf(
			"the audit log does not tell of the warnings of a %s: %q", ended.Request.Operation, ended.Response.Warnings,
		)
	}
}

// expectLogOfThePlugin proves that what the plugin logs is in the log that is searched, and that it
// is written at trace.
func (m *mount) expectLogOfThePlugin() {
	m.t.Helper()
	eventually(m.t, 10*time.Second, func() error {
		log, err := os.ReadFile(m.testbed.LogFile)
		for _, line := range []string{
			"sessions were ended by hand", "N-central refused the User-API token", "[TRACE]",
		} {
			if err == nil && !bytes.Contains(log, []byte(line)) {
				err = fmt.Errorf("the log has no %q", line)
			}
		}
		return err
	})
}

// expectSessionInStorage proves that the storage on disk, which is searched, has the role's
// session: Vault encrypts what is stored, and not its name.
func (m *mount) expectSessionInStorage(role string) {
	m.t.Helper()
	path := filepath.Join(m.testbed.Directory, "raft", "vault.db")
	content, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	if !bytes.Contains(content, []byte("/session/"+role)) {
		m.t.Errorf("%s has no session of %s", path, role)
	}
}
