// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The commands in the READMEs of the examples, run as they stand.

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// readmeTests follow the procedures of the READMEs, by the names that their markers have.
var readmeTests = map[string]followed{
	"example-roles":           followExampleRoles,
	"example-shell":           followShell,
	"example-python":          followPython,
	"example-python-hvac":     followPythonHvac,
	"example-node":            followNode,
	"example-go":              followGo,
	"example-ansible":         followAnsible,
	"example-terraform":       followTerraform,
	"example-powershell":      followPowerShell,
	"example-vault-agent":     followVaultAgent,
	"example-consul-template": followConsulTemplate,
}

func TestReadmesOfExamples(t *testing.T) {
	t.Parallel()
	followAtOnce(t, readmeTests)
}

// The role that each README writes is taken without a warning, and gives a token.
func followExampleRoles(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	for _, block := range blocks {
		output, err := p.run(block.Step, "")
		if err != nil || output != "Success! Data written to: ncentral/roles/monitoring\n" {
			t.Errorf("%s: %v\n%s", block.Page, err, output)
		}
		p.read("monitoring")
	}
	p.end()
}

// startReadme is startProcedure in a copy of the example's folder, where the commands trust the
// server of N-central.
func startReadme(t *testing.T, blocks []docs.Block) *procedure {
	t.Helper()
	p := startProcedure(t, blocks, serverOptions())
	folder := filepath.Join("..", filepath.Dir(filepath.FromSlash(blocks[0].Page)))
	if err := os.CopyFS(p.directory, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	p.trustNCentral()
	return p
}

// trustNCentral has whatever the commands run trust the certificate of N-central.
func (p *procedure) trustNCentral() {
	p.t.Helper()
	p.file("ca.pem", string(p.server.CAPEM))
	authority := filepath.Join(p.directory, "ca.pem")
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} {
		p.set(name, authority)
	}
}

// expectCallsPrinted runs the only block of the procedure, which must print as many answers of N-central.
func (p *procedure) expectCallsPrinted(count int) {
	p.t.Helper()
	output, err := p.run("run", "")
	decoder := json.NewDecoder(strings.NewReader(output))
	for range count {
		var answer map[string]any
		if decodingErr := decoder.Decode(&answer); err != nil || decodingErr != nil {
			p.t.Fatalf("%v, %v\n%s", err, decodingErr, output)
		}
	}
	p.end()
}

func followShell(t *testing.T, blocks []docs.Block) {
	needs(t, "curl")
	needs(t, "jq")
	startReadme(t, blocks).expectCallsPrinted(1)
}

func followPython(t *testing.T, blocks []docs.Block) {
	python := pythonWith(t)
	p := startReadme(t, blocks)
	p.useProgram("python3", python)
	p.expectCallsPrinted(2)
}

func followPythonHvac(t *testing.T, blocks []docs.Block) {
	python := pythonWith(t, "hvac", "requests")
	p := startReadme(t, blocks)
	p.useProgram("python3", python)
	p.expectCallsPrinted(2)
}

func followNode(t *testing.T, blocks []docs.Block) {
	needs(t, "node", "-e", "fetch")
	startReadme(t, blocks).expectCallsPrinted(2)
}

func followGo(t *testing.T, blocks []docs.Block) {
	p := startReadme(t, blocks)
	root, err := testbed.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	p.directory = root
	p.keepGoCaches()
	p.expectCallsPrinted(1)
}

// keepGoCaches lets the go command find its caches, although the commands have a home of their own.
func (p *procedure) keepGoCaches() {
	p.t.Helper()
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS"} {
		value, err := exec.CommandContext(p.t.Context(), "go", "env", name).Output()
		if err != nil {
			p.t.Fatal(err)
		}
		p.set(name, strings.TrimSpace(string(value)))
	}
}

// useProgram has the commands find the program under the name.
func (p *procedure) useProgram(name, path string) {
	p.t.Helper()
	programs := p.t.TempDir()
	if err := os.Symlink(path, filepath.Join(programs, name)); err != nil {
		p.t.Fatal(err)
	}
	for i, variable := range p.environment {
		if value, isPath := strings.CutPrefix(variable, "PATH="); isPath {
			p.environment[i] = "PATH=" + programs + string(filepath.ListSeparator) + value
		}
	}
}

func followAnsible(t *testing.T, blocks []docs.Block) {
	pythonWith(t, "hvac")
	needs(t, "ansible-playbook", "--version")
	p := startReadme(t, blocks)
	output, err := p.run("run", "")
	if strings.Contains(output, "hashi_vault.vault_read was not found") {
		skipExample(t, "Ansible collection community.hashi_vault")
	}
	if err != nil || !strings.Contains(output, "service organisations") {
		t.Errorf("%v\n%s", err, output)
	}
	p.end()
}

func followTerraform(t *testing.T, blocks []docs.Block) {
	needs(t, "terraform", "version")
	p := startReadme(t, blocks)
	p.unmount() // the configuration mounts it
	p.file("user-api-token", p.userAPIToken)
	p.set("NCENTRAL_URL", p.server.URL)
	p.set("TF_VAR_ca_cert", string(p.server.CAPEM))
	p.set("TF_CLI_ARGS_apply", "-input=false -auto-approve")
	p.set("CHECKPOINT_DISABLE", "1")
	output, err := p.run("run", "")
	if err != nil && strings.Contains(output, "registry.terraform.io") {
		skipExample(t, "Terraform provider hashicorp/vault")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	p.read("monitoring")
	p.end()
}

// enableAppRole makes ready what a README that makes an AppRole begins with.
func (p *procedure) enableAppRole(heading string) {
	p.t.Helper()
	policy := documentedPolicy(p.t, heading)
	if err := p.client.Sys().PutPolicyWithContext(p.t.Context(), "monitoring", policy); err != nil {
		p.t.Fatal(err)
	}
	if err := p.client.Sys().EnableAuthWithOptionsWithContext(
		p.t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"},
	); err != nil {
		p.t.Fatal(err)
	}
}

func followPowerShell(t *testing.T, blocks []docs.Block) {
	p := startReadme(t, blocks)
	p.enableAppRole("Reader")
	p.step("ids")
	p.end()
}

func followVaultAgent(t *testing.T, blocks []docs.Block) {
	p := startReadme(t, blocks)
	p.enableAppRole("Poller")
	p.step("ids")
	p.expectFileWhileRunning()
}

func followConsulTemplate(t *testing.T, blocks []docs.Block) {
	p := startReadme(t, blocks)
	p.useProgram("consul-template", buildConsulTemplate(t))
	p.file("vault-token", p.testbed.RootToken)
	p.expectFileWhileRunning()
}

// expectFileWhileRunning starts the last block of the procedure, whose command runs on and is to
// write the token into ncentral.json.
func (p *procedure) expectFileWhileRunning() {
	p.t.Helper()
	block := p.take("run")
	command := exec.CommandContext(p.t.Context(), "/bin/sh", "-euc", block.Text)
	command.Dir, command.Env = p.directory, p.environment
	process, err := testbed.StartProcess(command)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { process.Stop(agentStopPatience) })
	eventually(p.t, time.Minute, func() error {
		content, err := os.ReadFile(filepath.Join(p.directory, "ncentral.json"))
		if err != nil {
			return err
		}
		var shown map[string]string
		if err := json.Unmarshal(content, &shown); err != nil {
			return err
		}
		p.expectLife(true, credentials{token: shown["access_token"]})
		return nil
	})
	p.end()
}
