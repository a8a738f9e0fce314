// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// How many calls to storage and to Vault's core requests make. The figures are exact, so that one call
// more is seen, and one less too.

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// asked is how many calls were made to storage, and to core.
type asked struct{ storage, core int64 }

// asks returns what is asked while do runs, and in the background after it. What core says of this node
// is known when it begins.
func (m *mount) asks(do func()) asked {
	m.t.Helper()
	synctest.Wait()
	if _, err := m.do(opRead, "roles/nobody", nil); err != nil {
		m.t.Fatal(err)
	}
	before := asked{m.storage.calls.Load(), m.system.calls.Load()}
	do()
	synctest.Wait()
	return asked{m.storage.calls.Load() - before.storage, m.system.calls.Load() - before.core}
}

// expectAsks fails the test unless exactly that is asked while do runs, and in the background after it.
func (m *mount) expectAsks(what string, want asked, do func()) {
	m.t.Helper()
	if made := m.asks(do); made != want {
		m.t.Errorf("%s: %d storage calls and %d to core, want %d and %d", what, made.storage, made.core, want.storage,
			want.core)
	}
}

// tickAnyhow is tick where stored entries cannot be read, which a tick tells as an error.
func (m *mount) tickAnyhow() {
	_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{Operation: opTick, Storage: m.storage})
}

// become makes the mount that of a standby, or of the active node again.
func (m *mount) become(state consts.ReplicationState) {
	m.system.ReplicationStateVal = state
	time.Sleep(2 * replicationStateStands)
}

// killUser makes the user of config default fail, and lets the tick find that.
func (m *mount) killUser() {
	m.t.Helper()
	m.setPasswordExpired("api-user", true)
	time.Sleep(time.Minute)
	m.tick()
	synctest.Wait()
}

// Whatever else is amiss, a reader whose token is good enough waits for nobody.
func TestAReadOfAGoodTokenAsksNobodyWhateverElseIsAmiss(t *testing.T) {
	none := func(*mount) {}
	for name, test := range map[string]struct {
		happens func(m *mount)
		data    map[string]any
	}{
		"more remaining life is asked for": {none, map[string]any{"min_ttl": "30m"}},
		"it was validated a moment ago":    {none, map[string]any{"validate": true}},
		"its config is out of service":     {(*mount).killUser, nil},
		"storage does not take that its config is out of service": {func(m *mount) {
			m.storage.refuses.Store(true)
			m.killUser()
		}, nil},
		"both users fail": {func(m *mount) {
			m.killUser()
			m.FailNext(simulator.EndpointServiceOrgs, -1, status(500))
			m.tick()
		}, nil},
		"a fallback cannot be read":      {func(m *mount) { m.damage("config/second"); m.start() }, nil},
		"a fallback does not exist":      {func(m *mount) { m.remove("config/second"); m.start() }, nil},
		"what was learnt cannot be read": {func(m *mount) { m.damage("learnt/default"); m.start() }, nil},
		"what is out cannot be read":     {func(m *mount) { m.damage("out/default"); m.start() }, nil},
		"the plugin was restarted":       {(*mount).start, nil},
		"N-central fails whatever it is asked": {func(m *mount) {
			m.FailNext(simulator.AnyEndpoint, -1, status(503))
		}, nil},
		"storage refuses writes": {func(m *mount) { m.storage.refuses.Store(true) }, nil},
		"another node wrote the fallback": {func(m *mount) {
			m.backend.InvalidateKey(m.t.Context(), "config/second")
		}, nil},
		"this is a standby": {func(m *mount) {
			m.become(consts.ReplicationPerformanceStandby)
		}, nil},
		"this is a standby, and its config is out of service": {func(m *mount) {
			m.killUser()
			m.become(consts.ReplicationPerformanceStandby)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				m.read(nil)
				test.happens(m)
				m.read(test.data)
				synctest.Wait()
				m.ResetCounts()
				m.expectAsks("100 reads", asked{0, 0}, func() {
					for range 100 {
						m.read(test.data)
					}
				})
				m.expectCalls(nil)
			})
		})
	}
}

// remove removes an entry from storage alone.
func (m *mount) remove(key string) {
	m.t.Helper()
	if err := m.storage.Delete(context.Background(), key); err != nil {
		m.t.Fatal(err)
	}
}

// A standby hands a read on at once: the active node does all that there is to do.
func TestAStandbyHandsOnWithoutAskingAnybody(t *testing.T) {
	for name, test := range map[string]struct {
		role    map[string]any
		happens func(m *mount)
		data    map[string]any
	}{
		"a leased role":      {map[string]any{"lease": true}, func(m *mount) { m.readRole("handed") }, nil},
		"a dedicated role":   {map[string]any{"credential_type": "dedicated", "lease": true}, func(*mount) {}, nil},
		"a role never read":  {nil, func(*mount) {}, nil},
		"a token that ended": {nil, func(m *mount) { m.readRole("handed"); time.Sleep(2 * time.Hour) }, nil},
		"a rotation that is due": {nil, func(m *mount) {
			m.readRole("handed")
			time.Sleep(49 * time.Minute)
		}, nil},
		"validate": {nil, func(m *mount) { m.readRole("handed") }, map[string]any{"validate": true}},
		"a role whose configs are both out": {map[string]any{"fallback_configs": "second"}, func(m *mount) {
			m.readRole("handed")
			m.setPasswordExpired("second-user", true)
			m.killUser()
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				role := map[string]any{"lease": false}
				maps.Copy(role, test.role)
				m.write("roles/handed", role)
				test.happens(m)
				m.become(consts.ReplicationPerformanceStandby)
				handOn := func() {
					if _, err := m.do(opRead, "creds/handed", test.data); !errors.Is(err, logical.ErrReadOnly) {
						t.Fatal(err)
					}
				}
				handOn() // reads from storage what memory does not hold
				m.ResetCounts()
				m.expectAsks("100 reads", asked{0, 0}, func() {
					for range 100 {
						handOn()
					}
				})
				m.expectCalls(nil)
			})
		})
	}
}

