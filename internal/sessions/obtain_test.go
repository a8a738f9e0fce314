// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// Nobody is promised more than was granted, asked for, or than max_lease_ttl.
func TestWhatIsPromisedOfAGrant(t *testing.T) {
	sent := time.Now()
	for name, test := range map[string]struct {
		kind                     store.CredentialType
		granted, asked, maxLease time.Duration
		promised                 time.Duration
		warns                    bool
	}{
		"as granted": {store.Shared, time.Hour, 0, 768 * time.Hour, time.Hour, false},
		"as asked": {
			store.Shared, time.Hour, 30 * time.Minute, 768 * time.Hour, 30 * time.Minute,
			true,
		},
		"max_lease_ttl": {store.Shared, time.Hour, 0, 10 * time.Minute, 10 * time.Minute, true},
		"less than was asked": {
			store.Shared, 10 * time.Minute, 30 * time.Minute, 768 * time.Hour,
			10 * time.Minute, false,
		},
		"dedicated: its lease warns": {
			store.Dedicated, time.Hour, 30 * time.Minute, 768 * time.Hour, 30 * time.Minute,
			false,
		},
	} {
		for _, refreshToken := range []string{"", "refresh token"} {
			grant := &upstream.Grant{Session: &ncentral.Session{
				AccessToken: "access token", RefreshToken: refreshToken,
				SentAt: sent,
			}, Access: test.granted, Refresh: 25 * time.Hour}
			terms := terms{
				config: &store.Config{Name: "default"}, role: &store.Role{CredentialType: test.kind},
				maxLease: test.maxLease,
				asked:    upstream.Asked{Overrides: ncentral.Overrides{Access: test.asked}},
			}
			token := terms.newToken(grant, store.ByAuthenticate, "chain")
			if !token.ExpiresAt.Equal(sent.Add(test.promised)) || !token.GrantedUntil.Equal(sent.Add(test.granted)) {
				t.Errorf("%s: promised until %s, granted until %s", name, token.ExpiresAt.Sub(sent),
					token.GrantedUntil.Sub(sent))
			}
			if warns := strings.Contains(strings.Join(token.Warnings, ""),
				"granted more than is promised"); warns != test.warns {
				t.Errorf("%s: it warns: %t", name, warns)
			}
			if token.RefreshExpiresAt.IsZero() != (refreshToken == "") {
				t.Errorf("%s: the refresh token %q expires at %s", name, refreshToken, token.RefreshExpiresAt)
			}
		}
	}
}

func TestTheTurnsOfADedicatedRoleFollowItsConfig(t *testing.T) {
	state := &roleState{}
	first := state.turnsOf(&store.Config{MaxRequestsInFlight: 8})
	if state.turnsOf(&store.Config{MaxRequestsInFlight: 8}) != first {
		t.Error("readers who wait are passed over")
	}
	if got := state.turnsOf(&store.Config{MaxRequestsInFlight: 4}); got.places != 3 {
		t.Errorf("%d places of 4", got.places)
	}
}
