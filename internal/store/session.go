// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import "time"

// Session is all that a shared role has open at N-central: the token that readers get, and those that a rotation
// replaced or a change retired and that have not lapsed yet.
type Session struct {
	// The fingerprints of the config and role that Current was obtained for. Where they are others now, it is retired.
	ConfigFingerprint string  `json:"config_fingerprint"`
	RoleFingerprint   string  `json:"role_fingerprint"`
	Current           *Token  `json:"current,omitempty"`
	Earlier           []Token `json:"earlier,omitempty"`
	// LastReadAt is the last read that the node knew of when it wrote the entry.
	LastReadAt time.Time `json:"last_read_at,omitzero"`
}

func (s *Session) prepare(string) {}

// Serves says whether the session's current token was obtained for the config and role as they are now.
func (s *Session) Serves(config *Config, role *Role) bool {
	return s != nil && s.Current != nil &&
		s.ConfigFingerprint == config.Fingerprint() && s.RoleFingerprint == role.Fingerprint()
}

// Tokens are all tokens of the session that N-central may still accept at that time.
func (s *Session) Tokens(now time.Time) []Token {
	var live []Token
	if s == nil {
		return nil
	}
	if s.Current != nil && s.Current.LivesAt(now) {
		live = append(live, *s.Current)
	}
	for _, token := range s.Earlier {
		if token.LivesAt(now) {
			live = append(live, token)
		}
	}
	return live
}

// Origin says where a token came from. It is sent to that URL and nowhere else.
type Origin struct {
	Config string `json:"config"`
	URL    string `json:"url"`
}

// ObtainedBy says which call brought a token.
type ObtainedBy string

// The calls that bring a token.
const (
	ByAuthenticate ObtainedBy = "authenticate"
	ByRefresh      ObtainedBy = "refresh"
)

// Token is an N-central access token with the refresh token beside it. Times that this process took keep their monotonic
// reading in memory; storage keeps the wall clock.
type Token struct {
	Origin
	AccessToken  string     `json:"access_token"`
	TokenType    string     `json:"token_type"`
	RefreshToken string     `json:"refresh_token,omitempty"`
	ObtainedBy   ObtainedBy `json:"obtained_by"`

	IssuedAt         time.Time `json:"issued_at"`  // when the request for it was sent
	ExpiresAt        time.Time `json:"expires_at"` // until when it is promised
	DiesAt           time.Time `json:"dies_at"`    // until when N-central granted it; ExpiresAt or later
	RefreshExpiresAt time.Time `json:"refresh_expires_at,omitzero"`
	LastValidatedAt  time.Time `json:"last_validated_at,omitzero"`

	// Suspicion is the config's count of suspicions (Learnt.Suspicion) when the token was last known to live. A token
	// with a lower count than the config's is suspect.
	Suspicion int64 `json:"suspicion"`
	// Warnings came with the grant and go with every answer that hands the token out.
	Warnings []string `json:"warnings,omitempty"`
}

// Lifetime is for how long the token was promised in all.
func (t *Token) Lifetime() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// LivesAt says whether N-central would still accept the token, as far as its granted lifetime tells.
func (t *Token) LivesAt(now time.Time) bool { return Remaining(t.DiesAt, now) > 0 }

// DeadBelow is what a token must have left to be handed out: a lease of 0 s would become Vault's default of 768h.
const DeadBelow = 2 * time.Second

// Remaining is the time from now until then, by the clock that says less. Both clocks count as long as the process
// lasts: the monotonic one misses no change of the wall clock, and the wall clock misses no suspension of the machine.
func Remaining(then, now time.Time) time.Duration {
	return min(then.Sub(now), then.Round(0).Sub(now.Round(0)))
}
