// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

func (b *bench) traits(config string) store.ServerTraits {
	b.t.Helper()
	traits, err := b.store.Traits.Get(b.t.Context(), config)
	if err != nil {
		b.t.Fatal(err)
	}
	if traits == nil {
		return store.ServerTraits{}
	}
	return *traits
}

func TestWhatWasLearntAtAnotherURLIsUnknownButForItsSuspicions(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		if got := server.Traits(t.Context()); got != (store.ServerTraits{URL: testURL}) {
			t.Errorf("of a new config: %+v", got)
		}
		if err := b.store.Traits.Put(t.Context(), "default",
			&store.ServerTraits{URL: testURL + "/old", CanLogOut: new(true), Epoch: 7}); err != nil {
			t.Fatal(err)
		}
		if got := server.Traits(t.Context()); got != (store.ServerTraits{URL: testURL, Epoch: 7}) {
			t.Errorf("of another URL: %+v", got)
		}
	})
}

// The count is above every one before it, also above those of a config of that name which is no
// more.
func TestSuspicionGrowsWithEachEvent(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		first := server.Suspect(t.Context())
		if first < time.Now().UnixNano() {
			t.Errorf("it is %d, below the time", first)
		}
		if second := server.Suspect(t.Context()); second != first+1 {
			t.Errorf("the second of one instant is %d, after %d", second, first)
		}
		time.Sleep(time.Second)
		if third := server.Suspect(t.Context()); third != time.Now().UnixNano() {
			t.Errorf("a second later it is %d", third)
		}
	})
}

// What ends the sessions of one config ends those of each that has its token at its URL.
func TestSuspicionOfAUserFallsOnAllConfigsWithItsToken(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		one := b.stored("one", testURL, "token")
		for name, config := range map[string][2]string{
			"same": {testURL, "token"}, "other": {testURL, "other"},
			"elsewhere": {testURL + "/x", "token"},
		} {
			b.stored(name, config[0], config[1])
		}
		server := b.server(one)
		for name, test := range map[string]struct {
			do   func(context.Context)
			want []string
		}{
			"user":   {func(ctx context.Context) { server.suspectUser(ctx) }, []string{"one", "same"}},
			"others": {server.suspectOthers, []string{"same"}},
			"config": {func(ctx context.Context) { server.Suspect(ctx) }, []string{"one"}},
		} {
			before := map[string]int64{}
			names := []string{"elsewhere", "one", "other", "same"}
			for _, config := range names {
				before[config] = b.traits(config).Epoch
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			test.do(canceled)
			var raised []string
			for _, config := range names {
				if b.store.Traits.IsUnstored(config) {
					t.Errorf("%s: what is known of %s is not stored", name, config)
				}
				if b.traits(config).Epoch > before[config] {
					raised = append(raised, config)
				}
			}
			if diff := cmp.Diff(test.want, raised); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}

// What cannot be stored counts all the same, and what cannot be read may have held a suspicion.
func TestWhatIsLearntCountsWhereStorageFails(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		b.storage.refusesWrites = "learnt/"
		raised := server.Suspect(t.Context())
		if got := server.Traits(t.Context()); got.Epoch != raised ||
			!strings.Contains(b.log.String(), "could not be stored") {
			t.Errorf("memory has %+v; the log: %s", got, b.log)
		}
		b.store.Invalidate("learnt/default")
		b.storage.refusesReads, b.storage.refusesWrites = "learnt/", ""
		if got := server.Traits(t.Context()); got != (store.ServerTraits{URL: testURL}) ||
			!strings.Contains(b.log.String(), "cannot be read") {
			t.Errorf("%+v; the log: %s", got, b.log)
		}
		server.learnOnce(t.Context(), canLogOut(true), func(*store.ServerTraits) bool { return false })
		b.storage.refusesReads = ""
		if got := b.traits("default"); got.Epoch < time.Now().UnixNano() || got.CanLogOut == nil || !*got.CanLogOut {
			t.Errorf("%+v", got)
		}
		if strings.Contains(b.log.String(), "some configs could not be read") {
			t.Error("the log tells of configs:", b.log)
		}
		b.storage.refusesReads = "config/"
		if server.suspectUser(t.Context()); !strings.Contains(b.log.String(), "some configs could not be read") {
			t.Error("the log does not tell of configs that may have the token")
		}
	})
}

func TestOfAServerThatHasChangedNothingIsKnownAndEveryTokenIsSuspect(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		before := store.ServerTraits{
			URL: testURL, ServerVersion: "2026.1", StartTime: "a", CanLogOut: new(true), RefreshRejected: true,
			AccessOverrideCeiling: 1, Epoch: 7,
		}
		if err := b.store.Traits.Put(t.Context(), "default", &before); err != nil {
			t.Fatal(err)
		}
		server.ForgetTraits(t.Context())
		if got := b.traits("default"); got != (store.ServerTraits{URL: testURL, Epoch: got.Epoch}) || got.Epoch <= 7 {
			t.Errorf("%+v", got)
		}
	})
}

