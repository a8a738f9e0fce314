// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The examples that others run, as they stand in examples/, each on a server of its own.

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// example is one folder of examples/. The engine is mounted at ncentral/ on a server of its own,
// with the role that the folder's README writes, and who runs it has the policy that it names.
type example struct {
	*mount
	folder      string // of the example
	directory   string // where it runs
	environment []string
	address     string      // where it reaches the server
	reads       *notedReads // its reads of the role's token
	policy      string
}

var (
	roleOfReadme   = regexp.MustCompile(`(?m)^vault write ncentral/roles/monitoring (.+)$`)
	policyOfReadme = regexp.MustCompile(`\]\(\.\./\.\./docs/security\.md#(reader|poller)\)`)
)

// startExample gets everything ready for a consumer.
func startExample(t *testing.T, name string) *example {
	t.Helper()
	server, err := testbed.StartDev(t.Context(), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := endServer(server); err != nil {
			t.Error(err)
		}
	})
	if err := server.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	folder, err := filepath.Abs(filepath.Join("..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	policy := policyOfReadme.FindSubmatch(readme)
	if policy == nil {
		t.Fatalf("the README of %s names no policy", name)
	}
	e := &example{
		mount:  newMountAt(t, server, "ncentral", api.MountConfigInput{}, nil),
		folder: folder, directory: t.TempDir(),
		reads:  &notedReads{path: "/v1/ncentral/creds/monitoring", transport: &http.Transport{}},
		policy: documentedPolicy(t, strings.ToUpper(string(policy[1][:1]))+string(policy[1][1:])),
	}
	e.write("roles/monitoring", roleOf(t, readme))
	e.address = e.listen(e.reads)
	e.putFile("ca.pem", string(e.server.CAPEM))
	authority := filepath.Join(e.directory, "ca.pem")
	e.environment = append(testbed.CleanEnvironment(),
		"HOME="+e.directory, "VAULT_ADDR="+e.address, "VAULT_TOKEN="+e.clientFor(e.policy).Token(),
		"SSL_CERT_FILE="+authority, "CURL_CA_BUNDLE="+authority, "REQUESTS_CA_BUNDLE="+authority,
		"NODE_EXTRA_CA_CERTS="+authority,
	)
	return e
}

// roleOf returns what the README of an example writes to the role.
func roleOf(t *testing.T, readme []byte) map[string]any {
	t.Helper()
	role := roleOfReadme.FindSubmatch(readme)
	if role == nil {
		t.Fatalf("a README writes no role:\n%s", readme)
	}
	body := map[string]any{}
	for field := range strings.FieldsSeq(string(role[1])) {
		name, value, _ := strings.Cut(field, "=")
		body[name] = value
	}
	return body
}

// rotateSoon has the tokens rotated every fifteen seconds; the rest stays as the README has it.
func (e *example) rotateSoon() {
	e.t.Helper()
	e.must(request{operation: opPatch, path: "roles/monitoring", body: map[string]any{
		"ttl": "20s", "min_ttl": "5s",
	}})
}

// putFile puts a file where the example runs.
func (e *example) putFile(name, content string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.directory, name), []byte(content), 0o700); err != nil {
		e.t.Fatal(err)
	}
}

// command returns a command of the example, which gets the environment given beside its own.
func (e *example) command(environment []string, name string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(e.t.Context(), name, arguments...)
	command.Dir, command.Env = e.directory, append(slices.Clone(e.environment), environment...)
	return command
}

// run runs the command to its end, and returns what it printed.
func (e *example) run(command *exec.Cmd) (output, complaint string, err error) {
	e.t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	secrets.addShown("what "+e.t.Name()+" printed", stdout.String()+stderr.String())
	return stdout.String(), stderr.String(), err
}

// start starts a command that runs on until the test ends.
func (e *example) start(command *exec.Cmd) *testbed.Process {
	e.t.Helper()
	log, err := os.Create(filepath.Join(e.directory, "log"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	process, err := testbed.StartProcess(command)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		process.Stop(agentStopPatience)
		printed, _ := os.ReadFile(log.Name())
		secrets.addShown("the log of "+e.t.Name(), string(printed))
		if e.t.Failed() {
			e.t.Logf("its log:\n%s", printed)
		}
	})
	return process
}

// appRole makes an AppRole with the example's policy, and puts its ids where the example runs.
func (e *example) appRole() (roleID, secretID string) {
	e.t.Helper()
	write := func(path string, body map[string]any) map[string]any {
		secret, err := e.client.Logical().WriteWithContext(e.t.Context(), path, body)
		if err != nil {
			e.t.Fatal(err)
		}
		if secret == nil {
			return nil
		}
		return secret.Data
	}
	if err := e.client.Sys().EnableAuthWithOptionsWithContext(
		e.t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"},
	); err != nil {
		e.t.Fatal(err)
	}
	if err := e.client.Sys().PutPolicyWithContext(e.t.Context(), "monitoring", e.policy); err != nil {
		e.t.Fatal(err)
	}
	write("auth/approle/role/monitoring", map[string]any{"token_policies": "monitoring", "token_ttl": "1h"})
	found, err := e.client.Logical().ReadWithContext(e.t.Context(), "auth/approle/role/monitoring/role-id")
	if err != nil {
		e.t.Fatal(err)
	}
	roleID = found.Data["role_id"].(string)
	secretID = write("auth/approle/role/monitoring/secret-id", nil)["secret_id"].(string)
	e.putFile("role-id", roleID)
	e.putFile("secret-id", secretID)
	return roleID, secretID
}

