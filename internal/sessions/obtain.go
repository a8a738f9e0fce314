// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// obtain gets a token for the flight's role: by refresh where that harms no reader, else by authenticate. A token beside
// an error is of a session that was opened and must be ended.
func (m *Manager) obtain(ctx context.Context, slot *slot, f *flight) (*store.Token, error) {
	server, err := m.server(f.config)
	if err != nil {
		return nil, err
	}
	session, err := m.store.Sessions.Get(ctx, slot.role)
	if err != nil {
		return nil, err
	}
	maxLease := m.maxLeaseTTL()
	asked, err := overridesFor(f.config, f.role, maxLease)
	if err != nil {
		return nil, err
	}

	if session.Serves(f.config, f.role) && m.mayRefresh(ctx, slot, server, session.Current) {
		grant, err := server.Refresh(ctx, session.Current.RefreshToken, asked)
		if err == nil {
			return newToken(f.config, f.role, grant, asked, maxLease, store.ByRefresh), nil
		}
		if grant != nil {
			m.discard(slot.role, *newToken(f.config, f.role, grant, asked, maxLease, store.ByRefresh))
		}
		var failure *upstream.Failure
		if errors.As(err, &failure) && (failure.Down() || failure.Kind == ncentral.KindCanceled) {
			return nil, err
		}
		if failure != nil && failure.Final() {
			slot.refreshRefused(session.Current.RefreshToken)
		}
		m.upstream.Record(f.config.Name).CountRefreshFallback()
		m.logger.Info("refresh did not bring a token: authenticating", "role", slot.role, "config", f.config.Name, "error", err)
	}

	grant, err := server.Authenticate(ctx, asked)
	if grant == nil {
		return nil, err
	}
	return newToken(f.config, f.role, grant, asked, maxLease, store.ByAuthenticate), err
}

// mayRefresh says whether the token's session may be refreshed: it has a refresh token that still lives and was not
// refused, and no reader loses the access token by it.
func (m *Manager) mayRefresh(ctx context.Context, slot *slot, server *upstream.Server, token *store.Token) bool {
	now := time.Now()
	if token.RefreshToken == "" || store.Remaining(token.RefreshExpiresAt, now) <= 0 || slot.wasRefused(token.RefreshToken) {
		return false
	}
	if token.LivesAt(now) {
		for _, left := range server.LearnBeforeRotating(ctx) {
			m.Discard(slot.role, token.Origin, left)
		}
	}
	learnt := server.Learnt(ctx)
	keepsPredecessor := learnt.RefreshEndsPredecessor != nil && !*learnt.RefreshEndsPredecessor
	return !learnt.RefreshRefused && (keepsPredecessor || !token.LivesAt(now))
}

func (s *slot) refreshRefused(refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent = refreshToken
}

func (s *slot) wasRefused(refreshToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spent == refreshToken
}

// overridesFor are the lifetimes to ask for. It is an error where none that may be promised is of use: no call is made then.
func overridesFor(config *store.Config, role *store.Role, maxLease time.Duration) (ncentral.Overrides, error) {
	asked := ncentral.Overrides{Access: accessToAsk(role.TTL, maxLease), Refresh: config.RefreshTokenTTL}
	if asked.Access > 0 && asked.Access <= store.DeadBelow {
		return asked, &UselessLifetimeError{Lifetime: asked.Access}
	}
	return asked, nil
}

// accessToAsk is the access-token lifetime to ask N-central for; zero leaves it to N-central. No more than the mount's
// max_lease_ttl is asked for, also where the role asks for none, since Vault would cut the lease while the token lived on.
func accessToAsk(ttl, maxLease time.Duration) time.Duration {
	if ttl > 0 {
		return min(ttl, maxLease)
	}
	if maxLease < store.DefaultAccessLifetime {
		return maxLease
	}
	return 0
}

// newToken works out what is promised of a grant: never more than was granted, asked for, or than max_lease_ttl.
func newToken(
	config *store.Config, role *store.Role, grant *upstream.Grant, asked ncentral.Overrides, maxLease time.Duration, by store.ObtainedBy,
) *store.Token {
	promised := min(grant.Access, maxLease)
	if asked.Access > 0 {
		promised = min(promised, asked.Access)
	}
	token := &store.Token{
		Origin:       store.Origin{Config: config.Name, URL: config.URL},
		AccessToken:  grant.AccessToken,
		TokenType:    grant.TokenType,
		RefreshToken: grant.RefreshToken,
		ObtainedBy:   by,
		IssuedAt:     grant.SentAt,
		ExpiresAt:    grant.SentAt.Add(promised),
		DiesAt:       grant.SentAt.Add(grant.Access),
		Suspicion:    grant.Suspicion,
		Warnings:     append(grant.Warnings, roleWarnings(role, promised, maxLease)...),
	}
	if grant.RefreshToken != "" {
		token.RefreshExpiresAt = grant.SentAt.Add(grant.Refresh)
	}
	return token
}

// roleWarnings tell of what the role asks for and cannot have.
func roleWarnings(role *store.Role, promised, maxLease time.Duration) []string {
	var warnings []string
	if role.TTL > maxLease {
		warnings = append(warnings, fmt.Sprintf("the role's ttl of %s is cut to the mount's max_lease_ttl of %s", role.TTL, maxLease))
	}
	if role.MinTTL != nil && *role.MinTTL > promised/2 {
		warnings = append(warnings, fmt.Sprintf("the role's min_ttl of %s is more than half of the %s that the token lives: half of it, %s, stands",
			*role.MinTTL, promised, promised/2))
	}
	return warnings
}
