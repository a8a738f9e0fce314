// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What fallback_configs do: what takes a config out of service, what brings it back, and what
// readers see in each moment.

package backend

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/simulator"
)

// withTwoUsers runs the test with a second user, the config second for it, and role monitoring
// falling back to that.
func withTwoUsers(t *testing.T, change func(*simulator.Knobs), test func(m *mount)) {
	t.Helper()
	inBubble(t, change, func(m *mount) {
		m.addConfig("second")
		m.write("roles/monitoring", map[string]any{"fallback_configs": "second"})
		m.ResetCounts()
		test(m)
	})
}

// addConfig adds a config with a user of its own, which is not verified.
func (m *mount) addConfig(name string) {
	m.t.Helper()
	m.write("config/"+name, map[string]any{
		"url": m.server.URL, "user_api_token": m.AddUser(name + "-user"), "password_max_age": 0, "verify": false,
	})
}

// expectFrom fails the test unless the answer's token is the config's and lives.
func (m *mount) expectFrom(config string, answer map[string]any) {
	m.t.Helper()
	if m.expectLives(answer); answer["config"] != config {
		m.t.Errorf("the token comes from config %v, not from %s", answer["config"], config)
	}
}

// userDies are the ways in which an N-central user stops working.
var userDies = map[string]struct {
	knobs func(*simulator.Knobs)
	kill  func(m *mount) error
	// atOnce is set where a token in hand is found dead by the read that meets it.
	atOnce bool
}{
	"its password expires": {
		kill: func(m *mount) error { return m.SetPasswordExpired("api-user", true) },
	},
	"its password expires, and the server does not tell of users": {
		knobs: func(k *simulator.Knobs) { k.UserForbidden = true },
		kill:  func(m *mount) error { return m.SetPasswordExpired("api-user", true) },
	},
	"its password expires, and authenticate is refused": {
		knobs: func(k *simulator.Knobs) { k.ExpiredPasswordRefusesAuthenticate = true },
		kill:  func(m *mount) error { return m.SetPasswordExpired("api-user", true) },
	},
	"its token is regenerated": {
		knobs: func(k *simulator.Knobs) { k.RegenerateEndsSessions = true },
		kill: func(m *mount) error {
			_, err := m.RegenerateUserAPIToken("api-user")
			return err
		},
	},
	"it is locked": {
		kill: func(m *mount) error { return m.SetUserLocked("api-user", true) },
	},
	"it is disabled": {
		kill: func(m *mount) error { return m.SetUserDisabled("api-user", true) },
	},
}

// A minute and a tick after a user died, in whatever way, readers have a token of the next one, and
// nobody has met an error.
func TestARoleGoesOnWithItsNextConfigWhenAUserDies(t *testing.T) {
	for name, test := range userDies {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, test.knobs, func(m *mount) {
				m.expectFrom("default", m.read(nil))
				m.tick()
				if err := test.kill(m); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				m.tick()
				time.Sleep(5 * time.Second)
				for range 70 { // beyond the rotation, by when a refused token is found as well
					m.read(nil)
					m.tick()
					time.Sleep(time.Minute)
				}
				m.expectFrom("second", m.read(nil))
				if warnings := m.warnings(); !strings.Contains(warnings, `config "default" is out of service since`) {
					t.Error("the warning:", warnings)
				}
				first := m.status()
				if first["out_of_service_since"] == nil || first["state"] != "failing" {
					t.Errorf("status: %v", first)
				}
				if tries := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); tries > 14 {
					t.Errorf("%d authenticate calls", tries)
				}
			})
		})
	}
}

// Where N-central tells of it, the data call of the next tick finds the dead user.
func TestADeadUserIsFoundWithinAMinute(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.expectFrom("default", m.read(nil))
		m.tick()
		time.Sleep(30 * time.Second)
		m.setPasswordExpired("api-user", true)
		time.Sleep(30 * time.Second)
		m.tick()
		time.Sleep(time.Second)
		m.ResetCounts()
		m.expectFrom("second", m.read(nil)) // obtained already, so that no reader waits for it
		m.expectCalls(calls{})
		sent := slices.IndexFunc(m.sent(), func(e map[string]string) bool {
			return e["type"] == string(events.RoleFailedOver)
		})
		if sent < 0 {
			t.Error("no event tells of it:", m.sent())
		}
	})
}

