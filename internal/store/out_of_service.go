// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import "time"

// OutOfService says that a config's N-central user gives no tokens of use: roles that name other
// configs in fallback_configs take theirs from those. It is of one cluster, which has found it out.
type OutOfService struct {
	// ConfigWrittenAt is the version of the config that is out (Config.WrittenAt): a write puts the
	// config into service again.
	ConfigWrittenAt time.Time `json:"config_written_at"`
	Since           time.Time `json:"since"`
	// Kind is the kind of the failure that put the config out (ncentral.Kind), Reason the same in
	// words, with what to do. Neither holds a token.
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	// UserFails is set where the user does not work, so that the tokens in hand are of no use either.
	// Else N-central refuses the User-API token, and the access tokens in hand may live on.
	UserFails bool `json:"user_fails"`
}

func (o *OutOfService) prepare(string) error {
	if o.Reason == "" || o.Since.IsZero() {
		return errIncomplete
	}
	return nil
}

// IsOf reports whether that version of the config is the one out of service.
func (o *OutOfService) IsOf(config *Config) bool {
	return o != nil && o.ConfigWrittenAt.Equal(config.WrittenAt)
}
