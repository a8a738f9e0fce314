// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// State is how the credential of a config fares.
type State string

// The states of a config.
const (
	StateUnknown  State = "unknown"  // no token was asked for and no data call made since this process started, or since the credential is another
	StateOK       State = "ok"       // tokens can be had, as far as is known
	StateDegraded State = "degraded" // tokens are handed out, but something needs a person
	StateFailing  State = "failing"  // new tokens cannot be had
)

// States are all there are.
func States() []State { return []State{StateUnknown, StateOK, StateDegraded, StateFailing} }

// Status is how a config fares, and what of it needs a person. Times are zero where there was none such.
type Status struct {
	State           State
	Reasons         []string
	LastSuccess     time.Time
	LastFailure     time.Time
	LastFailureKind ncentral.Kind
	NextAttempt     time.Time // where the server is being left alone: when it is next asked for a token
	LogoutsOwed     int
	User            *ncentral.User     // as N-central last told of them; nil where it did not
	Traits          store.ServerTraits // what is known of the server; empty where that is of another URL
}

// Status says how the config fares at that time. It makes no call to N-central. The error is storage's.
func (r *Registry) Status(ctx context.Context, config *store.Config, now time.Time) (Status, error) {
	owed, err := r.store.CountOwedOfConfig(ctx, config.Name)
	if err != nil {
		return Status{}, err
	}
	traits, err := r.store.Traits.Get(ctx, config.Name)
	if err != nil {
		return Status{}, err
	}
	known := r.outlook(config, now)
	if traits == nil || traits.URL != config.URL {
		traits = &store.ServerTraits{}
	}
	status := r.Record(config.Name).status(config, known, *traits, owed, now)
	status.NextAttempt = known.next
	return status, nil
}

// outlook is why a config's server is, or may be, left alone.
type outlook struct {
	lastOutage *Failure  // why the last call to it was not answered, nil where it was
	refusal    *Failure  // why the User-API token was refused when any config with it last tried it, nil where it was not
	next       time.Time // when it is next asked for a token, where it is being left alone
}

func (r *Registry) outlook(config *store.Config, now time.Time) outlook {
	if r.isOutdated(config) {
		_, _ = r.Server(config) // another node wrote it: how the version before fared is nothing to it
	}
	server := r.known(config.Name)
	if server == nil {
		return outlook{}
	}
	return outlook{lastOutage: server.lastOutage(now), refusal: server.credential.refusal(), next: server.NextAttempt(now)}
}

func (r *Registry) isOutdated(config *store.Config) bool {
	server := r.known(config.Name)
	return server != nil && !server.config.WrittenAt.Equal(config.WrittenAt)
}

// clockTolerance is how far apart the clocks of N-central and of this node may be without a word.
const clockTolerance = 5 * time.Minute

// ClockWarning tells of clocks that are apart, as a check last found them; else it is empty. Tokens are none the worse: how
// long they live is counted by this node's clock alone.
func ClockWarning(traits store.ServerTraits) string {
	if traits.ClockOffset == nil || traits.ClockOffset.Abs() <= clockTolerance {
		return ""
	}
	side := "ahead"
	if *traits.ClockOffset < 0 {
		side = "behind"
	}
	return fmt.Sprintf("N-central's clock was %s %s, by this node's, when it was last asked: correct the one that is wrong, then run check",
		traits.ClockOffset.Abs().Round(time.Second), side)
}
