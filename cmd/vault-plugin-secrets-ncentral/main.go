// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-ncentral is the N-central secrets engine as a plugin. HashiCorp
// Vault or OpenBao starts it.
package main

import (
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	"vault-plugin-secrets-ncentral/backend"
)

func main() {
	if err := serve(os.Args[1:]); err != nil {
		hclog.New(&hclog.LoggerOptions{}).Error("the plugin stops", "error", err)
		os.Exit(1)
	}
}

func serve(arguments []string) error {
	meta := &api.PluginAPIClientMeta{}
	if err := meta.FlagSet().Parse(arguments); err != nil {
		return err
	}
	return plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: backend.Factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
}
