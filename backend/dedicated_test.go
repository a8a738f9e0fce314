// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A dedicated role opens a session for each read, and ends it with its lease.

package backend

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestDedicatedReadsOpenSessionsThatEndWithTheirLeases(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		first, second := m.open(nil), m.open(map[string]any{"validate": true})
		// The hourly questions.
		m.expectCalls(calls{
			simulator.EndpointAuthenticate: 2, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1,
		})
		if m.OpenSessions() != 2 || first.Secret.Renewable || first.Secret.TTL != time.Hour ||
			first.Secret.MaxTTL != time.Hour {
			t.Errorf("%d sessions, lease %+v", m.OpenSessions(), first.Secret.LeaseOptions)
		}
		m.mustRevoke(first)
		m.expectCalls(calls{simulator.EndpointLogout: 1})
		if m.AccessTokenLives(first.Data["access_token"].(string)) ||
			!m.AccessTokenLives(second.Data["access_token"].(string)) {
			t.Error("revoking one lease ends that lease's session and no other")
		}
		m.mustRevoke(first)
		m.expectCalls(calls{simulator.EndpointLogout: 1})
	})
}

func TestRevokeSucceedsWhereNothingCanBeEnded(t *testing.T) {
	tests := map[string]struct {
		change  func(m *mount)
		logouts int
	}{
		"the role is gone": {func(m *mount) { m.delete("roles/worker") }, 1},
		"the config is gone": {func(m *mount) {
			m.delete("roles/worker")
			m.delete("roles/monitoring")
			m.delete("config/default")
		}, 0},
		"the config points elsewhere": {func(m *mount) {
			m.write("config/default", map[string]any{
				"url": "http://localhost:81", "user_api_token": m.token, "verify": false,
			})
		}, 0},
		"after a restart": {func(m *mount) { m.start() }, 1},
		// The clocks may differ, and the refresh token lives longer.
		"the token expired":      {func(*mount) { time.Sleep(time.Hour) }, 1},
		"it expired an hour ago": {func(*mount) { time.Sleep(2 * time.Hour) }, 0},
		"N-central was rebooted": {func(m *mount) { m.Reboot() }, 1},
		"the server has no logout": {
			func(m *mount) { m.Change(func(k *simulator.Knobs) { k.LogoutAbsent = true }) }, 1,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, nil, func(m *mount) {
				lease := m.open(nil)
				synctest.Wait()
				test.change(m)
				m.ResetCounts()
				m.mustRevoke(lease)
				m.expectCalls(calls{simulator.EndpointLogout: test.logouts})
			})
		})
	}
}

func TestServerWithoutLogoutIsWarnedOfUntilALogoutSucceeds(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		warns := func() bool {
			t.Helper()
			return strings.Contains(strings.Join(m.open(nil).Warnings, " "), "no logout")
		}
		lease := m.open(nil)
		if warns() {
			t.Error("a warning on a server that has a logout")
		}
		m.Change(func(k *simulator.Knobs) { k.LogoutAbsent = true })
		m.mustRevoke(lease)
		if !warns() {
			t.Error("no warning after the first 404")
		}
		m.Change(func(k *simulator.Knobs) { k.LogoutAbsent = false })
		m.mustRevoke(m.open(nil))
		if warns() {
			t.Error("the warning stays after a logout succeeded")
		}
	})
}

// A lease is as long as what was promised of its token. A min_ttl beyond that is refused, and
// leaves no session open.
func TestADedicatedLeaseIsAsLongAsThePromise(t *testing.T) {
	inDedicatedBubble(t, func(k *simulator.Knobs) { k.GrantLongerBy = 10 * time.Minute }, func(m *mount) {
		m.write("roles/worker", map[string]any{"ttl": "30m"})
		lease := m.open(map[string]any{"min_ttl": "30m"})
		if lease.Secret.TTL != 30*time.Minute ||
			!strings.Contains(strings.Join(lease.Warnings, " "), "granted more than is promised") {
			t.Errorf("lease of %s, warnings %v", lease.Secret.TTL, lease.Warnings)
		}
		time.Sleep(30 * time.Minute)
		m.mustRevoke(lease)
		if m.OpenSessions() != 0 {
			t.Error("the session outlives what was promised")
		}
		m.ResetCounts()
		m.fails(
			400, opRead, "creds/worker", map[string]any{"min_ttl": "31m"},
			"31m0s is more than the 30m0s that a token of this role lives",
		)
		m.expectCalls(nil)
		m.write("roles/worker", map[string]any{"ttl": 0})
		m.fails(
			400, opRead, "creds/worker", map[string]any{"min_ttl": "61m"},
			"more than the 1h0m0s that a token of this role lives: ask for less",
		)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointLogout: 1})
		if m.OpenSessions() != 0 {
			t.Error("a session that was not answered stays open")
		}
	})
}

