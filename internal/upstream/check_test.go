// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// rotating is what is known where nothing has to be learnt before a rotation.
func rotating(startTime string) store.ServerTraits {
	return store.ServerTraits{
		RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
		StartTime: startTime, Epoch: 7,
	}
}

// How tokens are rotated is learnt where it is not known, or was learnt before a time in which
// nothing would have told of a reboot.
func TestHowToRotateIsLearntWhereItIsNotKnownForCertain(t *testing.T) {
	type calls = map[simulator.Endpoint]int
	all := calls{"authenticate": 2, "validate": 3, "refresh": 1, "server_info": 1}
	allAfterALook := calls{"authenticate": 2, "validate": 3, "refresh": 1, "server_info": 2}
	started := func(s *simulated) string {
		info, err := s.server.client.ServerInfo(s.t.Context(), s.authenticate().AccessToken)
		if err != nil {
			s.t.Fatal(err)
		}
		return info.StartTime
	}
	for name, test := range map[string]struct {
		knobs   func(*simulator.Knobs)
		prepare func(*simulated)
		calls   calls
		known   bool
		watched bool
		left    int
	}{
		"nothing is known": {calls: all, known: true, watched: true, left: 3},
		"it is known, and was watched": {
			prepare: func(s *simulated) { s.knows(rotating("a")); s.server.watch.traitsConfirmed(time.Now()) },
			known:   true, watched: true,
		},
		"it is known, and nothing has changed": {
			prepare: func(s *simulated) { s.knows(rotating(started(s))) }, calls: calls{"server_info": 1}, known: true,
			watched: true,
		},
		"the server was restarted": {
			prepare: func(s *simulated) { s.knows(rotating("another")) }, calls: allAfterALook, known: true,
			watched: true, left: 3,
		},
		"when it started was not known": {
			prepare: func(s *simulated) { s.knows(rotating("")) }, calls: allAfterALook, known: true, watched: true,
			left: 3,
		},
		"it does not tell when it started": {
			knobs:   func(k *simulator.Knobs) { k.OmitStartTime = true },
			prepare: func(s *simulated) { s.knows(rotating("")) },
			calls:   allAfterALook, known: true, watched: true, left: 3,
		},
		"it tells of no start": {
			prepare: func(s *simulated) {
				s.knows(rotating("a"))
				s.FailNext(simulator.EndpointServerInfo, 1, status(404))
			},
			calls: allAfterALook, known: true, watched: true, left: 3,
		},
		"it does not answer": {
			prepare: func(s *simulated) {
				s.knows(rotating("a"))
				s.FailNext(simulator.EndpointServerInfo, 1, status(503))
			},
			calls: calls{"server_info": 1}, known: true,
		},
		"the token is dead": {
			prepare: func(s *simulated) {
				s.knows(rotating("a"))
				s.FailNext(simulator.EndpointServerInfo, 1, status(401))
			},
			calls: calls{"server_info": 1}, known: true,
		},
		"it is left alone": {
			prepare: func(s *simulated) { s.server.backOff.begin(time.Now(), time.Now(), failed()) },
		},
		"that cannot be told": {
			prepare: func(s *simulated) {
				for _, endpoint := range []simulator.Endpoint{
					simulator.EndpointValidate,
					simulator.EndpointServiceOrgs,
				} {
					s.FailNext(endpoint, -1, simulator.Failure{Kind: simulator.FailureHTML})
				}
			},
			calls: calls{"authenticate": 2, "validate": 2, "service_orgs": 1}, watched: true, left: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, test.knobs, func(t *testing.T, s *simulated) {
				token := s.authenticate().AccessToken
				s.server.watch.unwatched = true
				epoch := int64(7)
				if s.knows(store.ServerTraits{Epoch: 7}); test.prepare != nil {
					test.prepare(s)
				}
				s.made()
				left := s.server.ProbeRotation(t.Context(), token)
				if diff := cmp.Diff(test.calls, s.made(), cmpEmpty); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if s.server.knowsHowToRotate(t.Context()) != test.known || s.server.watch.hadGap() == test.watched ||
					len(left) != test.left {
					t.Errorf("known: %t, unwatched: %t, %d sessions left", !test.known, test.watched, len(left))
				}
				if got := s.traits("default"); (got.Epoch > epoch) != (test.left > 0) {
					t.Errorf("suspicion is %d", got.Epoch)
				}
			})
		})
	}
}

