// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// validationStands is how long the last validation of a token is not repeated.
const validationStands = time.Second

// validation is what N-central last said about a token.
type validation struct {
	accessToken  string
	at           time.Time
	inconclusive bool            // N-central answered, and that does not show whether the token lives
	failure      error           // why nothing is known; nil if it said that the token lives
	userFailure  *health.Failure // why the user seems not to work; nil if that was not asked
}

// validatedAt returns when N-central last said that the token lives.
func (s *roleState) validatedAt(token *store.Token) time.Time {
	if last := s.validated.Load(); last != nil && last.failure == nil && last.accessToken == token.AccessToken {
		return last.at
	}
	return token.LastValidatedAt
}

// validate asks N-central whether the snapshot's token lives: once a second at most, and once for
// all who ask at the same time. A dead token is dropped, so that nobody gets it again. With byData,
// it also finds out whether the user works; if not, the config is put out of service. The error is
// a *health.Failure or the context's.
func (m *Manager) validate(ctx context.Context, snap *snapshot, byData bool) (upstream.Verdict, error) {
	state := snap.state
	last := state.validated.Load()
	if last != nil && last.accessToken == snap.token.AccessToken && time.Since(last.at) < validationStands {
		suspect, err := m.suspect(ctx, snap)
		if err != nil || last.failure != nil || !suspect {
			err = errors.Join(err, last.failure)
			return upstream.Verdict{
				Valid: err == nil, Inconclusive: last.inconclusive, UserFailure: last.userFailure,
			}, err
		}
	}
	answer := state.validations.DoChan(snap.token.AccessToken, func() (any, error) {
		if !m.begin() {
			return upstream.Verdict{}, ErrEnded
		}
		defer m.running.Done()
		ctx, cancel := context.WithTimeout(m.background, snap.config.FlightLimit())
		defer cancel()
		return m.askWhetherAlive(ctx, snap, byData)
	})
	select {
	case result := <-answer:
		verdict, _ := result.Val.(upstream.Verdict)
		return verdict, result.Err
	case <-ctx.Done():
		return upstream.Verdict{}, context.Cause(ctx)
	}
}

func (m *Manager) askWhetherAlive(ctx context.Context, snap *snapshot, byData bool) (upstream.Verdict, error) {
	state := snap.state
	server, err := m.server(snap.config)
	if err != nil {
		return upstream.Verdict{}, err
	}
	// These traits are of before the question. What makes the token suspect later, its answer does
	// not settle.
	traits := server.Traits(ctx)
	ask := server.Validate
	if byData {
		ask = server.ValidateByData
	}
	verdict, err := ask(ctx, snap.token)
	if verdict.UserFailure.UserIsBarred() {
		m.putOut(ctx, snap.config, verdict.UserFailure, true)
	}
	now := time.Now()
	if !snap.token.ObtainedHere && (verdict.Valid || verdict.Inconclusive || verdict.Unexplained) {
		defer snap.watch.ProveStorage() // a token that is dead for a known reason says nothing about the others
	}
	if err != nil {
		state.validated.Store(&validation{
			accessToken: snap.token.AccessToken, at: now, inconclusive: verdict.Inconclusive,
			failure: err, userFailure: verdict.UserFailure,
		})
		return verdict, err
	}
	if !verdict.Valid {
		m.dropDead(ctx, server, snap, verdict)
		return verdict, nil
	}
	state.validated.Store(&validation{
		accessToken: snap.token.AccessToken, at: now, userFailure: verdict.UserFailure,
	})
	if traits.Suspects(snap.token) {
		trusted := *snap.token
		trusted.Epoch, trusted.LastValidatedAt = traits.Epoch, now
		m.changeCurrent(state, snap.token, &trusted)
	}
	return verdict, nil
}

// dropDead drops a token that N-central said is dead. If the engine itself ended or replaced it in
// the meantime, that says nothing about the server.
func (m *Manager) dropDead(ctx context.Context, server *upstream.Server, snap *snapshot, verdict upstream.Verdict) {
	state := snap.state
	if !m.changeCurrent(state, snap.token, nil) {
		return
	}
	m.logger.Warn("a token died before its time and is replaced", "role", state.role, "config", snap.config.Name)
	if verdict.Unexplained {
		snap.record.CountDeadToken()
		server.ForgetTraits(ctx)
	}
}

// changeCurrent replaces the role's current token by to, which may be nil, and reports whether from
// was still the current one. If storage refuses that, it is changed in memory.
func (m *Manager) changeCurrent(state *roleState, from, to *store.Token) (changed bool) {
	state.mu.Lock()
	defer state.mu.Unlock()
	session, err := m.store.Sessions.Get(m.storing, state.role)
	if err != nil || session == nil || session.Current == nil || session.Current.AccessToken != from.AccessToken {
		return false
	}
	next := *session
	next.Current, next.LastReadAt = to, state.lastReadAt(session)
	if err := m.storeOrKeep(m.storing, state.role, &next); err != nil {
		m.logger.Warn("what was found out about a token could not be stored", "role", state.role, "error", err)
	}
	return true
}
