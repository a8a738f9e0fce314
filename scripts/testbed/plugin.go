// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// PluginName is the name under which the plugin is registered, and the type of its mounts.
const PluginName = "ncentral"

// Plugin is a built plugin, as the server's plugin catalog needs it described.
type Plugin struct {
	Name    string // in the catalog, and the type of its mounts
	Command string // the file's name in the plugin directory
	Path    string // the file
	SHA256  string // of the file, in hexadecimal
	Version string // vX.Y.Z, equal to the version that the plugin reports
}

// BuildPlugin builds this repository's plugin into the directory, which the server then uses as its
// plugin directory. PLUGIN_RACE=1 in the environment adds the race detector, which needs a C
// compiler.
func BuildPlugin(ctx context.Context, directory string) (Plugin, error) {
	plugin := Plugin{Name: PluginName, Command: "vault-plugin-secrets-ncentral"}
	var err error
	if plugin.Version, err = pluginVersion(); err != nil {
		return Plugin{}, err
	}
	if plugin.Path, err = BuildCommand(ctx, directory, plugin.Command); err != nil {
		return Plugin{}, err
	}
	if plugin.SHA256, err = fileSHA256(plugin.Path); err != nil {
		return Plugin{}, err
	}
	return plugin, nil
}

// BuildCommand builds ./cmd/NAME of this repository into the directory and returns the absolute
// path of the binary. PLUGIN_RACE works as for BuildPlugin.
func BuildCommand(ctx context.Context, directory, name string) (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	if directory, err = filepath.Abs(directory); err != nil {
		return "", err
	}
	temporary, err := os.MkdirTemp(directory, "building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)

	path := filepath.Join(directory, name)
	environment, flags := []string{"CGO_ENABLED=0"},
		[]string{"build", "-C", root, "-trimpath", "-buildvcs=false", "-o", path}
	if os.Getenv("PLUGIN_RACE") == "1" {
		environment, flags = []string{"CGO_ENABLED=1"}, append(flags, "-race")
	}
	if err := runGo(ctx, temporary, environment, append(flags, "./cmd/"+name)...); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	return path, nil
}

// pluginVersion reads the file from which the plugin has its version.
func pluginVersion() (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(filepath.Join(root, "backend", "VERSION"))
	return strings.TrimSpace(string(content)), err
}

func fileSHA256(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
