// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a check of a config calls, finds and tells.

package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

var allSteps = []string{
	"links", "authenticate", "authenticate_again", "validate", "user", "data", "refresh", "server_info", "logout",
}

func TestCheckTellsWhatTheServerIsLike(t *testing.T) {
	tests := map[string]struct {
		knobs                               func(*simulator.Knobs)
		canLogOut, refreshEnds, sessionEnds bool
		warning                             string
	}{
		"today's server": {canLogOut: true},
		"without logout": {knobs: func(k *simulator.Knobs) { k.LogoutAbsent = true }},
		"refresh ends predecessor": {
			knobs: func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, canLogOut: true, refreshEnds: true,
		},
		"authenticate ends earlier": {
			knobs: endsEarlier, canLogOut: true, sessionEnds: true, warning: "every role needs an N-central user",
		},
		"403 on the data call": {knobs: func(k *simulator.Knobs) { k.DataForbidden = true }, canLogOut: true},
		"links nested, single use": {
			knobs: func(k *simulator.Knobs) { k.LinksNested, k.SingleUseRefreshTokens = true, true }, canLogOut: true,
		},
		"no expirySeconds, no start": {
			knobs: func(k *simulator.Knobs) { k.OmitExpirySeconds, k.OmitStartTime = true, true }, canLogOut: true,
		},
		"a clock that is a day ahead": {
			knobs: func(k *simulator.Knobs) { k.ClockOffset = 24 * time.Hour }, canLogOut: true,
			warning: "clock was 24h0m0s ahead",
		},
		"three links":     {knobs: func(k *simulator.Knobs) { k.ThreeLinks = true }, canLogOut: true},
		"no users/me":     {knobs: func(k *simulator.Knobs) { k.UserAbsent = true }, canLogOut: true},
		"403 on users/me": {knobs: func(k *simulator.Knobs) { k.UserForbidden = true }, canLogOut: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.knobs, func(m *mount) {
				answer, steps, warnings := m.check()
				if answer["ok"] != true || answer["failed_step"] != "" {
					t.Errorf("failed at %v: %v", answer["failed_step"], answer["message"])
				}
				if diff := cmp.Diff(allSteps, steps); diff != "" {
					t.Error(diff)
				}
				want := map[string]any{
					"can_log_out": test.canLogOut, "refresh_ends_predecessor": test.refreshEnds,
					"authenticate_ends_earlier_sessions": test.sessionEnds, "server_version": "2026.4.1.12",
					"clock_offset_seconds": m.Knobs().ClockOffset.Seconds(),
				}
				for field, value := range want {
					if answer[field] != value {
						t.Errorf("%s is %v, want %v", field, answer[field], value)
					}
				}
				if !strings.Contains(warnings, test.warning) {
					t.Errorf("warnings: %s", warnings)
				}
				if open := m.OpenSessions(); test.canLogOut && open != 0 {
					t.Errorf("%d sessions are open after the check", open)
				}
			})
		})
	}
}

// N-central's own logs have nothing else to tell one integration from another.
func TestEveryCallNamesTheEngineAndItsVersion(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.write("config/default/check", nil)
		for _, request := range m.Requests() {
			if want := "vault-plugin-secrets-ncentral/" + Version(); request.UserAgent != want {
				t.Errorf("%s: the caller is %q, want %q", request.Endpoint, request.UserAgent, want)
			}
		}
	})
}

