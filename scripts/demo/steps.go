// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// step is one command of the demo.
type step struct {
	explanation string
	command     string                                               // a line for the shell, as a user would type it
	check       func(answer string) error                            // of the unmasked output, or nil
	instead     func(ctx context.Context) (answer string, err error) // replaces a command whose program is missing
}

const (
	masked   = " (Tokens are masked here, save their ends.)"
	dataPath = "/api/service-orgs?pageSize=1"
)

// setupSteps returns the steps that make the engine ready to hand out tokens.
func (s *stage) setupSteps() []step {
	today := time.Now().UTC().Format("2006-01-02T00:00:00Z")
	return []step{
		{
			explanation: "Tell the server of the plugin: its file, checksum and version.",
			command: fmt.Sprintf("%s plugin register -sha256=%s -version=%s -command=%s secret %s",
				s.cli, s.plugin.SHA256, s.plugin.Version, s.plugin.Command, s.plugin.Name),
		},
		{
			explanation: "Mount the engine at ncentral/.",
			command:     s.cli + " secrets enable " + s.plugin.Name,
		},
		{
			explanation: "Say where N-central is and give the User-API token of its API user. Both are tried before " +
				"they are stored.",
			command: fmt.Sprintf("%s write ncentral/config/default url=%s user_api_token=@%s ca_cert=@%s "+
				"password_changed_at=%s",
				s.cli, s.ncentral.URL, userAPITokenFile, caCertFile, today),
		},
		{
			explanation: "Ask at any time whether that credential is alive, and what the server is like.",
			command:     s.cli + " write -f -field=report ncentral/config/default/check",
		},
		{
			explanation: "Make a role: who may read it gets access tokens of half an hour.",
			command:     s.cli + " write ncentral/roles/monitoring ttl=30m",
		},
	}
}

// usageSteps returns the steps that read tokens and use them.
func (s *stage) usageSteps() []step {
	var first string
	readCredentials := s.cli + " read ncentral/creds/monitoring"
	return []step{
		{
			explanation: "Read a token: the first read asks N-central for it." + masked,
			command:     readCredentials,
			check: func(answer string) error {
				first = accessToken.FindString(answer)
				return nil
			},
		},
		{
			explanation: "Read again: the same token, under a lease of its own, and no call to N-central." + masked,
			command:     readCredentials,
			check: func(answer string) error {
				if first == "" || accessToken.FindString(answer) != first {
					return errors.New("the second read answered another token than the first")
				}
				return nil
			},
		},
		{
			explanation: "Read nothing but the token, for a script." + masked,
			command:     s.cli + " read -field=access_token ncentral/creds/monitoring",
		},
		{
			explanation: "Use it for a call to N-central's REST API.",
			command: fmt.Sprintf(`curl -sSf --cacert %s -H "Authorization: Bearer `+
				`$(%s read -field=access_token ncentral/creds/monitoring)" "%s%s"`,
				caCertFile, s.cli, s.ncentral.URL, dataPath),
			instead: s.dataCall,
		},
		{
			explanation: "Make a role without leases, for readers that poll: the answer says when its token will " +
				"be replaced.",
			command: s.cli + " write ncentral/roles/reporting ttl=30m lease=false",
		},
		{
			explanation: "Read a token of that role." + masked,
			command:     s.cli + " read ncentral/creds/reporting",
		},
		{
			explanation: "See the session behind a role. It tells no secret.",
			command:     s.cli + " read ncentral/sessions/monitoring",
		},
		{
			explanation: "End a role's sessions at N-central at once: the first move in an incident.",
			command:     s.cli + " delete ncentral/sessions/monitoring",
		},
		{
			explanation: "Every path explains itself.",
			command:     s.cli + " path-help ncentral/roles/monitoring",
		},
	}
}

// introduce shows the environment that the commands need to find the server.
func (s *stage) introduce() {
	fmt.Fprintf(s.output, "\n$ cd %s\n$ export VAULT_ADDR=%s\n$ export VAULT_TOKEN=%s\n",
		s.directory, s.server.Address, mask(s.server.RootToken))
}

func (s *stage) runAll(ctx context.Context, steps []step) error {
	for _, step := range steps {
		if err := s.runStep(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// runStep shows a step and its output.
func (s *stage) runStep(ctx context.Context, step step) error {
	fmt.Fprintf(s.output, "\n# %s\n$ %s\n", step.explanation, step.command)
	run := func(ctx context.Context) (string, error) { return s.execute(ctx, step.command) }
	program, _, _ := strings.Cut(step.command, " ")
	if _, err := exec.LookPath(program); err != nil && step.instead != nil {
		fmt.Fprintf(s.output, "(There is no %s on this machine: the demo makes the same call itself.)\n", program)
		run = step.instead
	}

	answer, err := run(ctx)
	fmt.Fprintln(s.output, strings.TrimSpace(accessToken.ReplaceAllStringFunc(answer, mask)))
	if err != nil {
		return fmt.Errorf("%s: %w", step.command, err)
	}
	if step.check != nil {
		return step.check(answer)
	}
	return nil
}

// execute runs the line as the user's shell would. It returns the output, including errors.
func (s *stage) execute(ctx context.Context, line string) (string, error) {
	var answer bytes.Buffer
	command := exec.Command("/bin/sh", "-c", line)
	command.Dir = s.directory
	command.Env = append(testbed.CleanEnvironment(),
		"PATH="+s.binDirectory()+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"HOME="+s.directory,
		"VAULT_ADDR="+s.server.Address,
		"VAULT_TOKEN="+s.server.RootToken)
	command.Stdout, command.Stderr = &answer, &answer
	err := testbed.Run(ctx, command)
	return answer.String(), err
}

// dataCall makes the call that curl makes where it is installed.
func (s *stage) dataCall(ctx context.Context) (string, error) {
	token, err := s.execute(ctx, s.cli+" read -field=access_token ncentral/creds/monitoring")
	if err != nil {
		return token, err
	}
	caCert, err := os.ReadFile(filepath.Join(s.directory, caCertFile))
	if err != nil {
		return "", err
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(caCert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ncentral.URL+dataPath, http.NoBody)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(body), err
}

// accessToken matches N-central's tokens, which are JWTs.
var accessToken = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)

// mask keeps four characters at both ends of a token.
func mask(token string) string {
	const shown = 4
	if len(token) <= 4*shown {
		return "********"
	}
	return token[:shown] + "********" + token[len(token)-shown:]
}
