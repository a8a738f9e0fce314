// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// validationStands is for how long the last validation of a token is not repeated.
const validationStands = time.Second

// validation is what N-central last said of a token.
type validation struct {
	accessToken string
	at          time.Time
	failure     error // why it could not be asked; nil where it said that the token lives
}

// validatedAt is when the token was last known to live by N-central's word.
func (s *slot) validatedAt(token *store.Token) time.Time {
	if last := s.validated.Load(); last != nil && last.failure == nil && last.accessToken == token.AccessToken {
		return last.at
	}
	return token.LastValidatedAt
}

// validate asks N-central whether the view's token lives, once a second at most and once for all who ask at a time. A
// dead token is dropped, so that nobody gets it again. The error is an *upstream.Failure or the context's.
func (m *Manager) validate(ctx context.Context, slot *slot, v *view) (lives bool, err error) {
	last := slot.validated.Load()
	if last != nil && last.accessToken == v.token.AccessToken && time.Since(last.at) < validationStands {
		suspect, err := m.suspect(ctx, v)
		if err != nil || last.failure != nil || !suspect {
			return err == nil && last.failure == nil, errors.Join(err, last.failure)
		}
	}
	answer := slot.validations.DoChan(v.token.AccessToken, func() (any, error) {
		m.running.Add(1)
		defer m.running.Done()
		ctx, cancel := context.WithTimeout(m.background, v.config.FlightLimit())
		defer cancel()
		return m.askWhetherAlive(ctx, slot, v)
	})
	select {
	case result := <-answer:
		lives, _ := result.Val.(bool)
		return lives, result.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (m *Manager) askWhetherAlive(ctx context.Context, slot *slot, v *view) (bool, error) {
	server, err := m.server(v.config)
	if err != nil {
		return false, err
	}
	// A suspicion that arises while the question is under way is not answered by it.
	suspicion := server.Learnt(ctx).Suspicion
	verdict, err := server.Validate(ctx, v.token)
	now := time.Now()
	if err != nil {
		slot.validated.Store(&validation{accessToken: v.token.AccessToken, at: now, failure: err})
		return false, err
	}
	if !verdict.Lives {
		// A token that the engine itself ended or replaced in the meantime tells nothing of the server.
		if m.changeCurrent(slot, v.token, nil) {
			m.logger.Warn("a token died before its time and is replaced", "role", slot.role, "config", v.config.Name)
			if verdict.Unexplained {
				v.record.CountDeadToken()
				server.ForgetLearnt(ctx)
			}
		}
		return false, nil
	}
	slot.validated.Store(&validation{accessToken: v.token.AccessToken, at: now})
	if v.token.Suspicion < suspicion {
		trusted := *v.token
		trusted.Suspicion, trusted.LastValidatedAt = suspicion, now
		m.changeCurrent(slot, v.token, &trusted)
	}
	return true, nil
}

// changeCurrent puts another token, or none, in the place of the role's current one, and says whether that was still the
// current one. What storage refuses is changed in memory.
func (m *Manager) changeCurrent(slot *slot, from, to *store.Token) (changed bool) {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	session, err := m.store.Sessions.Get(m.storing, slot.role)
	if err != nil || session == nil || session.Current == nil || session.Current.AccessToken != from.AccessToken {
		return false
	}
	next := *session
	next.Current, next.LastReadAt = to, slot.lastReadAt(session)
	if err := m.store.Sessions.Put(m.storing, slot.role, &next); err != nil {
		m.logger.Warn("what was found of a token could not be stored", "role", slot.role, "error", err)
		m.store.Sessions.Keep(slot.role, &next)
	}
	return true
}
