// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The requests that tests make, and the answers that they get.

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// request is one request to a mount.
type request struct {
	client    *api.Client // with whose token; nil: the root token
	operation operation
	path      string              // below the mount
	query     map[string][]string // of a read or list
	body      map[string]any      // of a write or patch
}

type operation string

const (
	opRead   operation = "read"
	opList   operation = "list"
	opWrite  operation = "write"
	opPatch  operation = "patch"
	opDelete operation = "delete"
)

// do makes a request and returns what the server answered: nil without an error where that is
// nothing, or where there is nothing at the path. Every answer of the engine that the tests see
// passes through here. It may be called from any goroutine.
func (m *mount) do(r request) (*api.Secret, error) {
	secret, err := m.send(context.Background(), r)
	m.expectNoSecrets(r, secret, err)
	if err == nil {
		m.expectDeclared(r, secret)
	}
	return secret, err
}

func (m *mount) send(ctx context.Context, r request) (*api.Secret, error) {
	client := m.client
	if r.client != nil {
		client = r.client
	}
	path := m.path + "/" + r.path
	switch r.operation {
	case opRead:
		return client.Logical().ReadWithDataWithContext(ctx, path, r.query)
	case opList:
		query := map[string][]string{"list": {"true"}}
		maps.Copy(query, r.query)
		return client.Logical().ReadWithDataWithContext(ctx, path, query)
	case opWrite:
		return client.Logical().WriteWithContext(ctx, path, r.body)
	case opPatch:
		return client.Logical().JSONMergePatch(ctx, path, r.body)
	case opDelete:
		return client.Logical().DeleteWithContext(ctx, path)
	}
	return nil, errors.New("no such operation")
}

// must is do for requests that are to succeed.
func (m *mount) must(r request) *api.Secret {
	m.t.Helper()
	secret, err := m.do(r)
	if err != nil {
		m.t.Fatalf("%s %s: %v", r.operation, r.path, err)
	}
	return secret
}

// fails is do for requests that are to fail with the status and a text that holds all of the parts,
// in any case.
func (m *mount) fails(status int, r request, parts ...string) {
	m.t.Helper()
	_, err := m.do(r)
	if err == nil {
		m.t.Errorf("%s %s: no error, want %d", r.operation, r.path, status)
		return
	}
	if got := statusOf(err); got != status {
		m.t.Errorf("%s %s: %d, want %d: %v", r.operation, r.path, got, status, err)
	}
	for _, part := range parts {
		if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(part)) {
			m.t.Errorf("%s %s: the error does not tell of %q: %v", r.operation, r.path, part, err)
		}
	}
}

// write writes to a path below the mount and returns the warnings.
func (m *mount) write(path string, body map[string]any) []string {
	m.t.Helper()
	secret := m.must(request{operation: opWrite, path: path, body: body})
	if secret == nil {
		return nil
	}
	return secret.Warnings
}

// get reads a path below the mount. It fails the test where there is nothing.
func (m *mount) get(path string) map[string]any {
	m.t.Helper()
	secret := m.must(request{operation: opRead, path: path})
	if secret == nil {
		m.t.Fatalf("there is nothing at %s", path)
	}
	return secret.Data
}

// delete deletes a path below the mount and returns the warnings.
func (m *mount) delete(path string) []string {
	m.t.Helper()
	secret := m.must(request{operation: opDelete, path: path})
	if secret == nil {
		return nil
	}
	return secret.Warnings
}

// role writes an unleased role with the ttl.
func (m *mount) role(name, ttl string) {
	m.t.Helper()
	m.write("roles/"+name, map[string]any{"ttl": ttl, "lease": false})
}

// credentials are an answer of creds/NAME.
type credentials struct {
	*api.Secret
	token     string
	expiresAt time.Time
}

// credsRequest is a read of creds/NAME. The parameters are names and values by turns.
func credsRequest(role string, parameters ...string) request {
	query := map[string][]string{}
	for i := 0; i < len(parameters); i += 2 {
		query[parameters[i]] = []string{parameters[i+1]}
	}
	return request{operation: opRead, path: "creds/" + role, query: query}
}

// tryRead reads a role's token. It may be called from any goroutine.
func (m *mount) tryRead(role string, parameters ...string) (credentials, error) {
	secret, err := m.do(credsRequest(role, parameters...))
	if err != nil {
		return credentials{}, err
	}
	if secret == nil {
		return credentials{}, errors.New("nothing was answered")
	}
	token, _ := secret.Data["access_token"].(string)
	text, _ := secret.Data["expires_at"].(string)
	expiresAt, err := time.Parse(time.RFC3339, text)
	if token == "" || err != nil {
		return credentials{}, errors.New("the answer has no access_token or no expires_at")
	}
	return credentials{Secret: secret, token: token, expiresAt: expiresAt}, nil
}

// read reads a role's token, and fails the test unless N-central accepts it.
func (m *mount) read(role string, parameters ...string) credentials {
	m.t.Helper()
	answer, err := m.tryRead(role, parameters...)
	if err != nil {
		m.t.Fatalf("reading creds/%s: %v", role, err)
	}
	if !m.AccessTokenLives(answer.token) {
		m.t.Fatalf("creds/%s answered a dead token, %s", role, fingerprint(answer.token))
	}
	return answer
}

// warns reports whether any warning holds the part.
func warns(warnings []string, part string) bool {
	return strings.Contains(strings.Join(warnings, "\n"), part)
}

// number reads an integer that must have come as a JSON number.
func number(t *testing.T, data map[string]any, field string) int64 {
	t.Helper()
	value, ok := data[field].(json.Number)
	if !ok {
		t.Fatalf("%s is a %T, not a JSON number", field, data[field])
	}
	integer, err := value.Int64()
	if err != nil {
		t.Fatalf("%s: %v", field, err)
	}
	return integer
}

// statusOf is the HTTP status that an error came with, 0 if none.
func statusOf(err error) int {
	if answered, ok := errors.AsType[*api.ResponseError](err); ok {
		return answered.StatusCode
	}
	return 0
}

// fingerprint tells one secret from another in the tests' output.
func fingerprint(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:4])
}

const (
	badRequest         = http.StatusBadRequest
	forbidden          = http.StatusForbidden
	notFound           = http.StatusNotFound
	badGateway         = http.StatusBadGateway
	serviceUnavailable = http.StatusServiceUnavailable
)
