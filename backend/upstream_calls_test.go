// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What N-central pays: how many calls an hour of configs and roles costs it.

package backend

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// addConfigs adds configs with an N-central user each, named config-0 and so on.
func (m *mount) addConfigs(count int) (names []string) {
	m.t.Helper()
	for i := range count {
		name := fmt.Sprintf("config-%d", i)
		m.write("config/"+name, map[string]any{
			"url": m.server.URL, "user_api_token": m.AddUser(name), "password_max_age": 0,
		})
		names = append(names, name)
	}
	return names
}

// passHours lets hours pass in which a tick runs every minute, and the roles are read four times as
// often.
func (m *mount) passHours(hours int, roles []string) {
	m.t.Helper()
	for range hours * 60 {
		for range 4 {
			for _, role := range roles {
				m.readRole(role)
			}
			time.Sleep(15 * time.Second)
		}
		m.tick()
	}
}

// manyConfigs has so many roles for each of so many configs, all of which have a token: the roles of a
// config got theirs a minute after one another.
func (m *mount) manyConfigs(configs, rolesEach int, role map[string]any) (roles []string) {
	m.t.Helper()
	for _, config := range m.addConfigs(configs) {
		for i := range rolesEach {
			name := fmt.Sprintf("role-%d-of-%s", i, config)
			data := map[string]any{"config": config}
			maps.Copy(data, role)
			m.write("roles/"+name, data)
			roles = append(roles, name)
		}
	}
	for i := range rolesEach {
		for config := range configs {
			m.readRole(roles[config*rolesEach+i])
		}
		time.Sleep(time.Minute)
		m.tick()
	}
	m.ResetCounts()
	return roles
}

// What N-central may be asked at most.
const (
	mostRotationsARoleHour    = 1.3 // of tokens of an hour
	mostQuestionsAConfigHour  = 60  // whether a token lives: by validate, or by the data call
	mostProbeCallsAConfigHour = 2   // the data call and users/me
)

// The figures are exact, so that one call more is seen, and one less too. A token of an hour is
// replaced after 48 minutes: a sixth of its life, and two minutes, before its end.
func TestAnHourCostsNCentralSoManyCalls(t *testing.T) {
	const configs, rolesEach, hours = 3, 4, 8
	validated := calls{"refresh": 120, "validate": 1440, "service_orgs": 24, "user": 24}
	byData := calls{"refresh": 120, "service_orgs": 1440 + 24, "user": 24}
	for name, test := range map[string]struct {
		role map[string]any
		want calls
	}{
		"unleased":                   {map[string]any{"lease": false}, validated},
		"leased":                     {map[string]any{"lease": true}, validated},
		"read again within a minute": {map[string]any{"reread_interval": "1m"}, validated},
		"with a fallback":            {map[string]any{"fallback_configs": "default"}, byData},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.passHours(hours, m.manyConfigs(configs, rolesEach, test.role))
				rotations := m.all(simulator.EndpointAuthenticate) + m.all(simulator.EndpointRefresh)
				if float64(rotations) > mostRotationsARoleHour*configs*rolesEach*hours {
					t.Errorf("%d rotations", rotations)
				}
				others := m.all(simulator.AnyEndpoint) - rotations
				if others > (mostQuestionsAConfigHour+mostProbeCallsAConfigHour)*configs*hours {
					t.Errorf("%d questions and probes", others)
				}
				m.expectCalls(maps.Clone(test.want))
			})
		})
	}
}

// A token that its first reader alone read is replaced once, since that reader may come again. After
// that, nobody asks for it, and nothing is paid for it: nor for a role that nobody read.
func TestWhatNobodyReadsCostsNCentralNothing(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"alone": nil, "with a fallback": {"fallback_configs": "default"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.manyConfigs(3, 4, role)
				m.write("roles/never-read", map[string]any{"config": "config-0"})
				m.passHours(2, nil)
				if rotations := m.all(simulator.EndpointRefresh); rotations != 12 {
					t.Errorf("%d rotations", rotations)
				}
				m.ResetCounts()
				m.passHours(8, nil)
				m.expectCalls(nil)
			})
		})
	}
}

// A config that is out of service is tried six times an hour. Its readers are served by the other, for
// which N-central pays as ever: sixty data calls an hour, and the two of the hourly probe.
func TestAnHourOfAConfigOutOfServiceCostsSoManyCalls(t *testing.T) {
	const hours = 4
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.killUser()
		m.passHours(1, []string{"monitoring"}) // in which the server is learnt
		m.ResetCounts()
		m.passHours(hours, []string{"monitoring"})
		m.expectCalls(calls{
			"authenticate": 6 * hours, "logout": 6 * hours, "refresh": 4, "service_orgs": 61 * hours,
			"user": (6 + 1) * hours,
		})
	})
}

// While a role gets no token at all, its configs are tried more often at first, and then as any: whoever
// reads meanwhile, and however often, causes no call.
func TestAnHourWithoutAnyConfigInServiceCostsSoManyCalls(t *testing.T) {
	const hours = 4
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.setPasswordExpired("second-user", true)
		m.killUser()
		m.tick()
		synctest.Wait()
		m.ResetCounts()
		for range hours * 60 {
			for range 4 {
				m.fails(anyStatus, opRead, "creds/monitoring", nil, "none of its configs is in service")
				time.Sleep(15 * time.Second)
			}
			m.tick()
		}
		const tries = 2 * (6*hours + 2)
		m.expectCalls(calls{"authenticate": tries, "logout": tries, "user": tries})
	})
}

// A dedicated role costs two calls for each read, and its config the two of the hourly
// probe. With a fallback, there is a data call when none was made for 65 s.
func TestAReadOfADedicatedRoleCostsTwoCalls(t *testing.T) {
	const reads = 100
	for name, test := range map[string]struct {
		role  map[string]any
		asked int // data calls, in ten minutes
	}{
		"alone":           {nil, 1},
		"with a fallback": {map[string]any{"fallback_configs": "second"}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				role := map[string]any{"credential_type": "dedicated"}
				maps.Copy(role, test.role)
				m.write("roles/worker", role)
				for range reads {
					read := m.open(nil)
					synctest.Wait() // the probe is made beside the answer
					m.mustRevoke(read)
					time.Sleep(10 * time.Minute / reads)
				}
				m.expectCalls(calls{
					"authenticate": reads, "logout": reads, "service_orgs": test.asked, "user": 1,
				})
			})
		})
	}
}