// The tick that rotates the config's only token asks after its user all the same.
func TestAUserWhoDiesBeforeARotationIsFoundByTheTickThatRotates(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		for range 52 {
			time.Sleep(time.Minute)
			m.tick()
		}
		m.setPasswordExpired("api-user", true)
		time.Sleep(time.Minute)
		m.ResetCounts()
		m.tick()
		if m.all(simulator.EndpointRefresh) != 1 {
			t.Fatal("this is not the tick that rotates")
		}
		time.Sleep(time.Second)
		m.expectFrom("second", m.read(nil))
	})
}

// A config is tried once in ten minutes, and its role takes it again at the next rotation.
func TestAConfigComesBackAtTheNextRotation(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.setPasswordExpired("api-user", true)
		time.Sleep(time.Minute)
		m.tick()
		m.expectFrom("second", m.read(nil))
		m.setPasswordExpired("api-user", false)
		for range 11 {
			time.Sleep(time.Minute)
			m.tick()
		}
		answer := m.read(nil)
		m.expectFrom("second", answer)
		if warnings := m.warnings(); !strings.Contains(warnings, `config "default" is in service again`) {
			t.Error("the warning:", warnings)
		}
		for range 50 {
			time.Sleep(time.Minute)
			m.read(nil)
			m.tick()
		}
		m.expectFrom("default", m.read(nil))
	})
}

// Where every config is out, the error names each with its reason.
func TestWhereEveryConfigIsOutTheErrorNamesEach(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		for _, user := range []string{"api-user", "second-user"} {
			m.setPasswordExpired(user, true)
		}
		time.Sleep(time.Minute)
		m.tick()
		time.Sleep(time.Minute)
		m.tick()
		m.fails(400, opRead, "creds/monitoring", nil, `none of its configs is in service`, `config "default" since`,
			`config "second" since`)
	})
}

// Where readers get no token at all, the configs are tried again within minutes; where nobody reads,
// within ten.
func TestConfigsThatAreAllOutAreTriedSoonWhileThereAreReaders(t *testing.T) {
	for name, test := range map[string]struct {
		isRead bool
		within time.Duration
	}{
		"readers":    {true, 3 * time.Minute},
		"no readers": {false, 11 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				m.read(nil)
				m.tick()
				for _, user := range []string{"api-user", "second-user"} {
					m.setPasswordExpired(user, true)
				}
				for range 3 {
					time.Sleep(time.Minute)
					m.tick()
				}
				if test.isRead {
					m.fails(400, opRead, "creds/monitoring", nil, "none of its configs is in service")
				}
				for _, user := range []string{"api-user", "second-user"} {
					m.setPasswordExpired(user, false)
				}
				for begun := time.Now(); m.status()["out_of_service_since"] != nil; {
					if time.Since(begun) > test.within {
						t.Fatalf("after %s the config is still out of service", test.within)
					}
					time.Sleep(time.Minute)
					m.tick()
				}
				m.expectFrom("default", m.read(nil))
			})
		})
	}
}

// What storage cannot tell is no mistake of whoever writes the role.
func TestAFallbackThatStorageDoesNotGiveIsAFailureOfStorage(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.start()
		m.storage.refusesReads.Store(new("config/second"))
		m.fails(500, opWrite, "roles/monitoring", map[string]any{"fallback_configs": "second"})
	})
}

// A standby hands out no token of a user that does not work as soon as it knows: it leaves the read to
// the active node, until it has the token of the next config. It calls nobody.
func TestAStandbyKnowsWhichConfigIsOut(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		view := &systemView{StaticSystemView: m.system.StaticSystemView}
		view.ReplicationStateVal = consts.ReplicationPerformanceStandby
		standby, err := newBackend(context.Background(), &logical.BackendConfig{
			Logger: m.logger(), System: view, StorageView: m.storage,
		}, func(context.Context, string, string) (net.Conn, error) {
			t.Error("the standby calls N-central")
			return nil, net.ErrClosed
		})
		if err != nil {
			t.Fatal(err)
		}
		defer standby.Cleanup(context.Background())
		servedFrom := func() (config any, err error) {
			response, err := standby.HandleRequest(context.Background(), &logical.Request{
				Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
			})
			if err != nil {
				return nil, err
			}
			return response.Data["config"], nil
		}
		if config, err := servedFrom(); err != nil || config != "default" {
			t.Fatal(config, err)
		}
		m.expireAndTick()
		standby.InvalidateKey(context.Background(), "out/default") // the session's comes later
		if config, err := servedFrom(); !errors.Is(err, logical.ErrReadOnly) {
			t.Errorf("a token of config %v, or another error: %v", config, err)
		}
		standby.InvalidateKey(context.Background(), "session/monitoring")
		if config, err := servedFrom(); err != nil || config != "second" {
			t.Error(config, err)
		}
	})
}

