// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import "time"

// OutOfService says that a config gives no tokens that are of use. Roles with fallback_configs then
// take their tokens from another config. Each cluster finds this out for itself.
type OutOfService struct {
	// ConfigWrittenAt is the WrittenAt of the version of the config that is out of service. A write
	// makes another version, which is in service.
	ConfigWrittenAt time.Time `json:"config_written_at"`
	Since           time.Time `json:"since"`
	// Kind is the kind of the failure for which the config is out (an ncentral.Kind). Reason says
	// the same in words, and what to do about it. Neither holds a token.
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	// UserFails is set if the user does not work, so that the access tokens in hand are of no use
	// either. Otherwise N-central refuses the User-API token, and the access tokens in hand may
	// still work.
	UserFails bool `json:"user_fails"`
}

func (o *OutOfService) prepare(string) error {
	if o.Reason == "" || o.Since.IsZero() {
		return errIncomplete
	}
	return nil
}

// IsOf reports whether o is about that version of the config. It returns false if o is nil.
func (o *OutOfService) IsOf(config *Config) bool {
	return o != nil && o.ConfigWrittenAt.Equal(config.WrittenAt)
}
