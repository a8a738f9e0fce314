// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Status returns how the config fares at that time. It makes no call to N-central. The error is
// storage's.
func (r *Registry) Status(ctx context.Context, config *store.Config, now time.Time) (health.Status, error) {
	owed, err := r.store.CountOwedOfConfig(ctx, config.Name)
	if err != nil {
		return health.Status{}, err
	}
	traits, err := r.store.Traits.Get(ctx, config.Name)
	if err != nil {
		return health.Status{}, err
	}
	out, err := r.store.OutOfService.Get(ctx, config.Name)
	if err != nil {
		return health.Status{}, err
	}
	pauses := r.pausesOf(config, now)
	if out.IsOf(config) {
		pauses.OutOfService = out
	}
	if traits == nil || traits.URL != config.URL {
		traits = &store.ServerTraits{}
	}
	return r.Record(config.Name).Status(config, pauses, *traits, owed, now), nil
}

// pausesOf returns why the config's server is left alone, if it is.
func (r *Registry) pausesOf(config *store.Config, now time.Time) health.Pauses {
	if r.isOutdated(config) {
		_, _ = r.Server(config) // another node wrote it: begin anew, so that the version before does not count
	}
	server := r.known(config.Name)
	if server == nil {
		return health.Pauses{}
	}
	return health.Pauses{
		Outage: server.lastOutage(now), Rejection: server.credential.refusal(),
		Next: server.NextAttempt(now),
	}
}

// isOutdated reports whether the registry has the server of another version of the config.
func (r *Registry) isOutdated(config *store.Config) bool {
	server := r.known(config.Name)
	return server != nil && !server.config.IsVersion(config)
}