var cmpEmpty = cmp.Transformer("empty", func(calls map[simulator.Endpoint]int) []string {
	var told []string
	for endpoint, count := range calls {
		for range count {
			told = append(told, string(endpoint))
		}
	}
	slices.Sort(told)
	return told
})

func TestLearningThatTaughtNothingWaitsAnHourUnlessItWasGivenUp(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		token := s.authenticate().AccessToken
		s.FailNext(simulator.EndpointValidate, -1, simulator.Failure{Kind: simulator.FailureHTML})
		learn := func() int {
			s.made()
			s.server.ProbeRotation(t.Context(), token)
			return s.made()[simulator.EndpointAuthenticate]
		}
		if calls := learn(); calls != 2 {
			t.Fatalf("%d calls", calls)
		}
		for _, test := range []struct {
			wait time.Duration
			want int
		}{{0, 0}, {time.Hour - 1, 0}, {1, 2}} {
			time.Sleep(test.wait)
			if calls := learn(); calls != test.want {
				t.Errorf("%s later, %d calls, want %d", test.wait, calls, test.want)
			}
		}
	})
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		token := s.authenticate().AccessToken
		s.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
			Kind:  simulator.FailureSlow,
			Delay: simulator.Delay(2 * time.Second),
		})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		s.server.ProbeRotation(ctx, token)
		if s.server.knowsHowToRotate(t.Context()) || !s.server.NextAttempt(time.Now()).IsZero() {
			t.Fatal("it was not given up, or counts as a failure")
		}
		if s.server.ProbeRotation(t.Context(), token); !s.server.knowsHowToRotate(t.Context()) {
			t.Error("the next one does not learn")
		}
		s.server.ForgetTraits(t.Context())
		if s.server.ProbeRotation(t.Context(), token); !s.server.knowsHowToRotate(t.Context()) {
			t.Error("what is forgotten is not learnt again")
		}
	})
}

func TestReadersAtTheSameTimeLearnOnceAndOneGetsWhatIsLeft(t *testing.T) {
	withSimulator(t, func(k *simulator.Knobs) { k.Latency = 100 * time.Millisecond }, func(t *testing.T, s *simulated) {
		token := s.authenticate().AccessToken
		s.made()
		var left [5][]Grant
		var readers sync.WaitGroup
		for i := range left {
			readers.Go(func() { left[i] = s.server.ProbeRotation(t.Context(), token) })
		}
		readers.Wait()
		if all := slices.Concat(left[:]...); len(all) != 3 || s.made()[simulator.EndpointAuthenticate] != 2 {
			t.Errorf("%d sessions are left", len(all))
		}
	})
}

// What a check opens and may not see answered would be lost.
func TestLearningStopsWhereACallMightBeCutOff(t *testing.T) {
	withSimulator(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(t *testing.T, s *simulated) {
		token := s.authenticate().AccessToken
		for left, want := range map[time.Duration]int{
			20*time.Second - 1: 0, 20 * time.Second: 1,
			20*time.Second + 1: 1,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			s.made()
			if s.server.ProbeRotation(ctx, token); s.made()[simulator.EndpointAuthenticate] != want {
				t.Errorf("with %s left, it authenticates otherwise than %d times", left, want)
			}
			cancel()
			s.server.learntNothingAt = time.Time{}
		}
	})
}

