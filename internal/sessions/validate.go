// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// validationStands is for how long the last validation of a token is not repeated.
const validationStands = time.Second

// validation is what N-central last said of a token.
type validation struct {
	accessToken  string
	at           time.Time
	inconclusive bool  // N-central answered, and that does not show whether the token lives
	failure      error // why nothing is known; nil if it said that the token lives
}

// validatedAt is when the token was last known to live by N-central's word.
func (s *roleState) validatedAt(token *store.Token) time.Time {
	if last := s.validated.Load(); last != nil && last.failure == nil && last.accessToken == token.AccessToken {
		return last.at
	}
	return token.LastValidatedAt
}

// validate asks N-central whether the snapshot's token lives, once a second at most and once for
// all who ask at a time. A dead token is dropped, so that nobody gets it again. By the data call,
// N-central tells also whether the user works; one that does not puts the config out of service.
// The error is an *health.Failure or the context's.
func (m *Manager) validate(ctx context.Context, snap *snapshot, byData bool) (upstream.Verdict, error) {
	state := snap.state
	last := state.validated.Load()
	if last != nil && last.accessToken == snap.token.AccessToken && time.Since(last.at) < validationStands {
		suspect, err := m.suspect(ctx, snap)
		if err != nil || last.failure != nil || !suspect {
			err = errors.Join(err, last.failure)
			return upstream.Verdict{Valid: err == nil, Inconclusive: last.inconclusive}, err
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
	// A suspicion that arises while the question is under way is not answered by it.
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
		defer snap.watch.ProveStorage() // a token that something is known to have ended tells nothing of the others
	}
	if err != nil {
		state.validated.Store(&validation{
			accessToken: snap.token.AccessToken, at: now, inconclusive: verdict.Inconclusive,
			failure: err,
		})
		return verdict, err
	}
	if !verdict.Valid {
		m.dropDead(ctx, server, snap, verdict)
		return verdict, nil
	}
	state.validated.Store(&validation{accessToken: snap.token.AccessToken, at: now})
	if traits.Suspects(snap.token) {
		trusted := *snap.token
		trusted.Epoch, trusted.LastValidatedAt = traits.Epoch, now
		m.changeCurrent(state, snap.token, &trusted)
	}
	return verdict, nil
}

// dropDead drops a token that N-central said is dead. One that the engine itself ended or replaced
// in the meantime tells nothing of the server.
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

// changeCurrent puts another token, or none, in the place of the role's current one, and says
// whether that was still the current one. What storage refuses is changed in memory.
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
