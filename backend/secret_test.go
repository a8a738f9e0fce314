// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// The framework quotes what it cannot convert, and Vault writes errors to its audit log in clear.
func TestAUserAPITokenThatIsNoStringIsNotQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, value := range []any{map[string]any{"token": m.token}, []any{m.token}} {
			request := &logical.Request{
				Operation: logical.UpdateOperation, Path: "config/default", Storage: m.storage,
				Data: map[string]any{"user_api_token": value},
			}
			if _, _, err := m.backend.HandleExistenceCheck(context.Background(), request); err != nil {
				t.Error("the existence check failed, where its error may quote the token")
			}
			text, code := m.failure(logical.UpdateOperation, "config/default", request.Data)
			if code != 400 || !strings.Contains(text, "user_api_token") || strings.Contains(text, m.token) {
				t.Errorf("%d, or the field is not named, or the token is", code)
			}
		}
	})
}
