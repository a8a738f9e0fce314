// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// The framework quotes what it cannot convert, and Vault writes to its logs in clear what fails in the existence check.
func TestATokenThatIsTypedIntoAnyFieldIsNotQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, path := range []string{"config/default", "roles/monitoring", "creds/monitoring"} {
			for field := range m.backend.Route(path).Fields {
				for form, value := range map[string]any{"text": m.token, "object": map[string]any{"token": m.token}, "list": []any{m.token, 1, map[string]any{m.token: 1}}} {
					if field == "name" || field == "user_api_token" && form == "text" {
						continue
					}
					request := &logical.Request{
						Operation: logical.UpdateOperation, Path: path, Storage: m.storage, Data: map[string]any{field: value},
					}
					if _, _, err := m.backend.HandleExistenceCheck(context.Background(), request); err != nil {
						t.Errorf("%s of %s as %s: the existence check failed", field, path, form)
					}
					text, code := m.failure(logical.UpdateOperation, path, request.Data)
					if code != 400 || !strings.HasPrefix(text, field+": ") && field != "config" || strings.Contains(text, m.token) && field != "config" {
						t.Errorf("%s of %s as %s: %d, or the field is not named, or the token is", field, path, form, code)
					}
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
			{"config/default", "request_timeout", "soon", "request_timeout: give a duration: seconds, or a number with a unit like 90s, 5m or 1h"},
			{"config/default", "url", []any{"a"}, "url: give text"},
			{"config/default", "user_api_token", 7, "user_api_token: give text"},
			{"creds/monitoring", "validate", "x", "validate: give true or false"},
		} {
			if text, code := m.failure(logical.UpdateOperation, test.path, map[string]any{test.field: test.value}); code != 400 || text != test.want {
				t.Errorf("%s: %d %s", test.field, code, text)
			}
		}
	})
}
