// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package backend puts the packages of the engine together into what Vault mounts: the Factory, the
// guard before requests, the tick and the invalidation. Its tests are those of the whole engine in
// one process. See CONTRIBUTING.md for what each of them specifies.
package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/sessions"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
	"vault-plugin-secrets-ncentral/paths"
)

const help = `
The N-central secrets engine keeps the permanent User-API tokens of N-able
N-central users. Instead of these it hands out short-lived access tokens for
N-central's REST API.

Write a server and its User-API token to config/NAME, make roles with
roles/NAME, and read tokens from creds/NAME:

    vault write ncentral/config/default \
        url=https://ncentral.example.com user_api_token=@file-with-the-token
    vault write ncentral/roles/monitoring ttl=30m
    vault read ncentral/creds/monitoring

A token can do all that its N-central user can do. A role controls who may
read it, how long it lives and how it is handed out. A role never limits what
the token may do.

config/NAME/check finds out whether a credential works. status shows the state
of all credentials, and metrics has the same for Prometheus. Deleting
sessions/NAME ends a role's tokens. Each path has its own help, for example:
vault path-help ncentral/creds/monitoring
`

// Factory returns the backend of one mount. It calls neither storage nor N-central: Vault also
// makes backends only to ask for their type and version.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return newBackend(ctx, conf, nil)
}

// engine is the framework's backend with checks before each request, and with help that is
// complete.
type engine struct {
	*framework.Backend
}

func newBackend(ctx context.Context, conf *logical.BackendConfig, dial upstream.DialContext) (*engine, error) {
	logger := conf.Logger
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	system := &cachingSystemView{SystemView: conf.System}
	entries := store.New(conf.StorageView, logger)
	sender := events.NewSender(conf.EventsSender, logger)
	servers := upstream.NewRegistry(entries, sender, logger, "vault-plugin-secrets-ncentral/"+Version(), dial)
	maxLeaseTTL := func() time.Duration { return system.MaxLeaseTTL() }
	manager := sessions.NewManager(entries, servers, maxLeaseTTL, sender, logger)
	api := &paths.API{
		Store:            entries,
		Upstream:         servers,
		Sessions:         manager,
		Events:           sender,
		Version:          Version(),
		Logger:           logger,
		ReplicationState: system.ReplicationState,
	}
	backend := &framework.Backend{
		Help:        help,
		BackendType: logical.TypeLogical,
		// Vault refuses to run a version other than the registered one.
		RunningVersion: Version(),
		Paths:          api.Paths(),
		Secrets:        api.Secrets(),
		PathsSpecial: &logical.Paths{
			SealWrapStorage: store.SealWrapped(),
			LocalStorage:    store.Local(),
		},
		Invalidate: func(_ context.Context, key string) { entries.Invalidate(key) },
		PeriodicFunc: func(ctx context.Context, _ *logical.Request) error {
			if ticksElsewhere(system.ReplicationState()) {
				return nil
			}
			return errors.Join(manager.Tick(ctx), servers.AnnounceExpiries(ctx))
		},
		Clean: func(context.Context) {
			manager.Close()
			servers.Close()
		},
	}
	if conf.System != nil {
		conf.System = system
	}
	if err := backend.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return &engine{Backend: backend}, nil
}

// ticksElsewhere reports whether another node does the work of the tick. For a standby that is the
// active node of its cluster, for a disaster-recovery secondary the primary. A performance
// secondary does its own work, since each cluster has its own sessions.
func ticksElsewhere(state consts.ReplicationState) bool {
	return state.HasState(consts.ReplicationPerformanceStandby) || state.HasState(consts.ReplicationDRSecondary)
}

// HandleRequest refuses values of a wrong type, and names that look like a token, before the
// framework sees them: its errors would quote them, and somebody may have typed a User-API token
// into any field. It also completes the framework's answers to requests for help.
func (e *engine) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := e.checkGiven(req); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	response, err := e.Backend.HandleRequest(ctx, req)
	if req.Operation == logical.HelpOperation && response != nil {
		paths.CompleteHelp(response, e.Route)
	}
	return response, err
}

// HandleExistenceCheck passes on the path without the data. If a value had a wrong type here, Vault
// would write it to its log unencrypted. HandleRequest refuses it later, if the policy allows the
// request at all; the existence check is what decides which right Vault asks for.
func (e *engine) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	bare := *req
	bare.Data = nil
	return e.Backend.HandleExistenceCheck(ctx, &bare)
}

// checkGiven returns an error for what HandleRequest refuses.
func (e *engine) checkGiven(req *logical.Request) error {
	if req.Secret != nil {
		return nil // the engine itself wrote what a lease holds
	}
	if err := paths.CheckPath(req.Path); err != nil {
		return err
	}
	if len(req.Data) == 0 {
		return nil // a hot read need not search for its path
	}
	path := e.Route(req.Path)
	if path == nil {
		return nil
	}
	return paths.CheckTypes(path.Fields, req.Data)
}
