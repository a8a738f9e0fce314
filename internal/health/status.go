// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"cmp"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// State is how the credential of a config fares.
type State string

// The states of a config.
const (
	StateUnknown  State = "unknown"  // nothing was asked for since the process started or the credential is another
	StateOK       State = "ok"       // tokens can be had, as far as is known
	StateDegraded State = "degraded" // tokens are handed out, but something needs a person
	StateFailing  State = "failing"  // new tokens cannot be had
)

// States are all there are.
func States() []State { return []State{StateUnknown, StateOK, StateDegraded, StateFailing} }

// Status is how a config fares, and what of it needs a person. Times are zero where there was none
// such.
type Status struct {
	State           State
	Reasons         []string
	LastSuccess     time.Time
	LastFailure     time.Time
	LastFailureKind ncentral.Kind
	NextAttempt     time.Time           // where the server is being left alone: when it is next asked for a token
	OutOfService    *store.OutOfService // nil while roles take their tokens from it
	LogoutsOwed     int
	User            *ncentral.User     // as N-central last told of them; nil where it did not
	Traits          store.ServerTraits // what is known of the server; empty where that is of another URL
}

// Pauses are why a config's server is, or may be, left alone.
type Pauses struct {
	Outage *Failure // why the last call to it was not answered, nil where it was
	// why the User-API token was refused when any config with it last tried it, nil where it was
	// not
	Rejection    *Failure
	OutOfService *store.OutOfService // why roles with a fallback pass it over, nil where they do not
	Next         time.Time           // when it is next asked for a token, where it is being left alone
}

// Status returns how the config fares at that time, with what is known of its server and so many
// logouts owed there.
func (r *Record) Status(
	config *store.Config, pauses Pauses, traits store.ServerTraits, owed int, now time.Time,
) Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := Status{
		LastSuccess: r.lastSuccess, LastFailure: r.lastFailure, LastFailureKind: r.lastFailureKind,
		NextAttempt: pauses.Next, OutOfService: pauses.OutOfService,
		LogoutsOwed: owed, User: r.user, Traits: traits,
	}
	obtaining, outage := cmp.Or(r.obtaining, pauses.Rejection), pauses.Outage
	if obtaining != nil {
		outage = nil // it says no more
	}
	for _, failure := range []*Failure{obtaining, outage, r.validation, r.dataCall.Load()} {
		if failure != nil {
			status.Reasons = append(status.Reasons, failure.Explanation())
		}
	}
	if out := pauses.OutOfService; out != nil {
		status.Reasons = append(status.Reasons, fmt.Sprintf("out of service since %s, so that roles with "+
			"fallback_configs take their tokens from another config: %s",
			out.Since.UTC().Format(time.RFC3339), out.Reason))
	}
	if now.Before(r.servedStale) {
		status.Reasons = append(status.Reasons, fmt.Sprintf("no new token could be had, so an earlier one is handed "+
			"out, which lives until %s",
			r.servedStale.UTC().Format(time.RFC3339)))
	}
	status.Reasons = append(status.Reasons, ExpiryWarnings(config, now)...)
	if warning := ClockWarning(traits); warning != "" {
		status.Reasons = append(status.Reasons, warning)
	}
	if owed > 0 {
		status.Reasons = append(status.Reasons, fmt.Sprintf("logouts owed: %d, tried once a minute", owed))
	}
	switch {
	case obtaining != nil && !now.Before(r.servedStale), pauses.OutOfService != nil:
		status.State = StateFailing
	case len(status.Reasons) > 0:
		status.State = StateDegraded
	case !r.asked:
		status.State = StateUnknown
	default:
		status.State = StateOK
	}
	return status
}

// clockTolerance is how far apart the clocks of N-central and of this node may be without a word.
const clockTolerance = 5 * time.Minute

// ClockWarning tells of clocks that are apart, as a check last found them; else it is empty. Tokens
// are none the worse: how long they live is counted by this node's clock alone.
func ClockWarning(traits store.ServerTraits) string {
	if traits.ClockOffset == nil || traits.ClockOffset.Abs() <= clockTolerance {
		return ""
	}
	side := "ahead"
	if *traits.ClockOffset < 0 {
		side = "behind"
	}
	return fmt.Sprintf("N-central's clock was %s %s, by this node's, when it was last asked: correct the one that "+
		"is wrong, then run check",
		traits.ClockOffset.Abs().Round(time.Second), side)
}
