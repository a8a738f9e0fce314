// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package paths is the engine's API as users see it: one file a path, with its fields, help,
// responses and handlers.
package paths

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/sessions"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const operationPrefix = "ncentral"

// API is what the handlers of one mount work with.
type API struct {
	Store    *store.Store
	Upstream *upstream.Registry
	Sessions *sessions.Manager
	Events   *events.Sender
	Logger   hclog.Logger
	// Version is the engine's own, in the form vX.Y.Z.
	Version string
	// ReplicationState returns what this node is in its cluster, from memory.
	ReplicationState func() consts.ReplicationState
}

// Paths are all paths of the engine. The framework tries them in this order, so the busiest comes
// first.
func (a *API) Paths() []*framework.Path {
	return []*framework.Path{
		a.credsPath(),
		a.sessionsListPath(),
		a.sessionsPath(),
		a.rolesListPath(),
		a.rolesPath(),
		a.configListPath(),
		a.configCheckPath(),
		a.configPath(),
		a.statusPath(),
		a.metricsPath(),
	}
}

// Secrets are the types of what the engine hands out under a lease.
func (a *API) Secrets() []*framework.Secret {
	return []*framework.Secret{a.accessTokenSecret()}
}

// isStandby reports whether this node must hand to the active node what needs N-central, a lease or
// a write.
func (a *API) isStandby() bool {
	return a.ReplicationState().HasState(consts.ReplicationPerformanceStandby)
}

// writing makes an operation one that changes configs or roles. It is forwarded before it runs, by
// standbys and by performance secondaries alike, so that nothing is verified twice.
func writing(operation framework.PathOperation) *framework.PathOperation {
	operation.ForwardPerformanceStandby, operation.ForwardPerformanceSecondary = true, true
	if operation.Responses == nil {
		operation.Responses = doneOrWarned()
	}
	return &operation
}

// telling sends the event when the operation succeeded.
func (a *API) telling(event events.Type, do framework.OperationFunc) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		response, err := do(ctx, req, data)
		if err == nil && !response.IsError() {
			a.tell(ctx, event, req)
		}
		return response, err
	}
}

// tell sends the event of what the request changed.
func (a *API) tell(ctx context.Context, event events.Type, req *logical.Request) {
	a.Events.Send(ctx, event, events.ChangeMetadata(req.Operation, req.Path))
}

// display is what operation ids are made of: prefix, verb, suffix. An operation may have another
// verb than its path.
func display(verb, suffix string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix}
}
