// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

var storeConfig = store.Config{Name: "default", URL: "https://ncentral.example.com", UserAPIToken: "token", RequestTimeout: time.Second, MaxRequestsInFlight: 8}

func failureOf(step ncentral.Call, detail string) *Failure {
	return &Failure{Step: step, Kind: ncentral.KindServerError, Cause: &ncentral.Error{Call: step, Kind: ncentral.KindServerError, Detail: detail}}
}

// Failing is where no new token can be had and none is left to hand out; whatever else needs a person degrades.
func TestTheStateIsThatOfWhatFailsAndTheReasonsTellWhy(t *testing.T) {
	now := time.Now()
	obtaining, lastOutage, refusal := failureOf(ncentral.CallRefresh, "obtaining"), failureOf(ncentral.CallValidate, "silence"), failureOf(ncentral.CallAuthenticate, "refusal")
	for name, test := range map[string]struct {
		note    func(*Record)
		known   outlook
		traits  store.ServerTraits
		owed    int
		config  store.Config
		state   State
		reasons []string // a part of each
	}{
		"nothing was asked": {state: StateUnknown},
		"a token was had":   {note: func(r *Record) { r.recordObtaining(0, nil) }, state: StateOK},
		"a data call went":  {note: func(r *Record) { r.recordProbe(0, nil) }, state: StateOK},
		"none can be had":   {note: func(r *Record) { r.recordObtaining(0, obtaining) }, state: StateFailing, reasons: []string{"obtaining"}},
		"another config with the token was refused": {
			note: func(r *Record) { r.recordObtaining(0, nil) }, known: outlook{refusal: refusal}, state: StateFailing, reasons: []string{"refusal"},
		},
		"none can be had, and one lives": {
			note:  func(r *Record) { r.recordObtaining(0, obtaining); r.ServedStale(now.Add(1)) },
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out that lives until"},
		},
		"none can be had, and the last has just ended": {
			note:  func(r *Record) { r.recordObtaining(0, obtaining); r.ServedStale(now) },
			state: StateFailing, reasons: []string{"obtaining"},
		},
		"no answer, and no token was asked for": {known: outlook{lastOutage: lastOutage}, state: StateDegraded, reasons: []string{"silence"}},
		"no answer to any call":                 {note: func(r *Record) { r.recordObtaining(0, obtaining) }, known: outlook{lastOutage: lastOutage}, state: StateFailing, reasons: []string{"obtaining"}},
		"validation tells nothing":              {note: func(r *Record) { r.recordValidation(0, failureOf(ncentral.CallValidate, "validation")) }, state: StateDegraded, reasons: []string{"validation"}},
		"the data call fails":                   {note: func(r *Record) { r.recordProbe(0, failureOf(ncentral.CallData, "data call")) }, state: StateDegraded, reasons: []string{"data call"}},
		"the clocks are apart":                  {traits: store.ServerTraits{ClockOffset: new(-5*time.Minute - time.Second)}, state: StateDegraded, reasons: []string{"clock was 5m1s behind"}},
		"the clocks are all but one":            {note: func(r *Record) { r.recordProbe(0, nil) }, traits: store.ServerTraits{ClockOffset: new(5 * time.Minute)}, state: StateOK},
		"a logout is owed":                      {owed: 1, state: StateDegraded, reasons: []string{"logouts owed: 1"}},
		"an end is near": {
			config: store.Config{PasswordChangedAt: now, PasswordMaxAge: time.Hour, ExpiryWarning: time.Hour}, state: StateDegraded, reasons: []string{"password expires"},
		},
		"the user is locked": {
			note: func(r *Record) {
				r.recordProbe(0, &Failure{Step: ncentral.CallUser, User: &ncentral.User{}, Cause: errors.New("the user is locked")})
			},
			state: StateDegraded, reasons: []string{"the user is locked"},
		},
		"it was another server that failed": {
			note: func(r *Record) {
				r.recordObtaining(0, obtaining)
				r.recordValidation(0, obtaining)
				r.recordProbe(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.startOver()
			},
			state: StateUnknown,
		},
		"a call to another server fails late": {
			note: func(r *Record) {
				r.startOver()
				r.recordObtaining(0, obtaining)
				r.recordValidation(0, obtaining)
				r.recordProbe(0, obtaining)
			},
			state: StateUnknown,
		},
		"a new token ends the want": {
			note: func(r *Record) {
				r.recordObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.recordObtaining(0, nil)
			}, state: StateOK,
		},
		"a failure leaves a stale token": {
			note:  func(r *Record) { r.ServedStale(now.Add(time.Hour)); r.recordObtaining(0, obtaining) },
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out"},
		},
		"the stale token is gone": {
			note: func(r *Record) {
				r.recordObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.servesStaleNoMore(now.Add(time.Hour))
			},
			state: StateFailing, reasons: []string{"obtaining"},
		},
		"another role's stale token is gone": {
			note: func(r *Record) {
				r.recordObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.servesStaleNoMore(now.Add(time.Minute))
			},
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			record := newRecord("default")
			if test.note != nil {
				test.note(record)
			}
			got := record.status(&test.config, test.known, test.traits, test.owed, now)
			if got.State != test.state || got.LogoutsOwed != test.owed || len(got.Reasons) != len(test.reasons) {
				t.Fatalf("%s, because of %q, %d logouts owed; want %s", got.State, got.Reasons, got.LogoutsOwed, test.state)
			}
			for i, part := range test.reasons {
				if !strings.Contains(got.Reasons[i], part) {
					t.Errorf("reason %d is %q, want %q in it", i, got.Reasons[i], part)
				}
			}
		})
	}
}

