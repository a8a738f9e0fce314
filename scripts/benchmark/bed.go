// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	constantPlugin = "constant-plugin"
	kvMount        = "kv"
)

// bed is a server with both plugins mounted, and the N-central server behind this engine.
type bed struct {
	directory string
	binary    string
	simulator *simulator.Simulator
	ncentral  *simulator.Server
	config    map[string]any // as it is written
	server    *testbed.Server
}

// setUp returns a bed that must be cleared even where it returns an error.
func setUp(ctx context.Context, storage string) (*bed, error) {
	b := &bed{}
	// Otherwise a plugin with the race detector would be compared with one without it.
	if err := os.Unsetenv("PLUGIN_RACE"); err != nil {
		return b, err
	}
	var err error
	if b.directory, err = os.MkdirTemp("", "ncentral-benchmark-"); err != nil {
		return b, err
	}
	if b.binary, err = testbed.ServerBinary(ctx, os.Stderr); err != nil {
		return b, err
	}
	fmt.Fprintln(os.Stderr, "Building the plugins.")
	engine, err := testbed.BuildPlugin(ctx, b.directory)
	if err != nil {
		return b, err
	}
	constant, err := buildConstantPlugin(ctx, b.directory)
	if err != nil {
		return b, err
	}
	start := testbed.StartDev
	if storage == storageRaft {
		start = testbed.StartRaft
	}
	options := testbed.Options{Binary: b.binary, PluginDirectory: b.directory, LogLevel: "error"}
	if b.server, err = start(ctx, options); err != nil {
		return b, err
	}
	for _, plugin := range []testbed.Plugin{engine, constant} {
		if err := errors.Join(b.server.Register(ctx, plugin),
			b.server.Mount(ctx, plugin.Name, plugin, api.MountConfigInput{})); err != nil {
			return b, err
		}
	}
	kv := api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}
	if err := b.server.Client().Sys().MountWithContext(ctx, kvMount, &kv); err != nil {
		return b, err
	}
	return b, b.writeEntries(ctx)
}

// buildConstantPlugin uses the flags of testbed.BuildPlugin, which builds only this repository's
// own plugin.
func buildConstantPlugin(ctx context.Context, directory string) (testbed.Plugin, error) {
	root, err := testbed.RepositoryRoot()
	if err != nil {
		return testbed.Plugin{}, err
	}
	path := filepath.Join(directory, constantPlugin)
	var output bytes.Buffer
	command := exec.Command("go", "build", "-C", root, "-trimpath", "-buildvcs=false", "-o", path,
		"./scripts/"+constantPlugin)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	command.Stdout, command.Stderr = &output, &output
	if err := testbed.Run(ctx, command); err != nil {
		return testbed.Plugin{}, fmt.Errorf("building %s: %w\n%s", constantPlugin, err, output.Bytes())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return testbed.Plugin{}, err
	}
	sum := sha256.Sum256(content)
	return testbed.Plugin{
		Name: constantPlugin, Command: constantPlugin, Path: path,
		SHA256: hex.EncodeToString(sum[:]),
	}, nil
}

// writeEntries starts the N-central server and makes a role of each kind. All but rotating have
// N-central's own lifetime, so that no token is replaced during the measurements.
func (b *bed) writeEntries(ctx context.Context) error {
	b.simulator = simulator.New(simulator.DefaultKnobs())
	userAPIToken := b.simulator.AddUser("benchmark")
	var err error
	if b.ncentral, err = simulator.Listen(b.simulator, "127.0.0.1:0", false); err != nil {
		return err
	}
	b.config = map[string]any{
		"url": b.ncentral.URL, "ca_cert": string(b.ncentral.CAPEM), "user_api_token": userAPIToken,
	}
	entries := []struct {
		path string
		data map[string]any
	}{
		{testbed.PluginName + "/config/default", b.config},
		{testbed.PluginName + "/roles/unleased", map[string]any{"lease": false}},
		{testbed.PluginName + "/roles/leased", map[string]any{"lease": true}},
		{testbed.PluginName + "/roles/dedicated", map[string]any{"credential_type": "dedicated"}},
		{testbed.PluginName + "/roles/rotating", map[string]any{
			"lease": false, "ttl": rotatingTTL.String(), "min_ttl": rotatingMinTTL.String(),
		}},
		{kvMount + "/constant", map[string]any{"access_token": strings.Repeat("x", 250)}}, // as long as N-central's
	}
	for _, entry := range entries {
		if _, err := b.server.Client().Logical().WriteWithContext(ctx, entry.path, entry.data); err != nil {
			return err
		}
	}
	return nil
}

// writeManyRoles makes roles that are listed.
func (b *bed) writeManyRoles(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(meanwhileClients)
	for i := range manyRoles {
		group.Go(func() error {
			path := fmt.Sprintf("%s/roles/many-%05d", testbed.PluginName, i)
			_, err := b.server.Client().Logical().WriteWithContext(ctx, path, map[string]any{"lease": false})
			return err
		})
	}
	return group.Wait()
}

// obtainRotating has the role rotating obtain a token, and returns when it did.
func (b *bed) obtainRotating(ctx context.Context) (time.Time, error) {
	logical := b.server.Client().Logical()
	if _, err := logical.DeleteWithContext(ctx, testbed.PluginName+"/sessions/rotating"); err != nil {
		return time.Time{}, err
	}
	obtained := time.Now()
	_, err := logical.ReadWithContext(ctx, testbed.PluginName+"/creds/rotating")
	return obtained, err
}

// describe returns on what was measured.
func (b *bed) describe(ctx context.Context) (string, error) {
	health, err := b.server.Client().Sys().HealthWithContext(ctx)
	if err != nil {
		return "", err
	}
	product := "Vault"
	if testbed.IsOpenBao(ctx, b.binary) {
		product = "OpenBao"
	}
	return fmt.Sprintf("%s %s; %d cores, %s %s/%s", product, health.Version, runtime.NumCPU(), runtime.Version(),
		runtime.GOOS, runtime.GOARCH), nil
}

// clear stops and removes everything.
func (b *bed) clear() error {
	var err error
	if b.server != nil {
		err = b.server.Stop()
	}
	if b.ncentral != nil {
		b.ncentral.Close()
	}
	return errors.Join(err, os.RemoveAll(b.directory))
}
