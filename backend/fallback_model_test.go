// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Random histories of N-central users that stop working and come back, under roles that fall back from
// one to the next.

package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// fallbackHistories is how many histories are tried, each from a seed of its own.
const fallbackHistories = 80

// TestRolesWithAFallbackKeepTheirPromises lives through histories in which users die and come back,
// N-central goes down, falls sick and reboots, and definitions change. While one user of a role works
// and N-central is well, its reads succeed, and no token is of a user that died more than a minute and
// ten seconds ago.
func TestRolesWithAFallbackKeepTheirPromises(t *testing.T) {
	histories := uint64(fallbackHistories)
	if raceDetected {
		histories /= 4
	}
	for seed := range histories {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 11))
			inBubble(t, drawKnobs(random), func(m *mount) {
				h := newFallbackHistory(m, random)
				for range 40 {
					h.step()
					if t.Failed() {
						t.Log(strings.Join(h.story, "\n"), "\n", lastLines(m.log.String(), 60))
						return
					}
				}
				h.judgeTries()
			})
		})
	}
}

// drawKnobs draws in what ways the server tells of a user that does not work.
func drawKnobs(random *rand.Rand) func(*simulator.Knobs) {
	coin := func() bool { return random.IntN(2) == 0 }
	forbidden, absent, refuses, ends, hides := coin(), coin(), coin(), coin(), coin()
	return func(k *simulator.Knobs) {
		k.UserForbidden, k.UserAbsent = forbidden, absent
		k.ExpiredPasswordRefusesAuthenticate, k.RegenerateEndsSessions, k.HideCoreErrors = refuses, ends, hides
	}
}

// userState is what befell an N-central user.
type userState struct {
	config    string
	tokens    int       // how often its User-API token was regenerated
	written   int       // which of them the config holds
	expired   bool      // its password: data calls fail
	barred    bool      // locked or disabled: authenticate is refused, and sessions live on
	diedAt    time.Time // since when its tokens are of no use; zero while they are
	uselessAt time.Time // since when no new session can be had; zero while one can
	rightAt   time.Time // when it was last set right: what it was before may be a reason to be left alone for a while
}

// fallbackHistory is one history as it goes on.
type fallbackHistory struct {
	*mount
	random        *rand.Rand
	story         []string
	users         map[string]*userState
	order         []string             // of the users
	roles         map[string][]string  // the configs of each role
	servableSince map[string]time.Time // by role: since when one of its users works and is in service
	illTo         time.Time            // until when N-central is, or may be held to be, not well
}

func newFallbackHistory(m *mount, random *rand.Rand) *fallbackHistory {
	h := &fallbackHistory{
		mount: m, random: random, users: map[string]*userState{"api-user": {config: "default"}},
		order:         []string{"api-user", "user-2", "user-3"},
		servableSince: map[string]time.Time{},
		roles: map[string][]string{
			"monitoring": {"default", "second"},
			"leased":     {"second", "default", "third"},
			"often":      {"default", "third"},
			"worker":     {"default", "second"},
		},
	}
	for user, config := range map[string]string{"user-2": "second", "user-3": "third"} {
		h.users[user] = &userState{config: config}
		m.write("config/"+config, map[string]any{
			"url": m.server.URL, "user_api_token": m.AddUser(user), "password_max_age": 0, "verify": false,
		})
	}
	m.write("roles/monitoring", map[string]any{"fallback_configs": "second"})
	m.write("roles/leased", map[string]any{"config": "second", "fallback_configs": "default,third", "ttl": "20m"})
	m.write("roles/often", map[string]any{
		"fallback_configs": "third", "lease": false, "ttl": "10m", "reread_interval": "15s",
	})
	m.write("roles/worker", map[string]any{"fallback_configs": "second", "credential_type": "dedicated"})
	m.write("roles/alone", map[string]any{"lease": false})
	h.readAll()
	h.tick()
	return h
}

