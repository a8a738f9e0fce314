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

// Read answers the role's shared token: the one in memory or storage where it is good enough, else a new one. Any number of
// concurrent readers cause one obtaining. Errors are ErrUnknownRole, ErrUnknownConfig, ErrNeedsActiveNode, ErrOvertaken,
// ErrDeadOnArrival, a *LimitError, a *UselessLifetimeError, an *upstream.Failure, the context's, or storage's.
func (m *Manager) Read(ctx context.Context, role string, want Want) (*Answer, error) {
	answer, err := m.read(ctx, role, want)
	if errors.Is(err, ErrOvertaken) {
		answer, err = m.read(ctx, role, want)
	}
	if err != nil {
		m.countFailure(ctx, role, err)
	}
	return answer, err
}

// countFailure counts a read that got no token, unless it was the caller's mistake or is another node's to answer.
func (m *Manager) countFailure(ctx context.Context, role string, err error) {
	var limit *LimitError
	var useless *UselessLifetimeError
	if errors.As(err, &limit) || errors.As(err, &useless) || errors.Is(err, ErrNeedsActiveNode) {
		return
	}
	if _, config, unknown := m.definition(context.WithoutCancel(ctx), role); unknown == nil {
		m.upstream.Record(config.Name).CountFailedRead(reasonOf(err))
	}
}

// reasonOf is the reason of a failed read in a word, for metrics: the kind of an upstream.Failure, or one of four.
func reasonOf(err error) string {
	switch {
	case ncentral.KindOf(err) == ncentral.KindCanceled: // a dedicated session is opened for its reader alone
		return upstream.ReaderGone
	case ncentral.KindOf(err) != "":
		return string(ncentral.KindOf(err))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return upstream.ReaderGone
	case errors.Is(err, ErrOvertaken):
		return upstream.Overtaken
	case errors.Is(err, ErrDeadOnArrival):
		return upstream.DeadOnArrival
	}
	return upstream.StorageFailed
}

func (m *Manager) read(ctx context.Context, role string, want Want) (*Answer, error) {
	if want.from == "" {
		want.from = upstream.FromStorage
		if m.store.Sessions.Holds(role) {
			want.from = upstream.FromMemory
		}
	}
	slot, v, err := m.look(ctx, role)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if err := slot.checkLimit(v, want); err != nil {
		return nil, err
	}
	if !v.goodEnough(now, want) {
		return m.obtainAndAnswer(ctx, slot, v, want)
	}
	suspect, err := m.suspect(ctx, v)
	if err != nil {
		return nil, err
	}
	if suspect || want.Validate {
		return m.validateAndAnswer(ctx, slot, v, want)
	}
	return m.answerGoodEnough(ctx, slot, v, want, now)
}

// answerGoodEnough hands the view's token out, and starts its rotation where that is due soon.
func (m *Manager) answerGoodEnough(ctx context.Context, slot *slot, v *view, want Want, now time.Time) (*Answer, error) {
	if v.dueAhead(now) {
		if want.Stored {
			return nil, ErrNeedsActiveNode
		}
		m.startAhead(ctx, slot, v, now)
	}
	return v.handOut(slot, want.from, now), nil
}

// checkLimit refuses a min_ttl that no shared token of the role can meet, without a call where that is known: from the
// token in hand, from the one before it, or from the ttl, beyond which nothing is promised.
func (s *slot) checkLimit(v *view, want Want) error {
	lifetime := v.role.TTL
	if v.token != nil {
		lifetime = v.token.Lifetime()
	} else if last := s.granted.Load(); last != nil &&
		last.configFingerprint == v.config.Fingerprint() && last.roleFingerprint == v.role.Fingerprint() {
		lifetime = last.lifetime
	}
	if lifetime > 0 && want.MinTTL > lifetime/2 {
		return &LimitError{Asked: want.MinTTL, Granted: lifetime}
	}
	return nil
}

// validateAndAnswer hands the view's token out if N-central says that it lives, and a new one if it does not. Where
// N-central cannot be asked, that is the error for a reader who asked for validation; for others a new token is tried.
// N-central's answer is of use only if the token is still the one to hand out when it comes.
func (m *Manager) validateAndAnswer(ctx context.Context, slot *slot, v *view, want Want) (*Answer, error) {
	if want.Stored {
		return nil, ErrNeedsActiveNode
	}
	lives, err := m.validate(ctx, slot, v)
	if err != nil && want.Validate {
		return nil, err
	}
	validated := v.token
	slot, v, err = m.look(ctx, slot.role)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	switch {
	case !v.goodEnough(now, want), !lives && v.holds(validated):
		return m.obtainAndAnswer(ctx, slot, v, want)
	case v.holds(validated):
		return m.answerGoodEnough(ctx, slot, v, want, now)
	}
	return m.read(ctx, slot.role, want)
}

