// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command constant-plugin is a secrets engine whose answers are constants in the form of this
// engine's answers. It shows the best that a plugin over the same SDK can do. The benchmark mounts
// it beside this engine. creds/unleased has no lease, creds/leased has one.
package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

const (
	secretType = "constant"
	lifetime   = time.Hour // of the lease, as N-central grants it
	tokenBytes = 250       // about the length of an N-central access token
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
		BackendFactoryFunc: factory,
		TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
	})
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	backend := &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "creds/(?P<kind>leased|unleased)",
			Fields:  map[string]*framework.FieldSchema{"kind": {Type: framework.TypeString}},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{Callback: read},
			},
		}},
		Secrets: []*framework.Secret{{Type: secretType, Revoke: revoke}},
	}
	return backend, backend.Setup(ctx, conf)
}

func read(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	answer := map[string]any{
		"access_token":       strings.Repeat("x", tokenBytes),
		"token_type":         "Bearer",
		"url":                "https://127.0.0.1:44300",
		"expires_at":         "2030-01-01T00:00:00Z",
		"expires_at_seconds": int64(1893456000),
	}
	if data.Get("kind") == "unleased" {
		answer["ttl"] = int64(3300)
		answer["rotation_period"] = int64(3300)
		answer["last_vault_rotation"] = "2029-12-31T23:00:00Z"
		return &logical.Response{Data: answer}, nil
	}
	return &logical.Response{Data: answer, Secret: &logical.Secret{
		LeaseOptions: logical.LeaseOptions{TTL: lifetime, MaxTTL: lifetime},
		InternalData: map[string]any{"secret_type": secretType, "role": "leased", "credential_type": "shared"},
	}}, nil
}

func revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}
