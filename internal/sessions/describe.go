// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
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
	Earlier    int  // how many retired and replaced tokens still live, and such as are past what was promised
	Dedicated  bool // the role's sessions are its leases; what else is told is of its time as a shared one
}

// Describe tells of the role's sessions. It makes no call to N-central.
func (m *Manager) Describe(ctx context.Context, role string) (*Description, error) {
	snap, err := m.snapshot(ctx, role)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	described := &Description{
		Dedicated: snap.role.CredentialType == store.Dedicated, LastReadAt: snap.lastReadAt(),
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
