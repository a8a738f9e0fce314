// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package events tells Vault's event system what people who run the engine want to hear of. No event holds a secret.
package events

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Type is an event's type, by which it is subscribed to.
type Type string

// The types of event that the engine sends.
const (
	ConfigWritten       Type = "ncentral/config-write"
	ConfigDeleted       Type = "ncentral/config-delete"
	RoleWritten         Type = "ncentral/role-write"
	RoleDeleted         Type = "ncentral/role-delete"
	SessionsEnded       Type = "ncentral/sessions-end"        // by hand
	AuthenticateRefused Type = "ncentral/authenticate-refuse" // N-central refused a User-API token
	CredentialDegraded  Type = "ncentral/credential-degrade"  // new tokens cannot be had, or data calls fail
	CredentialRecovered Type = "ncentral/credential-recover"
	CredentialExpiring  Type = "ncentral/credential-expire" // the end of the password or User-API token is near, or past
)

// Keys of an event's metadata beside those that Vault names.
const (
	Config    = "config"
	Reason    = "reason"
	ExpiresAt = "expires_at" // RFC 3339, UTC
)

// ChangeMetadata answers the metadata of an event about a change that was asked for: path is the API path of what changed, seen
// from the mount.
func ChangeMetadata(operation logical.Operation, path string) []string {
	return []string{
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
		logical.EventMetadataOperation, string(operation),
		logical.EventMetadataModified, "true",
	}
}

// CredentialMetadata answers the metadata of an event about a config's credential that nobody asked for, with more keys and values.
func CredentialMetadata(config string, more ...string) []string {
	path := "config/" + config
	return append([]string{
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
		Config, config,
	}, more...)
}

// sendLimit is how long what an event tells of waits for Vault to take it.
const sendLimit = time.Second

// Sender sends the events of one mount.
type Sender struct {
	core   logical.EventSender
	logger hclog.Logger
}

// NewSender answers a sender to Vault's event system. Without one, nil, it sends nothing.
func NewSender(core logical.EventSender, logger hclog.Logger) *Sender {
	return &Sender{core: core, logger: logger}
}

// Send sends an event with metadata of alternating keys and values. It is silent where the server has no events (Vault
// before 1.16, OpenBao); an event that cannot be sent otherwise is told of in the log, and fails nothing.
func (s *Sender) Send(ctx context.Context, event Type, metadata []string) {
	if s.core == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendLimit)
	defer cancel()
	err := logical.SendEvent(ctx, s.core, string(event), metadata...)
	if err != nil && !errors.Is(err, framework.ErrNoEvents) && status.Code(err) != codes.Unimplemented {
		s.logger.Warn("an event could not be sent", "type", event, "error", err)
	}
}
