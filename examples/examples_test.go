// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package examples holds the examples to their form. Those that can be run here are run by the
// end-to-end tests; those that cannot are held to what their consumer accepts, as far as that is
// known without it.
package examples

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// Every README says the same things in the same places, so that a reader finds them, and so that
// the end-to-end tests find the role and the policy.
func TestEveryExampleSaysWhatItNeeds(t *testing.T) {
	readmes, err := filepath.Glob("*/README.md")
	if err != nil || len(readmes) < 10 {
		t.Fatalf("%d examples, %v", len(readmes), err)
	}
	overview := read(t, "../docs/consumers.md")
	for _, readme := range readmes {
		text, folder := read(t, readme), filepath.Dir(readme)
		for _, part := range []string{
			"\n## The role\n", "\nvault write ncentral/roles/monitoring ", "`lease=false`", "`min_ttl", "`ttl",
			"`reread_interval", "\n**Policy:** [", "\n## Run it\n", "\n## When something is down\n", "\n| Vault",
			"\n| N-central", "\n| N-central was rebooted |",
		} {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no %q", readme, part)
			}
		}
		if !strings.Contains(overview, "(../examples/"+folder+")") {
			t.Errorf("docs/consumers.md does not link to examples/%s", folder)
		}
		err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && path != readme && !strings.HasSuffix(path, "_test.go") &&
				!strings.Contains(text, filepath.Base(path)) {
				t.Errorf("%s does not mention %s", readme, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestSystemd(t *testing.T) {
	known := map[string]string{
		"Description": "Unit", "Wants": "Unit", "After": "Unit", "Type": "Service", "User": "Service",
		"Environment":      "Service",
		"RuntimeDirectory": "Service", "RuntimeDirectoryMode": "Service", "WorkingDirectory": "Service",
		"LoadCredential": "Service", "ExecStartPre": "Service", "ExecStart": "Service", "ExecReload": "Service",
		"Restart": "Service", "RestartSec": "Service", "NoNewPrivileges": "Service", "PrivateTmp": "Service",
		"ProtectHome": "Service", "ProtectSystem": "Service", "WantedBy": "Install",
	}
	for _, unit := range []string{"systemd/ncentral-agent.service", "systemd/app.service"} {
		section := ""
		for line := range strings.Lines(read(t, unit)) {
			line = strings.TrimSuffix(line, "\n")
			name, _, isSetting := strings.Cut(line, "=")
			switch {
			case line == "" || strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
				section = strings.Trim(line, "[]")
			case !isSetting || known[name] != section:
				t.Errorf("%s: %q is no setting of [%s]", unit, line, section)
			}
		}
	}
}

func TestVaultSecretsOperator(t *testing.T) {
	var secret struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			VaultAuthRef     string `yaml:"vaultAuthRef"`
			Mount, Path      string
			AllowStaticCreds bool `yaml:"allowStaticCreds"`
			Destination      struct {
				Create         bool
				Name           string
				Transformation struct {
					ExcludeRaw bool `yaml:"excludeRaw"`
					Includes   []string
				}
			}
			RolloutRestartTargets []struct{ Kind, Name string } `yaml:"rolloutRestartTargets"`
		}
	}
	strictly(t, "vault-secrets-operator/ncentral.yaml", &secret)
	if secret.APIVersion != "secrets.hashicorp.com/v1beta1" || secret.Kind != "VaultDynamicSecret" {
		t.Errorf("%s %s", secret.APIVersion, secret.Kind)
	}
	if secret.Spec.Mount+"/"+secret.Spec.Path != "ncentral/creds/monitoring" || !secret.Spec.AllowStaticCreds {
		t.Errorf("%+v", secret.Spec)
	}
	for _, pattern := range secret.Spec.Destination.Transformation.Includes {
		if _, err := regexp.Compile(pattern); err != nil {
			t.Error(err)
		}
	}
}

func TestExternalSecretsOperator(t *testing.T) {
	type reference struct{ APIVersion, Kind, Name string }
	var generator struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Path          string
			GetParameters map[string][]string `yaml:"getParameters"`
			Provider      struct {
				Server string
				Auth   struct {
					Kubernetes struct {
						MountPath         string `yaml:"mountPath"`
						Role              string
						ServiceAccountRef struct{ Name string } `yaml:"serviceAccountRef"`
					}
				}
			}
		}
	}
	var secret struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			RefreshInterval string `yaml:"refreshInterval"`
			Target          struct {
				Name     string
				Template struct{ Data map[string]string }
			}
			DataFrom []struct {
				SourceRef struct {
					GeneratorRef reference `yaml:"generatorRef"`
				} `yaml:"sourceRef"`
			} `yaml:"dataFrom"`
		}
	}
	strictly(t, "external-secrets/ncentral.yaml", &generator, &secret)
	made := reference{generator.APIVersion, generator.Kind, generator.Metadata.Name}
	if len(secret.Spec.DataFrom) != 1 || secret.Spec.DataFrom[0].SourceRef.GeneratorRef != made {
		t.Errorf("the ExternalSecret refers to %+v, and the generator is %+v", secret.Spec.DataFrom, made)
	}
	refresh, minTTL := duration(t, secret.Spec.RefreshInterval), duration(t, generator.Spec.GetParameters["min_ttl"][0])
	if minTTL <= refresh || minTTL > 30*time.Minute {
		t.Errorf("min_ttl %s, refreshInterval %s", minTTL, refresh)
	}
}

