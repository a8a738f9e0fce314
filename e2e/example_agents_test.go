// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Examples in which an agent keeps a file or a program's environment up to date.

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

func TestExampleVaultAgent(t *testing.T) {
	t.Parallel()
	e := startExample(t, "vault-agent")
	e.rotateSoon()
	e.appRole()
	e.expectFileOfLivingTokens(
		e.start(e.command(nil, serverBinary, "agent", "-config="+filepath.Join(e.folder, "agent.hcl"))),
		"ncentral.json",
	)
}

// reread_interval has an agent notice that its token is dead, long before the token was to end.
func TestExampleVaultAgentGetsOverAReboot(t *testing.T) {
	t.Parallel()
	e := startExample(t, "vault-agent")
	e.must(request{operation: opPatch, path: "roles/monitoring", body: map[string]any{"reread_interval": "10s"}})
	e.appRole()
	process := e.start(e.command(nil, serverBinary, "agent", "-config="+filepath.Join(e.folder, "agent.hcl")))
	e.expectLivingTokens(process, 1, e.shownIn("ncentral.json"))
	e.Reboot()
	eventually(t, agentPatience, func() error {
		e.expectRunning(process)
		token, err := e.shownIn("ncentral.json")()
		if err == nil && !e.AccessTokenLives(token) {
			err = fmt.Errorf("the file shows a dead token, %s", fingerprint(token))
		}
		return err
	})
}

// The program that the agent runs must never be left with a dead token.
func TestExampleVaultAgentAsSupervisor(t *testing.T) {
	t.Parallel()
	e := startExample(t, "vault-agent")
	e.rotateSoon()
	e.appRole()
	e.putFile("app", "#!/bin/sh\nprintf %s \"$NCENTRAL_TOKEN\" > shown.new\nmv shown.new shown\nexec sleep 600\n")
	process := e.start(e.command(nil, serverBinary, "agent", "-config="+filepath.Join(e.folder, "supervisor.hcl")))
	e.expectLivingTokens(process, tokensOverTwoRotations, func() (string, error) {
		content, err := os.ReadFile(filepath.Join(e.directory, "shown"))
		return string(content), err
	})
}

func TestExampleConsulTemplate(t *testing.T) {
	t.Parallel()
	e := startExample(t, "consul-template")
	e.rotateSoon()
	e.putFile("vault-token", e.clientFor(e.policy).Token())
	e.expectFileOfLivingTokens(e.start(e.command(
		[]string{"VAULT_TOKEN="}, buildConsulTemplate(t), "-config="+filepath.Join(e.folder, "consul-template.hcl"),
	)), "ncentral.json")
}

// buildConsulTemplate builds the consul-template that a module of its own pins, which keeps what it
// needs out of go.mod.
func buildConsulTemplate(t *testing.T) string {
	t.Helper()
	root, err := testbed.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "consul-template")
	build := exec.CommandContext(
		t.Context(), "go", "build", "-C", filepath.Join(root, "scripts", "consul-template"), "-o", program,
		"github.com/hashicorp/consul-template",
	)
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}
