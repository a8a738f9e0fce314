// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What sessions/ and sessions/ROLE tell.

package backend

import (
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestASessionTellsWhenItsTokenIsReplaced(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		told := m.get("sessions/monitoring")
		expires, _ := time.Parse(time.RFC3339, told["expires_at"].(string))
		rotates, _ := time.Parse(time.RFC3339, told["rotates_at"].(string))
		if left := expires.Sub(rotates); left != 5*time.Minute {
			t.Errorf("it is replaced %s before its end", left)
		}
	})
}

// sessions/ROLE tells when the role was last read.
func TestTheLastReadIsTold(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(time.Minute)
		m.read(nil)
		if last := m.get("sessions/monitoring")["last_read_at"]; last != time.Now().UTC().Format(time.RFC3339) {
			t.Errorf("last_read_at is %v", last)
		}
		m.write("roles/idle", map[string]any{"lease": false})
		if last, told := m.get("sessions/idle")["last_read_at"]; told {
			t.Errorf("a role that was never read was read at %v", last)
		}
		if until := m.get("sessions/monitoring")["refresh_expires_at"]; until == nil {
			t.Error("nothing is told of the refresh token")
		}
	})
}

// When a token was validated is told of that token, and not of the one that followed it.
func TestTheLastValidationIsToldOfTheTokenInHand(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(map[string]any{"validate": true})
		time.Sleep(time.Minute)
		m.read(map[string]any{"validate": true})
		if at := m.get("sessions/monitoring")["last_validated_at"]; at != time.Now().UTC().Format(time.RFC3339) {
			t.Errorf("validated at %v", at)
		}
		time.Sleep(56 * time.Minute)
		m.read(nil)
		if at, told := m.get("sessions/monitoring")["last_validated_at"]; told {
			t.Errorf("a token that was never validated, at %v", at)
		}
		m.FailNext(simulator.EndpointValidate, -1, status(503))
		m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
		if at, told := m.get("sessions/monitoring")["last_validated_at"]; told {
			t.Errorf("a token that could not be validated, at %v", at)
		}
	})
}

// A token that lives past its promise is told of, among the earlier tokens or as the one in hand.
func TestATokenPastItsPromiseIsToldOf(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		first := m.expectLives(m.read(nil))
		time.Sleep(11 * time.Minute)
		read := m.get("sessions/monitoring")
		if m.AccessTokenLives(first) && read["expires_at"] == nil && read["earlier_tokens"] == 0 {
			t.Errorf(
				"a token of the role lives at N-central for 49 minutes more, and sessions/ROLE tells of none: %v", read,
			)
		}
	})
}

// Of a dedicated role the prefix of its leases is told, and of no other.
func TestWhereADedicatedRolesSessionsAreIsTold(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		for role, dedicated := range map[string]bool{"worker": true, "monitoring": false} {
			if _, told := m.get("sessions/" + role)["leases"]; told != dedicated {
				t.Errorf("%s: leases are told of: %t", role, told)
			}
		}
	})
}

func TestListOfSessionsTellsTheExpiryOfLiveTokensOnly(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		info := func() any {
			t.Helper()
			told, _ := m.must(opList, "sessions/", nil)["key_info"].(map[string]any)
			return told["monitoring"].(map[string]any)["expires_at"]
		}
		answer := m.read(nil)
		if info() != answer["expires_at"] {
			t.Error("the expiry of a live token is not listed")
		}
		m.write("roles/monitoring", map[string]any{"ttl": "30m"})
		if info() != nil {
			t.Error("the expiry of a retired token is listed as if it were handed out")
		}
	})
}

// LIST tells of a token to hand out only where there is one.
func TestListTellsOfATokenOnlyWhereThereIsOne(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		read := m.get("sessions/monitoring")
		info := m.must(opList, "sessions/", nil)["key_info"].(map[string]any)["monitoring"].(map[string]any)
		if info["expires_at"] != read["expires_at"] {
			t.Errorf("LIST says expires_at %v, a read says %v", info["expires_at"], read["expires_at"])
		}
	})
}
