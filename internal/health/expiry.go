// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// announceAgainAfter is how long a warning of an expiry is not repeated in the log and as an event.
const announceAgainAfter = 24 * time.Hour

// expiry is when something expires that a config's tokens depend on.
type expiry struct {
	what   string
	at     time.Time // zero if it is not known
	remedy string
}

func expiriesOf(config *store.Config) [2]expiry {
	return [...]expiry{
		{
			"the API user's password", config.PasswordExpiresAt(),
			"and with it every token of this user: set a new password in " +
				"N-central, generate a new User-API token, and write user_api_token and password_changed_at",
		},
		{
			"the User-API token", config.UserAPITokenExpiresAt(),
			"by its own claim: generate a new one in N-central and write it to user_api_token",
		},
	}
}

// warning returns the warning of the expiry if it is past, or nearer than the config's
// expiry_warning. Else it is empty.
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

// ExpiryWarnings returns the warnings of the expiries that are past, or nearer than the config's
// expiry_warning: that of the API user's password and that of the User-API token.
func ExpiryWarnings(config *store.Config, now time.Time) []string {
	var warnings []string
	for _, e := range expiriesOf(config) {
		if warning := e.warning(config, now); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// ForReader returns the warning for whoever reads a token. A reader can neither see nor write a
// config, so it also says whom to tell.
func ForReader(config, warning string) string {
	return fmt.Sprintf("%s; tell whoever runs config %q", warning, config)
}

// ExpiryWarning is the warning of an expiry that is near or past.
type ExpiryWarning struct {
	Warning string
	At      time.Time
}

// ExpiriesToAnnounce returns the warnings that are to go to the log and to events at that time, and
// notes that they did. Each is due once a day, and again when the expiry is past.
func (r *Record) ExpiriesToAnnounce(config *store.Config, now time.Time) []ExpiryWarning {
	var due []ExpiryWarning
	for _, e := range expiriesOf(config) {
		if warning := e.warning(config, now); r.claimAnnouncement(e.what, warning, now) {
			due = append(due, ExpiryWarning{warning, e.at})
		}
	}
	return due
}

// announcement is the last warning that was given of an expiry, and when.
type announcement struct {
	warning string
	at      time.Time
}

// claimAnnouncement reports whether the warning is due: there is one, and the same was not given
// within a day. If so, it notes that it is given.
func (r *Record) claimAnnouncement(what, warning string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.announcedExpiries[what]
	if warning == "" || warning == last.warning && now.Sub(last.at) < announceAgainAfter {
		return false
	}
	r.announcedExpiries[what] = announcement{warning: warning, at: now}
	return true
}
