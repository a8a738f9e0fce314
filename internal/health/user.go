// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"fmt"
	"strings"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// UserTroubles returns what is wrong with the API user by what N-central says, each with its
// remedy. bars reports whether one of them keeps the user from working. A nil user has no troubles.
func UserTroubles(user *ncentral.User) (troubles []string, bars bool) {
	if user == nil {
		return nil, false
	}
	if isTrue(user.PasswordExpired) {
		troubles = append(troubles, "the API user's password has expired: set a new one in N-central, then generate "+
			"a new User-API token and write user_api_token and password_changed_at")
	} else if isTrue(user.PasswordResetRequired) {
		troubles = append(troubles, "N-central requires the API user to set a new password: set it, then generate a "+
			"new User-API token and write user_api_token and password_changed_at")
	}
	if isTrue(user.Locked) {
		troubles = append(troubles, "the API user is locked: unlock the user in N-central (Administration, User "+
			"Management, Users)")
	}
	isDisabled := user.Enabled != nil && !*user.Enabled
	if isDisabled {
		troubles = append(troubles, "the API user is disabled: enable the user in N-central (Administration, User "+
			"Management, Users)")
	}
	if user.HasTwoFactor() {
		troubles = append(troubles, fmt.Sprintf("the API user has two-factor authentication on (%s), and may be "+
			"refused because of that: switch it off for this user in N-central", user.TwoFactorType))
	}
	return troubles, isTrue(user.PasswordExpired) || isTrue(user.Locked) || isDisabled
}

// isTrue reports whether the value is known and true.
func isTrue(is *bool) bool { return is != nil && *is }

// NewUserFailure returns a Failure that names what is wrong with the API user by what N-central
// says. It returns nil if nothing is.
func NewUserFailure(config *store.Config, user *ncentral.User) *Failure {
	troubles, _ := UserTroubles(user)
	if len(troubles) == 0 {
		return nil
	}
	return &Failure{
		Config: config.Name, Step: ncentral.CallUser, Kind: ncentral.KindForbidden, User: user,
		Cause: errors.New(strings.Join(troubles, "; ")),
	}
}

// IsOfUser reports whether f is about the user, as NewUserFailure makes it, and not about a failed
// call. A call of users/me that fails never becomes such a Failure.
func (f *Failure) IsOfUser() bool { return f.Step == ncentral.CallUser }

// remedyOfData returns what to do if a data call fails although the token lives. It depends on what
// N-central says about the user.
func remedyOfData(user *ncentral.User) string {
	troubles, _ := UserTroubles(user)
	switch {
	case len(troubles) > 0:
		return strings.Join(troubles, "; ")
	case user != nil && user.PasswordExpired != nil:
		return "the API user's password has not expired, and N-central reports nothing else wrong with the user: " +
			"N-central's own log may say why"
	}
	return "when authenticate works and data calls fail in this way, the API user's password has most likely " +
		"expired: set a new one in N-central, then generate a new User-API token and write user_api_token and " +
		"password_changed_at"
}