// Every step of a check, as servers differ.
func TestACheckTellsWhetherTheCredentialWorksAndWhatTheServerIsLike(t *testing.T) {
	const everything = "links authenticate authenticate_again validate user data refresh server_info logout"
	html := simulator.Failure{Kind: simulator.FailureHTML}
	for name, test := range map[string]struct {
		knobs   func(*simulator.Knobs)
		fails   map[simulator.Endpoint][]simulator.Failure // "" lets one go well
		steps   string
		failed  string
		traits  store.ServerTraits
		message map[string]string // in a step's
		warning string
		left    int
		logouts int // 0: whatever number
	}{
		"well": {
			logouts: 3,
			steps:   everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{
				"links": "authenticate /api/auth/authenticate, refresh /api/auth/refresh, validate " +
					"/api/auth/validate",
				"authenticate":       "a token for 1h0m0s, a refresh token for 25h0m0s",
				"authenticate_again": "the session before it lives on", "validate": "",
				"refresh": "the access token before it lives on", "server_info": "N-central 2026.4.1.12, API ",
				"logout": "",
			},
		},
		"what comes first ends": {
			knobs: func(k *simulator.Knobs) {
				k.RefreshEndsPredecessor, k.AuthenticateEndsEarlierSessions = true,
					true
			},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true), RefreshEndsPredecessor: new(true),
				AuthenticateEndsEarlierSessions: new(true),
			},
			message: map[string]string{
				"authenticate_again": "a new session ends the earlier ones",
				"refresh":            "a refresh ends the access token before it",
			},
			logouts: 1,
		},
		"no logout, no validate": {
			knobs: func(k *simulator.Knobs) { k.LogoutAbsent, k.ValidateAbsent = true, true },
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(false), CanValidate: new(false),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{
				"validate": "this server has no validate",
				"logout":   "this server has no logout",
			},
		},
		"one token for all": {
			fails: map[simulator.Endpoint][]simulator.Failure{"authenticate": {
				{},
				{Kind: simulator.FailureSameTokens},
			}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false),
			},
			message: map[string]string{"authenticate_again": "the same access token as before"},
			warning: "one access token to several authenticate calls",
			logouts: 2,
		},
		"a user that may not see": {
			knobs: func(k *simulator.Knobs) { k.DataForbidden = true }, steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"data": "the user may not see service organisations"},
		},
		"no links": {
			fails: map[simulator.Endpoint][]simulator.Failure{"links": {status(404)}}, steps: "links",
			failed: "links",
		},
		"refused": {
			fails: map[simulator.Endpoint][]simulator.Failure{"authenticate": {status(401)}},
			steps: "links authenticate", failed: "authenticate", traits: store.ServerTraits{CanLogOut: new(true)},
			message: map[string]string{"authenticate": "; the User-API token is unknown to this server"},
		},
		"refused the second time": {
			fails: map[simulator.Endpoint][]simulator.Failure{"authenticate": {{}, status(401)}},
			steps: "links authenticate authenticate_again logout", failed: "authenticate_again",
			traits: store.ServerTraits{CanLogOut: new(true)},
		},
		"a token of no use": {
			fails: map[simulator.Endpoint][]simulator.Failure{"authenticate": {{
				Kind:          simulator.FailureExpiry,
				ExpirySeconds: "2",
			}}},
			steps: "links authenticate logout", failed: "authenticate",
			traits: store.ServerTraits{CanLogOut: new(true)},
		},
		"whether one lives cannot be asked": {
			fails: map[simulator.Endpoint][]simulator.Failure{"validate": {status(503)}},
			steps: "links authenticate authenticate_again logout", failed: "authenticate_again",
			traits: store.ServerTraits{CanLogOut: new(true)},
		},
		"whether one lives cannot be told": {
			fails: map[simulator.Endpoint][]simulator.Failure{"validate": {html}, "service_orgs": {html}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false),
			},
			message: map[string]string{"authenticate_again": "cannot be told"},
		},
		"validate fails": {
			fails: map[simulator.Endpoint][]simulator.Failure{"validate": {{}, status(500)}},
			steps: "links authenticate authenticate_again validate logout", failed: "validate",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
		},
		"the data call fails": {
			fails: map[simulator.Endpoint][]simulator.Failure{"service_orgs": {status(500)}},
			steps: "links authenticate authenticate_again validate user data logout", failed: "data",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
		},
		"a refresh that is refused": {
			fails: map[simulator.Endpoint][]simulator.Failure{"refresh": {status(401)}}, steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true), RefreshRejected: true,
				AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"refresh": "not possible here"},
		},
		"a refresh that is not answered": {
			fails: map[simulator.Endpoint][]simulator.Failure{"refresh": {status(503)}},
			steps: "links authenticate authenticate_again validate user data refresh logout", failed: "refresh",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
		},
		"a refresh of no use": {
			fails: map[simulator.Endpoint][]simulator.Failure{"refresh": {{
				Kind:          simulator.FailureExpiry,
				ExpirySeconds: "0",
			}}},
			steps: "links authenticate authenticate_again validate user data refresh logout", failed: "refresh",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
		},
		"whether the one before a refresh lives cannot be asked": {
			fails: map[simulator.Endpoint][]simulator.Failure{"validate": {{}, {}, status(503)}},
			steps: "links authenticate authenticate_again validate user data refresh logout", failed: "refresh",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
		},
		"whether the one before a refresh lives cannot be told": {
			fails: map[simulator.Endpoint][]simulator.Failure{"validate": {{}, {}, html}, "service_orgs": {{}, html}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"refresh": "cannot be told"},
		},
		"nothing but tokens": {
			fails: map[simulator.Endpoint][]simulator.Failure{"server_info": {status(404)}, "health": {status(500)}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"server_info": "no version (server_info: N-central does not know the call " +
				"(status 404)"},
		},
		"no time of day": {
			fails: map[simulator.Endpoint][]simulator.Failure{"server_info": {status(404)}, "health": {status(500)}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"server_info": "; no time of day ("},
		},
		"a refresh token of no life that is": {
			knobs: func(k *simulator.Knobs) { k.RefreshLimit = 400 * 24 * time.Hour }, steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true), RefreshRejected: true,
				AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"refresh": "N-central gave no refresh token that can be used"},
		},
		"a logout that fails where there is none": {
			knobs: func(k *simulator.Knobs) { k.LogoutAbsent = true },
			fails: map[simulator.Endpoint][]simulator.Failure{"logout": {status(500)}}, steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(false), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			message: map[string]string{"logout": "N-central failed"},
			warning: "could not be logged out: 1;", left: 1,
		},
		"sessions that have ended": {
			fails: map[simulator.Endpoint][]simulator.Failure{"logout": {status(401), status(401), status(401)}},
			steps: everything,
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			left:    -1, // the simulator knows nothing of their end
			logouts: 3,
		},
		"a session that cannot be ended": {
			fails: map[simulator.Endpoint][]simulator.Failure{"logout": {status(500)}}, steps: everything, failed: "",
			traits: store.ServerTraits{
				CanLogOut: new(true), CanValidate: new(true),
				RefreshEndsPredecessor: new(false), AuthenticateEndsEarlierSessions: new(false),
			},
			warning: "could not be logged out: 1;", left: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, test.knobs, func(t *testing.T, s *simulated) {
				for endpoint, failures := range test.fails {
					for _, failure := range failures {
						if failure == (simulator.Failure{}) { // well, but for a moment
							failure = simulator.Failure{Kind: simulator.FailureSlow, Delay: 1}
						}
						s.FailNext(endpoint, 1, failure)
					}
				}
				report := s.server.Check(t.Context())
				var names []string
				for _, step := range report.Steps {
					names = append(names, step.Name)
					failed := step.Name == test.failed || step.Name == "logout" && test.left > 0
					message, told := test.message[step.Name]
					if step.OK == failed || told && message == "" && step.Message != "" ||
						!strings.Contains(step.Message, message) {
						t.Errorf("%s: ok %t, %s", step.Name, step.OK, step.Message)
					}
				}
				if got := strings.Join(names, " "); got != test.steps {
					t.Errorf("steps: %s", got)
				}
				if (report.Failed == nil) != (test.failed == "") || report.Failed != nil &&
					report.Failed.Name != test.failed {
					t.Errorf("failed: %+v", report.Failed)
				}
				if got := strings.Join(report.Warnings, " "); (got == "") != (test.warning == "") ||
					!strings.Contains(got, test.warning) {
					t.Errorf("warnings: %s", got)
				}
				canEnd := report.Traits.CanLogOut != nil && *report.Traits.CanLogOut && test.left >= 0
				if canEnd && s.OpenSessions() != test.left || len(report.OpenSessions) != max(test.left, 0) {
					t.Errorf("%d sessions are open, %d told of", s.OpenSessions(), len(report.OpenSessions))
				}
				if logouts := s.made()[simulator.EndpointLogout]; test.logouts != 0 && logouts != test.logouts {
					t.Errorf("%d logouts, want %d", logouts, test.logouts)
				}
				got, kept := report.Traits, s.traits("default")
				kept.URL, kept.Epoch = "", 0
				if diff := cmp.Diff(got, kept); diff != "" {
					t.Errorf("of what was learnt there is kept (-learnt +kept):\n%s", diff)
				}
				if infoTold := strings.Contains(test.steps, "server_info") &&
					test.fails["server_info"] == nil; (got.ServerVersion == "2026.4.1.12") != infoTold ||
					(got.StartTime != "") != infoTold ||
					(got.ClockOffset != nil) != infoTold {
					t.Errorf("%+v", got)
				}
				got.ServerVersion, got.StartTime, got.ClockOffset = "", "", nil
				if diff := cmp.Diff(test.traits, got); diff != "" {
					t.Errorf("learnt (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A check's own sessions may end those that are in hand, where it is not known that they do not.
func TestACheckCastsSuspicionOnWhatItMayEnd(t *testing.T) {
	for name, test := range map[string]struct {
		ends  bool
		known *bool
		fails []simulator.Failure
		want  bool
	}{
		"not known":                   {want: true},
		"known not to":                {known: new(false)},
		"thought not to, but it does": {ends: true, known: new(false), want: true},
		"known to":                    {ends: true, known: new(true), want: true},
		"refused, and known to":       {ends: true, known: new(true), fails: []simulator.Failure{status(404)}},
		"lost, and known to":          {ends: true, known: new(true), fails: []simulator.Failure{lost()}, want: true},
		"lost, and not known":         {ends: true, fails: []simulator.Failure{lost()}},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = test.ends },
				func(t *testing.T, s *simulated) {
					other := s.stored("other", s.bench.known("default").config.URL, s.config.UserAPIToken)
					s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: test.known, Epoch: 7})
					for _, failure := range test.fails {
						s.FailNext(simulator.EndpointAuthenticate, 1, failure)
					}
					s.server.Check(t.Context())
					if got := s.traits("default").Epoch > 7; got != test.want ||
						s.traits(other.Name).Epoch > 0 != test.want {
						t.Errorf("suspect: %t, of another config with the token: %t",
							got, s.traits(other.Name).Epoch > 0)
					}
				})
		})
	}
}

