// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"maps"
	"slices"
	"time"
)

// Session is all that a shared role has open at N-central: the token that readers get, and those
// that a rotation replaced or a change retired and that have not lapsed yet.
type Session struct {
	// The fingerprints of the config and role that Current was obtained for. Where they are others
	// now, it is retired.
	ConfigFingerprint string  `json:"config_fingerprint"`
	RoleFingerprint   string  `json:"role_fingerprint"`
	Current           *Token  `json:"current,omitempty"`
	Earlier           []Token `json:"earlier,omitempty"`
	// LastReadAt is the last read that the node knew of when it wrote the entry.
	LastReadAt time.Time `json:"last_read_at,omitzero"`
}

func (s *Session) prepare(string) error {
	if s.Current != nil && s.Current.AccessToken == "" {
		return errIncomplete
	}
	now := time.Now()
	if s.Current != nil {
		s.Current = s.Current.seenAt(now)
	}
	for i := range s.Earlier {
		s.Earlier[i] = *s.Earlier[i].seenAt(now)
	}
	return nil
}

// Serves reports whether the session's current token was obtained for the config and role as they
// are now.
func (s *Session) Serves(config *Config, role *Role) bool {
	return s != nil && s.Current != nil && s.Current.Config == config.Name &&
		s.ConfigFingerprint == config.Fingerprint() && s.RoleFingerprint == role.Fingerprint()
}

// Tokens are all tokens of the session that N-central may still accept at that time.
func (s *Session) Tokens(now time.Time) []Token {
	var live []Token
	if s == nil {
		return nil
	}
	if s.Current != nil && s.Current.MayBeAccepted(now) {
		live = append(live, *s.Current)
	}
	for _, token := range s.Earlier {
		if token.MayBeAccepted(now) {
			live = append(live, token)
		}
	}
	return live
}

// Holds reports whether the access token is one of the session's.
func (s *Session) Holds(accessToken string) bool {
	if s == nil {
		return false
	}
	return s.Current != nil && s.Current.AccessToken == accessToken ||
		slices.ContainsFunc(s.Earlier, func(token Token) bool { return token.AccessToken == accessToken })
}

// Promises reports whether a token of that chain is promised to readers at that time.
func (s *Session) Promises(chain string, now time.Time) bool {
	return slices.ContainsFunc(s.Tokens(now), func(t Token) bool {
		return t.Chain == chain &&
			Remaining(t.ExpiresAt, now) > 0
	})
}

// mostEarlier bounds how many earlier tokens a session keeps: an entry in storage has a size that
// it must not exceed.
const mostEarlier = 50

// Followed returns what the session is once another token has taken the current one's place, and
// the tokens that are more than it keeps, of which the promise is over and that N-central can end
// alone.
func (s *Session) Followed(by *Token, now time.Time) (earlier, ended []Token) {
	earlier = s.Tokens(now)
	slices.SortStableFunc(earlier, func(a, b Token) int { return b.IssuedAt.Compare(a.IssuedAt) })
	if len(earlier) <= mostEarlier {
		return earlier, nil
	}
	kept, gone := earlier[:mostEarlier], earlier[mostEarlier:]
	together := chainsOf(kept, func(Token) bool { return true })
	together[by.Chain] = true
	maps.Copy(together, chainsOf(gone, func(t Token) bool { return Remaining(t.ExpiresAt, now) > 0 }))
	for _, token := range gone {
		if !together[token.Chain] {
			ended = append(ended, token)
		}
	}
	return kept, ended
}

// PastPromise returns the session without the earlier tokens whose promise is over, and these as
// far as N-central still accepts them and can end them alone.
func (s *Session) PastPromise(now time.Time) (kept *Session, over []Token) {
	promised := chainsOf(s.Earlier, func(t Token) bool { return Remaining(t.ExpiresAt, now) > 0 })
	if s.Current != nil {
		promised[s.Current.Chain] = true
	}
	next := *s
	next.Earlier = nil
	for _, token := range s.Earlier {
		switch {
		case !token.MayBeAccepted(now):
		case !promised[token.Chain]:
			over = append(over, token)
		default:
			next.Earlier = append(next.Earlier, token)
		}
	}
	return &next, over
}

