// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// ExpiryWarnings tells of the ends that are near or past at that time: of the API user's password and of the User-API
// token, from the config's expiry_warning ahead.
func ExpiryWarnings(config *store.Config, now time.Time) []string {
	var warnings []string
	if at := config.PasswordExpiresAt(); ends(at, now, config.ExpiryWarning) {
		warnings = append(warnings, fmt.Sprintf("config %q: the API user's password %s %s, and with it every token of "+
			"this user: set a new password in N-central, generate a new User-API token, and write user_api_token and "+
			"password_changed_at", config.Name, tense(at, now), at.Format(time.RFC3339)))
	}
	if at := config.UserAPITokenExpiresAt(); ends(at, now, config.ExpiryWarning) {
		warnings = append(warnings, fmt.Sprintf("config %q: the User-API token %s %s, by its own claim: generate a new "+
			"one in N-central and write it to user_api_token", config.Name, tense(at, now), at.Format(time.RFC3339)))
	}
	return warnings
}

func ends(at, now time.Time, within time.Duration) bool {
	return !at.IsZero() && at.Sub(now) <= within
}

func tense(at, now time.Time) string {
	if at.After(now) {
		return "expires at"
	}
	return "expired at"
}