// A config that is not stored has no tokens, and what is verified changes nothing of the one that
// is but its suspicions.
func TestAVerificationLeavesTheConfigInForceAlone(t *testing.T) {
	for name, test := range map[string]struct {
		stored    bool
		elsewhere bool
		suspect   bool
	}{
		"a new config": {}, "the config that is stored": {stored: true, suspect: true},
		"one that moves": {stored: true, elsewhere: true},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				candidate, stored := *s.config, *s.config
				candidate.MaxRetries = 1
				beside := &stored
				if test.elsewhere {
					beside.URL += "/elsewhere"
				}
				if !test.stored {
					beside = nil
				}
				other := s.stored("other", s.config.URL, s.config.UserAPIToken)
				report, err := s.Verify(t.Context(), &candidate, beside)
				if err != nil || report.Failed != nil {
					t.Fatal(report, err)
				}
				if got := s.traits("default"); (got.Epoch > 0) != test.suspect || got.CanLogOut != nil ||
					s.traits(other.Name).Epoch == 0 {
					t.Errorf("%+v, of another config with the token %+v", got, s.traits(other.Name))
				}
				if s.bench.known("default") != s.server || len(s.credentials) != 1 ||
					s.status(s.config).State != health.StateUnknown {
					t.Error("the config in force is another")
				}
				calls := counted(t, s.server.record, "vault_ncentral_calls_total", "authenticate", "success")
				if (calls > 0) != test.stored {
					t.Errorf("%v of its calls are counted", calls)
				}
			})
		})
	}
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		candidate := *s.config
		candidate.CACert = "none"
		if report, err := s.Verify(t.Context(), &candidate, s.config); err == nil || report != nil {
			t.Error(report, err)
		}
	})
}

