// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The commands of the README work as they stand, from the sources to the first call of N-central.

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// startSetup is startWithNCentral, with the plugin's binary where the commands run.
func startSetup(t *testing.T, blocks []docs.Block) *procedure {
	t.Helper()
	p := startWithNCentral(t, blocks)
	if err := os.Link(plugin.Path, filepath.Join(p.directory, plugin.Command)); err != nil {
		t.Fatal(err)
	}
	p.set("VERSION", plugin.Version)
	return p
}

// followRelease has the files of a release where they were downloaded to, of which one is missing.
func followRelease(t *testing.T, blocks []docs.Block) {
	p := newProcedure(t, blocks, serverOptions())
	prefix := "vault-plugin-secrets-ncentral_" + strings.TrimPrefix(plugin.Version, "v")
	binary, archive := prefix+"_linux_amd64", prefix+"_linux_amd64.zip"
	if err := os.Link(plugin.Path, filepath.Join(p.directory, binary)); err != nil {
		t.Fatal(err)
	}
	p.file(archive, "an archive")
	archiveSum := sha256.Sum256([]byte("an archive"))
	p.file(prefix+"_SHA256SUMS", fmt.Sprintf("%s  %s\n%x  %s\n%s  %s\n",
		plugin.SHA256, binary, archiveSum, archive, plugin.SHA256, prefix+"_freebsd_amd64"))
	p.step("verify")
	if output, err := p.run("checksum", ""); err != nil || output != plugin.SHA256+"  "+binary+"\n" {
		t.Errorf("want the checksum of the binary alone, got %v\n%s", err, output)
	}
	p.end()
}

func followSetup(t *testing.T, blocks []docs.Block) {
	p := startSetup(t, blocks)
	p.step("register")
	p.step("see")
	p.paste("save", p.userAPIToken)
	p.step("config")
	p.file("user-api-token", "\"\u200b"+p.userAPIToken+"\"\r\n")
	p.step("clean")
	cleaned, err := os.ReadFile(filepath.Join(p.directory, "cleaned"))
	if err != nil || string(cleaned) != p.userAPIToken {
		t.Errorf("cleaning leaves more or less than the token: %v", err)
	}
	p.end()
}

func followPin(t *testing.T, blocks []docs.Block) {
	p := startSetup(t, blocks)
	p.insert(t, "setup")
	p.step("register")
	p.left = blocks
	p.step("pin")
	p.step("unpin")
	p.end()
}

func followNamespace(t *testing.T, blocks []docs.Block) {
	p := newProcedure(t, blocks, serverOptions())
	if err := p.testbed.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	p.step("mount")
	p.end()
}

func followSample(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.write("roles/monitoring", map[string]any{"ttl": "30m"})
	p.showsTokens("read")
	p.end()
}

// startWithNCentral starts a server without the plugin, and an N-central that it trusts as if the
// certificate were a public one.
func startWithNCentral(t *testing.T, blocks []docs.Block) *procedure {
	t.Helper()
	ncentral := newNCentral(t, nil)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, ncentral.server.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	options := serverOptions()
	options.PluginDirectory = t.TempDir()
	options.Environment = []string{"SSL_CERT_FILE=" + authority}
	p := newProcedure(t, blocks, options)
	p.ncentral = ncentral
	p.set("PLUGIN_DIRECTORY", options.PluginDirectory)
	p.set("NCENTRAL_URL", ncentral.server.URL)
	p.set("CURL_CA_BUNDLE", authority)
	return p
}

func followQuickStart(t *testing.T, blocks []docs.Block) {
	needs(t, "curl")
	p := startWithNCentral(t, blocks)
	p.copySources()
	p.keepGoCaches()
	p.step("build")
	p.step("register")
	p.paste("save", p.userAPIToken)
	p.step("config")
	p.step("check")
	p.showsTokens("role")
	output, err := p.run("use", "")
	var answer struct{ TotalItems *int }
	if err != nil || json.Unmarshal([]byte(output), &answer) != nil || answer.TotalItems == nil {
		t.Errorf("%v\n%s", err, output)
	}
	p.file("second-token", p.AddUser(secondUser))
	p.step("second-user")
	p.end()
}

// copySources puts what is built, and what builds it, where the commands run.
func (p *procedure) copySources() {
	p.t.Helper()
	root, err := testbed.RepositoryRoot()
	if err != nil {
		p.t.Fatal(err)
	}
	arguments := []string{"-R"}
	for _, name := range []string{"Makefile", "go.mod", "go.sum", "backend", "cmd", "internal", "paths"} {
		arguments = append(arguments, filepath.Join(root, name))
	}
	command := exec.CommandContext(p.t.Context(), "cp", append(arguments, p.directory)...)
	if output, err := command.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, output)
	}
}
