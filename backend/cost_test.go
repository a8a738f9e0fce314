// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What one user or mount can cost the others: polling, very many roles, invented names, names of
// other mounts.

package backend

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// One process serves every mount: none sees what is another's.
func TestMountsShareNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &logical.InmemStorage{}
		other, err := newBackend(context.Background(), &logical.BackendConfig{
			Logger: hclog.NewNullLogger(), System: m.system, StorageView: storage,
		}, func(ctx context.Context, network, address string) (net.Conn, error) {
			return m.server.DialContext(ctx, network, address)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Cleanup(context.Background())
		request := func(operation logical.Operation, path string, data map[string]any) *logical.Response {
			t.Helper()
			response, err := other.HandleRequest(context.Background(), &logical.Request{
				Operation: operation, Path: path, Data: data, Storage: storage,
			})
			if err != nil {
				t.Fatal(err)
			}
			return response
		}
		token := m.expectLives(m.read(nil))
		if response := request(opRead, "creds/monitoring", nil); !response.IsError() {
			t.Errorf("a mount without roles answered %v", keys(response.Data))
		}
		request(opWrite, "config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token})
		request(opWrite, "roles/monitoring", map[string]any{"lease": false})
		if response := request(opRead, "creds/monitoring", nil); response.Data["access_token"] == token {
			t.Error("two mounts hand out one token")
		}
		request(opDelete, "sessions/monitoring", nil)
		if m.expectLives(m.read(nil)) != token {
			t.Error("deleting the sessions of one mount ended those of the other")
		}
	})
}

// A reader who polls as fast as they can costs N-central a bounded number of calls, whatever they
// ask for, and nobody else anything.
func TestAReaderWhoPollsCostsLittle(t *testing.T) {
	for name, test := range map[string]struct {
		data map[string]any
		most int // calls in the hour
	}{
		"validate":             {map[string]any{"validate": true}, 3600 + 10},
		"min_ttl":              {map[string]any{"min_ttl": "30m"}, 5},
		"min_ttl and validate": {map[string]any{"min_ttl": "30m", "validate": true}, 3600 + 10},
		"more than is granted": {map[string]any{"min_ttl": "31m"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("roles/other", map[string]any{"lease": false})
				m.read(nil)
				m.ResetCounts()
				for range 4 * 3600 {
					_, _ = m.do(opRead, "creds/monitoring", test.data)
					time.Sleep(250 * time.Millisecond)
				}
				synctest.Wait()
				if calls := m.all(simulator.AnyEndpoint); calls > test.most {
					t.Errorf("an hour of polling made %d calls, want %d at most", calls, test.most)
				}
				m.expectLives(m.readRole("other"))
			})
		})
	}
}

// Requests for names that do not exist leave nothing in memory, which serves all mounts.
func TestInventedNamesLeaveNothingInMemory(t *testing.T) {
	const names = 1000
	for _, invented := range []struct {
		operation logical.Operation
		path      string
	}{
		{opDelete, "sessions/%s"},
		{opDelete, "roles/%s"},
		{opDelete, "config/%s"},
		{opRead, "sessions/%s"},
		{opRead, "roles/%s"},
		{opRead, "config/%s"},
		{opRead, "creds/%s"},
		{opPatch, "roles/%s"},
		{opPatch, "config/%s"},
		{opWrite, "config/%s"},
		{opWrite, "config/%s/check"},
	} {
		t.Run(fmt.Sprint(invented), func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				ask := func(from int) {
					for i := from; i < from+names; i++ {
						name := fmt.Sprintf("%s-%d", strings.Repeat("a", 120), i)
						_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
							Operation: invented.operation, Path: fmt.Sprintf(invented.path, name), Storage: m.storage,
							Data: map[string]any{},
						})
					}
				}
				ask(0) // what is made once
				before := heap()
				ask(names)
				if grown := heap() - before; grown > names*100 {
					t.Errorf("%d invented names took %d bytes of memory", names, grown)
				}
			})
		})
	}
}

