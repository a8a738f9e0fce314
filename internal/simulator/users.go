// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"time"
)

// user is an API user of this server, with one User-API token [O].
type user struct {
	name          string
	token         string
	tokenLifetime time.Duration // 0 for a token that does not expire
	tokenUntil    time.Time
	id            int

	disabled              bool
	locked                bool
	passwordExpired       bool
	passwordResetRequired bool
	twoFactorType         string
}

// noTwoFactor is the type of a user without two-factor authentication [S].
const noTwoFactor = "NONE"

// profile returns what users/me says about the user, with all fields of N-central's [S].
func (u *user) profile() map[string]any {
	return map[string]any{
		"userId": u.id, "customerId": 50, "username": u.name, "email": u.name,
		"title": "", "firstName": "", "lastName": "", "phone": "", "extension": "", "department": "",
		"street1": "", "street2": "", "city": "", "stateProv": "", "country": "CA", "postalCode": "",
		"isEnabled": !u.disabled, "isLocked": u.locked,
		"isPasswordExpired": u.passwordExpired, "isPasswordResetRequired": u.passwordResetRequired,
		"twoFactorType": u.twoFactorType, "previousTwoFactorType": noTwoFactor,
		"autoSOPower": false, "autoSOUser": false, "isLDAP": false, "ncompassEnabled": false,
		"externallyProvisioned": false,
		"generation":            1,
	}
}

// tokenLives reports whether the token is the user's current User-API token and has not expired.
func (u *user) tokenLives(token string) bool {
	return token == u.token && (u.tokenLifetime == 0 || time.Now().Before(u.tokenUntil))
}

// AddUser adds a user and returns the User-API token, a JWT without an expiry. It replaces a user
// of the same name, whose token ends.
func (s *Simulator) AddUser(name string) (userAPIToken string) {
	return s.AddUserExpiring(name, 0)
}

// AddUserExpiring is AddUser with a User-API token that expires after the lifetime. The token's exp
// claim says so.
func (s *Simulator) AddUserExpiring(name string, lifetime time.Duration) string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	added := &user{name: name, id: len(s.users) + 1001, tokenLifetime: lifetime, twoFactorType: noTwoFactor}
	s.users[name] = added
	return s.giveUserAPIToken(added)
}

// RegenerateUserAPIToken gives the user a new User-API token, as the web UI does, and ends the old
// one at once. A knob decides whether the user's sessions end too. An unknown user is an error.
func (s *Simulator) RegenerateUserAPIToken(name string) (string, error) {
	var token string
	err := s.changeUser(name, func(u *user) {
		token = s.giveUserAPIToken(u)
		if s.knobs.RegenerateEndsSessions {
			s.endSessionsOf(u.name, EndedByRegeneration)
		}
	})
	return token, err
}

// SetPasswordExpired sets whether the user's password has expired. Then authenticate answers 200
// and every data call 500 [D,O], or authenticate answers 401, depending on a knob. An unknown user
// is an error.
func (s *Simulator) SetPasswordExpired(name string, expired bool) error {
	return s.changeUser(name, func(u *user) { u.passwordExpired = expired })
}

// ChangePassword sets the user's password as an administrator does. The password is then new and
// needs no reset. A knob decides whether the user's sessions end. An unknown user is an error.
func (s *Simulator) ChangePassword(name string) error {
	return s.changeUser(name, func(u *user) {
		u.passwordExpired, u.passwordResetRequired = false, false
		if s.knobs.PasswordChangeEndsSessions {
			s.endSessionsOf(u.name, EndedByPassword)
		}
	})
}

// SetPasswordResetRequired sets whether the user must choose another password, which users/me then
// says. An unknown user is an error.
func (s *Simulator) SetPasswordResetRequired(name string, required bool) error {
	return s.changeUser(name, func(u *user) { u.passwordResetRequired = required })
}

// SetUserLocked sets whether the user is locked. Then authenticate answers 401, unless a knob lets
// the user in, and users/me says so. An unknown user is an error.
func (s *Simulator) SetUserLocked(name string, locked bool) error {
	return s.changeUser(name, func(u *user) { u.locked = locked })
}

// SetTwoFactorType sets the type of the user's two-factor authentication, or "NONE". With any other
// type, authenticate answers 401, unless a knob lets the user in, and users/me says so. An unknown
// user is an error.
func (s *Simulator) SetTwoFactorType(name, twoFactorType string) error {
	return s.changeUser(name, func(u *user) { u.twoFactorType = twoFactorType })
}

// SetUserDisabled sets whether the user is disabled. Then authenticate, refresh, validate and data
// calls answer 401, unless a knob lets the user in, and users/me says so. An unknown user is an
// error.
func (s *Simulator) SetUserDisabled(name string, disabled bool) error {
	return s.changeUser(name, func(u *user) { u.disabled = disabled })
}

func (s *Simulator) changeUser(name string, change func(*user)) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	known, ok := s.users[name]
	if !ok {
		return fmt.Errorf("no user %q", name)
	}
	change(known)
	return nil
}

func (s *Simulator) hasUser(name string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.users[name] != nil
}

// giveUserAPIToken replaces the user's token. The caller holds the mutex.
func (s *Simulator) giveUserAPIToken(u *user) string {
	u.tokenUntil = time.Now().Add(u.tokenLifetime)
	u.token = s.sign(u.name, "user-api", u.tokenLifetime)
	return u.token
}

// userOfToken returns the user whose current User-API token this is, or nil. The caller holds the
// mutex.
func (s *Simulator) userOfToken(token string) *user {
	for _, u := range s.users {
		if u.tokenLives(token) {
			return u
		}
	}
	return nil
}
