// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// temper is how an N-central server of the soak behaves at its best, where servers differ.
type temper struct {
	name string
	set  func(*simulator.Knobs)
	// jealous: a new session ends the earlier ones, so that it can serve one role alone.
	jealous bool
	// restless: some of its readers ask for validation, and so notice for all others that sessions were ended; some hang up.
	restless bool
}

// tempers are those of the servers behind the configs, one each. All state how long their tokens live: where a server keeps
// that to itself, nobody can know that its limit changed.
var tempers = []temper{
	{name: "plain", set: func(*simulator.Knobs) {}},
	{name: "single-use", set: func(k *simulator.Knobs) {
		k.SingleUseRefreshTokens, k.RegenerateEndsSessions, k.OverrideErrorsNameField = true, true, false
	}},
	{name: "ending", set: func(k *simulator.Knobs) {
		k.RefreshEndsPredecessor, k.DataForbidden, k.RetryAfterSeconds = true, true, 1
	}},
	{name: "terse", restless: true, set: func(k *simulator.Knobs) {
		k.HideCoreErrors, k.OmitStartTime, k.LinksNested = true, true, true
		k.HiddenErrorKey = "error message"
	}},
	{name: "jealous", jealous: true, restless: true, set: func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }},
}

// ncentral is the N-central server behind the config of its temper's name.
type ncentral struct {
	*simulator.Simulator
	temper
	server *simulator.Server
	knobs  simulator.Knobs // at its best

	silences spans // when it could not be asked whether a token lives
	lockouts spans // when its user was disabled, so that no token was any good
	hangUps  spans // in which a reader waited for a session of its own, and hung up

	// authenticates are those that something explains, by what does.
	authenticates tally

	mu           sync.Mutex
	userAPIToken string
	told         string    // the User-API token that its config was last written with
	stranded     time.Time // when its config was last deleted, and with it what was owed there
}

const apiUser = "api-user"

func startNCentral(t temper) (*ncentral, error) {
	n := &ncentral{temper: t, knobs: simulator.DefaultKnobs()}
	t.set(&n.knobs)
	n.Simulator = simulator.New(n.knobs)
	n.userAPIToken = n.AddUser(apiUser)
	var err error
	n.server, err = simulator.Listen(n.Simulator, "127.0.0.1:0", false)
	return n, err
}

// config is what to write to its config.
func (n *ncentral) config() map[string]any {
	n.mu.Lock()
	defer n.mu.Unlock()
	return map[string]any{
		"url":              n.server.URL,
		"ca_cert":          string(n.server.CAPEM),
		"user_api_token":   n.userAPIToken,
		"request_timeout":  requestTimeout.String(),
		"max_retries":      1,
		"password_max_age": 0,
	}
}

// calm ends whatever makes the server fail.
func (n *ncentral) calm() error {
	n.ClearFailures()
	n.Change(func(k *simulator.Knobs) { *k = n.knobs })
	if err := n.SetPasswordExpired(apiUser, false); err != nil {
		return err
	}
	if err := n.SetUserDisabled(apiUser, false); err != nil {
		return err
	}
	return n.SetDown(false)
}

// regenerate gives the user a new User-API token, which the config is to be told.
func (n *ncentral) regenerate() error {
	token, err := n.RegenerateUserAPIToken(apiUser)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.userAPIToken = token
	return nil
}

// tells reports whether its config is about to be written with another User-API token than before.
func (n *ncentral) tells() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := n.told != n.userAPIToken
	n.told = n.userAPIToken
	return changed
}

// strand notes that its config is being deleted.
func (n *ncentral) strand() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stranded = time.Now()
}

func (n *ncentral) strandedAt() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stranded
}
