// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"maps"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// IssuedToken is a pair of tokens that this server issued.
type IssuedToken struct {
	Access    string
	Refresh   string
	IssuedAt  time.Time
	ExpiresAt time.Time // of the access token, by the true clock
	User      string
	Endpoint  Endpoint // the call that issued it: authenticate or refresh
	Lost      bool     // an injected failure kept the answer from reaching the client whole
	// EndedAt and EndedBy say when and how the access token was ended early. They are zero where it
	// was not.
	EndedAt time.Time
	EndedBy Ending
}

// Ending is how an access token was ended before its expiry.
type Ending string

// The endings.
const (
	EndedByLogout       Ending = "logout"
	EndedByRefresh      Ending = "refresh"      // of its session, with RefreshEndsPredecessor
	EndedByAuthenticate Ending = "authenticate" // of its user, with AuthenticateEndsEarlierSessions
	EndedByRegeneration Ending = "regeneration" // of its user's User-API token, with RegenerateEndsSessions
	EndedByPassword     Ending = "password"     // by an administrator, with PasswordChangeEndsSessions
	EndedByReboot       Ending = "reboot"
)

// Issued returns every pair of tokens ever issued, oldest first. Some answers may have been lost to
// an injected failure.
func (s *Simulator) Issued() []IssuedToken {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	copies := make([]IssuedToken, 0, len(s.issued))
	for _, issued := range s.issued {
		copies = append(copies, *issued)
	}
	return copies
}

// IssuedWith returns the pair with this access token, if there ever was one.
func (s *Simulator) IssuedWith(access string) (issued IssuedToken, ok bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found, ok := s.issuedWith[access]
	if ok {
		issued = *found
	}
	return issued, ok
}

// Secrets returns every User-API, access and refresh token ever issued, for tests that look for
// leaks.
func (s *Simulator) Secrets() []string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.secrets)
}

// OpenSessions returns the number of valid access tokens. Where a refresh leaves the earlier access
// token valid, a refreshed session counts once for each.
func (s *Simulator) OpenSessions() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	open := 0
	for token := range s.sessions.byAccess {
		if s.pairByAccess(token) != nil {
			open++
		}
	}
	return open
}

// AccessTokenLives reports whether a data call with this access token would be let in, without
// counting as a call. It ignores injected failures, and the 403 and 500 of a user who is let in.
func (s *Simulator) AccessTokenLives(token string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.pairByAccess(token) != nil
}

// markLost records that the tokens in an answer did not arrive.
func (s *Simulator) markLost(outgoing *answer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if outgoing.issued != nil {
		outgoing.issued.Lost = true
	}
}

// pair is an access token and its refresh token.
type pair struct {
	chain        string // shared by all pairs that go back to one authenticate
	user         string
	access       string
	refresh      string
	accessUntil  time.Time
	refreshUntil time.Time
	issued       *IssuedToken
}

// sessions is the memory that a reboot clears. It holds no token that was ended, but it may hold
// tokens that have expired.
type sessions struct {
	byAccess  map[string]*pair
	byRefresh map[string]*pair
}

func newSessions() sessions {
	return sessions{byAccess: map[string]*pair{}, byRefresh: map[string]*pair{}}
}

// end ends a pair. The caller holds the mutex, here and in all functions below.
func (s *Simulator) end(p *pair, how Ending) {
	s.endAccess(p, how)
	delete(s.sessions.byRefresh, p.refresh)
}

func (s *Simulator) endAccess(p *pair, how Ending) {
	delete(s.sessions.byAccess, p.access)
	if now := time.Now(); p.issued.EndedAt.IsZero() && now.Before(p.accessUntil) {
		p.issued.EndedAt, p.issued.EndedBy = now, how
	}
}

func (s *Simulator) endSessionsOf(user string, how Ending) {
	for _, p := range s.sessions.byAccess {
		if p.user == user {
			s.endAccess(p, how)
		}
	}
	maps.DeleteFunc(s.sessions.byRefresh, func(_ string, p *pair) bool { return p.user == user })
}

// endChain ends all pairs that go back to one authenticate, as a logout does.
func (s *Simulator) endChain(chain string) {
	for _, p := range s.sessions.byAccess {
		if p.chain == chain {
			s.endAccess(p, EndedByLogout)
		}
	}
	maps.DeleteFunc(s.sessions.byRefresh, func(_ string, p *pair) bool { return p.chain == chain })
}

func (s *Simulator) endAccessTokensOf(chain string) {
	for _, p := range s.sessions.byAccess {
		if p.chain == chain {
			s.endAccess(p, EndedByRefresh)
		}
	}
}

// pairByAccess returns the pair with this access token if the token is valid and its user may use
// it, and nil otherwise.
func (s *Simulator) pairByAccess(token string) *pair {
	p := s.sessions.byAccess[token]
	if p == nil || !time.Now().Before(p.accessUntil) || s.isShutOut(p.user) {
		return nil
	}
	return p
}

// pairByRefresh is pairByAccess for a refresh token.
func (s *Simulator) pairByRefresh(token string) *pair {
	p := s.sessions.byRefresh[token]
	if p == nil || !time.Now().Before(p.refreshUntil) || s.isShutOut(p.user) {
		return nil
	}
	return p
}

// isShutOut reports whether the user's open sessions are useless.
func (s *Simulator) isShutOut(user string) bool {
	return s.users[user].disabled && !s.knobs.BarredUsersAuthenticate
}

// newestPairOf returns the user's newest pair with a valid access token, or nil.
func (s *Simulator) newestPairOf(user string) *pair {
	for _, pair := range slices.Backward(s.issued) {
		if p := s.pairByAccess(pair.Access); p != nil && p.user == user {
			return p
		}
	}
	return nil
}

// issue opens a session, or continues the session of an existing chain.
func (s *Simulator) issue(by Endpoint, user, chain string, access, refresh grant) *pair {
	now := time.Now()
	p := &pair{
		chain:        chain,
		user:         user,
		access:       s.sign(user, "access", access.lifetime),
		refresh:      s.sign(user, "refresh", refresh.lifetime),
		accessUntil:  now.Add(access.lifetime),
		refreshUntil: now.Add(refresh.lifetime),
	}
	s.sessions.byAccess[p.access] = p
	s.sessions.byRefresh[p.refresh] = p
	p.issued = &IssuedToken{
		Access: p.access, Refresh: p.refresh, IssuedAt: now, ExpiresAt: p.accessUntil, User: user, Endpoint: by,
	}
	s.issued = append(s.issued, p.issued)
	s.issuedWith[p.access] = p.issued
	return p
}

// sign returns a unique token: an HS256 JWS, like all of N-central's. Its times are those of this
// server's clock, right or wrong. Without a lifetime it has no exp.
func (s *Simulator) sign(user, use string, lifetime time.Duration) string {
	now := s.serverClock()
	claims := jwt.MapClaims{"iss": "ncentral-simulator", "sub": user, "use": use, "jti": rand.Text(), "iat": now.Unix()}
	if lifetime > 0 {
		claims["exp"] = now.Add(lifetime).Unix()
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.key)
	if err != nil {
		panic(err) // a byte key always signs
	}
	s.secrets = append(s.secrets, token)
	return token
}