func TestCheckSaysWhichStepFailedAndWhatToDo(t *testing.T) {
	tests := map[string]struct {
		spoil  func(m *mount)
		step   string
		remedy string
	}{
		"down": {func(m *mount) { m.server.Stop() }, "links", "check that url is right"},
		"a login page": {
			func(m *mount) { m.FailNext(simulator.EndpointLinks, 1, simulator.Failure{Kind: simulator.FailureHTML}) },
			"links", "without /api",
		},
		"a redirect": {func(m *mount) {
			m.FailNext(simulator.EndpointLinks, 1, simulator.Failure{Kind: simulator.FailureRedirect})
		}, "links", "without /api"},
		"http to TLS": {
			func(m *mount) { m.FailNext(simulator.EndpointLinks, 1, status(400)) }, "links", "write url with https",
		},
		"refused JWT": {func(m *mount) { m.regenerate() }, "authenticate", "write the token that the user has now"},
		"rate limit": {
			func(m *mount) { m.FailNext(simulator.EndpointAuthenticate, -1, status(429)) }, "authenticate",
			"max_requests_in_flight",
		},
		"password": {
			func(m *mount) { m.setPasswordExpired("api-user", true) }, "user",
			"the API user's password has expired: set a new one",
		},
		"password, on an older server": {func(m *mount) {
			m.setPasswordExpired("api-user", true)
			m.Change(func(k *simulator.Knobs) { k.UserAbsent = true })
		}, "data", "password has most likely expired"},
		"password, without USERS_VIEW": {func(m *mount) {
			m.setPasswordExpired("api-user", true)
			m.Change(func(k *simulator.Knobs) { k.UserForbidden = true })
		}, "data", "password has most likely expired"},
		"password, of which users/me dies too": {func(m *mount) {
			m.setPasswordExpired("api-user", true)
			m.Change(func(k *simulator.Knobs) { k.ExpiredPasswordFailsUser = true })
		}, "data", "password has most likely expired"},
		"password, hidden": {func(m *mount) {
			m.setPasswordExpired("api-user", true)
			m.Change(func(k *simulator.Knobs) {
				k.ExpiredPasswordFailsUser, k.HideCoreErrors, k.HiddenErrorKey = true, true, "error message"
			})
		}, "data", "password has most likely expired"},
		"password to be reset": {func(m *mount) {
			_ = m.SetPasswordResetRequired("api-user", true)
			m.FailNext(simulator.EndpointServiceOrgs, -1, status(500))
		}, "data", "requires the API user to set a new password: set it"},
		"data, of a user who is well": {
			func(m *mount) { m.FailNext(simulator.EndpointServiceOrgs, -1, status(500)) }, "data",
			"the API user's password has not expired",
		},
		"locked": {func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.BarredUsersAuthenticate = true })
			_ = m.SetUserLocked("api-user", true)
		}, "user", "the API user is locked: unlock"},
		"disabled": {func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.BarredUsersAuthenticate = true })
			_ = m.SetUserDisabled("api-user", true)
		}, "user", "the API user is disabled: enable"},
		"locked out": {func(m *mount) { _ = m.SetUserLocked("api-user", true) }, "authenticate", "its user is locked"},
		"hang": {func(m *mount) {
			m.FailNext(simulator.EndpointValidate, -1, hang)
		}, "authenticate_again", "how busy N-central is"},
		"hidden error": {func(m *mount) {
			m.FailNext(simulator.EndpointServiceOrgs, 1, simulator.Failure{Kind: simulator.FailureErrorMessage})
		}, "data", ""},
		"refresh is down": {func(m *mount) { m.FailNext(simulator.EndpointRefresh, 1, status(503)) }, "refresh", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				test.spoil(m)
				began := time.Now()
				answer, _, _ := m.check()
				if answer["ok"] != false || answer["failed_step"] != test.step {
					t.Errorf("failed at %v, want %s: %v", answer["failed_step"], test.step, answer["message"])
				}
				if !strings.Contains(answer["message"].(string), test.remedy) {
					t.Errorf("the message has no remedy: %v", answer["message"])
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("the check took %s", took)
				}
			})
		})
	}
}

