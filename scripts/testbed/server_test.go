// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func startServer(t *testing.T, start func(context.Context, Options) (*Server, error)) *Server {
	t.Helper()
	binary, err := ServerBinary(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	server, err := start(t.Context(), Options{Binary: binary, PluginDirectory: t.TempDir(), Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func expectAudited(t *testing.T, server *Server, path string) {
	t.Helper()
	entries, err := os.ReadFile(server.AuditFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(entries), `"path":"`+path+`"`) {
		t.Errorf("the audit log has nothing of %s", path)
	}
}

func TestAnAddressTakenByAnotherIsTriedAgainElsewhere(t *testing.T) {
	directory := t.TempDir()
	log := filepath.Join(directory, "log")
	binary := writeExecutable(t, directory, "server", `#!/bin/sh
echo "Root Token: printed-by-a-dev-server"
echo "bind: address already in use"
exit 1
`)
	_, err := StartDev(t.Context(), Options{Binary: binary, LogFile: log})
	if !errors.Is(err, errAddressInUse) {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), "printed-by-a-dev-server") {
		t.Error("the error tells the root token")
	}
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(content), "already in use"); got != startAttempts {
		t.Errorf("%d attempts", got)
	}
}

func TestAServerThatDoesNotStartIsNotTriedAgain(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	binary := writeExecutable(t, t.TempDir(), "server", "#!/bin/sh\necho no licence >&2\nexit 1\n")
	t.Setenv("TMPDIR", t.TempDir())
	_, err := StartRaft(t.Context(), Options{Binary: binary, LogFile: log})
	if err == nil || !strings.Contains(err.Error(), "no licence") {
		t.Fatalf("got %v", err)
	}
	if content, err := os.ReadFile(log); err != nil || string(content) != "no licence\n" {
		t.Errorf("log: %q, %v", content, err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDevServer(t *testing.T) {
	server := startServer(t, StartDev)
	if _, err := server.Client().Auth().Token().LookupSelf(); err != nil {
		t.Error(err)
	}
	if err := server.Restart(t.Context()); err == nil {
		t.Error("a dev server was restarted")
	}
	if err := server.Unseal(t.Context()); err == nil || !strings.Contains(err.Error(), "not kept") {
		t.Errorf("unsealing a dev server: %v", err)
	}
	expectAudited(t, server, "auth/token/lookup-self")
	server.Shutdown()
	if _, err := os.Stat(server.LogFile); err != nil {
		t.Errorf("shutting the server down took its log along: %v", err)
	}
	directory := server.Directory
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(directory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestRaftServerKeepsItsStorage(t *testing.T) {
	server := startServer(t, StartRaft)
	if err := server.Client().Sys().PutPolicy("kept", `path "a" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	if err := server.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := server.Client().Sys().SealStatus(); err != nil || !status.Sealed {
		t.Fatalf("after sealing: %+v, %v", status, err)
	}
	if err := server.Unseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := server.PID()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.PID() == before {
		t.Error("the same process")
	}
	if policy, err := server.Client().Sys().GetPolicy("kept"); err != nil || policy == "" {
		t.Errorf("after a restart: %q, %v", policy, err)
	}
	client, err := server.ClientWithToken("no-token")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Auth().Token().LookupSelf(); err == nil {
		t.Error("a client with an unknown token was let in")
	}
	expectAudited(t, server, "auth/token/lookup-self") // requested only after the restart
	if plugins, err := server.PluginPIDs(); err != nil || len(plugins) != 0 {
		t.Errorf("plugins: %v, %v", plugins, err)
	}
}