func TestDedicatedRoleNeedsALease(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		for _, data := range []map[string]any{{"lease": false}, {"credential_type": "dedicated", "lease": false}} {
			if text := m.fails(400, opWrite, "roles/worker", data); !strings.HasPrefix(text, "lease") {
				t.Error(text)
			}
		}
		text := m.fails(400, opWrite, "roles/monitoring", map[string]any{"credential_type": "dedicated"})
		if !strings.HasPrefix(text, "lease") {
			t.Error(text)
		}
	})
}

// Of eight places two are kept for what readers share, and 64 reads may wait for each of the eight:
// the rest are told so at once.
func TestDedicatedReadsKeepToTheLimitInFlight(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.Latency = 100 * time.Millisecond; k.MaxInFlight = 7 }
	inDedicatedBubble(t, knobs, func(m *mount) {
		tokens, failed, told := m.openMany(context.Background(), 600)()
		if tokens != 512 || failed != 88 || told != 88 || m.MaxInFlight(simulator.EndpointAuthenticate) != 6 {
			t.Errorf("%d of 600 reads got a token, %d were answered 503, %d of which name the limit, with %d "+
				"requests in flight",
				tokens, failed, told, m.MaxInFlight(simulator.EndpointAuthenticate))
		}
		m.expectCalls(calls{
			simulator.EndpointAuthenticate: 512, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1,
		})
	})
}

func TestReadersOfADedicatedRoleKeepNobodyWaiting(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.write("roles/builds", map[string]any{"credential_type": "dedicated"})
		m.expectLives(m.read(nil))
		time.Sleep(60*time.Minute + time.Second)
		m.Change(func(k *simulator.Knobs) { k.Latency = time.Second })
		wait := m.openMany(context.Background(), 400)
		synctest.Wait()
		if o := m.beginRead("monitoring", nil)(); o.token() == "" || o.took > 2*time.Second {
			t.Errorf("the reader of a shared role waited %s: %v", o.took, o.err)
		}
		if o := m.beginRead("builds", nil)(); o.token() == "" || o.took > 3*time.Second {
			t.Errorf("the reader of another dedicated role waited %s: %v", o.took, o.err)
		}
		wait()
	})
}

// That there is not time for all of many reads says nothing of a server that answers each call.
func TestABusyRoleDoesNotMakeAServerSilent(t *testing.T) {
	inDedicatedBubble(t, func(k *simulator.Knobs) { k.Latency = 1100 * time.Millisecond }, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 2, "verify": false})
		others := m.addRoles(20, map[string]any{"credential_type": "dedicated", "lease": true})
		waits := []func() (int, int, int){m.openMany(context.Background(), 100)}
		for _, role := range others { // which share the one place that is theirs
			waits = append(waits, m.openManyOf(context.Background(), role, 5))
		}
		tokens := 0
		for _, wait := range waits {
			got, _, _ := wait()
			tokens += got
		}
		if state := m.status(); state["state"] != "ok" {
			t.Errorf("after %d tokens the config is %v: %v", tokens, state["state"], state["reasons"])
		}
		m.open(nil)
		m.expectLives(m.read(nil))
	})
}

func TestDedicatedReadsThatFindNoPlaceFailInTime(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 1, "verify": false})
		m.Change(func(k *simulator.Knobs) { k.Latency = 3900 * time.Millisecond })
		began := time.Now()
		tokens, failed, _ := m.openMany(context.Background(), 20)()
		if took := time.Since(began); took > 31*time.Second {
			t.Errorf("the last reader waited for %s", took)
		}
		// Who has no turn after 20 s gives up: that does for four, the hourly data call and the
		// question after the user.
		if tokens != 4 || failed != 16 {
			t.Errorf("%d tokens, %d answers 503", tokens, failed)
		}
		time.Sleep(10 * time.Second)
		if open := m.OpenSessions(); open != tokens {
			t.Errorf("%d sessions are open for %d tokens", open, tokens)
		}
	})
}