func (h *fallbackHistory) note(format string, args ...any) {
	h.story = append(h.story, time.Now().Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

// step does one thing at random.
func (h *fallbackHistory) step() {
	user := h.order[h.random.IntN(len(h.order))]
	switch h.random.IntN(14) {
	case 0, 1:
		h.kill(user)
	case 2:
		h.revive(user)
	case 3:
		h.regenerate(user)
	case 4:
		h.writeToken(user)
	case 5:
		h.beIll()
	case 6:
		h.note("restart")
		h.start()
	case 7:
		h.note("check of %s", h.users[user].config)
		h.must(opWrite, "config/"+h.users[user].config+"/check", nil)
	case 8:
		h.note("reorder the fallbacks of leased")
		h.must(opPatch, "roles/leased", map[string]any{"fallback_configs": []any{"third", "default"}})
		h.roles["leased"] = []string{"second", "third", "default"}
	default:
		h.pass(time.Duration(1+h.random.IntN(25)) * time.Minute)
	}
	h.readAll()
}

// pass lets time pass, with a tick and a read of every role each minute.
func (h *fallbackHistory) pass(d time.Duration) {
	h.note("%s pass", d)
	for ; d > 0; d -= time.Minute {
		time.Sleep(time.Minute - time.Since(h.began())%time.Minute)
		h.tick()
		time.Sleep(9 * time.Second)
		h.readAll()
		if h.t.Failed() {
			return
		}
	}
}

// began is a time from which ticks count the minutes.
func (h *fallbackHistory) began() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func (h *fallbackHistory) kill(user string) {
	state := h.users[user]
	if state.expired || state.barred {
		return
	}
	if h.random.IntN(2) == 0 {
		h.note("the password of %s expires", user)
		state.expired = true
		h.ok(h.SetPasswordExpired(user, true))
	} else {
		h.note("%s is locked", user)
		state.barred = true
		h.ok(h.SetUserLocked(user, true))
	}
	h.judgeState(state)
}

func (h *fallbackHistory) revive(user string) {
	state := h.users[user]
	h.note("%s is set right", user)
	state.expired, state.barred, state.rightAt = false, false, time.Now()
	h.ok(h.SetPasswordExpired(user, false))
	h.ok(h.SetUserLocked(user, false))
	h.judgeState(state)
}

func (h *fallbackHistory) regenerate(user string) {
	h.note("the token of %s is regenerated", user)
	_, err := h.RegenerateUserAPIToken(user)
	h.ok(err)
	h.users[user].tokens++
	h.judgeState(h.users[user])
}

// writeToken writes the User-API token that the user has now, made anew since nobody else knows it.
func (h *fallbackHistory) writeToken(user string) {
	state := h.users[user]
	token, err := h.RegenerateUserAPIToken(user)
	h.ok(err)
	h.note("config %s gets a new token of %s", state.config, user)
	h.must(opPatch, "config/"+state.config, map[string]any{"user_api_token": token, "verify": false})
	state.tokens++
	state.written = state.tokens
	h.judgeState(state)
}

// judgeState notes since when the user gives no sessions, or tokens that are of no use.
func (h *fallbackHistory) judgeState(state *userState) {
	since := func(at *time.Time, is bool) {
		switch {
		case !is:
			*at = time.Time{}
		case at.IsZero():
			*at = time.Now()
		}
	}
	since(&state.diedAt, state.expired)
	since(&state.uselessAt, state.expired || state.barred || state.tokens != state.written)
}

// beIll has N-central fail everybody in one way for a while.
func (h *fallbackHistory) beIll() {
	lasts := time.Duration(1+h.random.IntN(200)) * time.Second
	h.illTo = later(h.illTo, time.Now().Add(lasts+20*time.Second))
	switch h.random.IntN(4) {
	case 0:
		h.note("N-central is down for %s", lasts)
		h.ok(h.SetDown(true))
		time.AfterFunc(lasts, func() { _ = h.SetDown(false) })
	case 1:
		h.note("every data call answers 500 for %s", lasts)
		h.failAll(lasts, http.StatusInternalServerError, simulator.EndpointServiceOrgs)
	case 2:
		h.note("every authenticate answers 400 for %s", lasts)
		h.failAll(lasts, http.StatusBadRequest, simulator.EndpointAuthenticate)
	default:
		h.note("reboot")
		h.Reboot()
		h.illTo = later(h.illTo, time.Now().Add(70*time.Second))
	}
}

func (h *fallbackHistory) failAll(lasts time.Duration, status int, endpoint simulator.Endpoint) {
	h.FailNext(endpoint, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: status})
	time.AfterFunc(lasts, h.ClearFailures)
}

func (h *fallbackHistory) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// canServe reports whether a user of the role gives sessions whose tokens are of use, and did for so
// long that the engine, which tries a config once in ten minutes, must know.
func (h *fallbackHistory) canServe(role string) bool {
	return slices.ContainsFunc(h.roles[role], func(config string) bool {
		state := h.stateOf(config)
		return state.uselessAt.IsZero() && time.Since(state.rightAt) > 20*time.Second && !h.isOut(config)
	})
}

func (h *fallbackHistory) isOut(config string) bool {
	status := h.get("status")["configs"].(map[string]any)[config].(map[string]any)
	return status["out_of_service_since"] != nil
}

func (h *fallbackHistory) stateOf(config string) *userState {
	for _, state := range h.users {
		if state.config == config {
			return state
		}
	}
	h.t.Fatal("no user of config ", config)
	return nil
}

func (h *fallbackHistory) readAll() {
	for _, role := range slices.Sorted(slices.Values([]string{"monitoring", "leased", "often", "worker"})) {
		h.judgeRead(role)
	}
}

// judgeRead reads the role and holds what comes of it against the promises.
func (h *fallbackHistory) judgeRead(role string) {
	h.t.Helper()
	canServe, isIll := h.canServe(role), time.Now().Before(h.illTo)
	switch {
	case !canServe || isIll:
		delete(h.servableSince, role)
	case h.servableSince[role].IsZero():
		h.servableSince[role] = time.Now()
	}
	began := time.Now()
	response, err := h.do(opRead, "creds/"+role, nil)
	if err != nil || response == nil || response.IsError() {
		if canServe && !isIll && !time.Now().Before(h.illTo) {
			h.t.Errorf("a read of %s fails though a user works: %v", role, errors.Join(err, errorOf(response)))
		}
		return
	}
	config, token := response.Data["config"].(string), response.Data["access_token"].(string)
	issued, _ := h.IssuedWith(token)
	state := h.users[issued.User]
	switch {
	case !slices.Contains(h.roles[role], config), state.config != config:
		h.t.Errorf("a token of %s comes from config %s, and is of %s", role, config, issued.User)
	case isIll:
	case !state.diedAt.IsZero() && began.Sub(state.diedAt) > 70*time.Second && canServe &&
		began.Sub(h.servableSince[role]) > 70*time.Second:
		h.t.Errorf("a token of %s is of %s, who died %s ago", role, issued.User, began.Sub(state.diedAt))
	case !h.AccessTokenLives(token) && issued.EndedBy != simulator.EndedByRegeneration &&
		issued.EndedBy != simulator.EndedByReboot:
		h.t.Errorf("a dead token of %s, ended by %s", role, issued.EndedBy)
	}
	h.judgeInterval(role, response)
}

// judgeInterval holds what a reader is told of when to come back against the role's reread_interval.
func (h *fallbackHistory) judgeInterval(role string, response *logical.Response) {
	h.t.Helper()
	if ttl, unleased := response.Data["ttl"].(int64); role == "often" && (!unleased || ttl > 15) {
		h.t.Errorf("ttl of %s is %v", role, response.Data["ttl"])
	}
}

// judgeTries holds how often each User-API token that N-central refused was tried in any hour: no more
// than eight times by the engine itself, beside what checks and writes made.
func (h *fallbackHistory) judgeTries() {
	refused := map[string][]time.Time{}
	for _, request := range h.Requests() {
		if request.Endpoint == simulator.EndpointAuthenticate && request.Status == http.StatusUnauthorized {
			refused[request.Secret] = append(refused[request.Secret], request.Time)
		}
	}
	for _, times := range refused {
		first := 0
		for last, at := range times {
			for at.Sub(times[first]) > time.Hour {
				first++
			}
			// Each check, restart and reordering may try it once more, and a role without a fallback in its
			// cool-down too.
			if made := last - first + 1; made > 24 {
				h.t.Fatalf("a refused User-API token was tried %d times in an hour\n%s", made,
					strings.Join(h.story, "\n"))
			}
		}
	}
}

// lastLines returns the end of a log.
func lastLines(text string, count int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// errorOf returns the error that a response is; nil where it is none.
func errorOf(response *logical.Response) error {
	if response == nil || !response.IsError() {
		return nil
	}
	return response.Error()
}