func TestAuthenticateMayEndEarlierSessionsUnlessItIsKnownNotTo(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.stored("default", testURL, "token"))
		lost := &health.Failure{Step: ncentral.CallAuthenticate, Cause: &ncentral.Error{Kind: ncentral.KindTimeout}}
		odd := &health.Failure{
			Step:  ncentral.CallAuthenticate,
			Cause: &ncentral.Error{Kind: ncentral.KindMalformed, Status: 200},
		}
		refused := &health.Failure{
			Step:  ncentral.CallAuthenticate,
			Cause: &ncentral.Error{Kind: ncentral.KindUnauthorized, Status: 401},
		}
		for name, test := range map[string]struct {
			ends                *bool
			may, mayBeLost, odd bool
		}{
			"not known": {nil, true, false, true},
			"it does":   {new(true), true, true, true},
			"it is not": {new(false), false, false, false},
		} {
			if err := b.store.Traits.Put(t.Context(), "default",
				&store.ServerTraits{URL: testURL, AuthenticateEndsEarlierSessions: test.ends, Epoch: 7}); err != nil {
				t.Fatal(err)
			}
			if server.mayEndEarlier(t.Context()) != test.may {
				t.Errorf("%s: one that succeeds may end them: %t", name, !test.may)
			}
			if server.mayHaveOpened(t.Context(), lost) != test.mayBeLost ||
				server.mayHaveOpened(t.Context(), odd) != test.odd || server.mayHaveOpened(t.Context(), refused) {
				t.Errorf("%s: one that failed opened a session", name)
			}
			if above := server.suspectEarlier(t.Context()); above != b.traits("default").Epoch ||
				(above > 7) != test.may {
				t.Errorf("%s: the new token is above %d", name, above)
			}
		}
	})
}

func TestAnExaminationThatTaughtNothingIsNotMadeAgainForAnHour(t *testing.T) {
	server := &Server{}
	now := time.Now()
	if server.learningIsPaused(now) {
		t.Error("none was made, and the next waits")
	}
	server.learntNothingAt = now
	if !server.learningIsPaused(now.Add(time.Hour-1)) || server.learningIsPaused(now.Add(time.Hour)) {
		t.Error("the next does not wait for an hour")
	}
}

func TestHowToRotateIsKnownOnceBothAnswersAre(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		for name, test := range map[string]struct {
			traits store.ServerTraits
			want   bool
		}{
			"nothing":            {store.ServerTraits{}, false},
			"refresh alone":      {store.ServerTraits{RefreshEndsPredecessor: new(false)}, false},
			"authenticate alone": {store.ServerTraits{AuthenticateEndsEarlierSessions: new(false)}, false},
			"both": {store.ServerTraits{
				RefreshEndsPredecessor:          new(true),
				AuthenticateEndsEarlierSessions: new(true),
			}, true},
			"refresh is refused": {store.ServerTraits{
				RefreshRejected:                 true,
				AuthenticateEndsEarlierSessions: new(false),
			}, true},
			"refused, and no answer": {store.ServerTraits{RefreshRejected: true}, false},
		} {
			test.traits.URL = testURL
			if err := b.store.Traits.Put(t.Context(), "default", &test.traits); err != nil {
				t.Fatal(err)
			}
			if server.knowsHowToRotate(t.Context()) != test.want {
				t.Errorf("%s: %t", name, !test.want)
			}
		}
	})
}

// The call that is then to bring a token has its time.
func TestLearningLeavesTheTimeOfOneCall(t *testing.T) {
	server := &Server{config: &storeConfig}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	deadline, _ := ctx.Deadline()
	limited, stop := server.leavingTime(ctx)
	defer stop()
	if got, ok := limited.Deadline(); !ok || !got.Equal(deadline.Add(-time.Second)) {
		t.Errorf("it ends %s before", deadline.Sub(got))
	}
	unlimited, end := server.leavingTime(t.Context())
	if _, ok := unlimited.Deadline(); ok || unlimited.Err() != nil {
		t.Error("it is limited where nothing is")
	}
	if end(); unlimited.Err() == nil {
		t.Error("it does not end")
	}
}

