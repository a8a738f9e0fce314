// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// profile is the behaviour of an N-central server while it has no fault. Servers differ in it.
type profile struct {
	name string
	set  func(*simulator.Knobs)
	// singleSession says that a new session ends the earlier ones, so the server can serve only one
	// role.
	singleSession bool
	// demanding says that some of its readers hang up, and some ask for validation and so notice
	// for all others that sessions were ended.
	demanding bool
	// twoUsers says that roles fall back from one of its users to another. Nothing else befalls it
	// than deaths of one of them, and reboots.
	twoUsers bool
}

// profiles has one profile for each server, and so for each config. All servers state how long
// their tokens live: where a server does not, nobody can know that its limit has changed.
var profiles = []profile{
	{name: "plain", set: func(*simulator.Knobs) {}},
	{name: "single-use", set: func(k *simulator.Knobs) {
		k.SingleUseRefreshTokens, k.RegenerateEndsSessions, k.OverrideErrorsNameField = true, true, false
	}},
	{name: "ending", set: func(k *simulator.Knobs) {
		k.RefreshEndsPredecessor, k.DataForbidden, k.RetryAfterSeconds = true, true, 1
	}},
	{name: "terse", demanding: true, set: func(k *simulator.Knobs) {
		k.HideCoreErrors, k.OmitStartTime, k.LinksNested = true, true, true
		k.HiddenErrorKey = "error message"
	}},
	{name: "paired", twoUsers: true, set: func(k *simulator.Knobs) { k.RegenerateEndsSessions = true }},
	{
		name: "jealous", singleSession: true, demanding: true,
		set: func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true },
	},
}

// ncentral is the N-central server behind the config that has the name of its profile, and the user
// of that config.
type ncentral struct {
	*simulator.Simulator
	profile
	server *simulator.Server
	knobs  simulator.Knobs // while it has no fault
	user   string
	second *ncentral // the same server with its second user, if it has one
	first  *ncentral // where this is the second user

	silences *spans // when it could not be asked whether a token is valid
	lockouts spans  // when its user was disabled, so that no token was valid
	deaths   spans  // when tokens of its user were of no use
	asked    spans  // when somebody checked or wrote the config
	hangUps  *spans // when a reader waited for a session of its own, and hung up

	// authenticates counts the authenticates that are explained, by explanation.
	authenticates *tally

	mu           sync.Mutex
	userAPIToken string
	writtenToken string    // the User-API token that its config was last written with
	deleted      time.Time // when its config was last deleted, with all that was owed there
}

func startNCentral(t profile) (*ncentral, error) {
	n := &ncentral{
		profile: t, knobs: simulator.DefaultKnobs(), user: "api-user",
		silences: &spans{}, hangUps: &spans{}, authenticates: &tally{},
	}
	t.set(&n.knobs)
	n.Simulator = simulator.New(n.knobs)
	n.userAPIToken = n.AddUser(n.user)
	var err error
	n.server, err = simulator.Listen(n.Simulator, "127.0.0.1:0", false)
	if t.twoUsers {
		n.addSecondUser()
	}
	return n, err
}

// addSecondUser adds a user that has a config of its own. All that befalls the server befalls both.
func (n *ncentral) addSecondUser() {
	n.second = &ncentral{
		Simulator: n.Simulator, profile: n.profile, server: n.server, knobs: n.knobs, user: "second-user", first: n,
		silences: n.silences, hangUps: n.hangUps, authenticates: n.authenticates,
	}
	n.second.name += "-second"
	n.second.userAPIToken = n.AddUser(n.second.user)
}

// config returns the fields of its config.
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

// calm ends every fault of the server.
func (n *ncentral) calm() error {
	n.ClearFailures()
	n.Change(func(k *simulator.Knobs) { *k = n.knobs })
	for _, setRight := range []func(string, bool) error{
		n.SetPasswordExpired, n.SetUserDisabled, n.SetUserLocked,
	} {
		if err := setRight(n.user, false); err != nil {
			return err
		}
	}
	return n.SetDown(false)
}

// regenerate gives the user a new User-API token. The config must be written with it.
func (n *ncentral) regenerate() error {
	token, err := n.RegenerateUserAPIToken(n.user)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.userAPIToken = token
	return nil
}

func (n *ncentral) currentToken() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.userAPIToken
}

// recordWrittenToken records that its config is about to be written with the current User-API
// token. It reports whether that is a new one.
func (n *ncentral) recordWrittenToken() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := n.writtenToken != n.userAPIToken
	n.writtenToken = n.userAPIToken
	return changed
}

// recordDeletion records that its config is being deleted.
func (n *ncentral) recordDeletion() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleted = time.Now()
}

func (n *ncentral) deletedAt() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deleted
}
