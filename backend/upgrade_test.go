// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A mount goes on with what a release has stored. internal/store/releases_test.go says how each
// version stores its entries; what N-central thinks of them is another matter, so nothing is asked.

package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestAMountGoesOnWithWhatAReleaseHasStored(t *testing.T) {
	files, err := filepath.Glob("../internal/store/testdata/releases/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				content, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var entries map[string]json.RawMessage
				if err := json.Unmarshal(content, &entries); err != nil {
					t.Fatal(err)
				}
				for key, value := range entries {
					if err := m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: key, Value: value}); err != nil {
						t.Fatal(err)
					}
				}
				m.start()
				if got := m.get("config/full")["request_timeout"]; got != int64(10) {
					t.Errorf("request_timeout %v", got)
				}
				if got := m.get("roles/full")["ttl"]; got != int64(3300) {
					t.Errorf("ttl %v", got)
				}
				if got := m.readRole("full")["access_token"]; got != "not-a-real-access-token" {
					t.Errorf("the stored token is not handed out: %v", got)
				}
				_, warnings := m.answer(opRead, "status", nil)
				if strings.Contains(warnings+m.log.String(), "cannot be read") {
					t.Errorf("%s\n%s", warnings, m.log)
				}
			})
		})
	}
}
