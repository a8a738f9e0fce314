// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Read returns the role's shared token: the one in memory or storage if it is good enough, else a
// new one. Concurrent readers share one flight. A read ends within the config's FlightLimit,
// whatever it needs. Errors are ErrUnknownRole, ErrUnknownConfig, ErrNeedsActiveNode,
// ErrSuperseded, ErrDeadOnArrival, ErrTimeOver, ErrMaxLeaseUnknown, ErrEnded, a *LimitError, a
// *LateError, a *UselessLifetimeError, an *AllOutError, a *health.Failure, the context's, or
// storage's.
func (m *Manager) Read(ctx context.Context, role string, options ReadOptions) (*Answer, error) {
	found := findings{from: health.SourceStorage}
	if m.store.Sessions.Holds(role) {
		found.from = health.SourceMemory
	}
	answer, err := m.readInHand(ctx, role, options, found)
	if answer == nil && err == nil {
		answer, err = m.readWaiting(ctx, role, options, found)
	}
	if err != nil && !options.CacheOnly { // else another node answers it
		m.countFailure(ctx, role, err)
	}
	return answer, err
}

// countFailure counts a read that got no token, unless it was the caller's mistake.
func (m *Manager) countFailure(ctx context.Context, role string, err error) {
	var limit *LimitError
	var useless *UselessLifetimeError
	if errors.As(err, &limit) || errors.As(err, &useless) {
		return
	}
	if _, found, unknown := m.definition(context.WithoutCancel(ctx), role); unknown == nil {
		m.upstream.Record(found.preferred().Name).CountFailedRead(reasonOf(err))
	}
}

// reasonOf returns the reason of a failed read in a word, for metrics: the kind of a
// health.Failure, or one of the health.Reason constants.
func reasonOf(err error) string {
	var late *LateError
	var allOut *AllOutError
	switch {
	case errors.As(err, &allOut):
		return allOut.kind()
	case ncentral.KindOf(err) == ncentral.KindCanceled: // a dedicated session is opened for its reader alone
		return health.ReasonReaderGone
	case ncentral.KindOf(err) != "":
		return string(ncentral.KindOf(err))
	case errors.Is(err, ErrTimeOver):
		return string(ncentral.KindTimeout)
	case errors.Is(err, ErrTooManyWaiting):
		return string(ncentral.KindQueued)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return health.ReasonReaderGone
	case errors.Is(err, ErrSuperseded):
		return health.ReasonSuperseded
	case errors.Is(err, ErrDeadOnArrival), errors.As(err, &late):
		return health.ReasonDeadOnArrival
	}
	return health.ReasonStorage
}

// findings are what one read has found out so far.
type findings struct {
	from     health.Source // where the token in hand was when the read began
	obtained bool          // the token in hand is one that the read waited for
	usable   *store.Token  // the token that N-central said lives
	unusable *store.Token  // the token that died, or that must be validated and cannot be
	unproven error         // why the token in hand, which came from storage, could not be validated
}

// decision is what a read does next.
type decision int

const (
	toServe    decision = iota // hand out the token in hand
	toValidate                 // ask N-central first whether it lives
	toProve                    // the same, for all tokens of the config that come from storage
	toObtain                   // wait for a new one
)

// doubts are the reasons to validate the token in hand before it is handed out.
type doubts struct {
	suspect  bool // it may have been ended
	unproven bool // it came from storage, which may be of the past
}

// decide returns what a read does next. A token that the read waited for is handed out if it lives
// as long as the reader asks. A token that was in hand must also live as long as the role asks, and
// there must be no reason to doubt that it lives.
func (snap *snapshot) decide(options ReadOptions, found *findings, doubts doubts, now time.Time) (decision, error) {
	switch {
	case found.obtained && snap.token == nil:
		return 0, ErrSuperseded
	case found.obtained && !snap.usable(now):
		return 0, ErrDeadOnArrival
	case found.obtained && snap.remaining(now) < options.MinTTL:
		return 0, &LateError{Asked: options.MinTTL, Left: snap.remaining(now)}
	case !found.obtained && !snap.goodEnough(now, options), snap.sameToken(found.unusable):
		return toObtain, nil
	case snap.sameToken(found.usable):
		return toServe, nil
	case doubts.suspect, options.Validate && !found.obtained:
		return toValidate, nil
	case doubts.unproven && found.unproven == nil:
		return toProve, nil
	}
	return toServe, nil
}

