// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package paths is the engine's API as users see it: one file for each path, with its fields, help,
// responses and handlers.
//
// A handler reads the request, lets a package below do the work, and makes the answer. A read of a
// shared token is readCreds in creds.go: it finds the role, calls Manager.Read in
// internal/sessions, and answers with leased or unleased. Writes of configs and roles are in
// config.go and roles.go. The fields of a write are settings (fields.go). A config is verified
// before it is stored (writeConfig). errors.go turns errors of the packages below into HTTP
// statuses, and unreadable.go deals with stored entries that cannot be read. openapi.go completes
// what the SDK says about the paths.
//
// A handler takes only one lock: Store.Definitions, while it writes or deletes a config or role. It
// never holds it during a call to N-central. On a standby, whatever needs N-central, a lease or a
// write is forwarded to the active node.
//
// The tests are in backend/*_test.go, which runs the whole engine in one process, and in e2e, which
// compares every answer with the OpenAPI document.
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
	// Version is the engine's version, in the form vX.Y.Z.
	Version string
	// ReplicationState returns what this node is in its cluster. It answers from memory most of the
	// time.
	ReplicationState func() consts.ReplicationState
}

// Paths returns all paths of the engine. The framework tries them in this order, so the one that is
// used most comes first.
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

// Secrets returns the types of what the engine hands out under a lease.
func (a *API) Secrets() []*framework.Secret {
	return []*framework.Secret{a.accessTokenSecret()}
}

// isStandby reports whether this node is a standby: it forwards what needs N-central, a lease or a
// write to the active node.
func (a *API) isStandby() bool {
	return a.ReplicationState().HasState(consts.ReplicationPerformanceStandby)
}

// writing returns an operation that changes configs or roles. Standbys and performance secondaries
// forward it before it runs, so that nothing is verified twice.
func writing(operation framework.PathOperation) *framework.PathOperation {
	operation.ForwardPerformanceStandby, operation.ForwardPerformanceSecondary = true, true
	if operation.Responses == nil {
		operation.Responses = doneOrWarned()
	}
	return &operation
}

// telling returns the operation with an event that is sent if it succeeds.
func (a *API) telling(event events.Type, do framework.OperationFunc) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		response, err := do(ctx, req, data)
		if err == nil && !response.IsError() {
			a.tell(ctx, event, req)
		}
		return response, err
	}
}

// tell sends an event about what the request changed.
func (a *API) tell(ctx context.Context, event events.Type, req *logical.Request) {
	a.Events.Send(ctx, event, events.ChangeMetadata(req.Operation, req.Path))
}

// display returns the parts of an operation id: prefix, verb and suffix. A single operation of a
// path may have another verb.
func display(verb, suffix string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: suffix}
}
