// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"time"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
)

// announceLimit is how long a tick may take to announce expiries.
const announceLimit = 5 * time.Second

// AnnounceExpiries writes warnings of near and past expiries to the log and sends them as events:
// each once a day, and again when the expiry is past. The tick calls it.
func (r *Registry) AnnounceExpiries(ctx context.Context) error {
	configs, err := r.store.Configs.All(ctx)
	limited, cancel := context.WithTimeout(ctx, announceLimit)
	defer cancel()
	for _, config := range configs {
		if limited.Err() != nil {
			break // the event system is slow: the next tick announces the rest
		}
		r.announceExpiries(ctx, config, time.Now())
	}
	return err
}

func (r *Registry) announceExpiries(ctx context.Context, config *store.Config, now time.Time) {
	for _, expiry := range r.Record(config.Name).ExpiriesToAnnounce(config, now) {
		r.logger.Warn(expiry.Warning)
		r.events.Send(ctx, events.CredentialExpiring, events.CredentialMetadata(config.Name,
			events.Reason, expiry.Warning, events.ExpiresAt, expiry.At.Format(time.RFC3339)))
	}
}