func TestAReaderThatHangsUpLeavesNoSession(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 1, "verify": false})
		m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
		ctx, hangUp := context.WithCancel(context.Background())
		wait := m.openMany(ctx, 3)
		synctest.Wait()
		hangUp()
		if tokens, _, _ := wait(); tokens != 0 {
			t.Errorf("%d tokens for readers that hung up", tokens)
		}
		time.Sleep(10 * time.Second)
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointLogout: 1})
		if m.OpenSessions() != 0 {
			t.Error("a session is open that nobody knows of")
		}
	})
}

// A lease keeps the config and url that its token came from, so that it is logged out as long as
// that config has that url, whatever becomes of the role. Whoever changes the role is told that its
// leases go on.
func TestLeasesOutliveTheirRoleAndItIsTold(t *testing.T) {
	prefix := "lease revoke -prefix ncentral/creds/worker"
	for name, change := range map[string]struct {
		operation logical.Operation
		data      map[string]any
	}{
		"deleted":           {opDelete, nil},
		"made shared":       {opWrite, map[string]any{"credential_type": "shared"}},
		"of another config": {opPatch, map[string]any{"config": "other"}},
	} {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, nil, func(m *mount) {
				m.write("config/other", map[string]any{"url": m.server.URL, "user_api_token": m.AddUser("other")})
				lease := m.open(nil)
				response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
					Operation: change.operation, Path: "roles/worker", Data: change.data, Storage: m.storage,
					MountPoint: "ncentral/",
				})
				if err != nil || response == nil || response.IsError() ||
					!strings.Contains(strings.Join(response.Warnings, "\n"), prefix) {
					t.Errorf("%v %v", response, err)
				}
				token := m.expectLives(lease.Data)
				m.mustRevoke(lease)
				if m.AccessTokenLives(token) {
					t.Error("the lease cannot be logged out any more")
				}
			})
		})
	}
	t.Run("changed in what leaves its leases alone", func(t *testing.T) {
		inDedicatedBubble(t, nil, func(m *mount) {
			for _, data := range []map[string]any{
				{"ttl": "20m"}, {"config": "default", "credential_type": "dedicated"},
			} {
				if warnings := m.write("roles/worker", data); warnings != "" {
					t.Error(warnings)
				}
			}
			if warnings := m.delete("roles/monitoring"); warnings != "" {
				t.Error(warnings)
			}
		})
	})
}

// A token is sent nowhere but to the url of the config that it came from. Whoever takes that away
// is told of what lives on.
func TestWhoStrandsTokensIsTold(t *testing.T) {
	for name, strand := range map[string]func(m *mount) (warnings string){
		"deletion": func(m *mount) string {
			m.delete("roles/monitoring")
			m.delete("roles/worker")
			return m.delete("config/default")
		},
		"another url": func(m *mount) string {
			return m.write("config/default", map[string]any{
				"url": "https://other.example.com", "user_api_token": m.token, "verify": false,
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inDedicatedBubble(t, nil, func(m *mount) {
				m.write("roles/short", map[string]any{"ttl": "10m"})
				lease := m.open(nil)
				m.FailNext(simulator.EndpointLogout, -1, status(403))
				m.readRole("short")
				until := m.read(nil)["expires_at"].(string)
				for _, path := range []string{"sessions/short", "sessions/monitoring", "roles/short"} {
					m.delete(path)
				}
				warnings := strand(m)
				for _, want := range []string{
					`logouts owed to config "default", which are given up: 2; those tokens live until ` + until,
					`what config "default" opened at the url that it had can no longer be logged out, including ` +
						`dedicated leases`,
				} {
					if !strings.Contains(warnings, want) {
						t.Errorf("no warning %q, but:\n%s", want, warnings)
					}
				}
				m.ClearFailures()
				m.mustRevoke(lease)
				m.expectLives(lease.Data)
			})
		})
	}
	t.Run("nobody else", func(t *testing.T) {
		inDedicatedBubble(t, nil, func(m *mount) {
			for _, data := range []map[string]any{
				{"user_api_token": m.token}, {"url": m.server.URL + "/", "user_api_token": m.token}, {"max_retries": 1},
			} {
				if warnings := m.write("config/default", data); warnings != "" {
					t.Error(warnings)
				}
			}
			if warnings := m.delete("config/invented"); warnings != "" {
				t.Error(warnings)
			}
		})
	})
}

// Reads that were answered do not count among those that wait.
func TestReadsThatWereAnsweredKeepNobodyFromADedicatedRole(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 1, "verify": false})
		for range 65 { // of which 64 may wait for one place
			m.open(nil)
		}
	})
}

