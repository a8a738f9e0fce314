// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// No token that is typed into the wrong place is quoted.

package backend

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// The framework quotes what it cannot convert, and Vault writes to its logs in clear what fails in
// the existence check.
func TestATokenThatIsTypedIntoAnyFieldIsNotQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, path := range []string{"config/default", "roles/monitoring", "creds/monitoring"} {
			for field := range m.backend.Route(path).Fields {
				for form, value := range map[string]any{
					"text": m.token, "object": map[string]any{"token": m.token},
					"list": []any{m.token, 1, map[string]any{m.token: 1}},
				} {
					if field == "name" || field == "user_api_token" && form == "text" {
						continue
					}
					request := &logical.Request{
						Operation: opWrite, Path: path, Storage: m.storage, Data: map[string]any{field: value},
					}
					if _, _, err := m.backend.HandleExistenceCheck(context.Background(), request); err != nil {
						t.Errorf("%s of %s as %s: the existence check failed", field, path, form)
					}
					text, code := m.failure(opWrite, path, request.Data)
					if code != 400 || !strings.HasPrefix(text, field+": ") || strings.Contains(text, m.token) {
						t.Errorf(
							"%s of %s as %s: %d, or the field is not named, or the token is", field, path, form, code,
						)
					}
				}
			}
		}
	})
}

// A token that is typed in a name's place goes no further than the first look at the request.
func TestATokenThatIsTypedForANameIsNotQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for form, token := range map[string]string{
			"of a user": m.token, "short enough for a name": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
		} {
			for _, path := range []string{
				"config/%", "config/%/check", "roles/%", "creds/%", "sessions/%", "%", "config/%/%", "roles/a/%",
			} {
				for _, operation := range []logical.Operation{
					logical.CreateOperation, opRead, opWrite, opPatch, opDelete,
					opList, logical.HelpOperation,
				} {
					full := map[string]any{
						"url": m.server.URL, "user_api_token": m.token, "config": "default", "verify": false,
					}
					text, code := m.failure(operation, strings.ReplaceAll(path, "%", token), full)
					if code != 400 || strings.Contains(text, token) || !strings.Contains(text, "looks like a token") {
						t.Errorf("%s %s, %s: %d, or the token is quoted", operation, path, form, code)
					}
				}
			}
			for path, data := range map[string]map[string]any{
				"roles/other": {"config": token}, "roles/monitoring": {token: ""}, "config/default": {token: token},
				"creds/monitoring": {token: true},
			} {
				if text := m.fails(400, opWrite, path, data); strings.Contains(text, token) ||
					!strings.Contains(text, "looks like a token") {
					t.Errorf("%s, %s: the token is quoted, or not taken for one", path, form)
				}
			}
			if strings.Contains(m.log.String(), token) {
				t.Errorf("%s: the log quotes it", form)
			}
		}
		m.write("roles/eyJ.a", nil)
	})
}