// inBubbleOfManyRoles has so many roles in storage that no plugin has read.
func inBubbleOfManyRoles(t *testing.T, many int, value string, test func(m *mount)) {
	t.Helper()
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		for i := range many {
			err := m.storage.Put(m.t.Context(), &logical.StorageEntry{
				Key: fmt.Sprintf("role/r%06d", i), Value: []byte(value),
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		m.start()
		test(m)
	})
}

const roleOfDefault = `{"config":"default","credential_type":"shared","ttl":0,"lease":true}`

// Whoever may write roles can write very many. A request that is about some of them, and a tick,
// work on these alone.
func TestManyRolesMakeNothingDearThatIsNotAboutThem(t *testing.T) {
	inBubbleOfManyRoles(t, 100_000, roleOfDefault, func(m *mount) {
		costs := func(what string, atMost int64, do func()) {
			t.Helper()
			before := m.storage.calls.Load()
			do()
			if calls := m.storage.calls.Load() - before; calls > atMost {
				t.Errorf("%s made %d storage calls", what, calls)
			}
		}
		for _, after := range []string{"", "r050000"} {
			costs("a page of the roles", 1+100, func() {
				page := m.must(opList, "roles/", map[string]any{"after": after, "limit": 100})
				if keys := page["keys"].([]string); len(keys) != 100 {
					t.Errorf("%d roles are listed", len(keys))
				}
			})
		}
		costs("a list of the sessions", 1+4, func() { m.must(opList, "sessions/", nil) })
		m.tick() // reads what is in memory from now on, as does status
		m.get("status")
		costs("a tick", 6, m.tick)
		costs("status", 2, func() { m.get("status") })
		costs("metrics", 2, func() { m.get("metrics") })
		costs("a new role", 2, func() { m.write("roles/new", nil) })
	})
}

// A role whose token lives costs a tick no storage call: what it needs is in memory, once it was read.
func TestLiveRolesCostATickNoStorageCall(t *testing.T) {
	const configs = 10
	for name, role := range map[string]map[string]any{
		"alone": nil, "with a fallback": {"fallback_configs": "default"},
	} {
		t.Run(name, func(t *testing.T) {
			made := map[int]int64{}
			for _, rolesEach := range []int{1, 50} {
				inBubble(t, nil, func(m *mount) {
					for _, role := range m.manyConfigs(configs, rolesEach, role) {
						m.readRole(role)
					}
					before := m.storage.calls.Load()
					m.tick()
					made[rolesEach] = m.storage.calls.Load() - before
				})
			}
			if made[1] != 6 || made[50] != 6 {
				t.Errorf("storage calls of a tick, by the number of each config's roles: %v", made)
			}
		})
	}
}

// The first tick of a new process reads each live role and its session once, and each config twice at most.
func TestTheFirstTickReadsEachLiveRoleOnce(t *testing.T) {
	const configs, rolesEach = 10, 20
	for name, role := range map[string]map[string]any{
		"alone": nil, "with a fallback": {"fallback_configs": "default"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.manyConfigs(configs, rolesEach, role)
				m.start()
				before := m.storage.calls.Load()
				m.tick()
				const most = 2*configs*rolesEach + 4*configs + 10
				if made := m.storage.calls.Load() - before; made > most {
					t.Errorf("%d storage calls, want %d at most", made, most)
				}
			})
		})
	}
}

// What memory holds of a live role is its definition, its session and the answer that is ready. It has
// most of it while the token that a rotation replaced still lives.
func TestALiveRoleTakesNoMoreThanFourKibibytes(t *testing.T) {
	if raceDetected {
		t.Skip("the race detector takes memory too")
	}
	const many, most = 1000, 4 << 10
	for name, role := range map[string]map[string]any{"leased": nil, "unleased": {"lease": false}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				roles := m.addRoles(many, role)
				readAll := func() {
					for _, role := range roles {
						_, _ = m.do(opRead, "creds/"+role, nil)
					}
					synctest.Wait()
				}
				readAll()
				time.Sleep(50 * time.Minute)
				readAll() // begins the rotations
				m.start() // what the process before held, and N-central, is not counted
				m.read(nil)
				before := heap()
				readAll()
				readAll()
				if each := (heap() - before) / many; each > most {
					t.Errorf("a live role takes %d bytes", each)
				}
			})
		})
	}
}

