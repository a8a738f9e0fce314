// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// obtain gets a token for the flight's role from the first of its configs that gives one.
func (m *Manager) obtain(ctx context.Context, state *roleState, f *flight) (*store.Token, error) {
	asked := f.sources.inService()
	if !f.sources.hasFallback() {
		token, err := m.obtainFrom(ctx, state, f, f.config)
		return token, m.unlessAnother(ctx, state.role, asked, err)
	}
	a := &attempt{
		m:    m,
		role: state.role,
		turnTo: func(config *store.Config) {
			state.mu.Lock()
			defer state.mu.Unlock()
			f.config = config
		},
		from: func(ctx context.Context, config *store.Config) (*store.Token, error) {
			return m.obtainFrom(ctx, state, f, config)
		},
		end: func(token *store.Token) { m.discardUnpromised(state, token) },
	}
	found, err := a.obtain(ctx, asked)
	if found == nil {
		return nil, m.unlessAnother(ctx, state.role, asked, err)
	}
	return found.token, nil
}

// obtainFrom gets a token from the config: by refresh if that harms no reader, else by
// authenticate.
func (m *Manager) obtainFrom(
	ctx context.Context, state *roleState, f *flight, config *store.Config,
) (*store.Token, error) {
	server, err := m.server(config)
	if err != nil {
		return nil, err
	}
	session, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil {
		return nil, err
	}
	terms, err := m.termsOf(config, f.role)
	if err != nil {
		return nil, err
	}
	if session.Serves(config, f.role) {
		terms.asked.TokenEnd = session.Current.ServableUntil()
		if m.mayRefresh(ctx, state, server, session.Current) {
			token, err := m.refresh(ctx, state, f, server, session.Current, terms)
			if token != nil || err != nil {
				return token, err
			}
		}
	}
	grant, err := server.Authenticate(ctx, terms.asked)
	if err != nil {
		m.endUnusable(state, terms, err, store.ByAuthenticate, rand.Text())
		return nil, err
	}
	return terms.newToken(grant, store.ByAuthenticate, rand.Text()), nil
}

// refresh refreshes the token's session. If that brings no token and the server is not down, it
// returns nil and no error: authenticate is next.
func (m *Manager) refresh(
	ctx context.Context, state *roleState, f *flight, server *upstream.Server, current *store.Token, terms terms,
) (*store.Token, error) {
	grant, err := server.Refresh(ctx, current.RefreshToken, terms.asked)
	if err == nil {
		return terms.newToken(grant, store.ByRefresh, current.Chain), nil
	}
	if m.endUnusable(state, terms, err, store.ByRefresh, current.Chain) { // and the next would be of no use either
		state.noteRefreshRejected(current.RefreshToken)
	}
	var failure *health.Failure
	if errors.As(err, &failure) && failure.Lost {
		state.noteRefreshLost(current.RefreshToken)
	}
	if failure == nil || failure.Down() || failure.NotMade || failure.Kind == ncentral.KindCanceled {
		return nil, err
	}
	if failure.Final() {
		state.noteRefreshRejected(current.RefreshToken)
	}
	if failure.Kind == ncentral.KindUnauthorized && !state.mayBeUsedUp(current.RefreshToken) && f.wanted.Err() == nil {
		// The refresh token should still have worked, and the engine has not ended it: N-central
		// was rebooted, perhaps for an upgrade.
		server.ForgetTraits(ctx)
	}
	m.upstream.Record(current.Config).CountRefreshFallback()
	m.logger.Info("refresh did not bring a token: authenticating", "role", state.role, "config", current.Config,
		"error", err)
	return nil, nil
}

// endUnusable reports whether the error is that of a session that cannot be used. If so, it ends
// that session.
func (m *Manager) endUnusable(state *roleState, terms terms, err error, by store.ObtainedBy, chain string) bool {
	var unusable *upstream.UnusableGrantError
	if !errors.As(err, &unusable) {
		return false
	}
	m.discardUnpromised(state, terms.newToken(&unusable.Grant, by, chain))
	return true
}