// The sessions of a verification may end what an authenticate of the config in force brings at the
// same time.
func TestAnAuthenticateBesideAVerificationOrACheckIsTold(t *testing.T) {
	for name, runCheck := range map[string]func(*simulated){
		"check": func(s *simulated) { s.server.Check(s.t.Context()) },
		"verify": func(s *simulated) {
			candidate := *s.config
			candidate.UserAPIToken = s.AddUser("another")
			if _, err := s.Verify(s.t.Context(), &candidate, s.config); err != nil {
				s.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(t *testing.T, s *simulated) {
				var calls sync.WaitGroup
				calls.Go(func() { runCheck(s) })
				time.Sleep(1500 * time.Millisecond)
				if s.server.credential.beginAuthenticate()() != true {
					t.Error("it overlaps with none")
				}
				calls.Wait()
				if s.server.credential.beginAuthenticate()() != false {
					t.Error("after it, one overlaps")
				}
				if len(s.credentials) != 1 || name == "verify" && s.open.Load() != 0 {
					t.Errorf("%d credentials are known after it, and %d connections open", len(s.credentials),
						s.open.Load())
				}
			})
		})
	}
}

// A caller that hangs up would leave a session open that nobody knows of. What the server is like
// is not found out where that takes too long; whether it works is.
func TestACheckEndsInItsTimeWhateverItsCallerDoes(t *testing.T) {
	for name, test := range map[string]struct {
		latency time.Duration
		failed  string
		late    []string
		took    time.Duration
	}{
		"in time": {latency: time.Second, took: 14 * time.Second},
		"too late to see whether one lives": {
			latency: 8 * time.Second, failed: "validate",
			late: []string{"authenticate_again"}, took: 46 * time.Second,
		},
		"too late for what is nice": {
			latency: 4500 * time.Millisecond, late: []string{"refresh"},
			took: 39 * time.Second,
		},
		"too late": {latency: 5500 * time.Millisecond, failed: "data", took: 41 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, func(k *simulator.Knobs) { k.Latency = test.latency }, func(t *testing.T, s *simulated) {
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				report := s.server.Check(gone)
				if (report.Failed == nil) != (test.failed == "") || report.Failed != nil &&
					report.Failed.Name != test.failed || s.OpenSessions() != 0 {
					t.Errorf("%+v; %d sessions are open", report.Failed, s.OpenSessions())
				}
				if report.Failed != nil && !strings.Contains(report.Failed.Message, "raise request_timeout") {
					t.Error("what every step before proved to be so is doubted: ", report.Failed.Message)
				}
				var late []string
				for _, step := range report.Steps {
					if strings.HasPrefix(step.Message,
						"not found out: the steps took longer than three times request_timeout (") {
						late = append(late, step.Name)
					}
					if step.Name == "links" && step.Duration != test.latency {
						t.Errorf("links took %s", step.Duration)
					}
				}
				if diff := cmp.Diff(test.late, late); diff != "" || time.Since(began) != test.took {
					t.Errorf("it took %s; late (-want +got):\n%s", time.Since(began), diff)
				}
			})
		})
	}
}