func TestGitHubActions(t *testing.T) {
	type step struct {
		Name, ID, Uses, Run string
		With                struct{ URL, Method, Role, Secrets string }
	}
	var workflow struct {
		Name        string
		On          map[string]any
		Permissions map[string]string
		Jobs        map[string]struct {
			RunsOn         string `yaml:"runs-on"`
			TimeoutMinutes int    `yaml:"timeout-minutes"`
			Steps          []step
		}
	}
	strictly(t, "github-actions/report.yml", &workflow)
	secrets := workflow.Jobs["report"].Steps[0].With.Secrets
	form := regexp.MustCompile(`^ncentral/creds/monitoring\?min_ttl=(\d+m) (access_token|url) \| [A-Z_]+$`)
	for line := range strings.SplitSeq(strings.TrimSpace(secrets), ";") {
		found := form.FindStringSubmatch(strings.TrimSpace(line))
		if found == nil {
			t.Fatalf("%q", line)
		}
		if job := time.Duration(workflow.Jobs["report"].TimeoutMinutes) * time.Minute; duration(t, found[1]) <= job {
			t.Errorf("min_ttl is %s, and the job may take %s", found[1], job)
		}
	}
	if workflow.Permissions["id-token"] != "write" {
		t.Error("without the permission id-token: write the job cannot sign in by JWT")
	}
}

func TestGitLabCI(t *testing.T) {
	var pipeline map[string]struct {
		Image, Timeout string
		IDTokens       map[string]struct{ Aud string } `yaml:"id_tokens"`
		Variables      map[string]string
		Secrets        map[string]struct {
			Vault struct {
				Engine      struct{ Name, Path string }
				Path, Field string
			}
			File  bool
			Token string
		}
		Script []string
	}
	strictly(t, "gitlab-ci/.gitlab-ci.yml", &pipeline)
	job := pipeline["report"]
	for name, secret := range job.Secrets {
		if _, issued := job.IDTokens[strings.TrimPrefix(secret.Token, "$")]; !issued {
			t.Errorf("%s is read with %s, which no id_token is", name, secret.Token)
		}
		if secret.Vault.Engine.Path+"/"+secret.Vault.Path != "ncentral/creds/monitoring" {
			t.Errorf("%s is read from %+v", name, secret.Vault)
		}
	}
	if len(job.Secrets) != 2 {
		t.Errorf("%d secrets", len(job.Secrets))
	}
}

// strictly decodes the documents of a file of YAML, in which nothing may stand that the types do
// not have.
func strictly(t *testing.T, name string, documents ...any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(strings.ReplaceAll(read(t, name), "apiVersion:", "apiversion:")))
	decoder.KnownFields(true)
	for _, document := range documents {
		if err := decoder.Decode(document); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Errorf("%s holds more documents: %v", name, err)
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("\r")) {
		t.Errorf("%s has carriage returns", name)
	}
	return string(content)
}
