// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The state of a config, and what status says about it.

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// useFor has a reader and the tick come once a minute for so long.
func (m *mount) useFor(duration time.Duration) {
	m.t.Helper()
	for range int(duration / time.Minute) {
		time.Sleep(time.Minute)
		m.read(nil)
		m.tick()
	}
}

func TestStatusTellsWhatNeedsAPerson(t *testing.T) {
	tests := map[string]struct {
		spoil       func(m *mount)
		state       string
		reason      string
		failureKind string
	}{
		"nothing":         {func(*mount) {}, "ok", "", ""},
		"after a restart": {func(m *mount) { m.start() }, "unknown", "", ""},
		"refused": {func(m *mount) {
			m.regenerate()
			m.fails(400, opRead, "creds/monitoring", nil)
		}, "failing", "write the token that the user has now", "refused"},
		"down": {func(m *mount) {
			m.server.Stop()
			m.fails(503, opRead, "creds/monitoring", nil)
		}, "failing", "connection refused", "unreachable"},
		"down, with a token in hand": {func(m *mount) {
			m.read(nil)
			m.server.Stop()
			m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
		}, "degraded", "connection refused", "unreachable"},
		"no logout": {func(m *mount) {
			m.read(nil)
			m.Change(func(k *simulator.Knobs) { k.LogoutAbsent = true })
			m.delete("sessions/monitoring")
		}, "ok", "", ""},
		"data forbidden": {func(m *mount) {
			m.read(nil)
			m.Change(func(k *simulator.Knobs) { k.DataForbidden = true })
			m.tick()
		}, "ok", "", ""},
		"expired password": {func(m *mount) {
			m.read(nil)
			m.setPasswordExpired("api-user", true)
			m.tick()
		}, "degraded", "the API user's password has expired", "server_error"},
		"expired password that nobody tells of": {func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.UserForbidden = true })
			m.read(nil)
			m.setPasswordExpired("api-user", true)
			m.tick()
		}, "degraded", "password has most likely expired", "server_error"},
		"locked user whose tokens work still": {func(m *mount) {
			m.read(nil)
			_ = m.SetUserLocked("api-user", true)
			m.tick()
		}, "degraded", "the API user is locked: unlock", ""},
		"password to be reset": {func(m *mount) {
			m.read(nil)
			_ = m.SetPasswordResetRequired("api-user", true)
			m.tick()
		}, "degraded", "requires the API user to set a new password", ""},
		"two-factor authentication": {func(m *mount) {
			m.read(nil)
			_ = m.SetTwoFactorType("api-user", "TOTP")
			m.tick()
		}, "degraded", "two-factor authentication on (TOTP)", ""},
		"users/me fails, and the user works": {func(m *mount) {
			m.read(nil)
			m.FailNext(simulator.EndpointUser, -1, status(500))
			m.tick()
		}, "ok", "", ""},
		"clocks that are apart": {func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.ClockOffset = -6 * time.Minute })
			m.check()
		}, "degraded", "N-central's clock was 6m0s behind, by this node's", ""},
		"password soon to expire": {func(m *mount) {
			m.write("config/default", map[string]any{
				"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "100h",
			})
		}, "degraded", "the API user's password expires at", ""},
		"logouts owed": {func(m *mount) {
			m.read(nil)
			m.FailNext(simulator.EndpointLogout, 1, status(403))
			m.delete("sessions/monitoring")
		}, "degraded", "logouts owed: 1", "forbidden"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				test.spoil(m)
				status := m.status()
				kind, _ := status["last_failure_kind"].(string)
				if status["state"] != test.state || kind != test.failureKind {
					t.Errorf("state %v, last failure %q", status["state"], kind)
				}
				reasons := strings.Join(status["reasons"].([]string), "\n")
				if !strings.Contains(reasons, test.reason) || (test.reason == "") != (reasons == "") {
					t.Errorf("reasons: %s", reasons)
				}
				for _, secret := range m.Secrets() {
					if strings.Contains(fmt.Sprint(status), secret) {
						t.Error("status tells a secret")
					}
				}
			})
		})
	}
}

func TestStatusTellsTimesAndWhatWasLearnt(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		want := map[string]any{
			"state": "ok", "reasons": []string{}, "logouts_owed": 0, "last_success": "2000-01-01T00:00:00Z",
			"server_version": "2026.4.1.12", "clock_offset_seconds": 0.0,
			"can_log_out": true, "can_validate": true, "refresh_ends_predecessor": false,
			"authenticate_ends_earlier_sessions": false,
			"user": map[string]any{
				"name": "api-user", "enabled": true, "locked": false, "password_expired": false,
				"password_reset_required": false,
				"two_factor":              "NONE",
			},
		}
		if diff := cmp.Diff(want, m.status()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour)
		m.server.Stop()
		m.fails(503, opRead, "creds/monitoring", nil)
		status := m.status()
		if status["last_failure"] == nil || status["next_attempt"] == nil ||
			status["last_success"] != "2000-01-01T00:00:00Z" {
			t.Errorf("%v", status)
		}
	})
}

