// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import "time"

// ServerTraits are what was learnt of the server behind a config. None of it is documented for
// every version of N-central. A nil pointer means that it is not known.
type ServerTraits struct {
	URL           string `json:"url"`
	ServerVersion string `json:"server_version,omitempty"`
	// how far the server's clock is ahead of this node's
	ClockOffset *time.Duration `json:"clock_offset,omitempty"`
	// as the server states it; another start time means that the server was rebooted
	StartTime                       string `json:"start_time,omitempty"`
	CanLogOut                       *bool  `json:"can_log_out,omitempty"`
	CanValidate                     *bool  `json:"can_validate,omitempty"`
	RefreshEndsPredecessor          *bool  `json:"refresh_ends_predecessor,omitempty"`
	AuthenticateEndsEarlierSessions *bool  `json:"authenticate_ends_earlier_sessions,omitempty"`
	// RefreshRejected is set if the server refused to refresh a new session. Rotations authenticate
	// then.
	RefreshRejected bool `json:"refresh_refused,omitempty"`
	// The shortest access and refresh lifetimes that the server refused to be asked for, with a
	// 400. Zero if it refused none. Shorter lifetimes are still asked for.
	AccessOverrideCeiling  time.Duration `json:"access_override_refused,omitempty"`
	RefreshOverrideCeiling time.Duration `json:"refresh_override_refused,omitempty"`
	// Epoch is raised by each event that may have ended tokens of the config: tokens with a lower
	// epoch are suspect. It is never lower than the time of that event in Unix nanoseconds. So it
	// grows even if the config was deleted and made anew.
	Epoch int64 `json:"epoch"`
}

// Suspects reports whether the token is suspect: it must be validated before it is handed out. If t
// is nil, nothing has happened yet that could have ended a token.
func (t *ServerTraits) Suspects(token *Token) bool {
	return token.IsFromTheFuture() || t != nil && token.Epoch < t.Epoch
}

// EpochBefore returns the epoch for a new token that is suspect at once in the given epoch.
func EpochBefore(epoch int64) int64 { return epoch - 1 }

func (t *ServerTraits) prepare(string) error {
	if t.URL == "" {
		return errIncomplete
	}
	return nil
}