const probePath = "/api/service-orgs?pageSize=1"

// expectClient holds a program that calls N-central's API, for each path that it is given, to what
// the examples say of it. The program reads once for how many paths one run takes.
func (e *example) expectClient(pathsPerRun int, program func(paths ...string) *exec.Cmd) {
	e.t.Helper()
	e.expectAnswers(pathsPerRun, program)
	if reads := e.reads.take(); len(reads) != 1 || reads[0].query != "" {
		e.t.Errorf("it read the token %d times for %d paths, want once: %+v", len(reads), pathsPerRun, reads)
	}
	e.Reboot() // ends every token, and the engine does not know yet
	e.expectAnswers(1, program)
	if reads := e.reads.take(); len(reads) != 2 || reads[1].query != "validate=true" {
		e.t.Errorf("after a 401 it read %+v, want once more, with validate=true", reads)
	}
	e.expectFailure(program, "/api/there-is-no-such-path")
	if reads := e.reads.take(); len(reads) != 1 {
		e.t.Errorf("after an answer that is no 401 it read %d times", len(reads))
	}
	e.FailNext(simulator.EndpointServiceOrgs, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: 401})
	e.expectFailure(program, probePath)
	if reads := e.reads.take(); len(reads) != 2 {
		e.t.Errorf("it read %d times where N-central goes on answering 401, want twice", len(reads))
	}
	e.ClearFailures()
	e.server.Stop()
	e.expectFailure(program, probePath)
	e.environment = append(e.environment, "VAULT_TOKEN=not-one")
	if complaint := e.expectFailure(program, probePath); !strings.Contains(complaint, "permission denied") {
		e.t.Errorf("it does not say what Vault answered: %q", complaint)
	}
}

func (e *example) expectAnswers(count int, program func(paths ...string) *exec.Cmd) {
	e.t.Helper()
	output, complaint, err := e.run(program(slices.Repeat([]string{probePath}, count)...))
	if err != nil {
		e.t.Fatalf("%v\n%s", err, complaint)
	}
	decoder := json.NewDecoder(strings.NewReader(output))
	for range count {
		var answer struct{ TotalItems *int }
		if err := decoder.Decode(&answer); err != nil || answer.TotalItems == nil {
			e.t.Fatalf("it printed no answer of N-central's: %v\n%s", err, output)
		}
	}
}

func (e *example) expectFailure(program func(paths ...string) *exec.Cmd, path string) (complaint string) {
	e.t.Helper()
	_, complaint, err := e.run(program(path))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strings.TrimSpace(complaint) == "" || strings.Contains(complaint, "Traceback") {
		e.t.Errorf("%s: want a failure that is told in words, got %v: %q", path, err, complaint)
	}
	return complaint
}

// expectFileOfLivingTokens watches a file of JSON that the example keeps up to date.
func (e *example) expectFileOfLivingTokens(process *testbed.Process, name string) {
	e.t.Helper()
	e.expectLivingTokens(process, tokensOverTwoRotations, e.shownIn(name))
}

// shownIn returns how to look for the token in a file of JSON.
func (e *example) shownIn(name string) func() (token string, err error) {
	return func() (string, error) {
		content, err := os.ReadFile(filepath.Join(e.directory, name))
		if err != nil {
			return "", err
		}
		var shown map[string]string
		if err := json.Unmarshal(content, &shown); err != nil || shown["url"] != e.server.URL {
			e.t.Fatalf("the file holds other than JSON with this url: %v", err)
		}
		return shown["access_token"], nil
	}
}

// needs skips the test where a program is absent, or does not run with these arguments.
func needs(t *testing.T, name string, trial ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil && len(trial) > 0 {
		err = exec.CommandContext(t.Context(), path, trial...).Run()
	}
	if err != nil {
		skipExample(t, name)
	}
	return path
}

// skippedExamples are told when all tests have run.
var skippedExamples struct {
	mutex sync.Mutex
	lines []string
}

func skipExample(t *testing.T, missing string) {
	t.Helper()
	skippedExamples.mutex.Lock()
	defer skippedExamples.mutex.Unlock()
	reason := "there is no " + missing + " here"
	skippedExamples.lines = append(skippedExamples.lines, t.Name()+": "+reason)
	t.Skip(reason)
}

func tellSkippedExamples() {
	skippedExamples.mutex.Lock()
	defer skippedExamples.mutex.Unlock()
	slices.Sort(skippedExamples.lines)
	for _, line := range skippedExamples.lines {
		fmt.Println("Not run: " + line)
	}
}
