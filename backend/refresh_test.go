// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// When a rotation refreshes, and when it authenticates.

package backend

import (
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestRefreshRefusedLeadsToAuthenticate(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointRefresh: 1})
	})
}

func TestWhereRefreshEndsThePredecessorRotationsAuthenticate(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, func(m *mount) {
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2})
		if !m.AccessTokenLives(first) {
			t.Error("the token that readers still hold was ended before its stated expiry")
		}
	})
}

// Where it is known that refresh harms nobody, and not whether authenticate ends earlier sessions,
// rotations refresh.
func TestWhatIsKnownInPartIsUsed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.unverified()
		m.write("config/fresh", map[string]any{"max_retries": 0, "verify": false})
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, status(500)) // whether the first of two sessions lives on
		m.FailNext(simulator.EndpointServiceOrgs, 1, status(500))
		m.read(nil)
		known := m.get("status")["configs"].(map[string]any)["fresh"].(map[string]any)
		if _, told := known["authenticate_ends_earlier_sessions"]; told || known["refresh_ends_predecessor"] != false {
			t.Fatalf("known is %v", known)
		}
		refreshes, opened := m.all(simulator.EndpointRefresh), m.all(simulator.EndpointAuthenticate)
		if refreshes != 2 || opened != 2 {
			t.Errorf("%d refreshes and %d authenticates, of which one and two were to learn", refreshes, opened)
		}
	})
}

func TestServerThatRefusesRefreshPassesAndIsRotatedByAuthenticate(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointRefresh, -1, status(500))
		if answer, _, _ := m.check(); answer["ok"] != true || answer["refresh_ends_predecessor"] != nil {
			t.Error(answer["message"])
		}
		m.read(nil)
		m.ResetCounts()
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A server that is known to refuse refresh is not asked to, though the token has died.
func TestKnownRefusedRefreshIsNotTried(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointRefresh, -1, status(500))
		m.write("config/default", map[string]any{"max_retries": 2})
		m.expectLives(m.read(nil))
		time.Sleep(61 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A refresh token whose refresh failed for a moment is tried again where the User-API token is
// refused.
func TestRefreshIsTriedAgainWhereAuthenticateIsRefused(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.regenerate()
		time.Sleep(56 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, 1, status(500))
		m.expectLives(m.read(nil)) // stale
		time.Sleep(5 * time.Minute)
		response, err := m.do(opRead, "creds/monitoring", nil)
		if err != nil || response.IsError() {
			t.Error("the refresh token lives for a day and was given up after one 500: ", err, response)
		}
	})
}

// What outlives its promise is replaced by a token of another session, so that it can be ended
// alone.
func TestWhatOutlivesItsPromiseIsNotRefreshed(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.IgnoreOverrides = true }, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "10m"})
		first := m.expectLives(m.read(nil))
		time.Sleep(9 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(time.Minute)
		m.tick()
		if m.AccessTokenLives(first) {
			t.Error("the token lives past its promise")
		}
	})
}

// A refresh token that has expired by what N-central stated is not tried.
func TestAnExpiredRefreshTokenIsNotTried(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshLimit = 30 * time.Minute }, func(m *mount) {
		m.read(nil)
		time.Sleep(56 * time.Minute)
		m.ResetCounts()
		m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// A refresh token that was refused is not tried again, be it the last hope.
func TestARefusedRefreshTokenIsNotTriedAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		time.Sleep(61 * time.Minute)
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		m.FailNext(simulator.EndpointAuthenticate, -1, status(500))
		for range 3 {
			m.fails(502, opRead, "creds/monitoring", nil)
			time.Sleep(20 * time.Second)
		}
		if tried := m.all(simulator.EndpointRefresh); tried != 1 {
			t.Errorf("it was tried %d times", tried)
		}
	})
}
