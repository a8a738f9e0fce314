// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const (
	// logoutsAtATime is how many sessions are logged out at the same time.
	logoutsAtATime = 8
	// endLimit is shorter than the 60 s after which Vault's clients give up. What is left then
	// stays owed.
	endLimit = 50 * time.Second
)

// End forgets the role's sessions, including retired and replaced tokens, and logs them out at
// N-central. If a token is being obtained for the role, it is discarded when it comes. The pending
// logouts are stored before anything is forgotten or sent, so that none is lost. If the caller
// hangs up, End goes on. What there is no time for stays owed. The warnings name what could not be
// ended, and until when it lives. If there is an error, it is storage's, and nothing was ended.
func (m *Manager) End(ctx context.Context, role string) (warnings []string, err error) {
	ctx, done, err := m.outlasting(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return m.end(ctx, role)
}

// end is End, as far as the context leaves time for it.
func (m *Manager) end(ctx context.Context, role string) (warnings []string, err error) {
	state := m.enter(role)
	defer state.leave()
	session, logouts, err := m.forget(ctx, state)
	if err != nil {
		return nil, err
	}
	if session != nil && session.Current != nil {
		m.upstream.EndStale(session.Current.Config, session.Current.ExpiresAt)
		m.upstream.Watch(session.Current.Config).NoteTokensEnded()
	}
	return m.tryLogouts(ctx, logouts), nil
}

// EndRole is End for a role that was deleted. Nothing about it stays in memory.
func (m *Manager) EndRole(ctx context.Context, role string) ([]string, error) {
	warnings, err := m.End(ctx, role)
	if err == nil {
		m.retire(context.WithoutCancel(ctx), m.state(role)) // else the tick does
	}
	return warnings, err
}

// forget removes the role's session from storage and memory, and returns what it was and the
// logouts that are owed for it.
func (m *Manager) forget(ctx context.Context, state *roleState) (*store.Session, []store.PendingLogout, error) {
	state.mu.Lock()
	defer state.mu.Unlock()
	session, err := m.store.Sessions.Find(ctx, state.role)
	if err != nil {
		return nil, nil, err
	}
	logouts, err := m.putPendingLogouts(ctx, state.role, session.Tokens(time.Now()))
	if err != nil {
		return nil, nil, err
	}
	// even if it could not be read
	if err := m.store.Sessions.Delete(ctx, state.role); err != nil && !m.letGoOf(ctx, state.role, logouts) {
		m.deletePendingLogouts(ctx, logouts...)
		return nil, nil, err
	}
	state.ended++
	state.supersede()
	state.granted.Store(nil)
	return session, logouts, nil
}

// putPendingLogouts writes down that the tokens are to be logged out: all of them or none.
func (m *Manager) putPendingLogouts(
	ctx context.Context, role string, tokens []store.Token,
) ([]store.PendingLogout, error) {
	var logouts []store.PendingLogout
	for _, token := range tokens {
		logout, err := m.store.PutPendingLogout(ctx, role, pendingLogoutOf(token))
		logouts = append(logouts, logout)
		if err != nil { // the last may have been written all the same
			m.deletePendingLogouts(ctx, logouts...)
			return nil, err
		}
	}
	return logouts, nil
}

// letGoOf reports whether the role's session no longer holds the tokens to be logged out. It is
// asked when the write that takes them from it failed: it may have been done all the same.
func (m *Manager) letGoOf(ctx context.Context, role string, logouts []store.PendingLogout) bool {
	session, err := m.store.Sessions.Find(ctx, role)
	return err == nil && len(logouts) > 0 && !session.Holds(logouts[0].AccessToken)
}

func pendingLogoutOf(token store.Token) store.PendingLogout {
	return store.PendingLogout{Origin: token.Origin, AccessToken: token.AccessToken, GrantedUntil: token.GrantedUntil}
}

// deletePendingLogouts removes logouts that are done or not to be done any more. One that storage
// does not let go is tried once more by the tick.
func (m *Manager) deletePendingLogouts(ctx context.Context, logouts ...store.PendingLogout) {
	for _, logout := range logouts {
		if err := m.store.DeletePendingLogout(ctx, logout); err != nil {
			m.logger.Warn("a logout owed could not be removed: it is tried once more", "config", logout.Config,
				"error", err)
		}
	}
}

// tryLogouts tries the logouts that are owed, some at a time, and returns a warning for each
// session that lives on.
func (m *Manager) tryLogouts(ctx context.Context, logouts []store.PendingLogout) (warnings []string) {
	told := make([]string, len(logouts))
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(logoutsAtATime)
	for i, logout := range logouts {
		group.Go(func() error {
			told[i] = m.tryLogout(ctx, logout)
			return nil
		})
	}
	_ = group.Wait()
	for _, warning := range told {
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// tryLogout tries a pending logout, and removes it unless it is worth another try. The warning is
// empty, or tells why the session lives on.
func (m *Manager) tryLogout(ctx context.Context, logout store.PendingLogout) (warning string) {
	ending, warning := m.logOut(ctx, logout.Role, logout)
	if ending != upstream.LogoutFailed {
		m.deletePendingLogouts(m.storing, logout)
	}
	return warning
}

// discardGrant ends, in the background, a session that was opened for the role and is not handed
// out.
func (m *Manager) discardGrant(role string, origin store.Origin, grant upstream.Grant) {
	m.discard(role, store.Token{
		Origin: origin, AccessToken: grant.AccessToken,
		GrantedUntil: grant.SentAt.Add(grant.Access),
	})
}

func (m *Manager) discard(role string, token store.Token) {
	if !m.begin() {
		if _, err := m.store.PutPendingLogout(m.storing, role, pendingLogoutOf(token)); err != nil {
			m.logger.Error("a session that is not handed out could not be ended", "role", role, "error", err)
		}
		return
	}
	go func() {
		defer m.running.Done()
		if warning := m.endOne(m.background, role, token); warning != "" {
			m.logger.Warn("a session that is not handed out could not be ended", "role", role, "reason", warning)
		}
	}()
}

// discardUnpromised is discard for a token that nobody gets, unless it is set aside.
func (m *Manager) discardUnpromised(state *roleState, token *store.Token) {
	state.mu.Lock()
	setAside := m.setAside(m.storing, state, token)
	state.mu.Unlock()
	if !setAside {
		m.discard(state.role, *token)
	}
}

// setAside puts a token that nobody gets among the role's earlier ones, and reports whether it did.
// It does so if another token of its chain is promised, since a logout may end both. The tick ends
// it once no other is promised. The role's state is locked.
func (m *Manager) setAside(ctx context.Context, state *roleState, token *store.Token) bool {
	session, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil || !session.Promises(token.Chain, time.Now()) {
		return false
	}
	unpromised := *token
	unpromised.ExpiresAt = token.IssuedAt
	next := *session
	next.Earlier = append(slices.Clip(session.Earlier), unpromised)
	if err := m.storeOrKeep(ctx, state.role, &next); err != nil {
		m.logger.Warn("a session that is not handed out could not be stored", "role", state.role, "error", err)
	}
	return true
}

// endOne writes down that the token is to be logged out, and logs it out. Where storage refuses, it
// is logged out all the same.
func (m *Manager) endOne(ctx context.Context, role string, token store.Token) (warning string) {
	logouts, err := m.putPendingLogouts(m.storing, role, []store.Token{token})
	if err == nil {
		return m.tryLogout(ctx, logouts[0])
	}
	ending, warning := m.logOut(ctx, role, pendingLogoutOf(token))
	if ending == upstream.LogoutFailed {
		warning = fmt.Sprintf("%s; and that could not be written down either: %s", warning, err)
	}
	return warning
}

// logOut ends the session of a pending logout. Its token is sent only while its config exists and
// has the URL that the token came from. The warning is empty, or tells why the session lives on.
func (m *Manager) logOut(
	ctx context.Context, role string, logout store.PendingLogout,
) (ending upstream.LogoutResult, warning string) {
	until := logout.GrantedUntil.UTC().Format(time.RFC3339)
	server, reason, failure := m.serverOf(ctx, logout.Origin)
	if reason != "" {
		return upstream.LogoutUnsupported, fmt.Sprintf("%s: a session of role %q was not logged out and lives until %s",
			reason, role, until)
	}
	ending = upstream.LogoutFailed
	if failure == nil {
		ending, failure = m.logOutAt(ctx, server, logout.AccessToken)
	}
	switch ending {
	case upstream.LogoutDone:
		return ending, ""
	case upstream.LogoutUnsupported:
		return ending, fmt.Sprintf("the server of config %q has no logout: a session of role %q lives until %s",
			logout.Config, role, until)
	}
	return ending, fmt.Sprintf("a session of role %q could not be logged out (%s): the logout is owed, and tried "+
		"once a minute until %s", role, failure, until)
}

func (m *Manager) logOutAt(
	ctx context.Context, server *upstream.Server, accessToken string,
) (upstream.LogoutResult, error) {
	ctx, cancel := context.WithTimeout(ctx, server.FlightLimit())
	defer cancel()
	return server.Logout(ctx, accessToken)
}

// serverOf returns the server that a token may be sent to, or the reason why there is none. The
// error is of a config that cannot be read just now.
func (m *Manager) serverOf(
	ctx context.Context, origin store.Origin,
) (server *upstream.Server, reason string, err error) {
	config, err := m.store.Configs.Get(ctx, origin.Config)
	switch {
	case err != nil:
		return nil, "", err
	case config == nil:
		return nil, fmt.Sprintf("config %q does not exist any more", origin.Config), nil
	case config.URL != origin.URL:
		return nil, fmt.Sprintf("config %q has another url than the session came from", origin.Config), nil
	}
	server, err = m.server(config)
	return server, "", err
}

// leaseGrace is for how long after its token's stated end a lease's session is still logged out:
// the clocks of this node and of N-central may differ, and the refresh token beside it lives
// longer.
const leaseGrace = time.Hour

// EndLease logs out the session of a lease that ended. If that fails, the logout is owed. If it
// cannot be done at all, the log says until when the session lives. The error is that of a pending
// logout that storage refused: Vault then tries the revocation again.
func (m *Manager) EndLease(ctx context.Context, lease Lease) error {
	ctx, done, err := m.outlasting(ctx)
	if err != nil {
		return err
	}
	defer done()
	remaining := store.Remaining(lease.GrantedUntil, time.Now())
	if remaining <= -leaseGrace {
		return nil
	}
	logout := store.PendingLogout{
		Origin: lease.Origin, AccessToken: lease.AccessToken,
		GrantedUntil: lease.GrantedUntil,
	}
	ending, warning := m.logOut(ctx, lease.Role, logout)
	if ending == upstream.LogoutFailed && remaining > 0 {
		if _, err = m.store.PutPendingLogout(m.storing, lease.Role, logout); err != nil {
			err = fmt.Errorf("%w: %s", err, warning)
		}
	}
	if warning != "" && remaining > 0 {
		m.logger.Warn("the session of a lease that ended could not be ended", "role", lease.Role, "reason", warning)
	}
	return err
}

// takePastPromise takes the earlier tokens that outlived their promise from the role's session, and
// returns the pending logouts for them. Tokens of a chain are left alone while one of it is
// promised: N-central may end them all together.
func (m *Manager) takePastPromise(ctx context.Context, role string) ([]store.PendingLogout, error) {
	state := m.enter(role)
	defer state.leave()
	state.mu.Lock()
	defer state.mu.Unlock()
	session, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil || session == nil {
		return nil, err
	}
	kept, over := session.PastPromise(time.Now())
	if len(over) == 0 {
		return nil, nil
	}
	logouts, err := m.putPendingLogouts(ctx, state.role, over)
	if err != nil {
		return nil, err
	}
	if err := m.store.Sessions.Put(ctx, state.role, kept); err != nil && !m.letGoOf(ctx, state.role, logouts) {
		m.deletePendingLogouts(ctx, logouts...)
		return nil, err
	}
	return logouts, nil
}

// endPastPromise logs out what takePastPromise took from the sessions of one config's roles.
func (m *Manager) endPastPromise(ctx context.Context, logouts []store.PendingLogout) {
	for _, warning := range m.tryLogouts(ctx, logouts) {
		m.logger.Warn("a session past its promise could not be ended", "reason", warning)
	}
}
