// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
)

// sayAgainAfter is how long a near expiry that was told of is left alone in log and events.
const announceAgainAfter = 24 * time.Hour

// tellLimit is how long a tick tells of expiries.
const announceLimit = 5 * time.Second

// expiry is the end of something that a config's tokens depend on.
type expiry struct {
	what   string
	at     time.Time // zero where it is not known
	remedy string
}

func expiriesOf(config *store.Config) [2]expiry {
	return [...]expiry{
		{"the API user's password", config.PasswordExpiresAt(), "and with it every token of this user: set a new password in " +
			"N-central, generate a new User-API token, and write user_api_token and password_changed_at"},
		{"the User-API token", config.UserAPITokenExpiresAt(), "by its own claim: generate a new one in N-central and write it to user_api_token"},
	}
}

// warning tells of the expiry at that time, if it is within the config's expiry_warning or past; else it is empty.
func (e expiry) warning(config *store.Config, now time.Time) string {
	if e.at.IsZero() || e.at.Sub(now) > config.ExpiryWarning {
		return ""
	}
	tense := "expired at"
	if e.at.After(now) {
		tense = "expires at"
	}
	return fmt.Sprintf("config %q: %s %s %s, %s", config.Name, e.what, tense, e.at.Format(time.RFC3339), e.remedy)
}

// ExpiryWarnings tells of the ends that are near or past at that time: of the API user's password and of the User-API
// token, from the config's expiry_warning ahead.
func ExpiryWarnings(config *store.Config, now time.Time) []string {
	var warnings []string
	for _, e := range expiriesOf(config) {
		if warning := e.warning(config, now); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// TellOfExpiries tells log and events of the ends that are near or past, of all configs: once a day each, and again when
// the end is there. It is for the tick.
func (r *Registry) AnnounceExpiries(ctx context.Context) error {
	configs, err := r.store.Configs.All(ctx)
	limited, cancel := context.WithTimeout(ctx, announceLimit)
	defer cancel()
	for _, config := range configs {
		if limited.Err() != nil {
			break // the event system is slow: the rest is told of at the next tick
		}
		r.announceExpiries(ctx, config, time.Now())
	}
	return err
}

func (r *Registry) announceExpiries(ctx context.Context, config *store.Config, now time.Time) {
	for _, e := range expiriesOf(config) {
		warning := e.warning(config, now)
		if !r.Record(config.Name).mayAnnounce(e.what, warning, now) {
			continue
		}
		r.logger.Warn(warning)
		r.events.Send(ctx, events.CredentialExpiring, events.Found(config.Name,
			events.Reason, warning, events.ExpiresAt, e.at.Format(time.RFC3339)))
	}
}

// told is the last warning that was told of an expiry.
type announcement struct {
	warning string
	at      time.Time
}

// mayTell notes that the warning is told at that time, unless there is none or the same was told within a day.
func (r *Record) mayAnnounce(what, warning string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.announcedExpiries[what]
	if warning == "" || warning == last.warning && now.Sub(last.at) < announceAgainAfter {
		return false
	}
	r.announcedExpiries[what] = announcement{warning: warning, at: now}
	return true
}
