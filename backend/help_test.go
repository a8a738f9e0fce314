// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The help, the OpenAPI document, and the plugin's metadata.

package backend

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// The command line breaks a wider line, and leaves a word or two of it on a line of their own.
func TestTheLinesOfADescriptionFitATerminal(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, path := range m.backend.Paths {
			for line := range strings.SplitSeq(path.HelpDescription, "\n") {
				if len(line) > 80 {
					t.Errorf("%s: %s", path.Pattern, line)
				}
			}
		}
	})
}

// Vault makes a backend without a system view where it asks for nothing but the plugin's metadata.
func TestTheFactoryNeedsNoSystemView(t *testing.T) {
	if _, err := Factory(context.Background(), &logical.BackendConfig{}); err != nil {
		t.Fatal(err)
	}
}

// Each request for the OpenAPI document gets one of its own, since the document is completed in
// place.
func TestHelpIsAnsweredToManyAtOnce(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.system.PluginEnvironment = &logical.PluginEnvironment{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for _, path := range []string{
					"", "config/", "config/a", "config/a/check", "roles/", "roles/a", "creds/a", "sessions/",
					"sessions/a", "status", "metrics",
				} {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: logical.HelpOperation, Path: path, Storage: m.storage,
					})
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