// next looks at the role as it is now, and returns what the read does.
func (m *Manager) next(
	ctx context.Context, role string, options ReadOptions, found *findings,
) (*snapshot, decision, error) {
	snap, err := m.snapshot(ctx, role)
	if err != nil {
		return nil, 0, err
	}
	if err := snap.checkLimit(options); err != nil {
		return nil, 0, err
	}
	var doubts doubts
	if snap.token != nil {
		// In this order: a proof that finds a dead token makes the others suspect before it counts
		// as done.
		doubts.unproven = !options.CacheOnly && !snap.token.ObtainedHere && !snap.watch.StorageIsProven()
		if doubts.suspect, err = m.suspect(ctx, snap); err != nil {
			return nil, 0, err
		}
	}
	do, err := snap.decide(options, found, doubts, time.Now())
	return snap, do, err
}

// readInHand returns the token in hand, or nil if N-central is needed first.
func (m *Manager) readInHand(ctx context.Context, role string, options ReadOptions, found findings) (*Answer, error) {
	snap, do, err := m.next(ctx, role, options, &found)
	switch {
	case err != nil:
		return nil, err
	case do == toServe:
		return m.serve(ctx, snap, options, &found)
	case options.CacheOnly:
		return nil, ErrNeedsActiveNode
	}
	return nil, nil
}

// readWaiting does what needs N-central until there is a token to answer. Where the role, its
// config or its sessions changed meanwhile, it starts over, once.
func (m *Manager) readWaiting(ctx context.Context, role string, options ReadOptions, found findings) (*Answer, error) {
	_, sources, err := m.definition(ctx, role)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sources.preferred().FlightLimit(), ErrTimeOver)
	defer cancel()
	begun := found
	for startedOver := false; ; {
		answer, err := m.readStep(ctx, role, options, &found)
		switch {
		case answer != nil:
			return answer, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrSuperseded) && !startedOver:
			startedOver, found = true, begun
		case err != nil:
			return nil, err
		}
	}
}

// readStep does one thing that needs N-central, or returns the token in hand.
func (m *Manager) readStep(ctx context.Context, role string, options ReadOptions, found *findings) (*Answer, error) {
	snap, do, err := m.next(ctx, role, options, found)
	if err != nil {
		return nil, err
	}
	switch do {
	case toValidate:
		return nil, m.validateInHand(ctx, snap, options, found)
	case toProve:
		m.prove(ctx, snap, found)
		return nil, nil
	case toObtain:
		return m.awaitNew(ctx, snap, options, found)
	}
	return m.serve(ctx, snap, options, found)
}

// serve hands out the token in hand, and starts its rotation if that is due soon.
func (m *Manager) serve(ctx context.Context, snap *snapshot, options ReadOptions, found *findings) (*Answer, error) {
	now := time.Now()
	from := found.from
	switch {
	case found.obtained && snap.token.ObtainedBy == store.ByRefresh:
		from = health.SourceRefresh
	case found.obtained:
		from = health.SourceAuthenticate
	case snap.dueAhead(now) && options.CacheOnly:
		return nil, ErrNeedsActiveNode
	case snap.dueAhead(now):
		m.startAhead(ctx, snap, now)
	}
	answer := snap.handOut(from, now)
	if found.unproven != nil && !snap.token.ObtainedHere {
		answer.Warnings = append(answer.Warnings, fmt.Sprintf(
			"this token comes from storage, and could not be validated since the plugin started: %s", found.unproven))
	}
	return answer, nil
}

// checkLimit returns an error if no shared token of the role can have the min_ttl that the reader
// asks for, as far as that is known without a call: from the token in hand, from the one before it,
// or from the role's ttl.
func (snap *snapshot) checkLimit(options ReadOptions) error {
	lifetime := snap.role.TTL
	if snap.token != nil {
		lifetime = snap.token.Lifetime()
	} else if last := snap.state.granted.Load(); last != nil &&
		last.configFingerprint == snap.config.Fingerprint() && last.roleFingerprint == snap.role.Fingerprint() {
		lifetime = last.lifetime
	}
	if lifetime > 0 && options.MinTTL > lifetime/2 {
		return &LimitError{Asked: options.MinTTL, Granted: lifetime}
	}
	return nil
}

// validateInHand asks N-central whether the token in hand lives. If N-central cannot be asked, a
// reader who asked for validation gets the error, and for others a new token is obtained. A new
// token is also obtained if the answers are inconclusive.
func (m *Manager) validateInHand(ctx context.Context, snap *snapshot, options ReadOptions, found *findings) error {
	verdict, err := m.validate(ctx, snap, snap.sources.hasFallback())
	if err != nil && options.Validate && !verdict.Inconclusive {
		return err
	}
	if verdict.Valid && !verdict.UserFailure.UserIsBarred() {
		found.usable = snap.token
		return nil
	}
	found.unusable = snap.token
	if found.obtained { // ended by another session of the same user
		return ErrSuperseded
	}
	return nil
}

