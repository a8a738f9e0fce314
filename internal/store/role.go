// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"slices"
	"time"
)

// CredentialType says whether the readers of a role share a token.
type CredentialType string

// The credential types.
const (
	Shared    CredentialType = "shared"    // one session per role, reused by every reader
	Dedicated CredentialType = "dedicated" // a session of its own for every read, ended with the read's lease
)

const (
	// DefaultAccessLifetime is the access-token lifetime that N-central grants by default, as
	// N-able documents it.
	DefaultAccessLifetime = time.Hour
	// DefaultRefreshLifetime is the same for refresh tokens.
	DefaultRefreshLifetime = 25 * time.Hour

	// By default, a role's min_ttl is a sixth (1/shareOfMinTTL) of the token's life, and
	// leastMinTTL at least. Vault's agents read again when up to a tenth of a lease is left. If
	// min_ttl were less than that, they would get the same token once more.
	leastMinTTL   = 5 * time.Minute
	shareOfMinTTL = 6
)

// MostFallbackConfigs is how many fallback_configs a role may name.
const MostFallbackConfigs = 8

// Role says which configs its tokens come from, how they are shared and how long they live.
type Role struct {
	Name string `json:"-"`

	Config         string         `json:"config"`
	CredentialType CredentialType `json:"credential_type"`
	TTL            time.Duration  `json:"ttl"`
	MinTTL         *time.Duration `json:"min_ttl,omitempty"` // nil: the default
	Lease          bool           `json:"lease"`
	// FallbackConfigs are the configs that tokens are taken from while Config is out of service, in
	// the order in which they are tried.
	FallbackConfigs []string `json:"fallback_configs,omitempty"`
	// RereadInterval is the longest time after which readers of a shared token are told to read
	// again. 0 sets no such limit.
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

// Configs returns the names of the configs that the role's tokens may come from, in the order in
// which they are tried.
func (r *Role) Configs() []string { return append([]string{r.Config}, r.FallbackConfigs...) }

// Names reports whether the role's tokens may come from that config.
func (r *Role) Names(config string) bool {
	return r.Config == config || slices.Contains(r.FallbackConfigs, config)
}

// Fingerprint returns a hash of the fields on which the role's sessions depend: config,
// credential_type and ttl. A change of them retires the sessions. fallback_configs is not one of
// them.
func (r *Role) Fingerprint() string { return r.fingerprint }

// ExpectedLifetime returns how long a token of the role is likely to live, before N-central has
// granted any.
func (r *Role) ExpectedLifetime() time.Duration {
	if r.TTL > 0 {
		return r.TTL
	}
	return DefaultAccessLifetime
}

// MinTTLWithin returns the remaining life below which a token is replaced, for a token that lives
// for lifetime in all: the role's min_ttl, or its default. It is never more than half of the
// lifetime, so that no token is due to be replaced as soon as it was obtained.
func (r *Role) MinTTLWithin(lifetime time.Duration) time.Duration {
	if r.MinTTL != nil {
		return min(*r.MinTTL, lifetime/2)
	}
	return min(max(lifetime/shareOfMinTTL, leastMinTTL), lifetime/2)
}