// mayRefresh reports whether the token's session may be refreshed: its refresh token lives and was
// not refused, and no reader loses the access token by it. If how this server rotates is not known
// yet, it is found out here.
func (m *Manager) mayRefresh(ctx context.Context, state *roleState, server *upstream.Server, token *store.Token) bool {
	now := time.Now()
	if token.RefreshToken == "" || store.Remaining(token.RefreshExpiresAt, now) <= 0 ||
		state.wasRejected(token.RefreshToken) {
		return false
	}
	if token.MayBeAccepted(now) {
		for _, left := range server.ProbeRotation(ctx, token.AccessToken) {
			m.discardGrant(state.role, token.Origin, left)
		}
	}
	traits := server.Traits(ctx)
	switch {
	case traits.RefreshRejected:
		return false
	case store.Remaining(token.ExpiresAt, now) <= 0: // promised to nobody any more
		return true
	case traits.RefreshEndsPredecessor == nil || *traits.RefreshEndsPredecessor:
		return false
	}
	// A token that is granted for longer than it is promised is logged out once its promise is
	// over. That could end its whole chain, so its successor must not be refreshed from it, unless
	// an authenticate would end it at once.
	endsEarlier := traits.AuthenticateEndsEarlierSessions == nil || *traits.AuthenticateEndsEarlierSessions
	return !token.GrantedUntil.After(token.ExpiresAt) || endsEarlier
}

func (s *roleState) noteRefreshRejected(refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejectedRefreshToken = refreshToken
}

func (s *roleState) wasRejected(refreshToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejectedRefreshToken == refreshToken
}

// noteRefreshLost notes that N-central may have used up a refresh token whose answer was lost.
func (s *roleState) noteRefreshLost(refreshToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lostRefreshToken = refreshToken
}

func (s *roleState) mayBeUsedUp(refreshToken string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lostRefreshToken == refreshToken
}

// terms are what to ask for, and what may be promised of the grant.
type terms struct {
	config   *store.Config
	role     *store.Role
	asked    upstream.Asked
	maxLease time.Duration
}

// termsOf returns the terms. It returns an error if no lifetime that may be promised is of use, so
// that no call is made.
func (m *Manager) termsOf(config *store.Config, role *store.Role) (terms, error) {
	maxLease := m.maxLeaseTTL()
	if maxLease <= 0 {
		return terms{}, ErrMaxLeaseUnknown
	}
	access := accessToAsk(role.TTL, maxLease)
	if access > 0 && access <= store.MinServable {
		return terms{}, &UselessLifetimeError{Lifetime: access}
	}
	return terms{
		config: config, role: role, maxLease: maxLease,
		asked: upstream.Asked{Overrides: ncentral.Overrides{Access: access, Refresh: config.RefreshTokenTTL}},
	}, nil
}

// accessToAsk returns the access-token lifetime to ask N-central for. Zero leaves it to N-central.
// It is never more than the mount's max_lease_ttl, even if the role asks for none: Vault would cut
// the lease while the token lived on.
func accessToAsk(ttl, maxLease time.Duration) time.Duration {
	if ttl > 0 {
		return min(ttl, maxLease)
	}
	if maxLease < store.DefaultAccessLifetime {
		return maxLease
	}
	return 0
}

// newToken returns the token of a grant. It is promised for no longer than was granted or asked
// for, and no longer than max_lease_ttl.
func (t terms) newToken(grant *upstream.Grant, by store.ObtainedBy, chain string) *store.Token {
	promised := min(grant.Access, t.maxLease)
	if t.asked.Access > 0 {
		promised = min(promised, t.asked.Access)
	}
	token := &store.Token{
		Origin:       store.Origin{Config: t.config.Name, URL: t.config.URL},
		AccessToken:  grant.AccessToken,
		TokenType:    grant.TokenType,
		RefreshToken: grant.RefreshToken,
		ObtainedBy:   by,
		Chain:        chain,
		IssuedAt:     grant.SentAt,
		ExpiresAt:    grant.SentAt.Add(promised),
		GrantedUntil: grant.SentAt.Add(grant.Access),
		ObtainedHere: true,
		Epoch:        grant.Epoch,
		Warnings:     append(grant.Warnings, roleWarnings(t.role, promised, t.maxLease)...),
	}
	if grant.RefreshToken != "" {
		token.RefreshExpiresAt = grant.SentAt.Add(grant.Refresh)
	}
	if token.GrantedUntil.After(token.ExpiresAt) && t.role.CredentialType == store.Shared {
		token.Warnings = append(token.Warnings, fmt.Sprintf("N-central granted more than is promised: the token is "+
			"accepted there until %s",
			token.GrantedUntil.UTC().Format(time.RFC3339)))
	}
	return token
}

// roleWarnings returns warnings about what the role asks for and cannot have.
func roleWarnings(role *store.Role, promised, maxLease time.Duration) []string {
	var warnings []string
	if role.TTL > maxLease {
		warnings = append(warnings, fmt.Sprintf("the role's ttl of %s is cut to the mount's max_lease_ttl of %s",
			role.TTL, maxLease))
	}
	if role.MinTTL != nil && *role.MinTTL > promised/2 {
		warnings = append(warnings, fmt.Sprintf("the role's min_ttl of %s is more than half of the %s that the "+
			"token lives: half of it, %s, stands",
			*role.MinTTL, promised, promised/2))
	}
	return warnings
}