// A check makes its calls in a cool-down too. One that passes ends the cool-down, as a new User-API
// token does; one that fails does not.
func TestACheckThatPassesEndsTheCoolDown(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		fresh := m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		if answer, _, _ := m.check(); answer["ok"] != false {
			t.Fatal("a refused credential passed")
		}
		m.ResetCounts()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.expectCalls(nil)
		m.write("config/default", map[string]any{"user_api_token": fresh})
		m.expectLives(m.read(nil))
		if err := m.SetUserDisabled("api-user", true); err != nil {
			t.Fatal(err)
		}
		m.delete("sessions/monitoring")
		m.fails(400, opRead, "creds/monitoring", nil)
		if err := m.SetUserDisabled("api-user", false); err != nil {
			t.Fatal(err)
		}
		m.fails(400, opRead, "creds/monitoring", nil)
		m.check()
		m.expectLives(m.read(nil))
	})
}

func TestFailedVerifyChangesNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		before := m.get("config/default")
		m.setPasswordExpired("api-user", true)
		m.fails(
			400, opWrite, "config/default", map[string]any{"max_retries": 1},
			"step user: the API user's password has expired",
		)
		if diff := cmp.Diff(before, m.get("config/default")); diff != "" {
			t.Error(diff)
		}
		if m.expectLives(m.read(nil)) != first {
			t.Error("the old config is not in force")
		}
		if m.OpenSessions() != 1 {
			t.Error("verify left sessions open")
		}
	})
}

// The steps end within three times request_timeout, and the logouts have as much again. What merely
// finds out what the server is like may lack the time.
func TestACheckOfASlowServerPassesOnTheStepsThatCount(t *testing.T) {
	for latency, missing := range map[time.Duration]bool{
		2500 * time.Millisecond: false, 3900 * time.Millisecond: true,
	} {
		inBubble(t, nil, func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.Latency = latency })
			m.write("config/default", map[string]any{"max_retries": 2})
			answer, _, _ := m.check()
			if answer["ok"] != true {
				t.Errorf("at %s a call: %v", latency, answer["message"])
			}
			text := fmt.Sprint(answer["steps"])
			if strings.Contains(text, "not found out") != missing {
				t.Errorf("at %s a call: %s", latency, text)
			}
			if strings.Contains(text, "(:") || strings.Contains(text, "that this Vault node may reach it") {
				t.Errorf("a step that passes at %s a call names no call, or has a remedy: %s", latency, text)
			}
			if open := m.OpenSessions(); open != 0 {
				t.Errorf("%d sessions are open", open)
			}
		})
	}
}

// A credential that works is stored, also where its sessions cannot be logged out just now: that is
// owed.
func TestAVerificationWhoseLogoutsFailPassesAndOwesThem(t *testing.T) {
	for name, config := range map[string]string{"a new config": "fresh", "one that is there": "default"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.FailNext(simulator.EndpointLogout, -1, status(403))
				response, err := m.do(opWrite, "config/"+config, map[string]any{
					"url": m.server.URL, "user_api_token": m.token,
				})
				if err != nil || response.IsError() {
					t.Fatal(response, err)
				}
				warnings := strings.Join(response.Warnings, "\n")
				if !strings.Contains(warnings, "could not be logged out: 3") {
					t.Errorf("warnings %q", warnings)
				}
				synctest.Wait()
				if len(m.owedKeys()) != 3 {
					t.Errorf("owed is %v", m.owedKeys())
				}
				answer, _, warnings := m.check()
				if answer["ok"] != true || !strings.Contains(warnings, "could not be logged out") {
					t.Errorf("ok %v, warnings %q", answer["ok"], warnings)
				}
				m.ClearFailures()
				time.Sleep(time.Minute)
				m.tick()
				if open := m.OpenSessions(); open != 0 || len(m.owedKeys()) != 0 {
					t.Errorf("%d sessions are open, owed is %v", open, m.owedKeys())
				}
			})
		})
	}
}

