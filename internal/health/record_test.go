// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

var storeConfig = store.Config{
	Name: "default", URL: "https://ncentral.example.com", UserAPIToken: "token",
	RequestTimeout: time.Second, MaxRequestsInFlight: 8,
}

func failureOf(step ncentral.Call, detail string) *Failure {
	return &Failure{
		Step: step, Kind: ncentral.KindServerError,
		Cause: &ncentral.Error{Call: step, Kind: ncentral.KindServerError, Detail: detail},
	}
}

// Failing is where no new token can be had and none is left to hand out; whatever else needs a
// person degrades.
func TestTheStateIsThatOfWhatFailsAndTheReasonsTellWhy(t *testing.T) {
	now := time.Now()
	obtaining, lastOutage, refusal := failureOf(ncentral.CallRefresh, "obtaining"),
		failureOf(ncentral.CallValidate, "silence"), failureOf(ncentral.CallAuthenticate, "refusal")
	for name, test := range map[string]struct {
		note    func(*Record)
		known   Pauses
		traits  store.ServerTraits
		owed    int
		config  store.Config
		state   State
		reasons []string // a part of each
	}{
		"nothing was asked": {state: StateUnknown},
		"a token was had":   {note: func(r *Record) { r.NoteObtaining(0, nil) }, state: StateOK},
		"a data call went":  {note: func(r *Record) { r.NoteProbe(0, nil) }, state: StateOK},
		"none can be had": {
			note: func(r *Record) { r.NoteObtaining(0, obtaining) }, state: StateFailing,
			reasons: []string{"obtaining"},
		},
		"another config with the token was refused": {
			note: func(r *Record) { r.NoteObtaining(0, nil) }, known: Pauses{Rejection: refusal}, state: StateFailing,
			reasons: []string{"refusal"},
		},
		"it is out of service": {
			note:  func(r *Record) { r.NoteObtaining(0, nil) },
			known: Pauses{OutOfService: &store.OutOfService{Reason: "it is gone"}}, state: StateFailing,
			reasons: []string{"take their tokens from another config: it is gone"},
		},
		"it is out of service for what was told already": {
			note:  func(r *Record) { r.NoteObtaining(0, obtaining) },
			known: Pauses{OutOfService: &store.OutOfService{Reason: obtaining.Reason()}}, state: StateFailing,
			reasons: []string{"take their tokens from another config: " + obtaining.Reason()},
		},
		"it is out of service for something else": {
			note:  func(r *Record) { r.NoteObtaining(0, obtaining) },
			known: Pauses{OutOfService: &store.OutOfService{Reason: "it is gone"}}, state: StateFailing,
			reasons: []string{"obtaining", "take their tokens from another config: it is gone"},
		},
		"none can be had, and one lives": {
			note:  func(r *Record) { r.NoteObtaining(0, obtaining); r.ServedStale(now.Add(1)) },
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out, which lives until"},
		},
		"none can be had, and the last has just ended": {
			note:  func(r *Record) { r.NoteObtaining(0, obtaining); r.ServedStale(now) },
			state: StateFailing, reasons: []string{"obtaining"},
		},
		"no answer, and no token was asked for": {
			known: Pauses{Outage: lastOutage}, state: StateDegraded,
			reasons: []string{"silence"},
		},
		"no answer to any call": {
			note:  func(r *Record) { r.NoteObtaining(0, obtaining) },
			known: Pauses{Outage: lastOutage}, state: StateFailing, reasons: []string{"obtaining"},
		},
		"validation tells nothing": {note: func(r *Record) {
			r.NoteValidation(0,
				failureOf(ncentral.CallValidate, "validation"))
		}, state: StateDegraded, reasons: []string{"validation"}},
		"the data call fails": {note: func(r *Record) {
			r.NoteProbe(0,
				failureOf(ncentral.CallData, "data call"))
		}, state: StateDegraded, reasons: []string{"data call"}},
		"the clocks are apart": {
			traits: store.ServerTraits{ClockOffset: new(-5*time.Minute - time.Second)}, state: StateDegraded,
			reasons: []string{"clock was 5m1s behind"},
		},
		"the clocks are all but one": {
			note:   func(r *Record) { r.NoteProbe(0, nil) },
			traits: store.ServerTraits{ClockOffset: new(5 * time.Minute)}, state: StateOK,
		},
		"a logout is owed": {owed: 1, state: StateDegraded, reasons: []string{"logouts owed: 1"}},
		"an end is near": {
			config: store.Config{PasswordChangedAt: now, PasswordMaxAge: time.Hour, ExpiryWarning: time.Hour},
			state:  StateDegraded, reasons: []string{"password expires"},
		},
		"the user is locked": {
			note: func(r *Record) {
				r.NoteProbe(0, &Failure{
					Step: ncentral.CallUser, User: &ncentral.User{},
					Cause: errors.New("the user is locked"),
				})
			},
			state: StateDegraded, reasons: []string{"the user is locked"},
		},
		"it was another server that failed": {
			note: func(r *Record) {
				r.NoteObtaining(0, obtaining)
				r.NoteValidation(0, obtaining)
				r.NoteProbe(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.StartOver()
			},
			state: StateUnknown,
		},
		"a call to another server fails late": {
			note: func(r *Record) {
				r.StartOver()
				r.NoteObtaining(0, obtaining)
				r.NoteValidation(0, obtaining)
				r.NoteProbe(0, obtaining)
			},
			state: StateUnknown,
		},
		"a new token ends the want": {
			note: func(r *Record) {
				r.NoteObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.NoteObtaining(0, nil)
			}, state: StateOK,
		},
		"a failure leaves a stale token": {
			note:  func(r *Record) { r.ServedStale(now.Add(time.Hour)); r.NoteObtaining(0, obtaining) },
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out"},
		},
		"the stale token is gone": {
			note: func(r *Record) {
				r.NoteObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.EndStale(now.Add(time.Hour))
			},
			state: StateFailing, reasons: []string{"obtaining"},
		},
		"another role's stale token is gone": {
			note: func(r *Record) {
				r.NoteObtaining(0, obtaining)
				r.ServedStale(now.Add(time.Hour))
				r.EndStale(now.Add(time.Minute))
			},
			state: StateDegraded, reasons: []string{"obtaining", "one is handed out"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			record := NewRecord("default")
			if test.note != nil {
				test.note(record)
			}
			got := record.Status(&test.config, test.known, test.traits, test.owed, now)
			if got.State != test.state || got.LogoutsOwed != test.owed || len(got.Reasons) != len(test.reasons) {
				t.Fatalf("%s, because of %q, %d logouts owed; want %s", got.State, got.Reasons, got.LogoutsOwed,
					test.state)
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
	record, now := NewRecord("default"), time.Now()
	record.NoteOutcome(0, nil, now)
	record.NoteOutcome(0, failureOf(ncentral.CallData, ""), now.Add(time.Second))
	generation := record.StartOver()
	record.NoteOutcome(0, nil, now.Add(time.Hour))
	record.NoteOutcome(0, &Failure{Kind: ncentral.KindTimeout}, now.Add(time.Hour))
	got := record.Status(&storeConfig, Pauses{}, store.ServerTraits{}, 0, now)
	if !got.LastSuccess.Equal(now) || !got.LastFailure.Equal(now.Add(time.Second)) ||
		got.LastFailureKind != ncentral.KindServerError {
		t.Errorf("%+v", got)
	}
	record.NoteOutcome(generation, nil, now.Add(time.Minute))
	if got := record.Status(&storeConfig, Pauses{}, store.ServerTraits{}, 0,
		now); !got.LastSuccess.Equal(now.Add(time.Minute)) || !got.LastFailure.Equal(now.Add(time.Second)) {
		t.Errorf("%+v", got)
	}
}

// Events tell of a turn for the worse once, of the next credential's anew, and of recovery.
func TestATurnIsToldOfOnceForEachCredential(t *testing.T) {
	record := NewRecord("default")
	failure := failureOf(ncentral.CallAuthenticate, "no")
	obtained := func(f *Failure) func() Transition {
		return func() Transition { return record.NoteObtaining(record.generation, f) }
	}
	probed := func(f *Failure) func() Transition {
		return func() Transition { return record.NoteProbe(record.generation, f) }
	}
	for i, test := range []struct {
		do   func() Transition
		want Transition
	}{
		{obtained(nil), Transition{healthy, healthy}},
		{probed(failure), Transition{healthy, dataFails}},
		{obtained(failure), Transition{dataFails, noTokens}},
		{obtained(failure), Transition{noTokens, noTokens}},
		{obtained(nil), Transition{noTokens, dataFails}},
		{probed(nil), Transition{dataFails, healthy}},
		{obtained(failure), Transition{healthy, noTokens}},
		{func() Transition { record.StartOver(); return obtained(failure)() }, Transition{healthy, noTokens}},
		{obtained(failure), Transition{noTokens, noTokens}},
		{func() Transition { record.StartOver(); return obtained(nil)() }, Transition{noTokens, healthy}},
		{func() Transition { return record.NoteObtaining(record.generation-1, failure) }, Transition{healthy, healthy}},
		{func() Transition { return record.NoteProbe(record.generation-1, failure) }, Transition{healthy, healthy}},
		{obtained(nil), Transition{healthy, healthy}},
	} {
		if got := test.do(); got != test.want {
			t.Errorf("%d: %+v, want %+v", i, got, test.want)
		}
	}
}

func TestTheUserIsForgottenWithTheServerThatToldOfThem(t *testing.T) {
	record, now := NewRecord("default"), time.Now()
	told := func() *ncentral.User {
		return record.Status(&storeConfig, Pauses{}, store.ServerTraits{}, 0, now).User
	}
	record.NoteUser(0, &ncentral.User{Name: "api"})
	if got := told(); got == nil || got.Name != "api" {
		t.Errorf("%+v", got)
	}
	generation := record.StartOver()
	record.NoteUser(0, &ncentral.User{Name: "late"})
	if got := told(); got != nil {
		t.Errorf("%+v is of another server", got)
	}
	record.NoteUser(generation, &ncentral.User{Name: "new"})
	record.NoteUser(generation, nil)
	if got := told(); got != nil {
		t.Errorf("%+v, though the server does not tell any more", got)
	}
}
