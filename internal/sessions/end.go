// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// logoutsAtATime bounds how many sessions are being ended at a time.
const logoutsAtATime = 8

// OfCheck stands in the place of a role for the sessions that a check opened: no role can have this name.
const OfCheck = ":check"

// End forgets the role's sessions, retired and replaced ones too, and logs them out at N-central. What is being obtained
// for the role is discarded when it comes. The warnings name what could not be ended and until when it lives; the error is
// storage's, and then nothing was ended.
func (m *Manager) End(ctx context.Context, role string) (warnings []string, err error) {
	slot := m.slot(role)
	session, err := m.forget(ctx, slot)
	if err != nil {
		return nil, err
	}
	if session != nil && session.Current != nil {
		m.upstream.ServesStaleNoMore(session.Current.Config, session.Current.ExpiresAt)
	}
	tokens := session.Tokens(time.Now())
	told := make([]string, len(tokens))
	var group errgroup.Group
	group.SetLimit(logoutsAtATime)
	for i, token := range tokens {
		group.Go(func() (err error) {
			told[i], err = m.logOut(context.WithoutCancel(ctx), role, token)
			if err != nil {
				told[i] = err.Error()
			}
			return nil
		})
	}
	_ = group.Wait()
	for _, warning := range told {
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings, nil
}

// EndRole is End for a role that was deleted: nothing of it stays in memory.
func (m *Manager) EndRole(ctx context.Context, role string) ([]string, error) {
	warnings, err := m.End(ctx, role)
	if err == nil {
		m.slots.Delete(role)
	}
	return warnings, err
}

// forget removes the role's session from storage and memory, and answers what it was.
func (m *Manager) forget(ctx context.Context, slot *slot) (*store.Session, error) {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	session, err := m.store.Sessions.Get(ctx, slot.role)
	if err != nil {
		return nil, err
	}
	if session != nil {
		if err := m.store.Sessions.Delete(ctx, slot.role); err != nil {
			return nil, err
		}
	}
	slot.ended++
	slot.overtake()
	slot.granted.Store(nil)
	return session, nil
}

// Discard ends, in the background, a session that was opened for the role and is not handed out.
func (m *Manager) Discard(role string, origin store.Origin, grant upstream.Grant) {
	m.discard(role, store.Token{Origin: origin, AccessToken: grant.AccessToken, DiesAt: grant.SentAt.Add(grant.Access)})
}

func (m *Manager) discard(role string, token store.Token) {
	m.running.Add(1)
	go func() {
		defer m.running.Done()
		if warning, err := m.logOut(m.background, role, token); warning != "" || err != nil {
			m.logger.Warn("a session that is not handed out could not be ended", "role", role, "reason", warning, "error", err)
		}
	}()
}

// logOut ends the token's session. The token is sent only while its config exists and has the URL that the token came
// from. A logout that failed is written down as owed. The warning is empty, or tells why the session lives on; the error
// is of a debt that storage refused.
func (m *Manager) logOut(ctx context.Context, role string, token store.Token) (warning string, err error) {
	until := token.DiesAt.UTC().Format(time.RFC3339)
	server, reason, failure := m.serverOf(ctx, token.Origin)
	if reason != "" {
		return fmt.Sprintf("%s: a session of role %q was not logged out and lives until %s", reason, role, until), nil
	}
	if failure == nil {
		var ending upstream.Ending
		switch ending, failure = m.logOutAt(ctx, server, token); ending {
		case upstream.Ended:
			return "", nil
		case upstream.CannotEnd:
			return fmt.Sprintf("the server of config %q has no logout: a session of role %q lives until %s", token.Config, role, until), nil
		}
	}
	debt := store.Owed{Origin: token.Origin, AccessToken: token.AccessToken, DiesAt: token.DiesAt}
	if err := m.store.PutOwed(m.storing, role, debt); err != nil {
		return "", fmt.Errorf("a session of role %q, which lives until %s, could not be logged out (%w), nor could that be written down: %w",
			role, until, failure, err)
	}
	return fmt.Sprintf("a session of role %q could not be logged out (%s): the logout is owed, and tried once a minute until %s", role, failure, until), nil
}

func (m *Manager) logOutAt(ctx context.Context, server *upstream.Server, token store.Token) (upstream.Ending, error) {
	ctx, cancel := context.WithTimeout(ctx, server.FlightLimit())
	defer cancel()
	return server.Logout(ctx, token.AccessToken)
}

// serverOf answers the server that a token may be sent to, or the reason why there is none. The error is of a config that
// cannot be read just now.
func (m *Manager) serverOf(ctx context.Context, origin store.Origin) (server *upstream.Server, reason string, err error) {
	config, err := m.store.Configs.Get(ctx, origin.Config)
	switch {
	case err != nil:
		return nil, "", err
	case config == nil:
		return nil, fmt.Sprintf("config %q is no more", origin.Config), nil
	case config.URL != origin.URL:
		return nil, fmt.Sprintf("config %q has another url than the session came from", origin.Config), nil
	}
	server, err = m.server(config)
	return server, "", err
}
