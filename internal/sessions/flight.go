// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// flight is one obtaining of a token for a role, whoever waits for it.
type flight struct {
	role    *store.Role
	sources sources
	ended   uint64        // roleState.ended when it began: another count supersedes it
	config  *store.Config // the one asked now; only the flight changes it, with the role's state locked

	awaited    bool            // some reader waits for it; the role's state is locked for this
	failedOnce chan struct{}   // closed when its first attempt failed
	wanted     context.Context // ends when it is superseded
	supersede  context.CancelFunc
	done       chan struct{} // closed when it finished
	result     error         // why it brought no token; set before done is closed

	mu           sync.Mutex
	firstFailure string // why the first attempt failed; empty if it did not
}

func newFlight(snap *snapshot, ended uint64) *flight {
	wanted, supersede := context.WithCancel(context.Background())
	return &flight{
		role: snap.role, sources: snap.sources, config: snap.sources.preferred(), ended: ended,
		wanted: wanted, supersede: supersede,
		failedOnce: make(chan struct{}), done: make(chan struct{}),
	}
}

// isFor reports whether the flight can serve readers of the snapshot's role: the role is the same,
// and still names the config that the flight asks now. The role's state is locked.
func (f *flight) isFor(snap *snapshot) bool {
	one := snap.sources.named(f.config.Name)
	return one != nil && one.config.Fingerprint() == f.config.Fingerprint() &&
		(one.out == nil || one.config == snap.sources.preferred()) &&
		f.role.Fingerprint() == snap.role.Fingerprint()
}

// attemptFailed notes that the flight will take longer, so that readers who can do without it stop
// waiting.
func (f *flight) attemptFailed(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.firstFailure == "" {
		f.firstFailure = why
		close(f.failedOnce)
	}
}

