// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The bounds of a config's numbers. A stored number beyond them is taken for damage: a client would
// hang or crash with it.
const (
	LeastRequestTimeout  = time.Second
	MostRequestTimeout   = 20 * time.Second
	MostRetries          = 10
	MostRequestsInFlight = 50
)

// Config is an N-central server and the credential for it.
type Config struct {
	Name string `json:"-"`

	URL                 string        `json:"url"`
	UserAPIToken        string        `json:"user_api_token"`
	CACert              string        `json:"ca_cert,omitempty"`
	TLSServerName       string        `json:"tls_server_name,omitempty"`
	TLSSkipVerify       bool          `json:"tls_skip_verify,omitempty"`
	RequestTimeout      time.Duration `json:"request_timeout"`
	MaxRetries          int           `json:"max_retries"`
	MaxRequestsInFlight int           `json:"max_requests_in_flight"`
	RefreshTokenTTL     time.Duration `json:"refresh_token_ttl"`
	PasswordChangedAt   time.Time     `json:"password_changed_at,omitzero"`
	PasswordMaxAge      time.Duration `json:"password_max_age"`
	ExpiryWarning       time.Duration `json:"expiry_warning"`
	UserAPITokenSetAt   time.Time     `json:"user_api_token_set_at"`
	// WrittenAt identifies the version of the config. Every write changes it, even one that changes
	// nothing else.
	WrittenAt time.Time `json:"written_at"`

	fingerprint           string
	userAPITokenExpiresAt time.Time
}

// IsVersion reports whether c, which may be nil, is the same version of that config.
func (c *Config) IsVersion(config *Config) bool {
	return c != nil && c.Name == config.Name && c.WrittenAt.Equal(config.WrittenAt)
}

func (c *Config) prepare(name string) error {
	c.Name = name
	c.userAPITokenExpiresAt = expiryOf(c.UserAPIToken)
	c.fingerprint = fingerprint(c.URL, c.UserAPIToken, c.Authorities(), c.TLSServerName, fmt.Sprint(c.TLSSkipVerify))
	switch {
	case c.URL == "" || c.UserAPIToken == "":
		return errIncomplete
	case c.RequestTimeout < LeastRequestTimeout || c.RequestTimeout > MostRequestTimeout, c.MaxRetries < 0 ||
		c.MaxRetries > MostRetries,
		c.MaxRequestsInFlight < 1 || c.MaxRequestsInFlight > MostRequestsInFlight,
		c.RefreshTokenTTL < 0, c.PasswordMaxAge < 0, c.ExpiryWarning < 0:
		return errOutOfRange
	}
	return nil
}

// Fingerprint returns a hash of the fields on which the config's sessions depend: url,
// user_api_token and TLS trust. A change of them retires the sessions.
func (c *Config) Fingerprint() string { return c.fingerprint }

// Authorities returns the certificates of CACert without what makes no difference to trust: byte
// order marks (one for each file that was joined), white space around, and the form of line ends.
// CACert itself stays as it was given.
func (c *Config) Authorities() string {
	bundle := strings.TrimSpace(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\ufeff", "").Replace(c.CACert))
	if bundle == "" {
		return ""
	}
	return bundle + "\n"
}

// longestFlight is shorter than the 60 s after which Vault's clients give up, since they would not
// see the reason.
const longestFlight = 55 * time.Second

// FlightLimit returns how long it may take to obtain a token, including queueing, retries and the
// fallback from refresh to authenticate.
func (c *Config) FlightLimit() time.Duration { return min(3*c.RequestTimeout, longestFlight) }

// UserAPITokenSHA256 returns the SHA-256 of the User-API token, in hex.
func (c *Config) UserAPITokenSHA256() string {
	sum := sha256.Sum256([]byte(c.UserAPIToken))
	return hex.EncodeToString(sum[:])
}

// UserAPITokenExpiresAt returns the `exp` claim of the User-API token, or zero if it has none. It
// is used for warnings alone: N-central decides what it accepts.
func (c *Config) UserAPITokenExpiresAt() time.Time { return c.userAPITokenExpiresAt }

func expiryOf(userAPIToken string) time.Time {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(userAPIToken, &claims); err != nil || claims.ExpiresAt == nil {
		return time.Time{}
	}
	at := claims.ExpiresAt.UTC()
	if at.Year() < 1970 || at.Year() > 9999 { // not a time that RFC 3339 can express, or that anybody meant
		return time.Time{}
	}
	return at
}

// PasswordExpiresAt returns when the API user's password expires. It is zero if that is not known,
// or if passwords do not expire.
func (c *Config) PasswordExpiresAt() time.Time {
	if c.PasswordChangedAt.IsZero() || c.PasswordMaxAge == 0 {
		return time.Time{}
	}
	return c.PasswordChangedAt.Add(c.PasswordMaxAge).UTC()
}

// fingerprint returns a SHA-256 of the fields, each with its length, so that no two lists of fields
// give the same hash.
func fingerprint(fields ...string) string {
	hash := sha256.New()
	for _, field := range fields {
		fmt.Fprintf(hash, "%d:%s,", len(field), field)
	}
	return hex.EncodeToString(hash.Sum(nil))
}
