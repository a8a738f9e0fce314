// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/hcl"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// The README names the versions that the tests run on.
func TestTheReadmeNamesTheTestedVersions(t *testing.T) {
	readme := readFile(t, "../README.md")
	for path, pattern := range map[string]string{
		"../scripts/vault-server/go.mod": `(?m)^\s*github\.com/hashicorp/(vault) v(\S+)`,
		"../go.mod":                      `(?m)^(go) (\d+\.\d+)`,
	} {
		found := regexp.MustCompile(pattern).FindStringSubmatch(readFile(t, path))
		if found == nil {
			t.Fatalf("%s names no version", path)
		}
		if named := strings.ToUpper(found[1][:1]) + found[1][1:] + " " + found[2]; !strings.Contains(readme, named) {
			t.Errorf("README.md does not name %s, which is in %s", named, path)
		}
	}
}

// metadata is the form of HashiCorp's listing of integrations, as its template describes it.
type metadata struct {
	Integration struct {
		Name        string
		Description string
		Identifier  string
		License     struct{ Type string }
		Docs        struct {
			ProcessDocs    bool   `hcl:"process_docs"`
			ReadmeLocation string `hcl:"readme_location"`
		}
		Unknown []string `hcl:",unusedKeys"`
	}
}

func TestTheListingHasWhatItNeeds(t *testing.T) {
	var decoded metadata
	if err := hcl.Decode(&decoded, readFile(t, "../metadata.hcl")); err != nil {
		t.Fatal(err)
	}
	listed := decoded.Integration
	if listed.Name == "" || listed.Description == "" || !strings.HasPrefix(listed.Identifier, "vault/") ||
		!listed.Docs.ProcessDocs || len(listed.Unknown) > 0 {
		t.Errorf("the listing is %+v", listed)
	}
	if _, err := os.Stat(filepath.Join("..", listed.Docs.ReadmeLocation)); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(readFile(t, "../LICENSE"), "Mozilla Public License, version 2.0") ||
		listed.License.Type != "MPL-2.0" {
		t.Errorf("the licence is listed as %q", listed.License.Type)
	}
}