// What was found takes the place of what was known, and what was not found takes nothing.
func TestWhatAnExaminationFoundIsTakenOverAndTheRestKept(t *testing.T) {
	offset := time.Minute
	known := store.ServerTraits{
		URL: testURL, ServerVersion: "1", ClockOffset: new(time.Hour), StartTime: "a", CanLogOut: new(true),
		CanValidate:            new(true),
		RefreshEndsPredecessor: new(true), AuthenticateEndsEarlierSessions: new(true), Epoch: 7,
	}
	for name, test := range map[string]struct {
		found  store.ServerTraits
		change func(*store.ServerTraits)
	}{
		"nothing": {store.ServerTraits{}, func(*store.ServerTraits) {}},
		"version": {store.ServerTraits{ServerVersion: "2"}, func(l *store.ServerTraits) { l.ServerVersion = "2" }},
		"clock": {
			store.ServerTraits{ClockOffset: &offset},
			func(l *store.ServerTraits) { l.ClockOffset = &offset },
		},
		"start": {store.ServerTraits{StartTime: "b"}, func(l *store.ServerTraits) { l.StartTime = "b" }},
		"logout": {
			store.ServerTraits{CanLogOut: new(false)},
			func(l *store.ServerTraits) { l.CanLogOut = new(false) },
		},
		"validate": {
			store.ServerTraits{CanValidate: new(false)},
			func(l *store.ServerTraits) { l.CanValidate = new(false) },
		},
		"refresh": {
			store.ServerTraits{RefreshEndsPredecessor: new(false)},
			func(l *store.ServerTraits) { l.RefreshEndsPredecessor = new(false) },
		},
		"refused": {
			store.ServerTraits{RefreshRejected: true},
			func(l *store.ServerTraits) { l.RefreshRejected = true },
		},
		"authenticate": {
			store.ServerTraits{AuthenticateEndsEarlierSessions: new(false)},
			func(l *store.ServerTraits) { l.AuthenticateEndsEarlierSessions = new(false) },
		},
	} {
		got, want := known, known
		mergeTraits(&got, test.found)
		test.change(&want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	refused := store.ServerTraits{RefreshRejected: true}
	if mergeTraits(&refused, store.ServerTraits{RefreshEndsPredecessor: new(false)}); refused.RefreshRejected {
		t.Error("a refresh that went is still refused")
	}
}

// The administrator may have raised the limits since: they are asked for again.
func TestACheckThatPassesForgetsWhatWasRefusedToBeAskedFor(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		for _, test := range []struct {
			report Report
			kept   bool
		}{
			{Report{scope: allSteps}, false},
			{Report{scope: rotationSteps}, true},
			{Report{scope: allSteps, Failed: &Step{Name: "data"}}, true},
		} {
			if err := b.store.Traits.Put(t.Context(), "default",
				&store.ServerTraits{URL: testURL, AccessOverrideCeiling: 1, RefreshOverrideCeiling: 2}); err != nil {
				t.Fatal(err)
			}
			server.Apply(t.Context(), &test.report)
			if got := b.traits("default"); (got.AccessOverrideCeiling == 1 &&
				got.RefreshOverrideCeiling == 2) != test.kept || !test.kept &&
				got.AccessOverrideCeiling+got.RefreshOverrideCeiling != 0 {
				t.Errorf("%+v: %+v", test.report, got)
			}
		}
	})
}

func TestAnotherStartTimeIsARestart(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		server := b.server(b.config("default", testURL, "token"))
		for name, test := range map[string]struct {
			before, found string
			restarted     bool
		}{
			"the same": {"a", "a", false}, "another": {"a", "b", true}, "not known before": {"", "b", false},
			"not told": {"a", "", false},
		} {
			b.log.Reset()
			if err := b.store.Traits.Put(t.Context(), "default",
				&store.ServerTraits{URL: testURL, StartTime: test.before, CanLogOut: new(true)}); err != nil {
				t.Fatal(err)
			}
			server.Apply(t.Context(), &Report{Traits: store.ServerTraits{StartTime: test.found}, Failed: &Step{}})
			got := b.traits("default")
			startTime := test.found
			if startTime == "" {
				startTime = test.before
			}
			if got.StartTime != startTime || (got.Epoch > 0) != test.restarted ||
				(got.CanLogOut == nil) != test.restarted || strings.Contains(b.log.String(),
				"restarted") != test.restarted {
				t.Errorf("%s: %+v; the log: %s", name, got, b.log)
			}
		}
	})
}

