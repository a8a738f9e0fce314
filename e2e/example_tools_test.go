// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Examples of tools that read a token on the way: Ansible, Terraform, PowerShell.

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestExampleAnsible(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "hvac")
	playbook := needs(t, "ansible-playbook", "--version")
	e := startExample(t, "ansible")
	play := func() *exec.Cmd {
		return e.command(
			[]string{"ANSIBLE_HASHI_VAULT_AUTH_METHOD=token", "ANSIBLE_LOCALHOST_WARNING=false"}, playbook,
			"-i", "one,two,three,", "-e", "ansible_python_interpreter="+python, filepath.Join(e.folder, "report.yml"),
		)
	}
	output, complaint, err := e.run(play())
	if strings.Contains(output+complaint, "hashi_vault.vault_read was not found") {
		skipExample(t, "Ansible collection community.hashi_vault")
	}
	if err != nil || strings.Count(output, `"msg": "1 service organisations"`) != 3 {
		t.Fatalf("%v\n%s%s", err, output, complaint)
	}
	if reads := e.reads.take(); len(reads) != 1 || reads[0].query != "min_ttl=20m" {
		t.Errorf("for three hosts it read %+v, want once, with a min_ttl", reads)
	}
}

func TestExamplePowerShell(t *testing.T) {
	t.Parallel()
	powershell := needs(t, "pwsh", "-NoProfile", "-Command", "exit 0")
	e := startExample(t, "powershell")
	roleID, secretID := e.appRole()
	program := func(paths ...string) *exec.Cmd {
		arguments := append([]string{"-NoProfile", "-File", filepath.Join(e.folder, "NCentral.ps1")}, paths...)
		return e.command([]string{"VAULT_ROLE_ID=" + roleID, "VAULT_SECRET_ID=" + secretID}, powershell, arguments...)
	}
	e.expectAnswers(3, program)
	e.Reboot()
	e.expectAnswers(1, program)
	if reads := e.reads.take(); len(reads) != 3 || reads[2].query != "validate=true" {
		t.Errorf("it read %+v, want once, and after a reboot once more with validate=true", reads)
	}
}

// The values of the configuration are written as the provider writes them, and held against what
// is read back as the provider holds them: where all fields are the same, a second plan is empty.
func TestExampleTerraformReadsBackAsItWrites(t *testing.T) {
	t.Parallel()
	terraform := needs(t, "terraform", "version")
	e := startExample(t, "terraform")
	main, err := os.ReadFile(filepath.Join(e.folder, "setup", "main.tf"))
	if err != nil {
		t.Fatal(err)
	}
	if output, _, err := e.run(e.command(nil, terraform, "fmt", "-check", "-recursive", e.folder)); err != nil {
		t.Errorf("terraform fmt would change %s", output)
	}
	variables, err := os.ReadFile(filepath.Join(e.folder, "setup", "variables.tf"))
	if err != nil {
		t.Fatal(err)
	}
	e.putFile("variables.tf", string(variables))
	for path, resource := range map[string]string{"config/default": "config", "roles/monitoring": "monitoring"} {
		written := e.valuesOf(terraform, string(main), resource)
		e.write(path, written)
		read := e.get(path)
		for field, value := range written {
			if field != "user_api_token" && fmt.Sprint(read[field]) != fmt.Sprint(value) {
				t.Errorf("%s: %s is written as %v, and read as %v", path, field, value, read[field])
			}
		}
	}
}

// valuesOf returns what Terraform makes of the data_json of a resource.
func (e *example) valuesOf(terraform, configuration, resource string) (values map[string]any) {
	e.t.Helper()
	_, text, found := strings.Cut(configuration, `resource "vault_generic_endpoint" "`+resource+`" {`)
	_, text, hasData := strings.Cut(text, "data_json = ")
	text, _, hasEnd := strings.Cut(text, "\n  })\n")
	if !found || !hasData || !hasEnd {
		e.t.Fatalf("there is no data_json of %s", resource)
	}
	e.putFile("values.tf", "locals {\n  values = "+text+"\n  })\n}\n")
	console := e.command(e.terraformVariables(), terraform, "console")
	console.Stdin = strings.NewReader("nonsensitive(local.values)\n")
	output, err := console.Output() // the User-API token is in it, as it is to be
	if err != nil {
		e.t.Fatal(err)
	}
	var quoted string
	decoder := json.NewDecoder(bytes.NewReader(output))
	if err := decoder.Decode(&quoted); err != nil {
		e.t.Fatal(err)
	}
	decoder = json.NewDecoder(strings.NewReader(quoted))
	decoder.UseNumber()
	if err := decoder.Decode(&values); err != nil {
		e.t.Fatal(err)
	}
	return values
}

func (e *example) terraformVariables() []string {
	return []string{
		"TF_VAR_ncentral_url=" + e.server.URL, "TF_VAR_ca_cert=" + string(e.server.CAPEM),
		"TF_VAR_user_api_token=" + e.userAPIToken + "\n",
		"TF_VAR_password_changed_at=" + time.Now().UTC().Format("2006-01-02T00:00:00Z"),
		"TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1",
	}
}

// Where Terraform and the provider are at hand, the configurations themselves are run.
func TestExampleTerraform(t *testing.T) {
	t.Parallel()
	terraform := needs(t, "terraform", "version")
	needs(t, "curl")
	e := startExample(t, "terraform")
	reader := e.clientFor(e.policy).Token()
	e.unmount() // the configuration mounts it
	root := append(e.terraformVariables(), "VAULT_TOKEN="+e.testbed.RootToken)
	run := func(configuration string, environment []string, arguments ...string) (string, error) {
		t.Helper()
		chdir := "-chdir=" + filepath.Join(e.folder, configuration)
		environment = append([]string{"TF_DATA_DIR=" + filepath.Join(e.directory, configuration)}, environment...)
		output, complaint, err := e.run(e.command(environment, terraform, append([]string{chdir}, arguments...)...))
		return output + complaint, err
	}
	must := func(configuration string, environment []string, arguments ...string) {
		t.Helper()
		if output, err := run(configuration, environment, arguments...); err != nil {
			t.Fatalf("%s: %v: %v\n%s", configuration, arguments, err, output)
		}
	}
	if output, err := run("setup", root, "init", "-input=false"); err != nil {
		if regexp.MustCompile(`(?i)provider|registry`).MatchString(output) {
			skipExample(t, "Terraform provider hashicorp/vault")
		}
		t.Fatal(output)
	}
	state := "-state=" + filepath.Join(e.directory, "setup.tfstate")
	must("setup", root, "apply", "-input=false", "-auto-approve", state)
	must("setup", root, "plan", "-input=false", "-detailed-exitcode", state) // 2 where it would change anything
	must("use", nil, "init", "-input=false")
	used := filepath.Join(e.directory, "use.tfstate")
	environment := []string{"VAULT_TOKEN=" + reader, "TERRAFORM_VAULT_SKIP_CHILD_TOKEN=true"}
	must("use", environment, "apply", "-input=false", "-auto-approve", "-state="+used)
	kept, err := os.ReadFile(used)
	if err != nil {
		t.Fatal(err)
	}
	secrets.addShown("the state of "+t.Name(), string(kept))
}
