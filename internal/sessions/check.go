// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// ofCheck is used in place of a role name for the sessions that a check opened. No role can have
// this name.
const ofCheck = ":check"

// Check is upstream.Server.Check. What that could not log out is logged out in the background. If
// the check passes, the config is in service again. The error is upstream.ErrOutdated if the config
// was changed meanwhile, or that of a config for which no client can be made.
func (m *Manager) Check(ctx context.Context, config *store.Config) (*upstream.Report, error) {
	server, err := m.upstream.Server(config)
	if err != nil {
		return nil, err
	}
	report := server.Check(ctx)
	m.endOpen(config, report)
	if report.Failed == nil {
		m.bringBack(ctx, config)
	}
	return report, nil
}

// Verify is upstream.Registry.Verify, and calls put to store the config if every step passed. What
// it could not log out is logged out in the background, through the stored config. An error is that
// of Verify, and then there is no report, or that of put.
func (m *Manager) Verify(
	ctx context.Context, candidate, stored *store.Config, put func() error,
) (*upstream.Report, error) {
	report, err := m.upstream.Verify(ctx, candidate, stored)
	if err != nil {
		return nil, err
	}
	if report.Failed == nil {
		err = put()
	}
	m.endOpen(candidate, report)
	return report, err
}

func (m *Manager) endOpen(config *store.Config, report *upstream.Report) {
	for _, grant := range report.OpenSessions {
		m.discardGrant(ofCheck, store.Origin{Config: config.Name, URL: config.URL}, grant)
	}
}
