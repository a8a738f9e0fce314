// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"
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
