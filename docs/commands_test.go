// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"strings"
	"testing"
)

// notRun has the blocks of commands that no test runs as they stand, by page and first line, each
// with the reason.
var notRun = map[string]string{
	"README.md: make demo    # the whole way, command by command, with the real answers; cleans up after itself": "" +
		"TestDemo runs what make demo runs, and make test runs this test",
	"README.md: Set-Content -Path user-api-token -Value (Get-Clipboard -Raw).Trim() -Encoding ascii -NoNewline":         windows,
	"docs/setup.md: Set-Content -Path user-api-token -Value (Get-Clipboard -Raw).Trim() -Encoding ascii -NoNewline":     windows,
	"docs/operations.md: Set-Content -Path new-token.jwt -Value (Get-Clipboard -Raw).Trim() -Encoding ascii -NoNewline": windows,
	"examples/powershell/README.md: $env:VAULT_ADDR = 'https://vault.example.com'": windows +
		"; TestExamplePowerShell runs the script where there is a PowerShell 7",
	"docs/setup.md: docker pull registry.example.com/vault-plugin-secrets-ncentral:0.1.0": "" +
		"they need Docker, gVisor and a registry",
	"CONTRIBUTING.md: .ci/run": "it runs this test, among all others",
	"docs/performance.md: make bench                                                # two minutes": "" +
		"they take minutes and measure the machine; the tests of scripts/benchmark hold what it writes",
	"examples/external-secrets/README.md: kubectl apply -f ncentral.yaml":       kubernetes,
	"examples/vault-secrets-operator/README.md: kubectl apply -f ncentral.yaml": kubernetes,
	"examples/systemd/README.md: useradd --system --shell /usr/sbin/nologin ncentral": "" +
		"they change the users and services of the machine; TestSystemd checks the units",
}

const (
	windows    = "they are for Windows, and the tests have none"
	kubernetes = "there is no Kubernetes; the tests in examples decode the manifest strictly"
)

// withoutCommands are the languages of blocks that nobody types into a shell.
var withoutCommands = map[string]bool{"hcl": true, "json": true, "mermaid": true}

// TestEveryCommandIsRun demands that every block of commands names the procedure that runs it. The
// end-to-end tests fail where a procedure is followed by no test, or not to its end.
func TestEveryCommandIsRun(t *testing.T) {
	blocks, err := Blocks("..")
	if err != nil {
		t.Fatal(err)
	}
	excepted := map[string]bool{}
	for _, block := range blocks {
		if withoutCommands[block.Language] {
			continue
		}
		firstLine, _, _ := strings.Cut(block.Text, "\n")
		name := block.Page + ": " + firstLine
		isRun := block.Procedure != "" && block.Language == "sh"
		switch {
		case block.Language != "sh" && block.Language != "powershell":
			t.Errorf("%s:%d: say what the block is: sh, powershell, text, hcl, json or mermaid", block.Page, block.Line)
		case isRun && notRun[name] != "":
			t.Errorf("%s:%d: a test runs this block, and notRun says why none does", block.Page, block.Line)
		case !isRun && notRun[name] == "":
			t.Errorf("%s:%d: no test runs these commands, and notRun does not say why", block.Page, block.Line)
		}
		excepted[name] = true
	}
	for name := range notRun {
		if !excepted[name] {
			t.Errorf("notRun has a block that is on no page: %s", name)
		}
	}
}
