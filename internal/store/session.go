// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"maps"
	"slices"
	"time"
)

// Session holds the tokens of a shared role that still live at N-central: the current one, which
// readers get, and earlier ones, which a rotation replaced or a change of config or role retired.
type Session struct {
	// The fingerprints of the config and role for which Current was obtained. If one of them is
	// another now, Current is retired.
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

// Tokens returns all tokens of the session that N-central may still accept at that time, the
// current one first.
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

// Promises reports whether a token of that chain is still promised to readers at that time.
func (s *Session) Promises(chain string, now time.Time) bool {
	return slices.ContainsFunc(s.Tokens(now), func(t Token) bool {
		return t.Chain == chain &&
			Remaining(t.ExpiresAt, now) > 0
	})
}

// mostEarlier is how many earlier tokens a session keeps at most, because storage limits the size
// of an entry.
const mostEarlier = 50

// EarlierAfter returns the earlier tokens of the session that comes after s, with by as its current
// token. If they are too many, the oldest are dropped. Those of the dropped ones whose chain has no
// other token that is kept or promised are returned as ended: they can be logged out without harm
// to a reader.
func (s *Session) EarlierAfter(by *Token, now time.Time) (earlier, ended []Token) {
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

// PastPromise returns the session without the earlier tokens that are past their promise, and these
// tokens as over. A token of a chain that is still promised stays: a logout may end the whole
// chain. Tokens that N-central no longer accepts are dropped.
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

// chainsOf returns the chains of those tokens that the function accepts.
func chainsOf(tokens []Token, which func(Token) bool) map[string]bool {
	chains := map[string]bool{}
	for _, token := range tokens {
		if which(token) {
			chains[token.Chain] = true
		}
	}
	return chains
}

// Lapsed reports whether the session is of no use any more: none of its tokens lives, and no reader
// waits for what its refresh token could bring. A reader is taken to wait if the last read was made
// when the token was already due to be replaced.
func (s *Session) Lapsed(now, lastRead, rotatesAt time.Time) bool {
	if len(s.Tokens(now)) > 0 {
		return false
	}
	refreshes := s != nil && s.Current != nil && s.Current.RefreshToken != "" &&
		Remaining(s.Current.RefreshExpiresAt, now) > 0
	return !refreshes || rotatesAt.IsZero() || lastRead.Before(rotatesAt)
}

// Origin is where a token came from. The token is sent to that URL and nowhere else.
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

// Token is an N-central access token, with its refresh token. In memory, times that this process
// took keep their monotonic reading. Storage has the wall clock alone.
type Token struct {
	Origin
	AccessToken  string     `json:"access_token"`
	TokenType    string     `json:"token_type"`
	RefreshToken string     `json:"refresh_token,omitempty"`
	ObtainedBy   ObtainedBy `json:"obtained_by"`
	// Chain is the same for a token and all that are refreshed from it. If one of them is logged
	// out, N-central may end them all [?].
	Chain string `json:"chain,omitempty"`

	IssuedAt         time.Time `json:"issued_at"`  // when the request for it was sent
	ExpiresAt        time.Time `json:"expires_at"` // until when it is promised
	GrantedUntil     time.Time `json:"dies_at"`    // until when N-central granted it; ExpiresAt or later
	RefreshExpiresAt time.Time `json:"refresh_expires_at,omitzero"`
	LastValidatedAt  time.Time `json:"last_validated_at,omitzero"`

	// ObtainedHere is set if this process obtained the token. A token from storage may be out of
	// date, for example after a snapshot was restored.
	ObtainedHere bool `json:"-"`

	// Epoch is the epoch of the config (ServerTraits.Epoch) when the token was last known to live.
	// See ServerTraits.Suspects.
	Epoch int64 `json:"epoch"`
	// Warnings came with the grant. Every answer with the token has them.
	Warnings []string `json:"warnings,omitempty"`
}

// fromTheFuture is the Epoch of a token that is suspect whatever the config's epoch is.
const fromTheFuture = -1

// seenAt returns the token as this node sees it at that time. If another node issued it, whose
// clock is ahead, its times are moved back so that it was issued now, and it is suspect.
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

// IsFromTheFuture reports whether another node, whose clock is ahead, issued the token later than
// now by this node's clock.
func (t *Token) IsFromTheFuture() bool { return t.Epoch < 0 }

// Lifetime returns for how long the token was promised when it was issued.
func (t *Token) Lifetime() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// MayBeAccepted reports whether the granted lifetime of the token is not over, so that N-central
// should accept it.
func (t *Token) MayBeAccepted(now time.Time) bool { return Remaining(t.GrantedUntil, now) > 0 }

// ServableUntil returns until when the token can be handed out.
func (t *Token) ServableUntil() time.Time { return t.ExpiresAt.Add(-MinServable) }

// MinServable is how long a token must still live to be handed out. Vault would turn a lease of 0 s
// into its default of 768 h.
const MinServable = 2 * time.Second

// Remaining returns the time from now until then, by the clock that says less. While the process
// runs, both clocks count: somebody may set the wall clock, which the monotonic clock does not
// notice; and the machine may be suspended, during which the monotonic clock may stand still.
func Remaining(then, now time.Time) time.Duration {
	return min(then.Sub(now), then.Round(0).Sub(now.Round(0)))
}