// A session that another reader's ended before it could be answered is not answered: its reader
// gets another.
func TestADedicatedSessionThatAnotherEndedIsNotAnswered(t *testing.T) {
	inDedicatedBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		release := g.hold(toAuthenticate)
		first := m.beginRead("worker", nil)
		synctest.Wait()
		m.open(nil) // ends the first one's session
		release()
		if o := first(); !m.AccessTokenLives(o.token()) {
			t.Errorf("a dead token was handed out, or none: %v", o.err)
		}
	})
}

// A dedicated role whose config was deleted elsewhere is told so.
func TestADedicatedRoleWithoutItsConfigIsToldSo(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		if err := m.storage.Delete(context.Background(), "config/default"); err != nil {
			t.Fatal(err)
		}
		m.backend.InvalidateKey(context.Background(), "config/default")
		m.fails(400, opRead, "creds/worker", nil, "unknown config")
		m.expectCalls(nil)
	})
}

// A dedicated token that dies while it is being validated is not answered under a lease.
func TestADedicatedTokenThatDiesWhileItIsValidatedIsNotAnswered(t *testing.T) {
	inDedicatedBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/worker", map[string]any{"ttl": "10s"})
		g := m.gated()
		release := g.hold(toAuthenticate)
		a := m.beginRead("worker", nil)
		synctest.Wait()
		// Another overlaps: fails before it opens a session
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.write("roles/other", map[string]any{"lease": false})
		m.fails(400, opRead, "creds/other", nil)
		hold := g.hold(toValidate)
		release()
		synctest.Wait()
		time.Sleep(9500 * time.Millisecond)
		hold()
		o := a()
		if o.err == nil || !strings.Contains(o.err.Error(), "was of no use any more") {
			t.Errorf("%v %v", o.err, o.response)
		}
	})
}

// A dedicated read ends within three times request_timeout, its validation included.
func TestADedicatedReadEndsInTimeThoughItsTokenIsValidated(t *testing.T) {
	inDedicatedBubble(t, endsEarlier, func(m *mount) {
		m.write("config/default", map[string]any{"request_timeout": "20s", "max_retries": 10, "verify": false})
		g := m.gated()
		release := g.hold(toAuthenticate)
		a := m.beginRead("worker", nil)
		synctest.Wait()
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.write("roles/other", map[string]any{"lease": false})
		m.fails(400, opRead, "creds/other", nil)
		m.FailNext(simulator.EndpointValidate, -1, hang)
		release()
		o := a()
		if o.took > 61*time.Second {
			t.Errorf("took %s", o.took)
		}
	})
}

// A session whose config storage does not tell any more, once it is opened, is ended when storage
// is well again.
func TestASessionOpenedWhileStorageFailsIsEnded(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		m.get("config/default")
		release := g.hold(toAuthenticate)
		reader := m.beginRead("worker", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "config/default") // another node writes it
		storage.failToRead("config/default")
		release()
		if o := reader(); o.token() != "" || m.OpenSessions() != 1 {
			t.Errorf("a token was answered (%t), and %d sessions are open", o.token() != "", m.OpenSessions())
		}
		synctest.Wait()
		storage.get.Store(nil)
		time.Sleep(time.Minute)
		m.tick()
		if open := m.OpenSessions(); open != 0 || len(m.owedKeys()) != 0 {
			t.Errorf("%d sessions stay open, owed is %v", open, m.owedKeys())
		}
	})
}

// A reader is told of storage that fails once its session is open, and no second one is opened.
func TestNoSecondSessionIsOpenedWhereStorageFails(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		release := g.hold(toAuthenticate)
		reader := m.beginRead("worker", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "role/worker")
		storage.failToReadOnce("role/worker")
		release()
		if o := reader(); o.err == nil || !strings.Contains(o.err.Error(), "storage is not there for a moment") {
			t.Errorf("%v %v", o.err, o.response)
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointLogout: 1})
	})
}
