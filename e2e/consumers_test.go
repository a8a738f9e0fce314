// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What Vault does to leases, wrapped answers, names and files on their way between the engine and
// its users.

package e2e

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// The tests of this file hold docs/consumers.md and docs/setup.md to what they say of the server
// around the engine.

// clientWith is clientFor with a token of the caller's making.
func (m *mount) clientWith(rules string, token api.TokenCreateRequest) *api.Client {
	m.t.Helper()
	policy := m.path + "-by-hand"
	if err := m.client.Sys().PutPolicyWithContext(
		m.t.Context(), policy, strings.ReplaceAll(rules, "MOUNT", m.path),
	); err != nil {
		m.t.Fatal(err)
	}
	token.Policies = []string{policy}
	secret, err := m.client.Auth().Token().CreateWithContext(m.t.Context(), &token)
	if err != nil {
		m.t.Fatal(err)
	}
	client, err := m.testbed.ClientWithToken(secret.Auth.ClientToken)
	if err != nil {
		m.t.Fatal(err)
	}
	return client
}

const readsAll = `path "MOUNT/creds/*" { capabilities = ["read"] }`

// A dedicated session then ends before the time that its answer named.
func TestALeaseEndsWithTheBatchTokenThatReadIt(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated", "ttl": "20m"})
	m.write("roles/unleased", map[string]any{"lease": false})
	batch := m.clientWith(readsAll, api.TokenCreateRequest{Type: "batch", TTL: "5s"})
	answer := m.must(request{client: batch, operation: opRead, path: "creds/worker"})
	unleased := m.must(request{client: batch, operation: opRead, path: "creds/unleased"})
	left := number(t, answer.Data, "expires_at_seconds") - time.Now().Unix()
	if answer.LeaseDuration > 5 || left < 1190 {
		t.Errorf("lease_duration is %d, and expires_at_seconds %d s ahead", answer.LeaseDuration, left)
	}
	token := answer.Data["access_token"].(string)
	eventually(t, 30*time.Second, func() error {
		if m.AccessTokenLives(token) {
			return errors.New("the session lives on")
		}
		return nil
	})
	if !m.AccessTokenLives(unleased.Data["access_token"].(string)) {
		t.Error("the token without a lease has ended too")
	}
}

func TestTheLastUseOfAVaultTokenEndsWhatItRead(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	m.write("roles/unleased", map[string]any{"lease": false})
	last := m.clientWith(readsAll, api.TokenCreateRequest{NumUses: 1})
	m.fails(
		badRequest, request{client: last, operation: opRead, path: "creds/worker"},
		"token had one use left, so leased credentials were immediately revoked",
	)
	m.eventuallyOpen(0)
	last = m.clientWith(readsAll, api.TokenCreateRequest{NumUses: 1})
	m.must(request{client: last, operation: opRead, path: "creds/unleased"})
}

func TestAWrappedAnswerIsFrozen(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/unleased", map[string]any{"lease": false, "ttl": "20m"})
	wrapping, err := m.testbed.ClientWithToken(m.client.Token())
	if err != nil {
		t.Fatal(err)
	}
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	wrapped, err := wrapping.Logical().ReadWithContext(t.Context(), m.path+"/creds/unleased")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	answer, err := m.client.Logical().UnwrapWithContext(t.Context(), wrapped.WrapInfo.Token)
	if err != nil {
		t.Fatal(err)
	}
	later := m.read("unleased")
	if then, now := number(t, answer.Data, "ttl"), number(t, later.Data, "ttl"); then < now+2 {
		t.Errorf("ttl is %d when it is unwrapped, and %d in an answer of now", then, now)
	}
	expectSame(t, number(t, later.Data, "expires_at_seconds"), number(t, answer.Data, "expires_at_seconds"))
}

// One policy serves all whose names in Vault are their e-mail addresses.
func TestNamesMayBeEMailAddressesAndOthersAreVaultsOwn404(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("reader@msp.example.com", "20m")
	reader := m.clientFor(`path "MOUNT/creds/reader@msp.example.com" { capabilities = ["read"] }`)
	m.must(request{client: reader, operation: opRead, path: "creds/reader@msp.example.com"})
	m.delete("sessions/reader@msp.example.com")
	for _, name := range []string{"a b", "a/b", "a+b@example.com", "@a"} {
		m.fails(
			notFound, request{operation: opWrite, path: "roles/" + name, body: map[string]any{}}, "unsupported path",
		)
		m.fails(
			notFound, request{operation: opWrite, path: "config/" + url.PathEscape(name), body: m.config()},
			"unsupported path",
		)
	}
}

// What reaches the engine of a file is what the command line makes of it.
func TestFilesOfWindowsAreTakenOrToldByName(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	inUTF16 := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(m.userAPIToken + "\r\n")) {
		inUTF16 = append(inUTF16, byte(unit), byte(unit>>8))
	}
	for name, test := range map[string]struct {
		content []byte
		told    string
	}{
		"with a byte order mark": {[]byte("\ufeff" + m.userAPIToken + "\r\n"), ""},
		"UTF-16":                 {inUTF16, "user_api_token: it was saved as UTF-16"},
	} {
		file := filepath.Join(t.TempDir(), "user-api-token")
		if err := os.WriteFile(file, test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		printed, err := m.commandLine("", "write", m.path+"/config/default", "user_api_token=@"+file)
		if (err == nil) != (test.told == "") || !strings.Contains(printed, test.told) {
			t.Errorf("%s: %v\n%s", name, err, printed)
		}
	}
}

// commandLine runs a command of Vault's command line, and returns what it printed.
func (m *mount) commandLine(input string, arguments ...string) (printed string, err error) {
	m.t.Helper()
	var output bytes.Buffer
	command := exec.CommandContext(m.t.Context(), serverBinary, arguments...)
	command.Env = append(
		testbed.CleanEnvironment(), "HOME="+m.t.TempDir(), "VAULT_ADDR="+m.testbed.Address,
		"VAULT_TOKEN="+m.testbed.RootToken,
	)
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &output, &output
	err = command.Run()
	secrets.addShown("the command line of "+m.t.Name(), output.String())
	return output.String(), err
}
