// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
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
						Operation: opWrite, Path: path, Storage: m.storage, Data: map[string]any{field: value},
					}
					if _, _, err := m.backend.HandleExistenceCheck(context.Background(), request); err != nil {
						t.Errorf("%s of %s as %s: the existence check failed", field, path, form)
					}
					text, code := m.failure(opWrite, path, request.Data)
					if code != 400 || !strings.HasPrefix(text, field+": ") || strings.Contains(text, m.token) {
						t.Errorf("%s of %s as %s: %d, or the field is not named, or the token is", field, path, form, code)
					}
				}
			}
		}
	})
}

// A token that is typed in a name's place goes no further than the first look at the request.
func TestATokenThatIsTypedForANameIsNotQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for form, token := range map[string]string{"of a user": m.token, "short enough for a name": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"} {
			for _, path := range []string{"config/%", "config/%/check", "roles/%", "creds/%", "sessions/%", "%", "config/%/%", "roles/a/%"} {
				for _, operation := range []logical.Operation{
					logical.CreateOperation, opRead, opWrite, opPatch, opDelete,
					opList, logical.HelpOperation,
				} {
					full := map[string]any{"url": m.server.URL, "user_api_token": m.token, "config": "default", "verify": false}
					text, code := m.failure(operation, strings.ReplaceAll(path, "%", token), full)
					if code != 400 || strings.Contains(text, token) || !strings.Contains(text, "looks like a token") {
						t.Errorf("%s %s, %s: %d, or the token is quoted", operation, path, form, code)
					}
				}
			}
			for path, data := range map[string]map[string]any{
				"roles/other": {"config": token}, "roles/monitoring": {token: ""}, "config/default": {token: token}, "creds/monitoring": {token: true},
			} {
				if text := m.fails(400, opWrite, path, data); strings.Contains(text, token) || !strings.Contains(text, "looks like a token") {
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

func TestAWrongTypeIsToldWithWhatTheFieldTakes(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, test := range []struct {
			path, field string
			value       any
			want        string
		}{
			{"config/default", "max_retries", "abc", "max_retries: give a whole number"},
			{"config/default", "verify", "perhaps", "verify: give true or false"},
			{"config/default", "request_timeout", "soon", "request_timeout: give a duration that is not negative: whole seconds, or a number with a unit like 90s, 5m or 1h"},
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

// By its answer Vault chooses whether a policy must allow create or update.
func TestWhetherAnEntryExistsDoesNotDependOnWhatIsWritten(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for path, exists := range map[string]bool{"roles/new": false, "roles/monitoring": true, "config/new": false, "config/default": true} {
			for _, data := range []map[string]any{nil, {"ttl": "abc", "max_retries": "x"}, {"ttl": "5m", "max_retries": 3.0}} {
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

// The document is completed in place: each request must have one of its own.
func TestHelpIsAnsweredToManyAtOnce(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.system.PluginEnvironment = &logical.PluginEnvironment{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for _, path := range []string{"", "config/", "config/a", "config/a/check", "roles/", "roles/a", "creds/a", "sessions/", "sessions/a", "status", "metrics"} {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage})
					if err != nil {
						t.Errorf("%s: %v", path, err)
						continue
					}
					if _, err := json.Marshal(response.Data["openapi"]); err != nil || response.Data["help"] == "" {
						t.Errorf("%s: %v", path, err)
					}
				}
			})
		}
		all.Wait()
	})
}