func TestCheckWarnsOfOneTokenForSeveralSessions(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointAuthenticate, -1, simulator.Failure{Kind: simulator.FailureSameTokens})
		answer, _, warnings := m.check()
		if !strings.Contains(warnings, "one access token to several") {
			t.Errorf("%v, warnings %q", answer["message"], warnings)
		}
	})
}

func TestCheckTellsWhatNCentralTellsOfTheUser(t *testing.T) {
	well := map[string]any{
		"name": "api-user", "enabled": true, "locked": false, "password_expired": false,
		"password_reset_required": false, "two_factor": "NONE",
	}
	tests := map[string]struct {
		spoil   func(m *mount)
		user    map[string]any // what differs from well; nil for nothing told
		message string         // of the step
		warning string
	}{
		"well": {func(*mount) {}, map[string]any{}, "api-user", ""},
		"reset required": {
			func(m *mount) { _ = m.SetPasswordResetRequired("api-user", true) },
			map[string]any{"password_reset_required": true},
			"api-user", "set a new password: set it",
		},
		"two-factor": {func(m *mount) {
			m.Change(func(k *simulator.Knobs) { k.BarredUsersAuthenticate = true })
			_ = m.SetTwoFactorType("api-user", "TOTP")
		}, map[string]any{"two_factor": "TOTP"}, "api-user", "switch it off for this user"},
		"403": {
			func(m *mount) { m.Change(func(k *simulator.Knobs) { k.UserForbidden = true }) }, nil,
			"lacks the permission USERS_VIEW", "",
		},
		"404": {
			func(m *mount) { m.Change(func(k *simulator.Knobs) { k.UserAbsent = true }) }, nil,
			"like all servers before 2026", "",
		},
		"401": {
			func(m *mount) { m.FailNext(simulator.EndpointUser, 1, status(401)) }, nil,
			"not told (user: N-central refused", "",
		},
		"500": {
			func(m *mount) { m.FailNext(simulator.EndpointUser, 1, status(500)) }, nil,
			"not told (user: N-central failed", "",
		},
		"no answer": {
			func(m *mount) { m.FailNext(simulator.EndpointUser, 1, hang) }, nil,
			"not told (user: N-central did not answer in time", "",
		},
		"a login page": {
			func(m *mount) { m.FailNext(simulator.EndpointUser, 1, simulator.Failure{Kind: simulator.FailureHTML}) },
			nil, "not told (user: the answer is not one", "",
		},
		"another's JSON": {func(m *mount) {
			m.FailNext(simulator.EndpointUser, 1, simulator.Failure{Kind: simulator.FailureMessage, Message: "x"})
		}, nil, "not told (user: the answer is not one", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				test.spoil(m)
				answer, _, warnings := m.check()
				if answer["ok"] != true {
					t.Fatal(answer["message"])
				}
				var want any
				if test.user != nil {
					all := maps.Clone(well)
					maps.Copy(all, test.user)
					want = all
				}
				if diff := cmp.Diff(want, answer["user"]); diff != "" {
					t.Error(diff)
				}
				if message := stepOf(answer, "user")["message"].(string); !strings.Contains(message, test.message) {
					t.Errorf("the step says %q", message)
				}
				if !strings.Contains(warnings, test.warning) || test.warning == "" && warnings != "" {
					t.Errorf("warnings %q", warnings)
				}
			})
		})
	}
}

func stepOf(answer map[string]any, name string) map[string]any {
	for _, step := range answer["steps"].([]any) {
		if step := step.(map[string]any); step["name"] == name {
			return step
		}
	}
	return nil
}

