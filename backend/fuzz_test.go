// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// No value of a field of a config or role is the engine's failure.

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// aUserAPIToken has the form of one and is none.
const aUserAPIToken = "eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJlLW9mLW5vYm9keQ"

// anyValues are JSON values that a field may be given.
var anyValues = []string{
	`null`, `true`, `""`, `" "`, `"\u0000"`, `"\ud800"`, `"eyJ.eyJ.x"`, `"0"`, `"-1"`, `"1e309"`, `"14d"`, `"3h"`,
	`"9223372036854775807s"`, `"2562048h"`,
	`0`, `-0.0`, `0.5`, `-1`, `1e300`, `9223372036854775808`, `[]`, `[1,"a"]`, `{}`, `{"a":null}`,
	`"9999-12-31T23:59:59Z"`, `253402300800000`,
	`"https://[::1]:0/%zz"`, `"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"`,
}

// FuzzFields gives the fields of a config and a role any values, as the framework passes them on.
// Whatever comes of it is the caller's mistake or is stored, and can then be read; after an error,
// what was stored is what it was.
func FuzzFields(f *testing.F) {
	for _, field := range []string{
		"url", "user_api_token", "user_api_token_sha256", "ca_cert", "tls_server_name", "tls_skip_verify",
		"request_timeout", "max_retries", "max_requests_in_flight",
		"refresh_token_ttl", "password_changed_at", "password_max_age", "expiry_warning", "config", "credential_type",
		"ttl", "min_ttl", "lease", "name",
	} {
		for _, value := range anyValues {
			f.Add([]byte(`{"` + field + `":` + value + `}`))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var given map[string]any
		if json.Unmarshal(body, &given) != nil {
			return
		}
		m := &mount{t: t, storage: &countingStorage{}}
		m.startAlone()
		config := map[string]any{
			"url": "https://ncentral.example.com", "user_api_token": aUserAPIToken, "verify": false,
		}
		m.write("config/patched", config)
		m.write("roles/patched", map[string]any{"config": "patched"})
		for path, whole := range map[string]map[string]any{"config/": config, "roles/": {"config": "patched"}} {
			data := maps.Clone(whole)
			maps.Copy(data, given)
			data["verify"] = false
			m.writeAnything(opPatch, path+"patched", data)
			m.writeAnything(opWrite, path+"new", data)
		}
		m.startAlone() // what is in storage counts
		for _, path := range []string{"config/patched", "config/new", "roles/patched", "roles/new"} {
			m.must(opRead, path, nil)
		}
	})
}

// startAlone makes the backend without an N-central behind it.
func (m *mount) startAlone() {
	m.t.Helper()
	m.system = &systemView{
		StaticSystemView: logical.StaticSystemView{
			MaxLeaseTTLVal: 768 * time.Hour, DefaultLeaseTTLVal: 768 * time.Hour,
		},
	}
	backend, err := newBackend(
		m.t.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: m.system, StorageView: m.storage},
		nil,
	)
	if err != nil {
		m.t.Fatal(err)
	}
	m.backend = backend
	m.t.Cleanup(func() { backend.Cleanup(context.Background()) })
}

func (m *mount) writeAnything(operation logical.Operation, path string, data map[string]any) {
	m.t.Helper()
	before := m.stored()
	response, err := m.do(operation, path, data)
	var text string
	switch {
	case err != nil:
		var coded logical.HTTPCodedError
		if !errors.As(err, &coded) || coded.Code() == http.StatusInternalServerError {
			m.t.Errorf("%s %s: not the caller's mistake: %v", operation, path, err)
		}
		text = err.Error()
	case response.IsError():
		text = response.Error().Error()
	default:
		return
	}
	if token, _ := data["user_api_token"].(string); len(token) > 20 && strings.Contains(text, token) {
		m.t.Errorf("%s %s: the error holds the token", operation, path)
	}
	if !maps.Equal(before, m.stored()) {
		m.t.Errorf("%s %s: stored all the same: %s", operation, path, text)
	}
}
