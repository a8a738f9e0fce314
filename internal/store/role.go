// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"slices"
	"time"
)

// CredentialType reports whether a role's readers share a token.
type CredentialType string

// The credential types.
const (
	Shared    CredentialType = "shared"    // one session per role, reused by every reader
	Dedicated CredentialType = "dedicated" // a session of its own for every read, ended with the read's lease
)

const (
	// DefaultAccessLifetime is the access-token lifetime that N-central grants where nothing else
	// was asked for, by N-able's documentation.
	DefaultAccessLifetime = time.Hour
	// DefaultRefreshLifetime is the same for refresh tokens.
	DefaultRefreshLifetime = 25 * time.Hour

	// leastMinTTL is the least that a role's min_ttl is by default, and shareOfMinTTL the part of a
	// longer token's life. Agents come back when up to a tenth of a lease is left: where it was
	// less, they would be given the same token once more.
	leastMinTTL   = 5 * time.Minute
	shareOfMinTTL = 6
)

// MostFallbackConfigs bounds how many configs a role names beside its first.
const MostFallbackConfigs = 8

// Role says who gets what: which config its tokens come from, how they are shared, and for how
// long.
type Role struct {
	Name string `json:"-"`

	Config         string         `json:"config"`
	CredentialType CredentialType `json:"credential_type"`
	TTL            time.Duration  `json:"ttl"`
	MinTTL         *time.Duration `json:"min_ttl,omitempty"` // nil: the default
	Lease          bool           `json:"lease"`
	// FallbackConfigs give the tokens, in this order, while Config and those before them are out of
	// service.
	FallbackConfigs []string `json:"fallback_configs,omitempty"`
	// RereadInterval is how often consumers of a shared token are to come back at least; 0: when
	// the token is replaced, or its lease ends with it.
	RereadInterval time.Duration `json:"reread_interval,omitempty"`

	fingerprint string
}

func (r *Role) prepare(name string) error {
	r.Name = name
	r.fingerprint = fingerprint(r.Config, string(r.CredentialType), r.TTL.String())
	if r.Config == "" || r.CredentialType != Shared && r.CredentialType != Dedicated {
		return errIncomplete
	}
	if r.TTL < 0 || r.RereadInterval < 0 || len(r.FallbackConfigs) > MostFallbackConfigs ||
		r.MinTTL != nil && *r.MinTTL < 0 {
		return errOutOfRange
	}
	return nil
}

// Configs are those that the role's tokens may come from, in the order in which they are tried.
func (r *Role) Configs() []string { return append([]string{r.Config}, r.FallbackConfigs...) }

// Names reports whether the role's tokens may come from that config.
func (r *Role) Names(config string) bool {
	return r.Config == config || slices.Contains(r.FallbackConfigs, config)
}

// Fingerprint changes with the fields whose change retires the role's sessions: config,
// credential_type and ttl.
func (r *Role) Fingerprint() string { return r.fingerprint }

// ExpectedLifetime is the access-token lifetime that the role's readers may expect before N-central
// was asked.
func (r *Role) ExpectedLifetime() time.Duration {
	if r.TTL > 0 {
		return r.TTL
	}
	return DefaultAccessLifetime
}

// MinTTLWithin is the least remaining lifetime of a token when it is handed out, given how long the
// token lives in all: the role's min_ttl, by default a sixth of that life and 5m at least, and
// never more than half of it, so that no token is replaced as soon as it was obtained.
func (r *Role) MinTTLWithin(lifetime time.Duration) time.Duration {
	if r.MinTTL != nil {
		return min(*r.MinTTL, lifetime/2)
	}
	return min(max(lifetime/shareOfMinTTL, leastMinTTL), lifetime/2)
}