// whyNot returns why the flight has not brought a token.
func (f *flight) whyNot() string {
	select {
	case <-f.done:
		if f.result != nil {
			return f.result.Error()
		}
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.firstFailure
}

// finish ends the waiting of all readers. A nil result means that there is a new token.
func (f *flight) finish(result error) {
	f.result = result
	close(f.done)
}

// join returns the flight for the snapshot, and starts one if there is none. A flight for another
// version of the role or config is superseded: its readers start over, and its result is discarded
// when it finishes. join returns nil if the snapshot is out of date, for example because a flight
// has finished in between. The caller then looks again.
func (m *Manager) join(ctx context.Context, snap *snapshot, forReader bool) (*flight, error) {
	state := snap.state
	state.mu.Lock()
	defer state.mu.Unlock()
	flight := state.flight
	if flight == nil || !flight.isFor(snap) {
		if outdated, err := m.outdated(ctx, snap); outdated || err != nil {
			return nil, err
		}
		state.supersede()
		flight = m.start(snap)
	}
	flight.awaited = flight.awaited || forReader
	return flight, nil
}

// outdated reports whether the role, its config or its session changed since the snapshot was made.
// The role's state is locked.
func (m *Manager) outdated(ctx context.Context, snap *snapshot) (bool, error) {
	state := snap.state
	if state.retired {
		return true, nil
	}
	latest, err := m.snapshot(ctx, state.role)
	return latest != snap, err
}

// startAhead starts the rotation ahead of need, unless a flight is under way or the server is being
// left alone.
func (m *Manager) startAhead(ctx context.Context, snap *snapshot, now time.Time) {
	state := snap.state
	server, err := m.server(snap.sources.preferred())
	if err != nil || !server.NextAttempt(now).IsZero() {
		return
	}
	// Whoever holds the lock is changing the session, and may be waiting for storage.
	if !state.mu.TryLock() {
		return
	}
	defer state.mu.Unlock()
	if state.flight != nil {
		return
	}
	if outdated, err := m.outdated(ctx, snap); !outdated && err == nil {
		m.start(snap)
	}
}

// start begins a flight. If the manager is closed, it returns one that has failed. The role's state
// is locked.
func (m *Manager) start(snap *snapshot) *flight {
	state := snap.state
	f := newFlight(snap, state.ended)
	if !m.begin() {
		f.finish(ErrEnded)
		return f
	}
	state.flight = f
	state.underWay++
	go func() {
		defer m.running.Done()
		defer state.leave()
		m.runFlight(state, f)
	}()
	return f
}

// supersede makes the readers of the role's flight start over. The role's state is locked.
func (s *roleState) supersede() {
	if s.flight != nil {
		s.flight.supersede()
		s.flight = nil
	}
}

// runFlight obtains a token, and keeps it if the role's readers still want it. Its context is its
// own, so that a reader who hangs up does not make it fail for the others.
func (m *Manager) runFlight(state *roleState, f *flight) {
	ctx, cancel := context.WithTimeout(m.background, f.config.FlightLimit())
	defer cancel()
	ctx = upstream.WhileWanted(ctx, f.wanted)
	traced := ncentral.WithTrace(ctx,
		&ncentral.Trace{Retrying: func(_ ncentral.Call, err error, _ time.Duration) {
			f.attemptFailed(fmt.Sprintf("config %q: %s; it is tried again", f.config.Name, err))
		}})
	token, result := m.obtain(traced, state, f)

	state.mu.Lock()
	if state.flight == f {
		state.flight = nil
	}
	discard := token
	switch wanted, err := m.stillWanted(m.storing, state, f); {
	case err != nil:
		result = err
	case !wanted, result == nil && m.isOfNoUse(m.storing, f.role, f.config):
		result = ErrSuperseded
	case result == nil:
		m.keep(m.storing, state, f, token)
		discard = nil
	}
	if discard != nil && m.setAside(m.storing, state, discard) {
		discard = nil
	}
	state.mu.Unlock()
	f.finish(result)
	if discard != nil {
		m.discard(state.role, *discard)
	}
}

// stillWanted reports whether the flight's role and config are what they were, and the role's
// sessions were not ended meanwhile. The role's state is locked.
func (m *Manager) stillWanted(ctx context.Context, state *roleState, f *flight) (bool, error) {
	if state.ended != f.ended {
		return false, nil
	}
	return m.unchanged(ctx, state.role, f.config, f.role)
}

// isOfNoUse reports whether the config's tokens are of no use to the role, because its user was
// found not to work. A role without a fallback hands them out all the same, with a warning.
func (m *Manager) isOfNoUse(ctx context.Context, role *store.Role, config *store.Config) bool {
	if len(role.FallbackConfigs) == 0 {
		return false
	}
	out := m.outOfService(ctx, config)
	return out != nil && out.UserFails
}

// unchanged reports whether a token that was obtained for the config and role is still of use to
// the role's readers.
func (m *Manager) unchanged(ctx context.Context, name string, config *store.Config, role *store.Role) (bool, error) {
	roleNow, found, err := m.definition(ctx, name)
	if errors.Is(err, ErrUnknownRole) || errors.Is(err, ErrUnknownConfig) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	one := found.named(config.Name)
	return one != nil && one.config.Fingerprint() == config.Fingerprint() &&
		roleNow.Fingerprint() == role.Fingerprint(), nil
}

// keep makes the token the role's current one. The role's state is locked.
func (m *Manager) keep(ctx context.Context, state *roleState, f *flight, token *store.Token) {
	now := time.Now()
	before, err := m.store.Sessions.Get(ctx, state.role)
	if err != nil {
		m.logger.Warn("the session before the new one cannot be read: its tokens are left to lapse", "role", state.role,
			"error", err)
	}
	earlier, ended := before.EarlierAfter(token, now)
	for _, one := range ended {
		m.discard(state.role, one)
	}
	next := &store.Session{
		ConfigFingerprint: f.config.Fingerprint(),
		RoleFingerprint:   f.role.Fingerprint(),
		Current:           token,
		Earlier:           earlier,
		LastReadAt:        state.lastReadAt(before),
	}
	if f.awaited {
		next.LastReadAt = now
	}
	state.granted.Store(&lastGrant{
		configFingerprint: next.ConfigFingerprint, roleFingerprint: next.RoleFingerprint, lifetime: token.Lifetime(),
	})
	from := f.role.Config
	if before != nil && before.Current != nil {
		from = before.Current.Config
	}
	m.noteServing(ctx, state, f.role, f.sources, from, f.config.Name)
	if err := m.storeOrKeep(ctx, state.role, next); err != nil {
		m.logger.Error("a new token could not be stored: it is handed out, and forgotten when the plugin stops",
			"role", state.role, "error", err)
	}
}
