// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package events sends the events about which people who run the engine want to hear to Vault's
// event system. No event holds a secret.
//
// A backend makes one [Sender] with [NewSender] and shares it. [Sender.Send] takes a [Type] and
// metadata from [ChangeMetadata] or [CredentialMetadata]. It never fails its caller. The tests are
// in backend/events_test.go.
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

// Type is the type of an event, to which clients subscribe.
type Type string

// The types of event that the engine sends.
const (
	ConfigWritten       Type = "ncentral/config-write"
	ConfigDeleted       Type = "ncentral/config-delete"
	RoleWritten         Type = "ncentral/role-write"
	RoleDeleted         Type = "ncentral/role-delete"
	SessionsEnded       Type = "ncentral/sessions-end"        // on request
	AuthenticateRefused Type = "ncentral/authenticate-refuse" // N-central refused a User-API token
	CredentialDegraded  Type = "ncentral/credential-degrade"  // no new tokens can be had, or data calls fail
	CredentialRecovered Type = "ncentral/credential-recover"
	CredentialExpiring  Type = "ncentral/credential-expire" // password or User-API token has expired or soon will
	RoleFailedOver      Type = "ncentral/role-failover"     // a role's tokens come from a later of its configs
	RoleFailedBack      Type = "ncentral/role-failback"     // they come from an earlier one again
)

// Keys of an event's metadata besides those that Vault names.
const (
	Config    = "config"
	Reason    = "reason"
	ExpiresAt = "expires_at" // RFC 3339, UTC
	Role      = "role"
	Before    = "config_before" // the config that gave the role's tokens before
)

// ChangeMetadata returns the metadata of an event about a requested change. The path is the API
// path of what changed, relative to the mount.
func ChangeMetadata(operation logical.Operation, path string) []string {
	return []string{
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
		logical.EventMetadataOperation, string(operation),
		logical.EventMetadataModified, "true",
	}
}

// CredentialMetadata returns the metadata of an event about a config's credential that nobody
// requested, with more keys and values.
func CredentialMetadata(config string, more ...string) []string {
	path := "config/" + config
	return append([]string{
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
		Config, config,
	}, more...)
}

// RoleMetadata returns the metadata of an event about a role that nobody asked for, with more keys
// and values.
func RoleMetadata(role string, more ...string) []string {
	path := "roles/" + role
	return append([]string{
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, path,
		Role, role,
	}, more...)
}

// sendLimit is the longest that Send waits for Vault.
const sendLimit = time.Second

// Sender sends the events of one mount.
type Sender struct {
	core   logical.EventSender
	logger hclog.Logger
}

// NewSender returns a sender to Vault's event system. With a nil core it sends nothing.
func NewSender(core logical.EventSender, logger hclog.Logger) *Sender {
	return &Sender{core: core, logger: logger}
}

// Send sends an event. The metadata are alternating keys and values. Send does nothing where the
// server has no events (Vault before 1.16, OpenBao). Any other failure is logged, and fails nothing
// else.
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
