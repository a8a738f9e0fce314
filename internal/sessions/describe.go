// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// Description tells of a role's sessions, without a secret. Times are zero where they are not
// known.
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
	// ServingConfig is where the token in hand came from; without one, the config that the next is to come
	// from.
	ServingConfig string
	Earlier       int  // how many retired and replaced tokens still live, and such as are past what was promised
	Dedicated     bool // the role's sessions are its leases; what else is told is of its time as a shared one
}

// Describe tells of the role's sessions. It makes no call to N-central.
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

// ServingConfig returns the config that the role's token in hand came from; without one, that which the
// next is to come from. It makes no call to N-central, and no storage call for a role without a fallback.
func (m *Manager) ServingConfig(ctx context.Context, role *store.Role) (string, error) {
	if len(role.FallbackConfigs) == 0 {
		return role.Config, nil
	}
	snap, err := m.snapshot(ctx, role.Name)
	switch {
	case errors.Is(err, ErrUnknownRole), errors.Is(err, ErrUnknownConfig):
		return role.Config, nil
	case err != nil:
		return "", err
	}
	return snap.config.Name, nil
}
