// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	fakeVault = "#!/bin/sh\necho 'Vault v1.0.0'\n"
	fakeBao   = "#!/bin/sh\necho 'OpenBao v1.0.0'\n"
	// fakeGo "builds" a fake Vault and logs that it did.
	fakeGo = `#!/bin/sh
[ "$1" = version ] && { echo fake; exit; }
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\necho Vault v1.0.0\n' >"$2"
chmod 755 "$2"
echo built >>"$FAKE_GO_LOG"
`
)

func writeExecutable(t *testing.T, directory, name, content string) string {
	t.Helper()
	path := filepath.Join(directory, name)
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// setPath limits the PATH to the directory and what the fake scripts need.
func setPath(t *testing.T, directory string) {
	t.Helper()
	t.Setenv("PATH", directory+":/bin:/usr/bin")
}

func TestServerBinaryTakesTheOneNamedByTheEnvironment(t *testing.T) {
	directory := t.TempDir()
	path := writeExecutable(t, directory, "my-bao", fakeBao)
	writeExecutable(t, directory, "vault", fakeVault)
	setPath(t, directory)
	for _, named := range []string{path, "my-bao"} {
		t.Setenv("VAULT_SERVER_BINARY", named)
		got, err := ServerBinary(t.Context(), io.Discard)
		if err != nil || got != path {
			t.Errorf("%s: got %q, %v", named, got, err)
		}
	}
}

func TestServerBinaryRefusesWhatIsNoServer(t *testing.T) {
	t.Setenv("VAULT_SERVER_BINARY", writeExecutable(t, t.TempDir(), "vault", "#!/bin/sh\necho pole vault\n"))
	if _, err := ServerBinary(t.Context(), io.Discard); err == nil ||
		!strings.Contains(err.Error(), "VAULT_SERVER_BINARY") {
		t.Errorf("got %v", err)
	}
}

func TestServerBinaryPrefersVaultOnThePath(t *testing.T) {
	t.Setenv("VAULT_SERVER_BINARY", "")
	directory := t.TempDir()
	setPath(t, directory)
	bao := writeExecutable(t, directory, "bao", fakeBao)
	vault := writeExecutable(t, directory, "vault", fakeVault)
	if got, err := ServerBinary(t.Context(), io.Discard); err != nil || got != vault {
		t.Errorf("got %q, %v", got, err)
	}

	writeExecutable(t, directory, "vault", "#!/bin/sh\nexit 1\n")
	var progress strings.Builder
	if got, err := ServerBinary(t.Context(), &progress); err != nil || got != bao {
		t.Errorf("got %q, %v", got, err)
	}
	if !strings.Contains(progress.String(), "Not using the vault on the PATH") {
		t.Errorf("progress: %q", progress.String())
	}
}

func TestIsOpenBao(t *testing.T) {
	directory := t.TempDir()
	if !IsOpenBao(t.Context(), writeExecutable(t, directory, "a", fakeBao)) {
		t.Error("OpenBao is not recognised")
	}
	if IsOpenBao(t.Context(), writeExecutable(t, directory, "b", fakeVault)) ||
		IsOpenBao(t.Context(), filepath.Join(directory, "none")) {
		t.Error("taken for an OpenBao")
	}
}

func TestVaultIsBuiltOnceForAll(t *testing.T) {
	tools, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	writeExecutable(t, tools, "go", fakeGo)
	setPath(t, tools)
	t.Setenv("FAKE_GO_LOG", log)
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())

	paths, progress := make([]string, 4), make([]strings.Builder, 4)
	var callers sync.WaitGroup
	for i := range paths {
		callers.Go(func() {
			var err error
			if paths[i], err = cachedVault(t.Context(), &progress[i]); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()

	told := ""
	for i := range paths {
		told += progress[i].String()
		if paths[i] != paths[0] {
			t.Errorf("two paths: %s and %s", paths[0], paths[i])
		}
	}
	if !strings.Contains(told, "happens once") || strings.Count(told, "\n") != 1 {
		t.Errorf("told: %q", told)
	}
	if content, err := os.ReadFile(log); err != nil || string(content) != "built\n" {
		t.Errorf("builds: %q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(paths[0]), "building")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the build left its directory: %v", err)
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	unlock()
	unlock, err = lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
