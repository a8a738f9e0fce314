// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How often users that do not work are tried, and for how long their tokens are handed out.

package backend

import (
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A dead user's sessions are handed out for no longer than a minute and ten seconds.
func TestADedicatedRoleLeavesADeadUserWithinAMinute(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("roles/worker", map[string]any{"credential_type": "dedicated", "fallback_configs": "second"})
		m.expectFrom("default", m.open(nil).Data)
		time.Sleep(time.Second)
		if err := m.SetPasswordExpired("api-user", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(70 * time.Second)
		m.expectFrom("second", m.open(nil).Data)
	})
}

// minute.
func (m *mount) triesInAnHour() int {
	m.t.Helper()
	m.ResetCounts()
	for range 60 {
		m.tick()
		_, _ = m.do(opRead, "creds/monitoring", nil)
		time.Sleep(time.Minute)
	}
	return m.all(simulator.EndpointAuthenticate)
}

// One user is one user, however many configs hold the token.
func TestADeadUserOfTwoConfigsIsTriedAsOne(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("config/second", map[string]any{"user_api_token": m.token, "verify": false})
		m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil, "none of its configs is in service")
		if tries := m.triesInAnHour(); tries > 8 {
			t.Errorf("tried %d times in an hour", tries)
		}
	})
}