// A damaged entry of a config that is out counts as none: the config is tried, and put out again. Slow
// or refusing storage of these entries keeps no reader waiting.
func TestDamagedEntriesOfConfigsThatAreOutAreFoundOutAnew(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.expireAndTick()
		m.expectFrom("second", m.read(nil))
		entry := &logical.StorageEntry{Key: "out/default", Value: []byte("{")}
		if err := m.storage.Put(context.Background(), entry); err != nil {
			t.Fatal(err)
		}
		m.start()
		m.expectFrom("second", m.read(nil))
		m.delete("sessions/monitoring")
		m.expectFrom("second", m.read(nil)) // the first is tried, and its user found dead
		m.expectLogged("whether a config is out of service cannot be read", true)
		m.storage.refusesReads.Store(new("out/"))
		m.start()
		m.expectFrom("second", m.read(nil))
	})
}

// The tick asks after the user however often readers have their token validated.
func TestADeadUserIsFoundThoughReadersValidateAllTheTime(t *testing.T) {
	withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = true }, func(m *mount) {
		m.read(nil)
		m.tick()
		m.setPasswordExpired("api-user", true)
		for range 300 {
			m.read(map[string]any{"validate": true})
			time.Sleep(200 * time.Millisecond)
		}
		m.read(map[string]any{"validate": true})
		m.tick()
		time.Sleep(5 * time.Second)
		m.expectFrom("second", m.read(nil))
	})
}

// That the User-API token is refused too does not make a user that does not work one that does.
func TestAUserThatDoesNotWorkStaysSoWhereItsTokenIsRefusedLater(t *testing.T) {
	withTwoUsers(t, func(k *simulator.Knobs) { k.UserForbidden = true }, func(m *mount) {
		m.write("roles/idle", map[string]any{"fallback_configs": "second", "lease": false})
		m.readRole("idle")
		for range 56 { // its token is rotated, and nobody reads the new one
			m.read(nil)
			m.tick()
			time.Sleep(time.Minute)
		}
		m.setPasswordExpired("api-user", true)
		m.tick()
		time.Sleep(time.Second)
		m.expectFrom("second", m.read(nil))
		since := m.status()["out_of_service_since"]
		m.regenerate()
		for range 10 { // the last of them tries the config
			time.Sleep(time.Minute)
			m.tick()
		}
		m.expectLogged("N-central refused the User-API token", true)
		m.expectFrom("second", m.readRole("idle"))
		if now := m.status()["out_of_service_since"]; now != since {
			t.Errorf("it was out of service since %v, and is since %v", since, now)
		}
		if warnings := m.warnings(); !strings.Contains(warnings, "refused the credential") {
			t.Error("readers are not told of the refusal:", warnings)
		}
	})
}

// A config that is written is in service at once: its role takes it at the next rotation, and what
// was stored of the version before is removed.
func TestAConfigThatIsWrittenIsInService(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.regenerate()
		m.expectFrom("second", m.read(nil))
		m.write("config/default", map[string]any{"user_api_token": m.regenerate(), "verify": false})
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("out of service since", since)
		}
		m.delete("sessions/monitoring")
		m.expectFrom("default", m.read(nil))
		m.tick()
		time.Sleep(time.Second)
		if entry := m.outOf("default"); entry != "" {
			t.Error("what is stored:", entry)
		}
	})
}