// The deletion of a config must look at every role, unless many name it, and keeps none of them in
// memory; its answer is no longer for there being many.
func TestTheDeletionOfAConfigLooksAtManyRolesOnceAndKeepsNone(t *testing.T) {
	const many = 5000
	for name, test := range map[string]struct {
		role, config string
		isRefused    bool
		looks        int64
	}{
		"none names it":      {roleOfDefault, "config/unused", false, many},
		"all name it":        {roleOfDefault, "config/default", true, 50},
		"none can be read":   {"{", "config/unused", false, many},
		"nor can the one be": {"{", "config/default", true, many},
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleOfManyRoles(t, many, test.role, func(m *mount) {
				m.write("config/unused", map[string]any{
					"url": m.server.URL, "user_api_token": m.token, "verify": false,
				})
				calls, before := m.storage.calls.Load(), heap()
				response, err := m.do(opDelete, test.config, nil)
				if err != nil || response.IsError() != test.isRefused {
					t.Fatal(err, response.IsError())
				}
				if made := m.storage.calls.Load() - calls; made > test.looks+20 {
					t.Errorf("%d storage calls", made)
				}
				answer := fmt.Sprint(response.Data, response.Warnings)
				if response = nil; len(answer) > 10_000 { //nolint:wastedassign // it shall not count as left in memory
					t.Errorf("the answer has %d characters", len(answer))
				}
				if grown := heap() - before; grown > many*20 {
					t.Errorf("it left %d bytes in memory", grown)
				}
			})
		})
	}
}

// While a config is out of service, the ticks do not look for the roles that it matters to: a try does,
// and then at the one that the try before found.
func TestAConfigThatIsOutOfServiceMakesNoTickLookAtEveryRole(t *testing.T) {
	const many = 5000
	inBubbleOfManyRoles(t, many, roleOfDefault, func(m *mount) {
		m.write("config/second", map[string]any{"url": m.server.URL, "user_api_token": m.AddUser("second-user")})
		m.write("roles/with-fallback", map[string]any{"fallback_configs": "second"})
		m.readRole("with-fallback")
		m.setPasswordExpired("api-user", true)
		walks, opened := 0, m.all(simulator.EndpointAuthenticate)
		for range 35 {
			time.Sleep(time.Minute)
			before := m.storage.calls.Load()
			m.tick()
			synctest.Wait()
			if made := m.storage.calls.Load() - before; made > 40 {
				walks++
			}
			m.readRole("with-fallback")
		}
		if m.status()["out_of_service_since"] == nil || m.all(simulator.EndpointAuthenticate)-opened < 4 {
			t.Error("the config was not found dead and tried")
		}
		if walks > 1 {
			t.Errorf("%d ticks looked at every role", walks)
		}
	})
}

// What a list tells of roles that nobody reads does not stay in memory. It reads each once, and where it
// has a fallback its session, which says what config serves it.
func TestAListOfManyRolesReadsEachOnceAndLeavesNoneInMemory(t *testing.T) {
	const many = 5000
	for name, test := range map[string]struct {
		role string
		each int64
	}{
		"alone":           {roleOfDefault, 1},
		"with a fallback": {strings.Replace(roleOfDefault, "{", `{"fallback_configs":["second"],`, 1), 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleOfManyRoles(t, many, test.role, func(m *mount) {
				m.write("config/second", map[string]any{
					"url": m.server.URL, "user_api_token": m.token, "verify": false,
				})
				m.get("roles/monitoring")
				m.must(opList, "roles/", map[string]any{"limit": 10}) // what is made once
				before := heap()
				m.expectAsks("a list", asked{1 + test.each*many, 0}, func() {
					if listed := len(m.must(opList, "roles/", nil)["keys"].([]string)); listed != many+1 {
						t.Errorf("%d roles are listed", listed)
					}
				})
				if grown := heap() - before; grown > many*20 {
					t.Errorf("a list left %d bytes in memory", grown)
				}
			})
		})
	}
}

// Of a role whose last session lapsed, memory keeps the definition and little more.
func TestARoleThatIsReadNoMoreTakesLittleMemory(t *testing.T) {
	if raceDetected {
		t.Skip("the race detector takes memory too")
	}
	const many, most = 1000, 1 << 10
	inBubble(t, nil, func(m *mount) {
		for _, role := range m.addRoles(many, nil) {
			m.readRole(role)
		}
		for range 4 * 60 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if listed := m.must(opList, "sessions/", nil)["keys"]; listed != nil {
			t.Fatalf("there are sessions: %v", listed)
		}
		before := heap()
		m.start()
		if each := (before - heap()) / many; each > most {
			t.Errorf("a role takes %d bytes", each)
		}
	})
}

// Of all that cannot be read, a list names every one, and warns of some and how many more there
// are.
func TestAListOfManyDamagedRolesWarnsOfSome(t *testing.T) {
	const many = 1000
	inBubbleOfManyRoles(t, many, "{", func(m *mount) {
		response, err := m.do(opList, "roles/", nil)
		if err != nil || len(response.Data["keys"].([]string)) != many+1 || len(response.Warnings) != 51 ||
			response.Warnings[50] != fmt.Sprint(many-50, " more such") {
			t.Error(err, len(response.Warnings))
		}
	})
}
