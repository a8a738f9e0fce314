// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// Description describes a role's sessions, without a secret. A time is zero if it is not known.
type Description struct {
	Live             bool // whether there is a token to hand out; the fields down to LastValidatedAt tell of it
	IssuedAt         time.Time
	ExpiresAt        time.Time
	RotatesAt        time.Time
	RefreshExpiresAt time.Time
	ObtainedBy       store.ObtainedBy
	LastValidatedAt  time.Time
	Suspect          bool

	LastReadAt time.Time
	// ServingConfig is the config of the token in hand. If there is none, it is the config from
	// which the next one is to come.
	ServingConfig string
	Earlier       int  // how many retired and replaced tokens still live, and such as are past what was promised
	Dedicated     bool // the role's sessions are its leases; what else is told is of its time as a shared one
}

// Describe returns what is known of the role's sessions. It makes no call to N-central.
func (m *Manager) Describe(ctx context.Context, role string) (*Description, error) {
	snap, err := m.snapshot(ctx, role)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	described := &Description{
		ServingConfig: snap.config.Name,
		Dedicated:     snap.role.CredentialType == store.Dedicated, LastReadAt: snap.lastReadAt(),
		Earlier: len(snap.session.Tokens(now)),
	}
	if !snap.usable(now) {
		return described, nil
	}
	described.Earlier-- // the token in hand is not an earlier one
	described.Live = true
	described.IssuedAt = snap.token.IssuedAt
	described.ExpiresAt = snap.token.ExpiresAt
	described.RotatesAt = snap.rotatesAt
	described.RefreshExpiresAt = snap.token.RefreshExpiresAt
	described.ObtainedBy = snap.token.ObtainedBy
	described.LastValidatedAt = snap.state.validatedAt(snap.token)
	described.Suspect, err = m.suspect(ctx, snap)
	return described, err
}

// ServingConfig returns the config of the role's token in hand. If there is none, it returns the
// config from which the next one is to come. It makes no call to N-central, and no storage call for
// a role without a fallback. It adds no role and no session to memory: LIST asks it about very many.
func (m *Manager) ServingConfig(ctx context.Context, role *store.Role) (string, error) {
	if len(role.FallbackConfigs) == 0 {
		return role.Config, nil
	}
	found, err := m.sourcesOf(ctx, role)
	if errors.Is(err, ErrUnknownConfig) {
		return role.Config, nil
	}
	if err != nil {
		return "", err
	}
	session, err := m.store.Sessions.Peek(ctx, role.Name)
	if err != nil {
		return "", err
	}
	_, config := found.inHand(role, session)
	return config.Name, nil
}
