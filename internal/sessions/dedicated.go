// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// Lease is what logging a dedicated session out needs.
type Lease struct {
	Role         string
	Origin       store.Origin
	AccessToken  string
	GrantedUntil time.Time
}

// Open opens a session for one read of a dedicated role, whose token lives for at least minTTL. If
// the reader hangs up, a call that was not sent is not made, and a session that was opened is
// ended. Errors are those of Read, and ErrTooManyWaiting.
func (m *Manager) Open(ctx context.Context, role string, minTTL time.Duration) (*Answer, *Lease, error) {
	answer, lease, err := m.openInTime(ctx, role, minTTL)
	if err != nil {
		m.countFailure(ctx, role, err)
	}
	return answer, lease, err
}

// waitingPerPlace is how many reads of a dedicated role may wait for each place among the requests
// in flight.
const waitingPerPlace = 64

// turns are the places that one dedicated role may take among the requests in flight. A read of the
// role waits for one of these first. So many reads of one role do not keep the reads of another
// waiting for long.
type turns struct {
	places int
	free   *semaphore.Weighted
}

// turnsOf returns the role's turns: as many as there are places for calls that are made for one
// reader.
func (s *roleState) turnsOf(config *store.Config) *turns {
	places := upstream.PlacesPerReader(config.MaxRequestsInFlight)
	if known := s.turns.Load(); known != nil && known.places == places {
		return known
	}
	fresh := &turns{places: places, free: semaphore.NewWeighted(int64(places))}
	s.turns.Store(fresh)
	return fresh
}

func (m *Manager) openInTime(ctx context.Context, role string, minTTL time.Duration) (*Answer, *Lease, error) {
	_, found, err := m.definition(ctx, role)
	if err != nil {
		return nil, nil, err
	}
	config := found.preferred()
	state := m.state(role)
	defer state.opening.Add(-1)
	if state.opening.Add(1) > int64(waitingPerPlace*config.MaxRequestsInFlight) {
		return nil, nil, ErrTooManyWaiting
	}
	ctx, cancel := context.WithTimeoutCause(ctx, config.FlightLimit(), ErrTimeOver)
	defer cancel()
	// A read that has no turn by then would have no time left for the call. N-central might open a
	// session, and its answer would be lost.
	inTime, stop := context.WithTimeoutCause(ctx, config.FlightLimit()-config.RequestTimeout, ErrTimeOver)
	defer stop()
	turns := state.turnsOf(config)
	if turns.free.Acquire(inTime, 1) != nil {
		return nil, nil, noTurn(inTime)
	}
	defer turns.free.Release(1)
	if inTime.Err() != nil {
		return nil, nil, noTurn(inTime)
	}
	answer, lease, err := m.open(ctx, role, minTTL)
	if errors.Is(err, ErrSuperseded) {
		answer, lease, err = m.open(ctx, role, minTTL)
	}
	if err != nil && ctx.Err() != nil && ncentral.KindOf(err) == ncentral.KindCanceled {
		err = context.Cause(ctx)
	}
	return answer, lease, err
}

// noTurn returns the error of a read that got no turn, because its time was over or its reader hung
// up.
func noTurn(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ErrTimeOver) {
		return cause
	}
	return ErrTooManyWaiting
}