// A check lifts what it disproves and begins what it proves, but lengthens no cool-down.
func TestWhatACheckFoundCountsForTheReadsAfterIt(t *testing.T) {
	const refresh, data, authenticate = ncentral.CallRefresh, ncentral.CallData, ncentral.CallAuthenticate
	for name, test := range map[string]struct {
		report      Report
		refused     bool // the credential was, before
		outage      bool // a call had no answer, before
		backsOff    bool // a token could not be had, before
		probed      bool // the data call failed, before
		next        time.Duration
		state       health.State
		stillSilent bool
		reason      string // one of those why
		events      []string
	}{
		"it passed": {report: Report{}, state: health.StateOK},
		"it passed after a refusal": {
			report: Report{}, refused: true, outage: true, backsOff: true,
			state: health.StateOK, events: []string{string(events.CredentialRecovered)},
		},
		"the token was refused": {
			report: reportOf(authenticate, ncentral.KindUnauthorized),
			next:   30 * time.Second, state: health.StateFailing,
			events: []string{string(events.AuthenticateRefused), string(events.CredentialDegraded)},
		},
		"the token was refused once more": {
			report:  reportOf(authenticate, ncentral.KindUnauthorized),
			refused: true, next: 30 * time.Second, state: health.StateFailing,
		},
		"no token could be had": {
			report: reportOf(authenticate, ncentral.KindServerError),
			next:   time.Second, state: health.StateFailing, events: []string{string(events.CredentialDegraded)},
		},
		"no connection": {
			report: reportOf(ncentral.CallLinks, ncentral.KindUnreachable),
			next:   time.Second, state: health.StateFailing, events: []string{string(events.CredentialDegraded)},
		},
		"no connection any more": {
			report: after(reportOf(data, ncentral.KindUnreachable)),
			state:  health.StateUnknown,
		},
		"it passed after a data call that failed": {
			report: Report{}, probed: true, state: health.StateOK,
			events: []string{string(events.CredentialRecovered)},
		},
		"still no connection": {
			report: after(reportOf(data, ncentral.KindUnreachable)),
			outage: true, next: time.Second, state: health.StateDegraded, stillSilent: true,
		},
		"it failed in another way than by a refusal": {
			report:  reportOf(authenticate, ncentral.KindServerError),
			refused: true, next: 30 * time.Second, state: health.StateFailing, reason: "N-central failed",
		},
		"links that are not there": {
			report: reportOf(ncentral.CallLinks, ncentral.KindNotFound),
			outage: true, state: health.StateUnknown,
		},
		"the data call fails": {
			report: after(reportOf(data, ncentral.KindServerError)),
			state:  health.StateDegraded, events: []string{string(events.CredentialDegraded)},
		},
		"refresh of no use": {
			report: after(reportOf(refresh, ncentral.KindMalformed)),
			outage: true, state: health.StateUnknown,
		},
		"it was given up": {
			report: after(reportOf(refresh, ncentral.KindCanceled)),
			outage: true, next: time.Second, state: health.StateDegraded, stillSilent: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withRegistry(t, func(t *testing.T, b *bench) {
				config := b.stored("default", testURL, "token")
				server := b.server(config)
				if test.refused {
					server.noteRefused(t.Context(), time.Now(),
						health.NewFailure(server.config, authenticate,
							&ncentral.Error{Kind: ncentral.KindUnauthorized}))
				}
				if test.backsOff {
					server.backOff.begin(time.Now(), time.Now(), failed())
				}
				if test.probed {
					server.NoteProbed(t.Context(), failureOf(data, "no"))
				}
				if test.outage {
					server.outage.begin(time.Now(), time.Now(), failed())
				}
				b.events.Events = nil
				test.report.authenticateSent = time.Now()
				server.Apply(t.Context(), &test.report)
				got := b.status(config)
				next := time.Until(got.NextAttempt)
				if got.NextAttempt.IsZero() {
					next = 0
				}
				if got.State != test.state || next != test.next || (server.outage.cause != nil) != test.stillSilent {
					t.Errorf("%s, next attempt in %s, silent: %t", got.State, next, server.outage.cause != nil)
				}
				if !strings.Contains(strings.Join(got.Reasons, " "), test.reason) {
					t.Errorf("because of %q", got.Reasons)
				}
				if diff := cmp.Diff(test.events, b.sentEvents()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if got.LastSuccess.IsZero() != (test.report.Failed != nil) ||
					got.LastFailure.IsZero() != (test.report.failure == nil) {
					t.Errorf("last success %s, last failure %s", got.LastSuccess, got.LastFailure)
				}
				if b.Watch("default").hadGap() == test.report.authenticated {
					t.Error("what is known of the server holds where it authenticated, and there alone")
				}
			})
		})
	}
}

// reportOf is what a check found whose first call to fail is that one.
func reportOf(step ncentral.Call, kind ncentral.Kind) Report {
	failure := &health.Failure{
		Config: "default", Step: step, Kind: kind,
		Cause: &ncentral.Error{Call: step, Kind: kind},
	}
	return Report{Failed: &Step{Name: string(step)}, failure: failure}
}

// after is the report of a check that authenticated before.
func after(report Report) Report {
	report.authenticated = true
	return report
}
