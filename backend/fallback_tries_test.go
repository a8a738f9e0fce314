// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How often users that do not work are tried, and for how long their tokens are handed out.

package backend

import (
	"testing"
	"time"
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
