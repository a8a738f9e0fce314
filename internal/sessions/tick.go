// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const (
	// tickLimit ends a tick before the next one is due.
	tickLimit = 50 * time.Second
	// workAtATime bounds the roles, configs and debts that a tick works on at a time.
	workAtATime = 8
	// debtsPerTick bounds the logouts owed that one tick tries of each config.
	debtsPerTick = 200
	probeEvery   = time.Hour
)

// Tick does what is due ahead of need: it ends the sessions of roles that are no more, removes what lapsed, rotates the
// tokens that were read since they were obtained and are due soon, asks after one live token of each config, and tries the
// logouts owed. It is for the active node, once a minute. What its time does not suffice for is left to the next tick.
func (m *Manager) Tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tickLimit)
	defer cancel()
	roles, err := m.store.Sessions.Names(ctx)
	if err != nil {
		return err
	}
	debts := make(chan error)
	go func() { debts <- errors.Join(m.payDebts(ctx), m.forgetServers(ctx)) }()

	rotated := m.rotateDue(ctx, roles)
	m.inspectEach(ctx, roles, rotated)
	if err := <-debts; ctx.Err() == nil {
		return err
	}
	return nil
}

// rotateDue tidies the roles' sessions, rotates those that are due, and answers the configs of which it obtained a token.
func (m *Manager) rotateDue(ctx context.Context, roles []string) (rotated map[string]bool) {
	var mu sync.Mutex
	rotated = map[string]bool{}
	var rotations errgroup.Group
	rotations.SetLimit(workAtATime)
	for _, role := range roles {
		slot, v, err := m.tidy(ctx, role)
		if err != nil {
			m.logger.Warn("a session could not be looked after", "role", role, "error", err)
		}
		if v == nil || !v.dueAhead(time.Now()) || slot.lastReadAt(v.session).Before(v.token.IssuedAt) {
			continue
		}
		rotations.Go(func() error {
			if m.rotate(ctx, slot, v) {
				mu.Lock()
				defer mu.Unlock()
				rotated[v.config.Name] = true
			}
			return nil
		})
	}
	_ = rotations.Wait()
	return rotated
}

// inspectEach asks after one live token of each config. One of which a token was obtained just now is not validated.
func (m *Manager) inspectEach(ctx context.Context, roles []string, rotated map[string]bool) {
	live := map[string]*liveToken{}
	for _, role := range roles {
		slot, v, err := m.look(ctx, role)
		if err != nil || !v.alive(time.Now()) {
			continue
		}
		if known := live[v.config.Name]; known == nil || v.token.ExpiresAt.After(known.view.token.ExpiresAt) {
			live[v.config.Name] = &liveToken{slot: slot, view: v}
		}
	}
	var inspections errgroup.Group
	inspections.SetLimit(workAtATime)
	for _, token := range live {
		inspections.Go(func() error { m.inspect(ctx, token, rotated[token.view.config.Name]); return nil })
	}
	_ = inspections.Wait()
}

// forgetServers removes what this cluster learnt of servers whose config was deleted on another.
func (m *Manager) forgetServers(ctx context.Context) error {
	names, err := m.store.Learnt.Names(ctx)
	for _, name := range names {
		err = errors.Join(err, m.forgetServer(ctx, name))
	}
	return err
}

// forgetServer does so for one config between the writes of others, one of which may make the config anew.
func (m *Manager) forgetServer(ctx context.Context, name string) error {
	m.store.Definitions.Lock()
	defer m.store.Definitions.Unlock()
	config, err := m.store.Configs.Get(ctx, name)
	if err != nil || config != nil {
		return err
	}
	m.upstream.Forget(name)
	return m.store.Learnt.Delete(ctx, name)
}

// liveToken is the token by which a tick asks after its config.
type liveToken struct {
	slot *slot
	view *view
}

