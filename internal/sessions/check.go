// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"

	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// ofCheck stands in the place of a role for the sessions that a check opened: no role can have this
// name.
const ofCheck = ":check"

// Check makes every step of check, as upstream.Server.Check has it. What it could not log out is
// ended in the background. The error is upstream.ErrOutdated where the config was changed
// meanwhile, or that of a config that no client can be made of.
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

// Verify checks a config that is not stored yet, as upstream.Registry.Verify has it, and has it
// stored by put where every step passed. What it could not log out is ended in the background, from
// then on by the stored config. The error is Verify's, and then there is no report; or put's.
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
