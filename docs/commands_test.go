// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"strings"
	"testing"
)

// notRun has the blocks of commands that no test runs as they stand, by page and by the two words
// that they begin with, each with the reason.
var notRun = map[string]string{
	"README.md: make demo":                                     "TestDemo runs the demo; make test runs this test",
	"README.md: Set-Content -Path":                             windows,
	"docs/setup.md: Set-Content -Path":                         windows,
	"docs/operations.md: Set-Content -Path":                    windows,
	"docs/setup.md: docker pull":                               "they need Docker, gVisor and a registry",
	"docs/performance.md: make bench":                          "they take minutes; scripts/benchmark has its tests",
	"docs/setup.md: make release-snapshot":                     "it takes minutes; .ci/run makes and tests it",
	"CONTRIBUTING.md: git tag":                                 "they publish a release",
	"CONTRIBUTING.md: go tool":                                 "they publish a release",
	"CONTRIBUTING.md: .ci/run":                                 "it runs this test, among all others",
	"examples/external-secrets/README.md: kubectl apply":       kubernetes,
	"examples/vault-secrets-operator/README.md: kubectl apply": kubernetes,
	"examples/systemd/README.md: useradd --system":             "they change the machine; TestSystemd checks the units",
	"examples/powershell/README.md: $env:VAULT_ADDR =": windows +
		"; TestExamplePowerShell runs the script where there is a PowerShell 7",
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
		words := strings.Fields(block.Text)
		name := block.Page + ": " + strings.Join(words[:min(len(words), 2)], " ")
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