// The requests, where memory holds what it holds once roles are read: two configs, and four roles that
// were just written.
func TestEachRequestMakesExactlySoManyStorageCalls(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("roles/plain", map[string]any{"lease": false})
		m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
		m.write("roles/spare-worker", map[string]any{"credential_type": "dedicated", "fallback_configs": "second"})
		m.read(nil)
		for _, request := range []struct {
			operation logical.Operation
			path      string
			data      map[string]any
			want      asked
		}{
			{opRead, "creds/plain", nil, asked{2, 1}}, // looks for a session, and stores the new one
			{opRead, "creds/plain", nil, asked{0, 0}},
			{opRead, "creds/worker", nil, asked{0, 1}},
			{opRead, "creds/spare-worker", nil, asked{0, 1}},
			{opRead, "creds/nobody", nil, asked{1, 0}},
			{opRead, "roles/plain", nil, asked{0, 0}},
			{opRead, "config/default", nil, asked{0, 0}},
			{opRead, "status", nil, asked{1 + 2, 0}},
			{opRead, "metrics", nil, asked{1 + 2, 0}},
			{opList, "config/", nil, asked{1 + 2, 0}},
			{opList, "roles/", nil, asked{1 + 1, 0}}, // and whether spare-worker has a session
			{opList, "roles/", map[string]any{"limit": 1}, asked{1, 0}},
			{opList, "sessions/", nil, asked{1, 0}},
			{opRead, "sessions/plain", nil, asked{1, 0}},
			{opWrite, "roles/new", nil, asked{2, 0}}, // sees that there is none
			{opWrite, "roles/new", nil, asked{1, 0}},
			{opWrite, "roles/next", map[string]any{"fallback_configs": "second"}, asked{2, 0}},
		} {
			m.expectAsks(fmt.Sprint(request.operation, " ", request.path, " ", request.data), request.want, func() {
				_, _ = m.do(request.operation, request.path, request.data)
			})
		}
		time.Sleep(48 * time.Minute)
		m.expectAsks("a read that begins a rotation", asked{1, 1}, func() { m.readRole("plain") })
	})
}

// A tick makes six storage calls, whatever the number of roles and configs, and whatever is amiss with
// them: what it lists. A config that cannot be read is asked for again, since it may have been restored.
func TestATickMakesExactlySoManyStorageCalls(t *testing.T) {
	const lists = 6
	none := func(*mount) {}
	withFallback := map[string]any{"fallback_configs": "default"}
	for name, test := range map[string]struct {
		role    map[string]any
		happens func(m *mount)
		want    asked
	}{
		"all is well":     {nil, none, asked{lists, 0}},
		"with a fallback": {withFallback, none, asked{lists, 0}},
		"a config is out of service": {map[string]any{"fallback_configs": "default"}, func(m *mount) {
			m.setPasswordExpired("config-0", true)
			m.tick()
		}, asked{lists, 0}},
		"a fallback cannot be read": {withFallback, func(m *mount) {
			m.damage("config/default")
			m.start()
			m.tickAnyhow()
		}, asked{lists + 2, 0}},
		"a fallback does not exist": {withFallback, func(m *mount) {
			m.remove("config/default")
			m.start()
			m.tick()
		}, asked{lists, 0}},
		"a session cannot be read": {nil, func(m *mount) {
			m.damage("session/role-0-of-config-0")
			m.start()
			m.tick()
		}, asked{lists, 0}},
		"the roles' config cannot be read": {nil, func(m *mount) {
			m.damage("config/config-0")
			m.start()
			m.tickAnyhow()
		}, asked{lists + rolesOfEach + 2, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.manyConfigs(4, rolesOfEach, test.role)
				test.happens(m)
				m.expectAsks("a tick", test.want, m.tickAnyhow)
			})
		})
	}
}

// The first read after a restart reads each entry once: the role and its session, its config and what was
// learnt of the server; with a fallback also the other config, and of both whether they are out of service.
func TestAfterARestartTheFirstReadLooksAtEachEntryOnce(t *testing.T) {
	for name, test := range map[string]struct {
		role           map[string]any
		first, another int64
		question       simulator.Endpoint
	}{
		"alone":           {nil, 4, 2, simulator.EndpointValidate},
		"with a fallback": {map[string]any{"fallback_configs": "default"}, 7, 2, simulator.EndpointServiceOrgs},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				roles := m.manyConfigs(1, 2, test.role)
				m.start()
				m.expectAsks("the first read", asked{test.first, 0}, func() { m.readRole(roles[0]) })
				m.expectCalls(calls{test.question: 1})
				m.expectAsks("the first of another role", asked{test.another, 0}, func() { m.readRole(roles[1]) })
				m.expectCalls(nil)
			})
		})
	}
}

// rolesOfEach is how many roles each config has.
const rolesOfEach = 5

// What this node is in its cluster, core is asked once a second, however many requests there are.
func TestCoreIsAskedOnceASecond(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.expectAsks("reads of ten seconds", asked{0, 10}, func() {
			for range 10 * 100 {
				time.Sleep(10*time.Millisecond + time.Microsecond)
				m.read(nil)
			}
		})
	})
}
