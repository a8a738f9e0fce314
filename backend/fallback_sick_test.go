// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a sick N-central does to roles with fallback_configs: no more than to others.

package backend

import (
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// An authenticate that fails for one user only, in whatever way N-central answers it, leads to the next.
func TestARoleGoesOnWithItsNextConfigWhereAuthenticateFailsInOtherWords(t *testing.T) {
	for name, test := range map[string]struct {
		failure  simulator.Failure
		attempts int
	}{
		"400":            {simulator.Failure{Kind: simulator.FailureStatus, Status: 400}, 1},
		"500":            {simulator.Failure{Kind: simulator.FailureStatus, Status: 500}, 2},
		"a hidden error": {simulator.Failure{Kind: simulator.FailureErrorMessage}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				m.FailNext(simulator.EndpointAuthenticate, test.attempts, test.failure)
				m.expectFrom("second", m.read(nil))
				if m.status()["out_of_service_since"] == nil {
					t.Error("the first is in service, though the user of the next works")
				}
			})
		})
	}
}

// allOf is a number of calls that no test makes.
const allOf = 1 << 20

// That the next config's user worked a moment ago says nothing of a server that is sick since.
func TestASickServerPutsNoConfigOutForAnothersEarlierSuccess(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		time.Sleep(2 * time.Minute) // since default was verified
		m.write("roles/others", map[string]any{"config": "second", "fallback_configs": "default", "lease": false})
		m.readRole("others")
		m.FailNext(simulator.EndpointServiceOrgs, allOf, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
		m.expectFrom("default", m.read(nil))
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("out of service since", since)
		}
	})
}

// A data call that is not answered keeps no reader from a token that there is.
func TestADataCallThatHangsKeepsNoReaderFromItsToken(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		time.Sleep(2 * time.Minute) // since default was verified
		m.FailNext(simulator.EndpointServiceOrgs, allOf, simulator.Failure{Kind: simulator.FailureHang})
		m.expectFrom("default", m.read(nil))
	})
}

// Where the first config is out and the next one gives nothing, for a reason that is none of
// N-central's health, the first is tried again within minutes.
func TestAConfigThatIsOutIsTriedSoonWhereTheNextGivesNothing(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 401})
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 400})
		m.fails(anyStatus, opRead, "creds/monitoring", nil)
		for range 3 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("still out of service since", since)
		}
	})
}

// Where a new session ends the earlier ones of its user, the engine opens none while N-central is
// sick, to find out whose fault it is, if it has a token of that user to ask with.
func TestASickServerEndsNobodysSession(t *testing.T) {
	sick := func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }
	withTwoUsers(t, sick, func(m *mount) {
		m.write("config/second/check", nil)
		m.write("roles/others", map[string]any{"config": "second", "lease": false})
		m.read(nil)
		others := m.expectLives(m.readRole("others"))
		m.tick()
		m.FailNext(simulator.EndpointServiceOrgs, allOf, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
		for range 10 {
			time.Sleep(time.Minute)
			m.tick()
			if !m.AccessTokenLives(others) {
				t.Fatal("the token of a role without a fallback was ended")
			}
		}
		m.expectFrom("default", m.read(nil))
	})
}

// A role whose fallback gave no token yet is no worse off: the fallback is asked, found sick as well,
// and asked again once N-central has been well for a while.
func TestASickServerPutsNoConfigOutWhoseFallbackHasNoToken(t *testing.T) {
	withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = true }, func(m *mount) {
		m.read(nil)
		m.tick()
		m.FailNext(simulator.EndpointServiceOrgs, allOf, status(500))
		for range 3 {
			time.Sleep(time.Minute)
			m.tick()
		}
		m.expectFrom("default", m.read(nil))
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("out of service since", since)
		}
		m.ClearFailures()
		for range 5 {
			time.Sleep(time.Minute)
			m.tick()
		}
		m.expireAndTick()
		m.expectFrom("second", m.read(nil))
	})
}
