// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import "time"

// ServerTraits are what was learnt of the server behind a config, in no part documented for every
// version of N-central. A nil pointer is what is not known.
type ServerTraits struct {
	URL           string `json:"url"`
	ServerVersion string `json:"server_version,omitempty"`
	// how far the server's clock is ahead
	ClockOffset *time.Duration `json:"clock_offset,omitempty"`
	// as the server tells it: another one is a reboot
	StartTime                       string `json:"start_time,omitempty"`
	CanLogOut                       *bool  `json:"can_log_out,omitempty"`
	CanValidate                     *bool  `json:"can_validate,omitempty"`
	RefreshEndsPredecessor          *bool  `json:"refresh_ends_predecessor,omitempty"`
	AuthenticateEndsEarlierSessions *bool  `json:"authenticate_ends_earlier_sessions,omitempty"`
	// RefreshRejected: a refresh of a fresh session was refused, so that rotations authenticate.
	RefreshRejected bool `json:"refresh_refused,omitempty"`
	// The shortest access and refresh lifetimes that the server is known to answer 400 to when they
	// are asked for; zero where none is. Shorter ones are asked for all the same.
	AccessOverrideCeiling  time.Duration `json:"access_override_refused,omitempty"`
	RefreshOverrideCeiling time.Duration `json:"refresh_override_refused,omitempty"`
	// Epoch begins anew with each event after which the config's tokens must be validated before
	// they are handed out again: it is the time of the event (Unix nanoseconds) at least. It only
	// grows, also where the config is deleted and made anew.
	Epoch int64 `json:"epoch"`
}

// Suspects reports whether the token must be validated before it is handed out: an event since it
// was last known to live may have ended it. Where nothing is stored of the server (nil), there was
// no such event.
func (t *ServerTraits) Suspects(token *Token) bool {
	return token.IsFromTheFuture() || t != nil && token.Epoch < t.Epoch
}

// EpochBefore returns the epoch of a token that is suspect from the outset in the given epoch.
func EpochBefore(epoch int64) int64 { return epoch - 1 }

func (t *ServerTraits) prepare(string) error {
	if t.URL == "" {
		return errIncomplete
	}
	return nil
}
