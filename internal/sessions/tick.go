// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const (
	// tickLimit ends a tick before the next one is due.
	tickLimit = 50 * time.Second
	// workAtATime is how many roles, configs or pending logouts a tick works on at the same time.
	workAtATime = 8
	// logoutsPerTick is how many pending logouts of each config a tick tries.
	logoutsPerTick = 200
	probeEvery     = time.Hour
)

// Tick does what need not wait for a reader: it ends the sessions of deleted roles, removes what
// lapsed, rotates tokens that were read since they were obtained and are due soon, validates the
// oldest token of each config, tries configs that are out of service, and tries the pending
// logouts. It is called once a minute, on the active node. No config waits for the server of
// another. What there is no time for is left to the next tick.
func (m *Manager) Tick(ctx context.Context) error {
	if !m.begin() {
		return nil
	}
	defer m.running.Done()
	ctx, cancel := context.WithTimeout(ctx, tickLimit)
	defer cancel()
	defer context.AfterFunc(m.background, cancel)()
	roles, err := m.store.Sessions.Names(ctx)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.Go(func() error { return m.retryLogouts(ctx) })
	work.Go(func() error { return m.forgetServers(ctx) })
	work.Go(func() error { return m.tryConfigsOut(ctx) })
	found := m.pruneSessions(ctx, roles)
	work.Go(func() error { m.endDeleted(ctx, found.deleted); return nil })
	for _, tokens := range found.held {
		work.Go(func() error { m.tend(ctx, tokens, found.held); return nil })
	}
	work.Go(func() error { m.rotateEach(ctx, found.displaced); return nil })
	for _, logouts := range found.over {
		work.Go(func() error { m.endPastPromise(ctx, logouts); return nil })
	}
	err = work.Wait()
	m.retireUnused(ctx)
	if ctx.Err() != nil {
		return nil // what was cut short is tried again
	}
	return err
}

// tokensInHand are the tokens of one config, by role.
type tokensInHand map[string]*store.Token

// found is what a tick has to do about the stored sessions.
type found struct {
	deleted []string                // roles that were deleted and still have sessions
	held    map[string]tokensInHand // by config
	// displaced are the roles whose readers must get a token of another config.
	displaced []*snapshot
	over      map[string][]store.PendingLogout // pending logouts of tokens that outlived their promise, by config
}

// pruneSessions removes what lapsed, and returns what there is to do for the rest. It makes no call
// to N-central.
func (m *Manager) pruneSessions(ctx context.Context, roles []string) *found {
	f := &found{held: map[string]tokensInHand{}, over: map[string][]store.PendingLogout{}}
	for _, role := range roles {
		if ctx.Err() != nil {
			break
		}
		err := m.pruneSession(ctx, role, f)
		switch {
		case errors.Is(err, ErrUnknownRole):
			f.deleted = append(f.deleted, role)
		case err != nil:
			m.logger.Warn("a session could not be looked after", "role", role, "error", err)
		}
	}
	return f
}

// pruneSession removes what lapsed of the role's stored session, and finds what there is to do for
// the rest.
func (m *Manager) pruneSession(ctx context.Context, role string, f *found) error {
	snap, err := m.snapshot(ctx, role)
	if err != nil {
		return err
	}
	now := time.Now()
	if snap.session.Lapsed(now, snap.lastReadAt(), snap.rotatesAt) {
		return m.removeLapsed(ctx, snap)
	}
	if m.store.Sessions.IsUnstored(role) {
		m.storeAgain(ctx, snap.state)
	}
	over, err := m.takePastPromise(ctx, role)
	if err != nil {
		m.logger.Warn("sessions past their promise could not be ended", "role", role, "error", err)
	}
	for _, logout := range over {
		f.over[logout.Config] = append(f.over[logout.Config], logout)
	}
	if snap.isDisplaced() {
		f.displaced = append(f.displaced, snap)
	}
	if snap.usable(now) {
		if f.held[snap.config.Name] == nil {
			f.held[snap.config.Name] = tokensInHand{}
		}
		f.held[snap.config.Name][role] = snap.token
	}
	return nil
}

// storeAgain writes down what storage refused before.
func (m *Manager) storeAgain(ctx context.Context, state *roleState) {
	state.mu.Lock()
	defer state.mu.Unlock()
	session, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil || session == nil {
		return
	}
	next := *session // another one, for which the snapshots are made anew
	if err := m.store.Sessions.Put(ctx, state.role, &next); err != nil {
		m.logger.Warn("a session could not be stored again", "role", state.role, "error", err)
	}
}

// removeLapsed removes the role's stored session, unless it was changed since the snapshot was
// made.
func (m *Manager) removeLapsed(ctx context.Context, snap *snapshot) error {
	state := snap.state
	state.mu.Lock()
	defer state.mu.Unlock()
	session, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil || session != snap.session {
		return err
	}
	if err := m.store.Sessions.Delete(ctx, state.role); err != nil {
		return err
	}
	state.latest.Store(nil) // it holds the dead tokens and the answer with one
	return nil
}