func TestCredsConfigAndStatusWarnOfExpiry(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		if warnings := m.warnings(); warnings != "" {
			t.Error(warnings)
		}
		m.write("config/default", map[string]any{
			"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "400h",
		})
		if warnings := m.warnings(); warnings != "" {
			t.Errorf("a warning before expiry_warning: %s", warnings)
		}
		time.Sleep(65 * time.Hour)
		warnings := m.warnings()
		if !strings.Contains(warnings, "the API user's password expires at 2000-01-17T16:00:00Z") {
			t.Errorf("warnings: %s", warnings)
		}
		for _, path := range []string{"config/default", "status"} {
			_, warnings := m.answer(opRead, path, nil)
			if !strings.Contains(warnings, "the API user's password expires at 2000-01-17T16:00:00Z") {
				t.Errorf("%s: warnings: %s", path, warnings)
			}
		}
		time.Sleep(336 * time.Hour)
		if warnings := m.warnings(); !strings.Contains(warnings, "the API user's password expired at") {
			t.Errorf("warnings: %s", warnings)
		}
	})
}

// A reader can neither see nor write a config: a warning of what it needs says whom to tell. Whoever
// reads the config or the status is who is meant.
func TestAReaderIsToldWhoIsToActOnAWarning(t *testing.T) {
	const tell = `; tell whoever runs config "default"`
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{
			"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "24h",
		})
		if warnings := m.warnings(); !strings.HasSuffix(warnings, tell) {
			t.Errorf("an expiry: %s", warnings)
		}
		for _, path := range []string{"config/default", "status"} {
			if _, warnings := m.answer(opRead, path, nil); warnings == "" || strings.Contains(warnings, tell) {
				t.Errorf("%s: %s", path, warnings)
			}
		}
		m.write("config/default", map[string]any{"password_max_age": 0})
		m.setPasswordExpired("api-user", true)
		m.check()
		if warnings := m.warnings(); !strings.HasSuffix(warnings, tell) {
			t.Errorf("a user who does not work: %s", warnings)
		}
		m.setPasswordExpired("api-user", false)
		m.check()
		m.server.Stop()
		time.Sleep(56 * time.Minute)
		if warnings := m.warnings(); !strings.HasSuffix(warnings, tell) {
			t.Errorf("a stale token: %s", warnings)
		}
	})
}

func TestAConfigThatRotatesAtEveryTickIsProbed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"ttl": "2m", "min_ttl": "1m"})
		m.read(nil)
		m.setPasswordExpired("api-user", true)
		for range 180 {
			time.Sleep(30 * time.Second)
			m.read(nil)
			time.Sleep(30 * time.Second)
			m.tick()
		}
		if status := m.status(); status["state"] != "degraded" {
			t.Errorf("after three hours: %v %v", status["state"], status["reasons"])
		}
	})
}

func TestANewCredentialIsProbedAtTheNextTick(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		token := m.AddUser("other-user")
		m.setPasswordExpired("other-user", true)
		m.write("config/default", map[string]any{"user_api_token": token, "verify": false})
		m.read(nil)
		time.Sleep(time.Minute)
		m.tick()
		if status := m.status(); status["state"] != "degraded" {
			t.Errorf("%v %v", status["state"], status["reasons"])
		}
	})
}

func TestAProbeThatWasNotAnsweredIsMadeAgainSoon(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.FailNext(simulator.EndpointServiceOrgs, 4, status(503))
		m.tick()
		m.ClearFailures()
		m.setPasswordExpired("api-user", true)
		for range 5 {
			time.Sleep(time.Minute)
			m.tick()
		}
		if status := m.status(); status["state"] != "degraded" {
			t.Errorf("%v %v", status["state"], status["reasons"])
		}
	})
}

func TestARefreshDoesNotHideARefusalAfterTheConfigWasRewritten(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		m.regenerate()
		m.fails(400, opRead, "creds/other", nil)
		m.write("config/default", map[string]any{"max_retries": 1, "verify": false})
		m.sent()
		time.Sleep(56 * time.Minute)
		m.read(nil)
		if state := m.status()["state"]; state == "ok" {
			t.Errorf("state %v, events %v", state, typesOf(m.sent()))
		}
	})
}