// What is stored of a config that was deleted on another cluster, or that no role with a fallback names
// any more, is removed, and the config is not tried.
func TestWhatNobodyNeedsToKnowOfConfigsThatAreOutIsRemoved(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.regenerate()
		m.expectFrom("second", m.read(nil))
		m.tick()
		entry := &logical.StorageEntry{Key: "out/gone", Value: []byte(m.outOf("default"))}
		if err := m.storage.Put(context.Background(), entry); err != nil {
			t.Fatal(err)
		}
		m.must(opPatch, "roles/monitoring", map[string]any{"fallback_configs": nil})
		m.ResetCounts()
		for range 12 {
			m.tick()
			time.Sleep(time.Minute)
		}
		if stored := m.outOf("gone") + m.outOf("default"); stored != "" {
			t.Error("what is stored:", stored)
		}
		if tries := m.all(simulator.EndpointAuthenticate); tries != 0 {
			t.Errorf("%d tries", tries)
		}
	})
}

// A damaged role keeps no config out of service.
func TestAConfigComesBackThoughARoleIsDamaged(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.write("roles/damaged", map[string]any{"fallback_configs": "second"})
		m.read(nil)
		m.tick()
		m.expireAndTick()
		m.setPasswordExpired("api-user", false)
		m.damage("role/damaged")
		m.start()
		for range 11 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if since := m.status()["out_of_service_since"]; since != nil {
			t.Error("still out of service since", since)
		}
	})
}

// The log does not repeat that a config is out of service, and tells once that it is in service again.
func TestTheLogTellsOnceWhatBecameOfAConfig(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.must(opWrite, "config/default/check", nil)
		m.expectLogged("a config is in service again", false)
		m.tick()
		m.setPasswordExpired("api-user", true)
		count := func(line string) int { return strings.Count(m.log.String(), line) }
		var told int
		for minute := range 60 {
			time.Sleep(time.Minute)
			m.tick()
			if minute == 15 { // it has been tried
				told = count("a config is out of service")
			}
		}
		if again := count("a config is out of service"); told == 0 || again != told {
			t.Errorf("the log told of it %d times, and then %d", told, again)
		}
		m.setPasswordExpired("api-user", false)
		for range 25 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if back := count("a config is in service again"); back != 1 {
			t.Errorf("the log told %d times that it is back", back)
		}
	})
}

// All tokens of a user that does not work are replaced by the tick that finds it, and no others.
func TestAllTokensOfADeadUserAreReplacedBeforeTheyAreRead(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.must(opWrite, "config/second/check", nil) // so that its sessions do not make each other suspect
		m.write("roles/another", map[string]any{"config": "second", "fallback_configs": "default", "lease": false})
		another := m.readRole("another")["access_token"]
		roles := m.addRoles(12, map[string]any{"fallback_configs": "second"})
		for _, role := range roles {
			m.expectFrom("default", m.readRole(role))
		}
		m.tick()
		m.expireAndTick()
		m.ResetCounts()
		for _, role := range roles {
			m.expectFrom("second", m.readRole(role))
		}
		m.expectCalls(calls{})
		if m.readRole("another")["access_token"] != another {
			t.Error("a token of the user that works was replaced")
		}
	})
}

// The event says from which config to which, and why.
func TestTheEventOfAFailoverSaysWhy(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.sent()
		m.expireAndTick()
		for _, event := range m.sent() {
			if event["type"] != string(events.RoleFailedOver) {
				continue
			}
			if event[events.Before] != "default" || event[events.Config] != "second" ||
				!strings.Contains(event[events.Reason], "password") {
				t.Error("the event:", event)
			}
			return
		}
		t.Error("no event tells of it")
	})
}

// A role that does not name the config of its token any more has neither failed over nor back.
func TestAConfigThatIsTakenFromARoleIsNoFailover(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.regenerate()
		m.expectFrom("second", m.read(nil))
		m.write("config/default", map[string]any{"user_api_token": m.regenerate(), "verify": false})
		m.addConfig("third")
		m.must(opPatch, "roles/monitoring", map[string]any{"fallback_configs": []string{"third"}})
		m.sent()
		m.expectFrom("default", m.read(nil))
		for _, event := range m.sent() {
			if event["type"] == string(events.RoleFailedOver) || event["type"] == string(events.RoleFailedBack) {
				t.Error("an event:", event)
			}
		}
	})
}