func TestTheLastSuccessAndTheLastFailureAreThoseOfTheServerOfNow(t *testing.T) {
	record, now := newRecord("default"), time.Now()
	record.recordOutcome(0, nil, now)
	record.recordOutcome(0, failureOf(ncentral.CallData, ""), now.Add(time.Second))
	generation := record.startOver()
	record.recordOutcome(0, nil, now.Add(time.Hour))
	record.recordOutcome(0, &Failure{Kind: ncentral.KindTimeout}, now.Add(time.Hour))
	got := record.status(&storeConfig, outlook{}, store.ServerTraits{}, 0, now)
	if !got.LastSuccess.Equal(now) || !got.LastFailure.Equal(now.Add(time.Second)) || got.LastFailureKind != ncentral.KindServerError {
		t.Errorf("%+v", got)
	}
	record.recordOutcome(generation, nil, now.Add(time.Minute))
	if got := record.status(&storeConfig, outlook{}, store.ServerTraits{}, 0, now); !got.LastSuccess.Equal(now.Add(time.Minute)) || !got.LastFailure.Equal(now.Add(time.Second)) {
		t.Errorf("%+v", got)
	}
}

// Events tell of a turn for the worse once, of the next credential's anew, and of recovery.
func TestATurnIsToldOfOnceForEachCredential(t *testing.T) {
	type transition struct{ before, after severity }
	record := newRecord("default")
	failure := failureOf(ncentral.CallAuthenticate, "no")
	note := func(what func() (severity, severity)) transition {
		before, after := what()
		return transition{before, after}
	}
	obtained := func(f *Failure) func() (severity, severity) {
		return func() (severity, severity) { return record.recordObtaining(record.generation, f) }
	}
	probed := func(f *Failure) func() (severity, severity) {
		return func() (severity, severity) { return record.recordProbe(record.generation, f) }
	}
	for i, test := range []struct {
		do   func() (severity, severity)
		want transition
	}{
		{obtained(nil), transition{healthy, healthy}},
		{probed(failure), transition{healthy, dataFails}},
		{obtained(failure), transition{dataFails, noTokens}},
		{obtained(failure), transition{noTokens, noTokens}},
		{obtained(nil), transition{noTokens, dataFails}},
		{probed(nil), transition{dataFails, healthy}},
		{obtained(failure), transition{healthy, noTokens}},
		{func() (severity, severity) { record.startOver(); return obtained(failure)() }, transition{healthy, noTokens}},
		{obtained(failure), transition{noTokens, noTokens}},
		{func() (severity, severity) { record.startOver(); return obtained(nil)() }, transition{noTokens, healthy}},
		{func() (severity, severity) { return record.recordObtaining(record.generation-1, failure) }, transition{healthy, healthy}},
		{func() (severity, severity) { return record.recordProbe(record.generation-1, failure) }, transition{healthy, healthy}},
		{obtained(nil), transition{healthy, healthy}},
	} {
		if got := note(test.do); got != test.want {
			t.Errorf("%d: %+v, want %+v", i, got, test.want)
		}
	}
}

func TestTheUserIsForgottenWithTheServerThatToldOfThem(t *testing.T) {
	record, now := newRecord("default"), time.Now()
	told := func() *ncentral.User {
		return record.status(&storeConfig, outlook{}, store.ServerTraits{}, 0, now).User
	}
	record.recordUser(0, &ncentral.User{Name: "api"})
	if got := told(); got == nil || got.Name != "api" {
		t.Errorf("%+v", got)
	}
	generation := record.startOver()
	record.recordUser(0, &ncentral.User{Name: "late"})
	if got := told(); got != nil {
		t.Errorf("%+v is of another server", got)
	}
	record.recordUser(generation, &ncentral.User{Name: "new"})
	record.recordUser(generation, nil)
	if got := told(); got != nil {
		t.Errorf("%+v, though the server does not tell any more", got)
	}
}