// endDeleted ends the sessions of roles that were deleted on another cluster.
func (m *Manager) endDeleted(ctx context.Context, roles []string) {
	var ends errgroup.Group
	ends.SetLimit(workAtATime)
	for _, role := range roles {
		ends.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			warnings, err := m.end(ctx, role)
			if err != nil {
				m.logger.Warn("a session could not be looked after", "role", role, "error", err)
			}
			for _, warning := range warnings {
				m.logger.Warn("a session of a deleted role could not be ended", "role", role, "reason", warning)
			}
			return nil
		})
	}
	_ = ends.Wait()
}

// tend rotates those of one config's tokens that are due, and validates the oldest of them. held
// are the tokens of all configs.
func (m *Manager) tend(ctx context.Context, tokens tokensInHand, held map[string]tokensInHand) {
	var due, withFallback []*snapshot
	for role := range tokens {
		snap, err := m.snapshot(ctx, role)
		if err != nil || !snap.usable(time.Now()) {
			continue
		}
		if snap.sources.hasFallback() {
			withFallback = append(withFallback, snap)
		}
		if snap.dueAhead(time.Now()) && snap.wasRead() {
			due = append(due, snap)
		}
	}
	m.rotateEach(ctx, due)
	// Whether the user works, a suspect token tells as well.
	if snap := m.oldest(ctx, tokens, len(withFallback) > 0); snap != nil {
		wasThere := snap.sameToken(tokens[snap.role.Name])
		failure := m.inspect(ctx, snap, len(withFallback) > 0, wasThere)
		if failure != nil && !failure.UserIsBarred() {
			m.judgeByOthers(ctx, withFallback, held, snap.config, failure)
		}
	}
}

// oldest returns the role whose token was obtained first, of those that live and are not suspect. A
// reboot of N-central since then would have ended it. If all are suspect there is none, unless any
// will do: then it is the oldest of these.
func (m *Manager) oldest(ctx context.Context, tokens tokensInHand, anyWillDo bool) *snapshot {
	var oldest, oldestSuspect *snapshot
	isOlder := func(snap, than *snapshot) bool { return than == nil || snap.token.IssuedAt.Before(than.token.IssuedAt) }
	for role := range tokens {
		snap, err := m.snapshot(ctx, role)
		if err != nil || !snap.usable(time.Now()) {
			continue
		}
		suspect, err := m.suspect(ctx, snap)
		switch {
		case err != nil:
		case suspect && isOlder(snap, oldestSuspect):
			oldestSuspect = snap
		case !suspect && isOlder(snap, oldest):
			oldest = snap
		}
	}
	if oldest == nil && anyWillDo {
		return oldestSuspect
	}
	return oldest
}

// forgetServers removes what this cluster learnt of servers whose config was deleted on another.
func (m *Manager) forgetServers(ctx context.Context) error {
	names, err := m.store.Traits.Names(ctx)
	for _, name := range names {
		err = errors.Join(err, m.forgetServer(ctx, name))
	}
	return err
}

// forgetServer does so for one config between the writes of others, one of which may make the
// config anew.
func (m *Manager) forgetServer(ctx context.Context, name string) error {
	m.store.Definitions.Lock()
	defer m.store.Definitions.Unlock()
	config, err := m.store.Configs.Get(ctx, name)
	if err != nil || config != nil {
		return err
	}
	m.upstream.Evict(name)
	return m.store.Traits.Delete(ctx, name)
}

// rotateEach obtains new tokens for the roles, some at a time, and waits for them.
func (m *Manager) rotateEach(ctx context.Context, roles []*snapshot) {
	var rotations errgroup.Group
	rotations.SetLimit(workAtATime)
	for _, snap := range roles {
		rotations.Go(func() error { m.rotate(ctx, snap); return nil })
	}
	_ = rotations.Wait()
}

// rotate obtains a new token for the role, and waits for it.
func (m *Manager) rotate(ctx context.Context, snap *snapshot) {
	if ctx.Err() != nil {
		return
	}
	flight, err := m.join(ctx, snap, false)
	if err == nil && flight != nil {
		err = m.awaitEnd(ctx, flight, &findings{})
	}
	if err != nil && !errors.Is(err, ErrSuperseded) && ctx.Err() == nil {
		m.logger.Warn("a token could not be rotated ahead of need", "role", snap.role.Name, "config", snap.config.Name,
			"error", err)
	}
}