// A check that cannot have a token holds the next attempts back as a read that cannot does.
func TestACheckThatFailsLengthensTheBackOff(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.FailNext(simulator.EndpointAuthenticate, -1, status(501))
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			s.server.Check(t.Context())
			if next := time.Until(s.server.NextAttempt(time.Now())); next != want {
				t.Errorf("the next attempt is in %s, want %s", next, want)
			}
			time.Sleep(want)
		}
	})
}

// Nothing is known of a server that was restarted, and what is suspect stays so, also where nothing
// can be learnt at once.
func TestARestartIsFoundThoughNothingCanBeLearnt(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		token := s.authenticate().AccessToken
		s.knows(rotating("another"))
		s.FailNext(simulator.EndpointAuthenticate, -1, status(501))
		s.server.ProbeRotation(t.Context(), token)
		if got := s.traits("default"); got != (store.ServerTraits{URL: s.config.URL, Epoch: 7}) {
			t.Errorf("%+v", got)
		}
	})
}

// N-central's own logs have nothing else to tell one integration from another.
func TestEveryCallNamesTheEngine(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.server.Check(t.Context())
		for _, request := range s.Requests() {
			if request.UserAgent != "test" {
				t.Errorf("%s came from %q", request.Endpoint, request.UserAgent)
			}
		}
	})
}