func TestABusyServerDuringCheckDoesNotDegradeTheCredential(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.sent()
		m.FailNext(simulator.EndpointServiceOrgs, 1, status(503))
		m.write("config/default/check", nil)
		m.useFor(30 * time.Minute)
		if status := m.status(); status["state"] != "ok" {
			t.Errorf("half an hour later: %v %v, events %v", status["state"], status["reasons"], typesOf(m.sent()))
		}
	})
}

func TestLinksThatFailInCheckAreNoFailingCredential(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.sent()
		m.FailNext(simulator.EndpointLinks, 1, status(500))
		m.write("config/default/check", nil)
		m.useFor(30 * time.Minute)
		if status := m.status(); status["state"] != "ok" {
			t.Errorf("%v %v, events %v", status["state"], status["reasons"], typesOf(m.sent()))
		}
	})
}

func TestAConfigWrittenElsewhereStartsAnew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		entry, _ := m.storage.Get(context.Background(), "config/default")
		var stored map[string]any
		_ = json.Unmarshal(entry.Value, &stored)
		stored["user_api_token"] = m.AddUser("new-user")
		stored["written_at"] = time.Now().Add(time.Second).UTC()
		entry.Value, _ = json.Marshal(stored)
		_ = m.storage.Put(context.Background(), entry)
		m.backend.InvalidateKey(context.Background(), "config/default")
		if status := m.status(); status["state"] != "unknown" {
			t.Errorf("%v %v next %v", status["state"], status["reasons"], status["next_attempt"])
		}
	})
}

func TestOneUnreadableConfigDoesNotSilenceTheOthers(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		_ = m.storage.Put(context.Background(), &logical.StorageEntry{Key: "config/broken", Value: []byte("{")})
		if !strings.Contains(m.metricsText(), `config_state{config="default",state="ok"} 1`) {
			t.Error("metrics do not tell of the config that can be read")
		}
		response, err := m.do(opRead, "status", nil)
		if err != nil || !strings.Contains(strings.Join(response.Warnings, ""), "config/broken") ||
			m.status()["state"] != "ok" {
			t.Error(response, err)
		}
	})
}

func TestSilenceOfAnIdleConfigEnds(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.FailNext(simulator.EndpointLogout, 20, status(503))
		m.delete("sessions/monitoring")
		time.Sleep(2 * time.Hour)
		m.ClearFailures()
		for range 3 * 24 {
			time.Sleep(time.Hour)
			m.tick()
		}
		if status := m.status(); status["state"] != "ok" {
			t.Errorf("three days later: %v %v", status["state"], status["reasons"])
		}
	})
}

func TestACheckThatIsAnsweredEndsTheSilence(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.FailNext(simulator.EndpointValidate, 20, status(503))
		m.fails(503, opRead, "creds/monitoring", map[string]any{"validate": true})
		m.ClearFailures()
		m.setPasswordExpired("api-user", true)
		m.write("config/default/check", nil)
		if reasons := strings.Join(m.status()["reasons"].([]string), "\n"); strings.Contains(reasons, "status 503") {
			t.Error(reasons)
		}
	})
}

func TestEndingOneRoleDoesNotHideThatAnotherServesStale(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		time.Sleep(time.Second)
		m.readRole("other")
		time.Sleep(56 * time.Minute)
		m.server.Stop()
		m.readRole("other")
		m.read(nil)
		if state := m.status()["state"]; state != "degraded" {
			t.Fatal(state)
		}
		m.delete("sessions/other")
		if state := m.status()["state"]; state != "degraded" {
			t.Errorf("%v, though monitoring's token is handed out", state)
		}
	})
}

// Tokens do not depend on users/me: where it alone is busy or silent, no token waits for it.
func TestUsersMeThatFailsKeepsNobodyFromTokens(t *testing.T) {
	for name, failure := range map[string]simulator.Failure{
		"busy":        {Kind: simulator.FailureStatus, Status: 429, RetryAfterSeconds: 600},
		"unavailable": status(503),
		"silent":      hang,
		"cut off":     {Kind: simulator.FailureReset},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("roles/own", map[string]any{"credential_type": "dedicated"})
				m.read(nil)
				m.FailNext(simulator.EndpointUser, -1, failure)
				time.Sleep(time.Minute)
				m.tick()
				if m.all(simulator.EndpointUser) == 0 {
					m.t.Fatal("the tick did not ask users/me")
				}
				m.readRole("own")
				if told := m.status(); told["state"] != "ok" || told["next_attempt"] != nil {
					t.Error(told["state"], told["reasons"], told["next_attempt"])
				}
			})
		})
	}
}

