// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Examples of pipelines, as far as they can be run without the system that they are for.

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The commands of all pipelines are run as they stand, with the variables that the system would
// set.
func TestTheCommandsOfPipelineExamplesReachNCentral(t *testing.T) {
	t.Parallel()
	needs(t, "curl")
	e := startExample(t, "gitlab-ci")
	token := e.read("monitoring").token
	for name, commands := range map[string]string{
		"gitlab-ci":      commandsOfGitLab(t),
		"github-actions": workflowOfGitHub(t)[1].Run,
		"jenkins":        between(t, "jenkins/Jenkinsfile", `(?s)sh '''(.*?)'''`),
		"terraform":      between(t, "terraform/use/main.tf", `(?s)command = <<-EOT\n(.*?)EOT`),
	} {
		output, complaint, err := e.run(e.command(
			[]string{"NCENTRAL_TOKEN=" + token, "NCENTRAL_URL=" + e.server.URL}, "/bin/sh", "-euc", commands,
		))
		var answer struct{ TotalItems *int }
		if err != nil || json.Unmarshal([]byte(output), &answer) != nil || answer.TotalItems == nil {
			t.Errorf("%s: %v\n%s%s", name, err, output, complaint)
		}
	}
}

func readExample(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "examples", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func between(t *testing.T, name, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindSubmatch(readExample(t, name))
	if found == nil {
		t.Fatalf("%s has no commands", name)
	}
	return string(found[1])
}

func commandsOfGitLab(t *testing.T) string {
	t.Helper()
	var pipeline map[string]struct{ Script []string }
	if err := yaml.Unmarshal(readExample(t, "gitlab-ci/.gitlab-ci.yml"), &pipeline); err != nil {
		t.Fatal(err)
	}
	return strings.Join(pipeline["report"].Script, "\n")
}

type workflowStep struct {
	Run  string
	With map[string]string
}

func workflowOfGitHub(t *testing.T) []workflowStep {
	t.Helper()
	var workflow struct {
		Jobs map[string]struct{ Steps []workflowStep }
	}
	if err := yaml.Unmarshal(readExample(t, "github-actions/report.yml"), &workflow); err != nil {
		t.Fatal(err)
	}
	return workflow.Jobs["report"].Steps
}

// VAULT_ACTION names a checkout of hashicorp/vault-action. The action runs with the inputs of the
// example, save that it signs in by token: there is no GitHub here to sign its identity.
func TestExampleGitHubActions(t *testing.T) {
	t.Parallel()
	needs(t, "curl")
	node := needs(t, "node", "--version")
	action := filepath.Join(os.Getenv("VAULT_ACTION"), "dist", "index.js")
	if _, err := os.Stat(action); err != nil {
		skipExample(t, "checkout of hashicorp/vault-action, which VAULT_ACTION would name,")
	}
	e := startExample(t, "github-actions")
	steps := workflowOfGitHub(t)
	e.putFile("github-env", "")
	e.putFile("github-output", "")
	environment := []string{
		"GITHUB_ENV=" + filepath.Join(e.directory, "github-env"),
		"GITHUB_OUTPUT=" + filepath.Join(e.directory, "github-output"),
		"INPUT_METHOD=token", "INPUT_TOKEN=" + e.clientFor(e.policy).Token(), "INPUT_URL=" + e.address,
		"INPUT_SECRETS=" + steps[0].With["secrets"], "INPUT_EXPORTENV=true", "INPUT_OUTPUTTOKEN=false",
		"INPUT_EXPORTTOKEN=false", "INPUT_TLSSKIPVERIFY=false", "INPUT_IGNORENOTFOUND=false",
		"INPUT_JWTTTL=3600", "INPUT_PATH=", "INPUT_NAMESPACE=", "INPUT_SECRETENCODINGTYPE=",
	}
	printed, err := e.command(environment, node, action).CombinedOutput() // it prints ::add-mask::TOKEN
	if err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	if reads := e.reads.take(); len(reads) != 1 || reads[0].query != "min_ttl=20m" {
		t.Errorf("it read %+v, want once, with a min_ttl", reads)
	}
	output, complaint, err := e.run(e.command(e.exported(), "/bin/sh", "-euc", steps[1].Run))
	if err != nil || !strings.Contains(output, "totalItems") {
		t.Errorf("%v\n%s%s", err, output, complaint)
	}
}

// exported returns the variables that the action has set for the steps after it.
func (e *example) exported() (variables []string) {
	e.t.Helper()
	content, err := os.ReadFile(filepath.Join(e.directory, "github-env"))
	if err != nil {
		e.t.Fatal(err)
	}
	form := regexp.MustCompile(`(?m)^(\w+)<<(\S+)\n(.*)\n(\S+)$`)
	for _, found := range form.FindAllStringSubmatch(string(content), -1) {
		variables = append(variables, found[1]+"="+found[3])
	}
	return variables
}