func chainsOf(tokens []Token, which func(Token) bool) map[string]bool {
	chains := map[string]bool{}
	for _, token := range tokens {
		if which(token) {
			chains[token.Chain] = true
		}
	}
	return chains
}

// Lapsed reports whether nothing of the session is of use any more: no token lives, and no reader
// waits for one that the refresh token would bring. A reader waits where the last one came when the
// token was due to be replaced already.
func (s *Session) Lapsed(now, lastRead, rotatesAt time.Time) bool {
	if len(s.Tokens(now)) > 0 {
		return false
	}
	refreshes := s != nil && s.Current != nil && s.Current.RefreshToken != "" &&
		Remaining(s.Current.RefreshExpiresAt, now) > 0
	return !refreshes || rotatesAt.IsZero() || lastRead.Before(rotatesAt)
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

// Token is an N-central access token with the refresh token beside it. Times that this process took
// keep their monotonic reading in memory; storage keeps the wall clock.
type Token struct {
	Origin
	AccessToken  string     `json:"access_token"`
	TokenType    string     `json:"token_type"`
	RefreshToken string     `json:"refresh_token,omitempty"`
	ObtainedBy   ObtainedBy `json:"obtained_by"`
	// Chain is common to a token and those refreshed from it: N-central may end them all where one
	// is logged out [?].
	Chain string `json:"chain,omitempty"`

	IssuedAt         time.Time `json:"issued_at"`  // when the request for it was sent
	ExpiresAt        time.Time `json:"expires_at"` // until when it is promised
	GrantedUntil     time.Time `json:"dies_at"`    // until when N-central granted it; ExpiresAt or later
	RefreshExpiresAt time.Time `json:"refresh_expires_at,omitzero"`
	LastValidatedAt  time.Time `json:"last_validated_at,omitzero"`

	// ObtainedHere is set for a token that this process obtained. One that came from storage may be
	// of the past.
	ObtainedHere bool `json:"-"`

	// Epoch is the config's (ServerTraits.Epoch) when the token was last known to live.
	// ServerTraits.Suspects tells what follows.
	Epoch int64 `json:"epoch"`
	// Warnings came with the grant and go with every answer that hands the token out.
	Warnings []string `json:"warnings,omitempty"`
}

// fromTheFuture is the Epoch of a token that is suspect whatever the config's is.
const fromTheFuture = -1

// seenAt returns the token as it is seen at that time. One that came from storage and was issued
// later, by a node whose clock was ahead, has at most its whole life left, and is suspect.
func (t *Token) seenAt(now time.Time) *Token {
	ahead := t.IssuedAt.Round(0).Sub(now.Round(0))
	if t.ObtainedHere || ahead <= 0 {
		return t
	}
	seen := *t
	for _, at := range []*time.Time{&seen.IssuedAt, &seen.ExpiresAt, &seen.GrantedUntil} {
		*at = at.Add(-ahead)
	}
	if !seen.RefreshExpiresAt.IsZero() {
		seen.RefreshExpiresAt = seen.RefreshExpiresAt.Add(-ahead)
	}
	seen.Epoch = fromTheFuture
	return &seen
}

// IsFromTheFuture reports whether another node issued the token at a time that is yet to come by
// this node's clock.
func (t *Token) IsFromTheFuture() bool { return t.Epoch < 0 }

// Lifetime is for how long the token was promised in all.
func (t *Token) Lifetime() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// MayBeAccepted reports whether N-central would still accept the token, as far as its granted
// lifetime tells.
func (t *Token) MayBeAccepted(now time.Time) bool { return Remaining(t.GrantedUntil, now) > 0 }

// ServableUntil is until when the token can be handed out.
func (t *Token) ServableUntil() time.Time { return t.ExpiresAt.Add(-MinServable) }

// MinServable is what a token must have left to be handed out: a lease of 0 s would become Vault's
// default of 768h.
const MinServable = 2 * time.Second

// Remaining is the time from now until then, by the clock that says less. Both clocks count as long
// as the process lasts: the monotonic one misses no change of the wall clock, and the wall clock
// misses no suspension of the machine.
func Remaining(then, now time.Time) time.Duration {
	return min(then.Sub(now), then.Round(0).Sub(now.Round(0)))
}
