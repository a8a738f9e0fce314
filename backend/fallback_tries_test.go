// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How often users that do not work are tried, and for how long their tokens are handed out.

package backend

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A dead user's sessions are handed out for no longer than a minute and ten seconds.
func TestADedicatedRoleLeavesADeadUserWithinAMinute(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("roles/worker", map[string]any{"credential_type": "dedicated", "fallback_configs": "second"})
		m.expectFrom("default", m.open(nil).Data)
		time.Sleep(time.Second)
		m.setPasswordExpired("api-user", true)
		time.Sleep(70 * time.Second)
		m.expectFrom("second", m.open(nil).Data)
	})
}

// A reboot that ends the tokens with which the tick would have asked does not hide that the user died.
func TestADeadUserIsLeftWithinAMinuteThoughAllItsTokensEnded(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.expectFrom("default", m.read(nil))
		m.tick()
		m.Reboot()
		m.setPasswordExpired("api-user", true)
		time.Sleep(time.Minute)
		m.tick()
		time.Sleep(10 * time.Second)
		m.expectFrom("second", m.read(nil))
	})
}

// The same where the answer that shows a user at work comes late: it tells of when it was asked for.
func TestADedicatedRoleLeavesADeadUserWithinAMinuteThoughAnswersAreSlow(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("roles/worker", map[string]any{"credential_type": "dedicated", "fallback_configs": "second"})
		g := m.gated()
		release := g.hold(toData)
		wait := m.beginRead("worker", nil)
		time.Sleep(time.Second)
		m.setPasswordExpired("api-user", true)
		time.Sleep(8 * time.Second)
		release()
		if answered := wait(); answered.token() == "" {
			t.Fatal(answered.err)
		}
		time.Sleep(62 * time.Second)
		m.expectFrom("second", m.open(nil).Data)
	})
}

// triesInAnHour returns how often a session is asked for in an hour in which the role is read once a
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

// Two users that both seem not to work, of whom N-central tells nothing.
func TestUsersThatSeemDeadAreNotTriedEachMinute(t *testing.T) {
	withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = true }, func(m *mount) {
		m.read(nil)
		m.tick()
		for _, user := range []string{"api-user", "second-user"} {
			m.setPasswordExpired(user, true)
		}
		if tries := m.triesInAnHour(); tries > 12 { // a rotation among them
			t.Errorf("tried %d times in an hour", tries)
		}
	})
}

// A config whose user seems not to work is out where any of its roles has another config with a user
// that works.
func TestAConfigIsJudgedByTheFallbacksOfAllItsRoles(t *testing.T) {
	withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = true }, func(m *mount) {
		m.addConfig("third")
		m.setPasswordExpired("second-user", true)
		for _, role := range m.addRoles(8, map[string]any{"fallback_configs": "second"}) {
			m.readRole(role)
		}
		m.write("roles/monitoring", map[string]any{"fallback_configs": "third"})
		m.read(nil)
		m.tick()
		m.setPasswordExpired("api-user", true)
		time.Sleep(time.Minute)
		m.tick()
		time.Sleep(5 * time.Second)
		m.expectFrom("third", m.read(nil))
	})
}

// A config whose user works again is in service, and not tried any more, though storage refuses to note
// it.
func TestAConfigIsInServiceAgainThoughStorageRefusesToNoteIt(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 401})
		m.expectFrom("second", m.read(nil))
		m.hooked().del.Store(failsFor("out/"))
		if tries := m.triesInAnHour(); tries > 10 { // rotations among them
			t.Errorf("tried %d times in an hour", tries)
		}
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("still out of service since", since)
		}
		m.expectFrom("default", m.read(nil))
	})
}

// A clock that was ahead when a config was put out does not keep it from being tried.
func TestAConfigThatIsOutSinceTheFutureIsTriedWithinTenMinutes(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.expireAndTick()
		m.expectFrom("second", m.read(nil))
		m.setPasswordExpired("api-user", false)
		ahead := strings.Replace(m.outOf("default"), `"since":"2000`, `"since":"2031`, 1)
		if err := m.storage.Put(context.Background(),
			&logical.StorageEntry{Key: "out/default", Value: []byte(ahead)}); err != nil {
			t.Fatal(err)
		}
		m.start()
		if since := m.status()["out_of_service_since"]; !strings.HasPrefix(since.(string), "2031") {
			t.Fatal("out of service since", since)
		}
		for range 11 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("still out of service since", since)
		}
	})
}
