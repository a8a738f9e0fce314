// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"strings"
	"testing"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// What is not told is neither good nor bad. Whoever is locked, disabled or has an expired password
// does not work; what may come of the rest, N-central decides.
func TestWhatIsToldOfTheUserNeedsAPersonOrNot(t *testing.T) {
	well := ncentral.User{
		Name: "api@example.com", Enabled: new(true), Locked: new(false), PasswordExpired: new(false),
		PasswordResetRequired: new(false),
		TwoFactorType:         "NONE",
	}
	with := func(change func(*ncentral.User)) *ncentral.User {
		changed := well
		change(&changed)
		return &changed
	}
	for name, test := range map[string]struct {
		user     *ncentral.User
		troubles []string // a part of each
		bars     bool
	}{
		"none":    {user: nil},
		"no word": {user: &ncentral.User{}},
		"well":    {user: &well},
		"expired": {
			with(func(u *ncentral.User) { u.PasswordExpired = new(true) }),
			[]string{"password has expired: set a new one"},
			true,
		},
		"reset": {
			with(func(u *ncentral.User) { u.PasswordResetRequired = new(true) }),
			[]string{"requires the API user to set a new password: set it"},
			false,
		},
		"locked":   {with(func(u *ncentral.User) { u.Locked = new(true) }), []string{"is locked: unlock"}, true},
		"disabled": {with(func(u *ncentral.User) { u.Enabled = new(false) }), []string{"is disabled: enable"}, true},
		"two-factor": {
			with(func(u *ncentral.User) { u.TwoFactorType = "TOTP" }),
			[]string{"two-factor authentication on (TOTP)"},
			false,
		},
		"expired, and so to be reset": {
			with(func(u *ncentral.User) { u.PasswordExpired, u.PasswordResetRequired = new(true), new(true) }),
			[]string{"password has expired"},
			true,
		},
		"all": {
			with(func(u *ncentral.User) {
				u.Enabled, u.Locked, u.PasswordResetRequired, u.TwoFactorType = new(false), new(true), new(true),
					"EMAIL"
			}), []string{"set a new password", "locked", "disabled", "EMAIL"}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			troubles, bars := UserTroubles(test.user)
			if bars != test.bars || len(troubles) != len(test.troubles) {
				t.Fatalf("%q, does not work: %t", troubles, bars)
			}
			for i, part := range test.troubles {
				if !strings.Contains(troubles[i], part) {
					t.Errorf("%q, want %q in it", troubles[i], part)
				}
			}
		})
	}
}

func TestWhatIsToldOfTheUserDecidesWhatAFailedDataCallMeans(t *testing.T) {
	for name, test := range map[string]struct {
		user *ncentral.User
		want string
	}{
		"nothing told":        {nil, "password has most likely expired"},
		"not of the password": {&ncentral.User{Name: "api"}, "password has most likely expired"},
		"expired": {
			&ncentral.User{PasswordExpired: new(true)},
			"the API user's password has expired: set a new one",
		},
		"another reason": {
			&ncentral.User{PasswordExpired: new(false), Locked: new(true)},
			"the API user is locked: unlock",
		},
		"no reason in the user": {
			&ncentral.User{PasswordExpired: new(false)},
			"the API user's password has not expired",
		},
	} {
		t.Run(name, func(t *testing.T) {
			failure := failureOf(ncentral.CallData, "")
			failure.User = test.user
			if got := failure.Remedy(); !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q in it", got, test.want)
			}
		})
	}
}
