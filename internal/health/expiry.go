// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// announceAgainAfter is how long a near expiry that was told of is left alone in log and events.
const announceAgainAfter = 24 * time.Hour

// expiry is the end of something that a config's tokens depend on.
type expiry struct {
	what   string
	at     time.Time // zero where it is not known
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

// warning tells of the expiry at that time, if it is within the config's expiry_warning or past;
// else it is empty.
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

// ExpiryWarnings tells of the ends that are near or past at that time: of the API user's password
// and of the User-API token, from the config's expiry_warning ahead.
func ExpiryWarnings(config *store.Config, now time.Time) []string {
	var warnings []string
	for _, e := range expiriesOf(config) {
		if warning := e.warning(config, now); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// ForReader returns the warning as whoever reads a token is told it. A reader can neither see nor
// write a config, so the warning says whom to tell.
func ForReader(config, warning string) string {
	return fmt.Sprintf("%s; tell whoever runs config %q", warning, config)
}

// ExpiryWarning is a warning of an end that is near or past.
type ExpiryWarning struct {
	Warning string
	At      time.Time
}

// ExpiriesToAnnounce returns the warnings that are to be given at that time, and notes that they
// are: each once a day, and again when the end is there.
func (r *Record) ExpiriesToAnnounce(config *store.Config, now time.Time) []ExpiryWarning {
	var due []ExpiryWarning
	for _, e := range expiriesOf(config) {
		if warning := e.warning(config, now); r.mayAnnounce(e.what, warning, now) {
			due = append(due, ExpiryWarning{warning, e.at})
		}
	}
	return due
}

// announcement is the last warning that was given of an expiry.
type announcement struct {
	warning string
	at      time.Time
}

// mayAnnounce notes that the warning is given at that time, unless there is none or the same was
// told within a day.
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
