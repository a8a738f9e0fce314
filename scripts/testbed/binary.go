// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	modulePath      = "vault-plugin-secrets-ncentral"
	serverModule    = "scripts/vault-server" // the module that pins Vault, below the repository's root
	vaultModulePath = "github.com/hashicorp/vault"
)

// serverBuildFlags leave out the cloud plugins and the debug information.
var serverBuildFlags = []string{"-tags", "minimal", "-trimpath", "-ldflags", "-s -w"}

var vaultRequirement = regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(vaultModulePath) + ` (v\S+)`)

// ServerBinary returns the absolute path of the Vault or OpenBao server for the tests and the demo.
// It takes the first of these: the server that the environment variable VAULT_SERVER_BINARY names
// (a path, or a name on the PATH); vault on the PATH; bao on the PATH; Vault built from its Go
// module. A build takes minutes and says so on progress. It happens once, because the binary stays
// in the user's cache directory. Simultaneous callers in several processes share one build.
func ServerBinary(ctx context.Context, progress io.Writer) (string, error) {
	if name := os.Getenv("VAULT_SERVER_BINARY"); name != "" {
		path, err := findServer(ctx, name)
		if err != nil {
			return "", fmt.Errorf("VAULT_SERVER_BINARY: %w", err)
		}
		return path, nil
	}
	for _, name := range []string{"vault", "bao"} {
		if path, err := findServer(ctx, name); err == nil {
			return path, nil
		} else if !errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(progress, "Not using the %s on the PATH: %v\n", name, err)
		}
	}
	return cachedVault(ctx, progress)
}

// IsOpenBao reports whether the server binary is an OpenBao. A binary that cannot be run is not.
func IsOpenBao(ctx context.Context, path string) bool {
	version, err := serverVersion(ctx, path)
	return err == nil && strings.HasPrefix(version, "OpenBao v")
}

// RepositoryRoot returns the directory of this module's go.mod, at or above the working directory.
func RepositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for directory := start; ; directory = filepath.Dir(directory) {
		content, err := os.ReadFile(filepath.Join(directory, "go.mod"))
		if err == nil && bytes.HasPrefix(content, []byte("module "+modulePath+"\n")) {
			return directory, nil
		}
		if directory == filepath.Dir(directory) {
			return "", fmt.Errorf("neither %s nor a directory above it is the root of module %s", start, modulePath)
		}
	}
}

func findServer(ctx context.Context, name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	if _, err := serverVersion(ctx, path); err != nil {
		return "", err
	}
	return path, nil
}

func serverVersion(ctx context.Context, path string) (string, error) {
	output, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", path, err)
	}
	version := strings.TrimSpace(string(output))
	if !strings.HasPrefix(version, "Vault v") && !strings.HasPrefix(version, "OpenBao v") {
		return "", fmt.Errorf("%s is neither Vault nor OpenBao", path)
	}
	return version, nil
}

// cachedVault returns the Vault in the cache, and builds it first if there is none.
func cachedVault(ctx context.Context, progress io.Writer) (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	directory, version, err := vaultCacheDirectory(ctx, filepath.Join(root, serverModule))
	if err != nil {
		return "", err
	}
	path := filepath.Join(directory, "vault")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}

	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(directory, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil // another process has built it in the meantime
	}
	fmt.Fprintf(progress, "Building Vault %s from its Go module into %s. This happens once and takes minutes (about "+
		"ten on two cores).\n",
		version, directory)
	return path, buildVault(ctx, filepath.Join(root, serverModule), path)
}

// vaultCacheDirectory returns the directory of the built Vault. There is one for each version of
// Vault, of its modules, of Go and of the flags.
func vaultCacheDirectory(ctx context.Context, module string) (directory, version string, err error) {
	goMod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", "", err
	}
	goSum, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		return "", "", err
	}
	requirement := vaultRequirement.FindSubmatch(goMod)
	if requirement == nil {
		return "", "", fmt.Errorf("%s/go.mod does not require %s", serverModule, vaultModulePath)
	}
	goVersion := exec.CommandContext(ctx, "go", "version")
	goVersion.Dir = module
	toolchain, err := goVersion.Output()
	if err != nil {
		return "", "", fmt.Errorf("go version: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	key := sha256.New()
	fmt.Fprintf(key, "%s\n%s\n%s\n%q\n", goMod, goSum, toolchain, serverBuildFlags)
	version = string(requirement[1])
	name := fmt.Sprintf("vault-%s-%s", version, hex.EncodeToString(key.Sum(nil))[:12])
	return filepath.Join(cache, modulePath, name), version, nil
}

// buildVault builds beside the path and then renames, so that a path that exists is always a
// complete binary. The caller holds the lock, so the remains of a killed build belong to nobody.
func buildVault(ctx context.Context, module, path string) error {
	temporary := filepath.Join(filepath.Dir(path), "building")
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.Mkdir(temporary, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(temporary)

	output := filepath.Join(temporary, "vault")
	arguments := append([]string{"build", "-C", module, "-o", output}, serverBuildFlags...)
	if err := runGo(ctx, temporary, nil, append(arguments, vaultModulePath)...); err != nil {
		return fmt.Errorf("building Vault: %w", err)
	}
	if _, err := serverVersion(ctx, output); err != nil {
		return fmt.Errorf("the Vault just built does not run: %w", err)
	}
	return os.Rename(output, path)
}

// runGo runs the go command with its scratch files in the temporary directory, so that the caller
// can remove them even where the command was killed. The command's output becomes part of the
// error.
func runGo(ctx context.Context, temporary string, environment []string, arguments ...string) error {
	var output bytes.Buffer
	command := exec.Command("go", arguments...)
	command.Env = append(append(os.Environ(), "GOTMPDIR="+temporary), environment...)
	command.Stdout, command.Stderr = &output, &output
	err := Run(ctx, command)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(arguments, " "), err, output.Bytes())
	}
	return err
}

// lockFile waits until no other process holds the lock. The system releases the lock when its
// holder ends in any way.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