// Who reads the report alone sees all that the answer tells: the steps in their order, what came of
// it, and the warnings.
func TestTheReportHasALineAStep(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{
			"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "48h",
		})
		answer, steps, _ := m.check()
		lines := strings.Split(answer["report"].(string), "\n")
		if len(lines) != len(steps)+2 {
			t.Fatalf("%d steps and one warning:\n%s", len(steps), answer["report"])
		}
		for i, step := range steps {
			if fields := strings.Fields(lines[i]); fields[0] != "ok" || fields[1] != step || fields[3] != "ms" {
				t.Errorf("step %s: %q", step, lines[i])
			}
		}
		line := lines[len(steps)]
		if !strings.HasPrefix(line, `warning config "default": the API user's password expires at `) {
			t.Error(line)
		}
		if line := lines[len(steps)+1]; line != "the credential is alive" {
			t.Error(line)
		}
		m.setPasswordExpired("api-user", true)
		answer, steps, _ = m.check()
		lines = strings.Split(answer["report"].(string), "\n")
		failed := slices.Index(steps, "user")
		if !strings.HasPrefix(lines[failed], "FAILED  user ") ||
			!strings.HasSuffix(lines[failed], answer["message"].(string)) {
			t.Error(lines[failed])
		}
		if line := lines[len(lines)-1]; line != "failed at step user" {
			t.Error(line)
		}
	})
}

// A link that is there says that the call is. What a logout was answered says more.
func TestALogoutThatIsListedIsKnownBeforeOneWasTried(t *testing.T) {
	tests := map[string]struct {
		knobs func(*simulator.Knobs)
		want  any
	}{
		"listed":          {nil, true},
		"listed, nested":  {func(k *simulator.Knobs) { k.LinksNested = true }, true},
		"not listed":      {func(k *simulator.Knobs) { k.ThreeLinks = true }, nil},
		"an older server": {func(k *simulator.Knobs) { k.LogoutAbsent = true }, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.knobs, func(m *mount) {
				m.write("config/fresh", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
				m.FailNext(simulator.EndpointAuthenticate, 1, status(500))
				checked := m.must(opWrite, "config/fresh/check", nil)
				if checked["failed_step"] != "authenticate" || checked["can_log_out"] != test.want {
					t.Errorf(
						"failed at %v, can_log_out is %v, want %v", checked["failed_step"], checked["can_log_out"],
						test.want,
					)
				}
			})
		})
	}
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointLogout, -1, status(404))
		if answer, _, _ := m.check(); answer["can_log_out"] != false {
			t.Errorf("listed, and not there when it was tried: can_log_out is %v", answer["can_log_out"])
		}
		m.FailNext(simulator.EndpointAuthenticate, 1, status(500))
		m.check()
		if known := m.status()["can_log_out"]; known != false {
			t.Errorf("the link counts for more than what was tried: can_log_out is %v", known)
		}
	})
}

// A server, or what stands before it, that says of every token that it is dead tells nothing:
// neither that new sessions end earlier ones, nor that there is nothing to end.
func TestAServerThatCallsEveryTokenDeadTeachesNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointValidate, -1, status(401))
		report := m.must(opWrite, "config/default/check", nil)
		if report["failed_step"] != "validate" || report["authenticate_ends_earlier_sessions"] == true {
			t.Errorf("%v", report["report"])
		}
		if m.OpenSessions() != 0 {
			t.Errorf("%d sessions are open", m.OpenSessions())
		}
	})
}

// What a check finds shows in the state.
func TestCheckShowsInTheState(t *testing.T) {
	state := func(m *mount) any {
		return m.must(opList, "config/", nil)["key_info"].(map[string]any)["default"].(map[string]any)["state"]
	}
	t.Run("expired password", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.FailNext(simulator.EndpointServiceOrgs, -1, status(500))
			if m.must(opWrite, "config/default/check", nil)["ok"] != false {
				t.Fatal("the check passed")
			}
			if got := state(m); got != "degraded" {
				t.Errorf("after a check whose data call was answered with 500 the state is %v, want degraded", got)
			}
		})
	})
	t.Run("down", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.server.Stop()
			m.write("config/default/check", nil)
			if got := state(m); got != "failing" {
				t.Errorf("after a check that could not reach N-central the state is %v, want failing", got)
			}
		})
	})
}
