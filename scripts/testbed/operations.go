// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Register registers the plugin in the server's plugin catalog, with its checksum and version.
func (s *Server) Register(ctx context.Context, plugin Plugin) error {
	return s.client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name:    plugin.Name,
		Type:    api.PluginTypeSecrets,
		Command: plugin.Command,
		SHA256:  plugin.SHA256,
		Version: plugin.Version,
	})
}

// Mount mounts the registered plugin at the path, in the plugin's version.
func (s *Server) Mount(ctx context.Context, path string, plugin Plugin, config api.MountConfigInput) error {
	config.PluginVersion = plugin.Version
	return s.client.Sys().MountWithContext(ctx, path, &api.MountInput{Type: plugin.Name, Config: config})
}

// Seal seals the server, which ends its plugins.
func (s *Server) Seal(ctx context.Context) error {
	return s.client.Sys().SealWithContext(ctx)
}

// Unseal unseals a Raft server and waits until it serves. The first server of a cluster must become
// the active node. A dev server's key is not kept, so Unseal fails.
func (s *Server) Unseal(ctx context.Context) error {
	if s.unsealKey == "" {
		return errors.New("a dev server's unseal key is not kept")
	}
	if _, err := s.client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.waitUntilServing(ctx)
}

// PluginPIDs returns the process ids, in ascending order, of the server's children whose executable
// is in the plugin directory.
func (s *Server) PluginPIDs() ([]int, error) {
	directory := s.options.PluginDirectory + string(filepath.Separator)
	return childrenFrom(s.process.PID(), func(executable string) bool {
		return strings.HasPrefix(executable, directory)
	})
}
