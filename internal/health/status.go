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

// State is the state of a config in a word.
type State string

// The states of a config.
const (
	StateUnknown  State = "unknown"  // nothing was asked for since the process started or the credential changed
	StateOK       State = "ok"       // tokens can be had, as far as is known
	StateDegraded State = "degraded" // tokens are handed out, but something needs a person
	StateFailing  State = "failing"  // new tokens cannot be had
)

// States returns all states.
func States() []State { return []State{StateUnknown, StateOK, StateDegraded, StateFailing} }

// Status is the state of a config, with the reasons for it and the facts beside it. A time is zero
// if it is not known.
type Status struct {
	State           State
	Reasons         []string
	LastSuccess     time.Time
	LastFailure     time.Time
	LastFailureKind ncentral.Kind
	NextAttempt     time.Time           // while the server is left alone: when it is next asked for a token
	OutOfService    *store.OutOfService // nil while roles take their tokens from it
	LogoutsOwed     int
	User            *ncentral.User     // what N-central last said about the user; nil if it said nothing
	Traits          store.ServerTraits // what was learnt of the server; empty if that was at another URL
}

// Pauses says why a config's server is left alone or passed over, if it is.
type Pauses struct {
	Outage *Failure // why the last call got no answer; nil if it got one
	// why the User-API token was refused when it was last tried, by whichever config has it; nil if
	// it was not refused
	Rejection    *Failure
	OutOfService *store.OutOfService // why roles with a fallback pass it over; nil if they do not
	Next         time.Time           // while it is left alone: when it is next asked for a token
}

// isOutFor reports whether the config is out of service for that reason.
func (p Pauses) isOutFor(failure *Failure) bool {
	return p.OutOfService != nil && p.OutOfService.Reason == failure.Reason()
}

// Status returns how the config fares at that time. The caller knows the pauses, the traits of the
// server and how many logouts are owed.
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
		outage = nil // it would say the same twice
	}
	for _, failure := range []*Failure{obtaining, outage, r.validation, r.dataCall.Load()} {
		if failure != nil && !pauses.isOutFor(failure) {
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

// clockTolerance is how far the clocks of N-central and of this node may differ without a warning.
const clockTolerance = 5 * time.Minute

// ClockWarning returns a warning if the clocks differed when a check last compared them, else an
// empty string. Tokens are not affected: their lifetimes are counted by this node's clock alone.
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