// What N-central last told of the user stands where it cannot be asked: that is no recovery.
func TestUserWhoCannotBeAskedAfterIsNotWellAgain(t *testing.T) {
	asks := map[string]func(m *mount){
		"tick": func(m *mount) {
			time.Sleep(time.Hour)
			m.read(nil)
			m.tick()
		},
		"check": func(m *mount) { m.check() },
	}
	for by, ask := range asks {
		t.Run(by, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.read(nil)
				_ = m.SetPasswordResetRequired("api-user", true)
				m.check()
				m.sent()
				for _, failure := range []simulator.Failure{hang, status(429)} {
					m.FailNext(simulator.EndpointUser, 1, failure)
					asked := m.all(simulator.EndpointUser)
					ask(m)
					if m.all(simulator.EndpointUser) == asked {
						m.t.Fatal("users/me was not asked")
					}
					told := m.status()
					if !strings.Contains(fmt.Sprint(told["reasons"]), "requires the API user to set a new password") {
						t.Error(told["state"], told["reasons"], told["user"])
					}
				}
				_ = m.ChangePassword("api-user")
				ask(m)
				if told := m.status(); told["state"] != "ok" {
					t.Error(told["state"], told["reasons"], told["user"])
				}
				synctest.Wait()
				if sent := typesOf(m.sent()); len(sent) != 1 || sent[0] != "ncentral/credential-recover" {
					t.Error(sent)
				}
			})
		})
	}
}

// Whoever gets a token of a user that does not work is told so with it, shared or dedicated, until
// that is mended.
func TestReadersAreToldOfAUserThatDoesNotWork(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/own", map[string]any{"credential_type": "dedicated"})
		told := func() (count int) {
			for _, role := range []string{"monitoring", "own"} {
				const warning = "may refuse what is done with this token: the API user's password has expired"
				if _, warnings := m.answer(opRead, "creds/"+role, nil); strings.Contains(warnings, warning) {
					count++
				}
			}
			return count
		}
		if got := told(); got != 0 {
			t.Errorf("of a user that works, %d answers warn", got)
		}
		m.setPasswordExpired("api-user", true)
		m.write("config/default/check", nil)
		if got := told(); got != 2 {
			t.Errorf("%d of 2 answers warn", got)
		}
		m.setPasswordExpired("api-user", false)
		m.write("config/default/check", nil)
		if got := told(); got != 0 {
			t.Errorf("of a user that works again, %d answers warn", got)
		}
	})
}

// A refresh that succeeds does not hide that the User-API token is refused.
func TestARefreshDoesNotHideARefusedCredential(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.regenerate()
		m.fails(400, opRead, "creds/other", nil)
		if s := m.status(); s["state"] != "failing" {
			t.Error(s)
		}
		m.expectLives(m.read(nil)) // validated, refreshed
		if s := m.status(); s["state"] == "ok" {
			t.Errorf("state ok though the User-API token is refused: %v", s)
		}
		m.fails(400, opRead, "creds/other", nil)
	})
}

// Once a stale token was ended, nothing is served and the state is failing.
func TestStatusTellsOfNoStaleTokenThatWasEnded(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.regenerate()
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.delete("sessions/monitoring")
		m.fails(400, opRead, "creds/monitoring", nil)
		if s := m.status(); s["state"] != "failing" {
			t.Error(s["state"], s["reasons"])
		}
	})
}

// A rewrite of the config lifts the cool-down, and status tells of it no more.
func TestStatusTellsOfNoCoolDownThatARewriteLifted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		fresh := m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.write("config/default", map[string]any{"user_api_token": fresh, "verify": false})
		s := m.status()
		if reasons := strings.Join(s["reasons"].([]string), "\n"); strings.Contains(reasons, "not tried again before") {
			t.Error(s["state"], reasons)
		}
	})
}

func TestListOfConfigsTellsTheState(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		state := func() any {
			t.Helper()
			info := m.must(opList, "config/", nil)["key_info"].(map[string]any)
			return info["default"].(map[string]any)["state"]
		}
		expect := func(want string) {
			t.Helper()
			if got := state(); got != want {
				t.Errorf("state %v, want %s", got, want)
			}
		}
		expect("ok") // verify asked
		m.start()
		expect("unknown")
		m.read(nil)
		expect("ok")
		m.server.Stop()
		time.Sleep(56 * time.Minute)
		m.read(nil)
		expect("degraded")
		time.Sleep(5 * time.Minute)
		m.fails(503, opRead, "creds/monitoring", nil)
		expect("failing")
		if err := m.server.Restart(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		m.read(nil)
		expect("ok")
		m.setPasswordExpired("api-user", true)
		m.tick()
		expect("degraded")
		m.setPasswordExpired("api-user", false)
		m.check()
		expect("ok")
		m.setPasswordExpired("api-user", true)
		m.check()
		expect("degraded")
	})
}
