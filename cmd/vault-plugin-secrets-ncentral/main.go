// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-ncentral is the N-central secrets engine as a plugin. HashiCorp
// Vault or OpenBao starts it. With -version it says what it was built from.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"
	// In a container from scratch there are no certificate authorities. These, of Mozilla, count only
	// where the system has none.
	_ "golang.org/x/crypto/x509roots/fallback"

	"vault-plugin-secrets-ncentral/backend"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		hclog.New(&hclog.LoggerOptions{}).Error("the plugin stops", "error", err)
		os.Exit(1)
	}
}

// run serves the plugin, with the flags that the server may have been told to start it with. Only
// for -version does it write to output: what a server reads there first must be the handshake.
func run(arguments []string, output io.Writer) error {
	meta := &api.PluginAPIClientMeta{}
	flags := meta.FlagSet()
	version := flags.Bool("version", false, "print version, commit and Go version, and stop")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *version {
		_, err := fmt.Fprintln(output, "vault-plugin-secrets-ncentral", backend.Build())
		return err
	}
	return plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: backend.Factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
}