// obtainAndAnswer waits for a new token. A reader who can do with the token in hand waits no longer than a first attempt
// takes, and gets that token where it fails.
func (m *Manager) obtainAndAnswer(ctx context.Context, slot *slot, v *view, want Want) (*Answer, error) {
	if want.Stored {
		return nil, ErrNeedsActiveNode
	}
	flight, err := m.join(ctx, slot, v)
	if err != nil {
		return nil, err
	}
	if flight == nil {
		return m.read(ctx, slot.role, want)
	}
	flight.awaited.Store(true)
	now := time.Now()
	var failedOnce <-chan struct{}
	var patience <-chan time.Time
	canServeStale := !want.Validate && v.alive(now) && v.remaining(now) >= want.MinTTL
	if canServeStale {
		timer := time.NewTimer(v.config.RequestTimeout)
		defer timer.Stop()
		failedOnce, patience = flight.failedOnce, timer.C
	}
	select {
	case <-flight.done:
	case <-failedOnce:
	case <-patience:
		flight.attemptFailed(fmt.Errorf("config %q: N-central has not answered within %s; it is waited for", v.config.Name, v.config.RequestTimeout))
	case <-flight.overtaken:
		return nil, ErrOvertaken
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	failure := flight.failure()
	switch {
	case failure == nil:
		return m.answerNew(ctx, slot, want)
	case canServeStale && !errors.Is(failure, ErrOvertaken):
		return m.answerStale(ctx, slot, v, want, failure)
	}
	return nil, failure
}

// answerNew hands out the token that a flight brought. One that another session of the same user may have ended in the
// meantime is validated first; where it was, the reader starts over.
func (m *Manager) answerNew(ctx context.Context, slot *slot, want Want) (*Answer, error) {
	slot, v, err := m.look(ctx, slot.role)
	if err != nil {
		return nil, err
	}
	if err := slot.checkLimit(v, want); err != nil {
		return nil, err
	}
	if v.token == nil {
		return nil, ErrOvertaken
	}
	suspect, err := m.suspect(ctx, v)
	if err != nil {
		return nil, err
	}
	if suspect {
		lives, err := m.validate(ctx, slot, v)
		if err != nil {
			return nil, err
		}
		if !lives {
			return nil, ErrOvertaken
		}
	}
	now := time.Now()
	if !v.alive(now) {
		return nil, ErrDeadOnArrival
	}
	from := upstream.Authenticated
	if v.token.ObtainedBy == store.ByRefresh {
		from = upstream.Refreshed
	}
	return v.handOut(slot, from, now), nil
}

// shortestStaleWait is what an answer that hands out a stale token says at least of when to come back.
const shortestStaleWait = 15 * time.Second

// answerStale hands out the token in hand for want of a new one, if it is still the one to hand out. A suspect token must
// have been validated for that.
func (m *Manager) answerStale(ctx context.Context, slot *slot, v *view, want Want, failure error) (*Answer, error) {
	inHand := v.token
	slot, v, err := m.look(ctx, slot.role)
	if err != nil {
		return nil, err
	}
	if !v.holds(inHand) {
		return nil, ErrOvertaken
	}
	suspect, err := m.suspect(ctx, v)
	if err != nil {
		return nil, err
	}
	if suspect {
		if lives, _ := m.validate(ctx, slot, v); !lives {
			return nil, failure
		}
	}
	now := time.Now()
	if !v.alive(now) || v.remaining(now) < want.MinTTL {
		return nil, failure
	}
	server, err := m.server(v.config)
	if err != nil {
		return nil, err
	}
	v.record.ServedStale(v.token.ExpiresAt)
	answer := v.handOut(slot, want.from, now)
	if answer.UntilRotation <= 0 {
		next := max(store.Remaining(server.NextAttempt(now), now), shortestStaleWait)
		answer.UntilRotation = min(next, answer.Remaining.Truncate(time.Second))
	}
	answer.Warnings = append(answer.Warnings, fmt.Sprintf(
		"no new token could be had, so this is the one from before, which lives until %s: %s", v.facts.ExpiresAt, failure))
	return answer, nil
}