// tidy removes what lapsed of the role's stored session and answers the view of a token that lives, or none.
func (m *Manager) tidy(ctx context.Context, role string) (*slot, *view, error) {
	slot, v, err := m.look(ctx, role)
	if errors.Is(err, ErrUnknownRole) {
		warnings, err := m.EndRole(ctx, role)
		for _, warning := range warnings {
			m.logger.Warn("a session of a deleted role could not be ended", "role", role, "reason", warning)
		}
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	if len(v.session.Tokens(now)) == 0 {
		return nil, nil, m.removeLapsed(ctx, slot)
	}
	if !v.alive(now) {
		return nil, nil, nil
	}
	return slot, v, nil
}

// removeLapsed removes the role's stored session if it holds no token that lives.
func (m *Manager) removeLapsed(ctx context.Context, slot *slot) error {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	session, err := m.store.Sessions.Get(ctx, slot.role)
	if err != nil || session == nil || len(session.Tokens(time.Now())) > 0 {
		return err
	}
	return m.store.Sessions.Delete(ctx, slot.role)
}

// rotate obtains a new token for the role, waits for it, and says whether it came.
func (m *Manager) rotate(ctx context.Context, slot *slot, v *view) bool {
	if ctx.Err() != nil {
		return false
	}
	flight, err := m.join(ctx, slot, v)
	if flight == nil {
		if err != nil {
			m.logger.Warn("a token could not be rotated ahead of need", "role", slot.role, "config", v.config.Name, "error", err)
		}
		return false
	}
	select {
	case <-flight.done:
		if err := flight.failure(); err != nil {
			m.logger.Warn("a token could not be rotated ahead of need", "role", slot.role, "config", v.config.Name, "error", err)
			return false
		}
		return true
	case <-flight.overtaken:
	case <-ctx.Done():
	}
	return false
}

// inspect asks N-central whether the token lives, and once an hour whether a data call succeeds with it. A dead token that
// has readers is replaced at once; that it died makes the config's other tokens suspect.
func (m *Manager) inspect(ctx context.Context, token *liveToken, isNew bool) {
	slot, v := token.slot, token.view
	server, err := m.server(v.config)
	if err != nil {
		m.logger.Warn("a token could not be validated", "config", v.config.Name, "error", err)
		return
	}
	lives := isNew
	if !isNew {
		lives, err = m.validate(ctx, slot, v)
	}
	switch {
	case err != nil:
		m.logger.Warn("a token could not be validated", "config", v.config.Name, "error", err)
	case lives:
		m.probe(ctx, server, v.config, v.token.AccessToken)
	default:
		_, now, err := m.look(ctx, slot.role)
		if err != nil || now.session == nil || now.session.Current != nil {
			return // ended or replaced by this engine in the meantime, which tells nothing of the server
		}
		server.Suspect(ctx)
		if !slot.lastReadAt(v.session).Before(v.token.IssuedAt) {
			m.rotate(ctx, slot, now)
		}
	}
}

// probe makes the data call with the token, once an hour for each server and credential. A call that was not answered is made
// again with the next token.
func (m *Manager) probe(ctx context.Context, server *upstream.Server, config *store.Config, accessToken string) {
	if m.claimProbe(config) && !server.Probe(ctx, accessToken) {
		m.probesMu.Lock()
		defer m.probesMu.Unlock()
		delete(m.probes, config.Name)
	}
}

// claimProbe says whether the data call is due, and notes that it is made.
func (m *Manager) claimProbe(config *store.Config) bool {
	m.probesMu.Lock()
	defer m.probesMu.Unlock()
	now := time.Now()
	if last := m.probes[config.Name]; last.fingerprint == config.Fingerprint() && now.Sub(last.at) < probeEvery {
		return false
	}
	m.probes[config.Name] = probe{fingerprint: config.Fingerprint(), at: now}
	return true
}

// payDebts tries the logouts owed. A debt ends when it is paid, when its token expired, and when its token may be sent
// nowhere any more.
func (m *Manager) payDebts(ctx context.Context) error {
	debts, err := m.store.ListOwed(ctx, debtsPerTick)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(workAtATime)
	for _, debt := range debts {
		group.Go(func() error { return m.pay(ctx, debt) })
	}
	return group.Wait()
}

func (m *Manager) pay(ctx context.Context, debt store.Owed) error {
	if store.Remaining(debt.DiesAt, time.Now()) <= 0 {
		return m.store.DeleteOwed(ctx, debt)
	}
	server, why, err := m.serverOf(ctx, debt.Origin)
	if err != nil {
		return err
	}
	if why != "" {
		m.logger.Warn("a logout owed is given up", "config", debt.Config, "reason", why, "lives_until", debt.DiesAt.UTC().Format(time.RFC3339))
		return m.store.DeleteOwed(ctx, debt)
	}
	switch ending, err := server.Logout(ctx, debt.AccessToken); ending {
	case upstream.NotEndedYet:
		m.logger.Debug("a logout is still owed", "config", debt.Config, "error", err)
		return nil
	case upstream.CannotEnd:
		m.logger.Warn("a logout owed is given up: this server has no logout", "config", debt.Config, "lives_until", debt.DiesAt.UTC().Format(time.RFC3339))
	}
	return m.store.DeleteOwed(ctx, debt)
}