// longestLaterProof is how long a read waits for a proof if an earlier proof got no answer.
const longestLaterProof = time.Second

// prove has one token of the config that came from storage validated, on behalf of all who read
// meanwhile: storage may be out of date, for example after a snapshot was restored. If N-central
// does not answer, the token is handed out all the same, with a warning.
func (m *Manager) prove(ctx context.Context, snap *snapshot, found *findings) {
	proof := m.proofs.DoChan(snap.config.Name, func() (any, error) {
		verdict, err := m.validate(m.background, snap, snap.sources.hasFallback())
		if verdict.Valid {
			return snap.token, nil
		}
		return nil, err
	})
	wait := snap.config.RequestTimeout
	if snap.watch.StorageWasDoubted() {
		wait = min(wait, longestLaterProof) // others have waited in vain
	}
	select {
	case result := <-proof:
		found.usable, _ = result.Val.(*store.Token) // this one, or another that says enough
		found.unproven = result.Err
	case <-time.After(wait):
		found.unproven = fmt.Errorf("config %q: N-central has not answered yet", snap.config.Name)
	case <-ctx.Done():
	}
	if found.unproven != nil {
		snap.watch.DoubtStorage()
	}
}

// awaitNew waits for a new token, which is then in hand. If the token in hand still does for the
// reader, it waits no longer than a first attempt takes, and returns that token if the attempt
// fails.
func (m *Manager) awaitNew(ctx context.Context, snap *snapshot, options ReadOptions, found *findings) (*Answer, error) {
	flight, err := m.join(ctx, snap, true)
	if err != nil || flight == nil {
		return nil, err
	}
	now := time.Now()
	if options.Validate || snap.sameToken(found.unusable) || !snap.usable(now) || snap.remaining(now) < options.MinTTL {
		return nil, m.awaitEnd(ctx, flight, found)
	}
	select {
	case <-flight.done:
		if flight.result == nil {
			return nil, m.awaitEnd(ctx, flight, found)
		}
	case <-flight.failedOnce:
	case <-time.After(snap.config.RequestTimeout):
		flight.attemptFailed(fmt.Sprintf("config %q: N-central has not answered within %s; it is waited for",
			snap.config.Name, snap.config.RequestTimeout))
	case <-flight.wanted.Done():
		return nil, ErrSuperseded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	answer, err := m.answerStale(ctx, snap, options, found, flight.whyNot())
	if answer == nil && err == nil { // it died while that was found out
		err = m.awaitEnd(ctx, flight, found)
	}
	return answer, err
}

// awaitEnd waits for the flight's end.
func (m *Manager) awaitEnd(ctx context.Context, flight *flight, found *findings) error {
	select {
	case <-flight.done:
		found.obtained = flight.result == nil
		return flight.result
	case <-flight.wanted.Done():
		return ErrSuperseded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// shortestStaleWait is the least time after which a reader of a stale token is told to come back.
const shortestStaleWait = 15 * time.Second

// answerStale hands out the token in hand because no new one could be obtained, if it is still the
// current one. A suspect token is validated first. It returns nil if the token can no longer be
// used.
func (m *Manager) answerStale(
	ctx context.Context, snap *snapshot, options ReadOptions, found *findings, why string,
) (*Answer, error) {
	inHand := snap.token
	snap, err := m.snapshot(ctx, snap.role.Name)
	if err != nil {
		return nil, err
	}
	if !snap.sameToken(inHand) {
		return nil, ErrSuperseded
	}
	suspect, err := m.suspect(ctx, snap)
	if err != nil {
		return nil, err
	}
	if suspect {
		if verdict, _ := m.validate(ctx, snap, snap.sources.hasFallback()); !verdict.Valid {
			return nil, nil
		}
	}
	now := time.Now()
	if !snap.usable(now) || snap.remaining(now) < options.MinTTL {
		return nil, nil
	}
	server, err := m.server(snap.config)
	if err != nil {
		return nil, err
	}
	snap.record.ServedStale(snap.token.ExpiresAt)
	answer := snap.handOut(found.from, now)
	if answer.UntilRotation <= 0 {
		next := max(store.Remaining(server.NextAttempt(now), now), shortestStaleWait)
		// Not later than halfway to its end, so that whoever comes back then can still be helped.
		answer.UntilRotation = min(next, (answer.Remaining / 2).Truncate(time.Second))
	}
	answer.Warnings = append(answer.Warnings, health.ForReader(snap.config.Name, fmt.Sprintf(
		"no new token could be had, so this is the one from before, which lives until %s: %s", snap.shared.ExpiresAt,
		why)))
	return answer, nil
}