// inspect validates the token, if it was there before this tick, and makes a data call with it once
// an hour. If a role with a fallback has a token of the config, it validates by the data call
// instead, at every tick and even if the token is new, since that shows whether the user works. If
// the user seems not to work, it returns why. A dead token makes the config's other tokens suspect,
// and is replaced at once if it has readers.
func (m *Manager) inspect(
	ctx context.Context, snap *snapshot, withFallback, wasThere bool,
) (userFailure *health.Failure) {
	server, err := m.server(snap.config)
	if err != nil {
		return nil //nolint:nilerr // the config has changed
	}
	verdict := upstream.Verdict{Valid: true}
	if wasThere || withFallback {
		verdict, err = m.validate(ctx, snap, withFallback)
	}
	switch {
	case verdict.UserFailure != nil:
		return verdict.UserFailure
	case err != nil:
		m.logger.Warn("a token could not be validated", "config", snap.config.Name, "error", err)
	case !verdict.Valid:
		m.replaceDead(ctx, server, snap)
	case m.claimProbe(snap.config):
		failure := m.probe(ctx, server, snap.config, snap.token.AccessToken, func() bool {
			latest, err := m.snapshot(ctx, snap.role.Name)
			return err == nil && latest.sameToken(snap.token)
		})
		if withFallback && failure.UserIsBarred() {
			m.putOut(ctx, snap.config, failure, true)
		}
	}
	return nil
}

// replaceDead makes the config's other tokens suspect, and replaces a token that was found dead, if
// it has readers.
func (m *Manager) replaceDead(ctx context.Context, server *upstream.Server, dead *snapshot) {
	latest, err := m.snapshot(ctx, dead.role.Name)
	if err != nil || latest.session == nil || latest.session.Current != nil {
		return // ended or replaced by this engine in the meantime, which tells nothing of the server
	}
	server.Suspect(ctx)
	if dead.wasRead() {
		m.rotate(ctx, latest)
	}
}

// probe makes the data call with the token. The caller has claimed it. If it gets no answer, it is
// made again with the next token. A 401 says something about the user only if the token is still in
// hand: otherwise it may have been ended.
func (m *Manager) probe(
	ctx context.Context, server *upstream.Server, config *store.Config, accessToken string, isHeld func() bool,
) *health.Failure {
	failure, answered := server.Probe(ctx, accessToken)
	switch {
	case !answered:
		m.probesMu.Lock()
		defer m.probesMu.Unlock()
		delete(m.probes, config.Name)
		return nil
	case failure != nil && failure.Kind == ncentral.KindUnauthorized && !isHeld():
		return nil
	}
	server.NoteProbed(ctx, failure)
	return failure
}

// claimProbe reports whether the data call is due, which is once an hour for each server and
// credential. If so, it notes that it is made.
func (m *Manager) claimProbe(config *store.Config) bool {
	m.probesMu.Lock()
	defer m.probesMu.Unlock()
	last := m.probes[config.Name]
	due := last.fingerprint != config.Fingerprint() || time.Since(last.at) >= probeEvery
	if due {
		m.probes[config.Name] = probe{fingerprint: config.Fingerprint(), at: time.Now()}
	}
	return due
}

// retryLogouts tries the pending logouts. A logout is removed when it is done, when its token has
// expired, or when its token may not be sent anywhere any more.
func (m *Manager) retryLogouts(ctx context.Context) error {
	logouts, unread := m.store.ListPendingLogouts(ctx, logoutsPerTick)
	byConfig := map[string][]store.PendingLogout{}
	for _, logout := range logouts {
		byConfig[logout.Config] = append(byConfig[logout.Config], logout)
	}
	var configs errgroup.Group
	for _, logouts := range byConfig {
		configs.Go(func() error { m.retryLogoutsOf(ctx, logouts); return nil })
	}
	_ = configs.Wait()
	return errors.Join(unread, m.store.DeleteExpiredLogouts(ctx))
}

// retryLogoutsOf tries the logouts owed of one config.
func (m *Manager) retryLogoutsOf(ctx context.Context, logouts []store.PendingLogout) {
	var group errgroup.Group
	group.SetLimit(workAtATime)
	for _, logout := range logouts {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if store.Remaining(logout.GrantedUntil, time.Now()) <= 0 { // since it was listed, or its key does not tell
				m.deletePendingLogouts(ctx, logout)
				return nil
			}
			m.dropPending(logout)
			switch ending, warning := m.logOut(ctx, logout.Role, logout); ending {
			case upstream.LogoutFailed:
				m.logger.Debug("a logout is still owed", "config", logout.Config, "reason", warning)
				return nil
			case upstream.LogoutUnsupported:
				m.logger.Warn("a logout owed is given up", "config", logout.Config, "reason", warning)
			}
			m.deletePendingLogouts(m.storing, logout)
			return nil
		})
	}
	_ = group.Wait()
}

// dropPending drops the token that is about to be logged out if it is the current one of its role.
// This happens if the process was killed between storing the pending logout and removing the
// session.
func (m *Manager) dropPending(logout store.PendingLogout) {
	session, err := m.store.Sessions.Find(m.storing, logout.Role)
	if err != nil || session == nil || session.Current == nil || session.Current.AccessToken != logout.AccessToken {
		return
	}
	state := m.enter(logout.Role)
	defer state.leave()
	m.changeCurrent(state, session.Current, nil)
}