func (m *Manager) open(ctx context.Context, name string, minTTL time.Duration) (*Answer, *Lease, error) {
	role, found, err := m.definition(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if role.TTL > 0 && minTTL > role.TTL {
		return nil, nil, &LimitError{Asked: minTTL, Granted: role.TTL, Dedicated: true}
	}
	config, token, err := m.openFirst(ctx, role, found)
	if err != nil {
		return nil, nil, err
	}
	server, err := m.server(config)
	if err == nil {
		err = m.mayAnswer(ctx, server, role, config, token, minTTL)
	}
	if err != nil {
		m.discard(role.Name, *token)
		return nil, nil, err
	}
	state := m.state(name)
	snap := m.newSnapshot(state, role, found, &store.Session{
		ConfigFingerprint: config.Fingerprint(), RoleFingerprint: role.Fingerprint(), Current: token,
	})
	m.noteServing(ctx, state, role, found, role.Config, config.Name)
	snap.record.CountRead(health.SourceAuthenticate)
	answer := snap.answer(time.Now())
	answer.Warnings = append(answer.Warnings, endingWarnings(ctx, server, token)...)
	m.probeAfterwards(server, config, token.AccessToken)
	return answer, &Lease{
		Role: role.Name, Origin: token.Origin, AccessToken: token.AccessToken,
		GrantedUntil: token.GrantedUntil,
	}, nil
}

// openFirst opens a session with the first of the role's configs that gives one.
func (m *Manager) openFirst(
	ctx context.Context, role *store.Role, found sources,
) (*store.Config, *store.Token, error) {
	asked := found.inService()
	if !found.hasFallback() {
		token, err := m.openSession(ctx, found[0].config, role)
		return found[0].config, token, m.unlessAnother(ctx, role.Name, asked, err)
	}
	a := &attempt{
		m:      m,
		role:   role.Name,
		turnTo: func(*store.Config) {},
		from: func(ctx context.Context, config *store.Config) (*store.Token, error) {
			return m.openSession(ctx, config, role)
		},
		end: func(token *store.Token) { m.discard(role.Name, *token) },
	}
	first, err := a.obtain(ctx, asked)
	if first == nil {
		return nil, nil, m.unlessAnother(ctx, role.Name, asked, err)
	}
	return first.config, first.token, nil
}

// probeAfterwards makes the hourly data call with a session that was just opened: of a config whose
// roles are all dedicated, the tick holds no token. Nobody waits for it.
func (m *Manager) probeAfterwards(server *upstream.Server, config *store.Config, accessToken string) {
	if !m.claimProbe(config) || !m.begin() {
		return
	}
	go func() {
		defer m.running.Done()
		ctx, cancel := context.WithTimeout(m.background, config.FlightLimit())
		defer cancel()
		isHeld := func() bool { return false } // its lease may have ended by then
		_ = m.probe(ctx, server, config, accessToken, isHeld)
	}()
}

// openSession authenticates, on a context that does not end when the reader hangs up: N-central may
// have opened a session by then, and nobody would know of it.
func (m *Manager) openSession(
	reader context.Context, config *store.Config, role *store.Role,
) (*store.Token, error) {
	server, err := m.server(config)
	if err != nil {
		return nil, err
	}
	if !m.begin() {
		return nil, ErrEnded
	}
	defer m.running.Done()
	deadline, _ := reader.Deadline() // that of the read as a whole
	ctx, cancel := context.WithDeadline(m.background, deadline)
	defer cancel()
	terms, err := m.termsOf(config, role)
	if err != nil {
		return nil, err
	}
	grant, err := server.Authenticate(upstream.AwaitedBy(ctx, reader), terms.asked)
	if unusable, ok := errors.AsType[*upstream.UnusableGrantError](err); ok {
		m.discard(role.Name, *terms.newToken(&unusable.Grant, store.ByAuthenticate, ""))
	}
	if err != nil {
		return nil, err
	}
	token := terms.newToken(grant, store.ByAuthenticate, "")
	token.RefreshToken, token.RefreshExpiresAt = "", time.Time{} // never used: the session ends with its lease
	return token, nil
}

// mayAnswer returns an error if the new session must not be handed out.
func (m *Manager) mayAnswer(
	ctx context.Context, server *upstream.Server, role *store.Role, config *store.Config, token *store.Token,
	minTTL time.Duration,
) error {
	if minTTL > token.Lifetime() {
		return &LimitError{Asked: minTTL, Granted: token.Lifetime(), Dedicated: true}
	}
	wanted, err := m.unchanged(ctx, role.Name, config, role)
	wanted = wanted && !m.isOfNoUse(ctx, role, config)
	if err == nil && wanted {
		wanted, err = isValidOrTrusted(ctx, server, token)
	}
	switch {
	case err != nil:
		return err
	case !wanted:
		return ErrSuperseded
	case store.Remaining(token.ExpiresAt, time.Now()) < store.MinServable: // last, since the checks above take time
		return ErrDeadOnArrival
	}
	return context.Cause(ctx) // if the reader hung up, nobody would end the session
}

// isValidOrTrusted validates the token if it is suspect: another session of the same user, opened
// at the same time, may have ended it.
func isValidOrTrusted(ctx context.Context, server *upstream.Server, token *store.Token) (bool, error) {
	if traits := server.Traits(ctx); !traits.Suspects(token) {
		return true, nil
	}
	verdict, err := server.Validate(ctx, token)
	return verdict.Valid, err
}

// endingWarnings returns warnings about what the end of the lease does not end.
func endingWarnings(ctx context.Context, server *upstream.Server, token *store.Token) []string {
	var warnings []string
	if can := server.Traits(ctx).CanLogOut; can != nil && !*can {
		warnings = append(warnings, fmt.Sprintf("this server has no logout, so revoking the lease does not end the "+
			"token: it lives until %s",
			token.GrantedUntil.UTC().Format(time.RFC3339)))
	}
	if token.GrantedUntil.After(token.ExpiresAt) {
		warnings = append(warnings, fmt.Sprintf("N-central granted more than is promised: the session would live "+
			"until %s, and is logged out when the lease ends",
			token.GrantedUntil.UTC().Format(time.RFC3339)))
	}
	return warnings
}
