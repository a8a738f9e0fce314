// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// simulated is a registry with the simulator behind it, and the server of a config that is stored.
type simulated struct {
	*bench
	*simulator.Simulator
	listener *simulator.Server
	open     atomic.Int64 // connections
	config   *store.Config
	server   *Server
}

func withSimulator(t *testing.T, change func(*simulator.Knobs), test func(t *testing.T, s *simulated)) {
	t.Helper()
	withRegistry(t, func(t *testing.T, b *bench) {
		knobs := simulator.DefaultKnobs()
		if change != nil {
			change(&knobs)
		}
		s := &simulated{bench: b, Simulator: simulator.New(knobs)}
		s.listener = simulator.ListenInMemory(s.Simulator)
		defer s.listener.Close()
		b.Registry.dial = s.dial
		s.config = b.config("default", s.listener.URL, s.AddUser("api-user"))
		s.config.RequestTimeout = 10 * time.Second
		s.write(s.config)
		defer b.Close()
		test(t, s)
		synctest.Wait()
	})
}

func (s *simulated) dial(ctx context.Context, network, address string) (net.Conn, error) {
	connection, err := s.listener.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &countedConn{Conn: connection, closed: sync.OnceFunc(func() { s.open.Add(-1) })}, nil
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// write stores a version of the config that is later than any before.
func (s *simulated) write(config *store.Config) {
	s.t.Helper()
	time.Sleep(time.Second)
	config.WrittenAt = time.Now()
	if err := s.store.Configs.Put(s.t.Context(), config.Name, config); err != nil {
		s.t.Fatal(err)
	}
	s.config, s.server = config, s.bench.server(config)
}

// knows stores what is learnt of the server.
func (s *simulated) knows(traits store.ServerTraits) {
	s.t.Helper()
	traits.URL = s.config.URL
	if err := s.store.Traits.Put(s.t.Context(), s.config.Name, &traits); err != nil {
		s.t.Fatal(err)
	}
}

// made returns the calls that were made since the last look.
func (s *simulated) made() map[simulator.Endpoint]int {
	synctest.Wait()
	calls := map[simulator.Endpoint]int{}
	for endpoint, outcomes := range s.Counts() {
		for _, count := range outcomes {
			calls[endpoint] += count
		}
	}
	s.ResetCounts()
	return calls
}

func (s *simulated) authenticate() *Grant {
	s.t.Helper()
	grant, err := s.server.Authenticate(s.t.Context(), Asked{})
	if err != nil {
		s.t.Fatal(err)
	}
	return grant
}

func status(code int) simulator.Failure {
	return simulator.Failure{Kind: simulator.FailureStatus, Status: code}
}

func lost() simulator.Failure { return simulator.Failure{Kind: simulator.FailureLostAnswer} }

func TestACallIsRepeatedWithoutTheOverridesThatAreRefusedAndThoseAreLearnt(t *testing.T) {
	refuses := func(k *simulator.Knobs) { k.RefuseLongOverrides = true }
	refusesUnnamed := func(k *simulator.Knobs) { k.RefuseLongOverrides, k.OverrideErrorsNameField = true, false }
	const refusesAccess, refusesRefresh = "N-central refuses to be asked for a lifetime of ",
		"N-central refuses to be asked for a refresh-token lifetime of "
	for name, test := range map[string]struct {
		knobs           func(*simulator.Knobs)
		fails           int // times that the call is answered with that
		with            int
		asked           ncentral.Overrides
		calls           int
		access, refresh time.Duration // 0: no grant
		warnings        []string
		traits          ncentral.Overrides
	}{
		"nothing asked for": {calls: 1, access: time.Hour, refresh: 25 * time.Hour},
		"granted": {
			asked: ncentral.Overrides{Access: 10 * time.Minute, Refresh: 2 * time.Hour}, calls: 1,
			access: 10 * time.Minute, refresh: 2 * time.Hour,
		},
		"granted less": {
			asked: ncentral.Overrides{Access: 2 * time.Hour}, calls: 1, access: time.Hour, refresh: 25 * time.Hour,
			warnings: []string{"N-central granted 1h0m0s, not the 2h0m0s that was asked for"},
		},
		"the access token's is refused": {
			knobs: refuses, asked: ncentral.Overrides{Access: 2 * time.Hour, Refresh: 3 * time.Hour}, calls: 2,
			access: time.Hour, refresh: 3 * time.Hour,
			warnings: []string{refusesAccess + "2h0m0s, and granted 1h0m0s"},
			traits:   ncentral.Overrides{Access: 2 * time.Hour},
		},
		"the refresh token's is refused": {
			knobs: refuses, asked: ncentral.Overrides{Access: time.Minute, Refresh: 30 * time.Hour}, calls: 2,
			access: time.Minute, refresh: 25 * time.Hour,
			warnings: []string{refusesRefresh + "30h0m0s, and granted 25h0m0s"},
			traits:   ncentral.Overrides{Refresh: 30 * time.Hour},
		},
		"both are refused": {
			knobs: refuses, asked: ncentral.Overrides{Access: 2 * time.Hour, Refresh: 30 * time.Hour}, calls: 2,
			access: time.Hour, refresh: 25 * time.Hour,
			warnings: []string{refusesAccess + "2h0m0s, and granted 1h0m0s", refusesRefresh +
				"30h0m0s, and granted 25h0m0s"},
			traits: ncentral.Overrides{Access: 2 * time.Hour, Refresh: 30 * time.Hour},
		},
		"one is refused, and not named": {
			knobs: refusesUnnamed, asked: ncentral.Overrides{Access: 2 * time.Hour, Refresh: 3 * time.Hour}, calls: 2,
			access: time.Hour, refresh: 3 * time.Hour,
			warnings: []string{refusesAccess + "2h0m0s, and granted 1h0m0s"},
			traits:   ncentral.Overrides{Access: 2 * time.Hour},
		},
		"the other is refused, and not named": {
			knobs: refusesUnnamed, asked: ncentral.Overrides{Access: time.Minute, Refresh: 30 * time.Hour}, calls: 3,
			access: time.Hour, refresh: 25 * time.Hour,
			warnings: []string{refusesAccess + "1m0s, and granted 1h0m0s", refusesRefresh +
				"30h0m0s, and granted 25h0m0s"},
			traits: ncentral.Overrides{Refresh: 30 * time.Hour},
		},
		"all is refused": {
			fails: 9, with: 400,
			asked: ncentral.Overrides{Access: time.Minute, Refresh: time.Hour}, calls: 3,
		},
		"it is not for the overrides": {fails: 9, with: 400, calls: 1},
		"it is no 400":                {fails: 9, with: 501, asked: ncentral.Overrides{Access: time.Minute}, calls: 1},
	} {
		for _, step := range []ncentral.Call{ncentral.CallAuthenticate, ncentral.CallRefresh} {
			t.Run(name+", "+string(step), func(t *testing.T) {
				withSimulator(t, test.knobs, func(t *testing.T, s *simulated) {
					first := s.authenticate()
					s.made()
					endpoint := simulator.Endpoint(step)
					s.FailNext(endpoint, test.fails, status(max(test.with, 400)))
					asked := Asked{Overrides: test.asked}
					grant, err := s.server.Authenticate(t.Context(), asked)
					if step == ncentral.CallRefresh {
						s.ClearFailures()
						s.made()
						s.knows(store.ServerTraits{})
						s.FailNext(endpoint, test.fails, status(max(test.with, 400)))
						grant, err = s.server.Refresh(t.Context(), first.RefreshToken, asked)
					}
					if test.access == 0 {
						if err == nil || grant != nil {
							t.Error("there is no error, or a session beside it")
						}
					} else if err != nil || grant.Access != test.access || grant.Refresh != test.refresh {
						t.Fatalf("%+v, %v", grant, err)
					} else if diff := cmp.Diff(test.warnings, grant.Warnings); diff != "" {
						t.Errorf("warnings (-want +got):\n%s", diff)
					}
					if calls := s.made(); calls[endpoint] != test.calls {
						t.Errorf("%d calls, want %d", calls[endpoint], test.calls)
					}
					got := s.traits("default")
					if traits := (ncentral.Overrides{
						Access:  got.AccessOverrideCeiling,
						Refresh: got.RefreshOverrideCeiling,
					}); traits != test.traits {
						t.Errorf("learnt that %+v is refused, want %+v", traits, test.traits)
					}
				})
			})
		}
	}
}

func TestOverridesThatWereRefusedAreCounted(t *testing.T) {
	withSimulator(t, func(k *simulator.Knobs) { k.RefuseLongOverrides, k.OverrideErrorsNameField = true, false },
		func(t *testing.T, s *simulated) {
			if _, err := s.server.Authenticate(t.Context(),
				Asked{Overrides: ncentral.Overrides{Access: time.Minute, Refresh: 30 * time.Hour}}); err != nil {
				t.Fatal(err)
			}
			if counted(t, s.server.record, "vault_ncentral_override_fallbacks_total") != 2 {
				t.Error("not each is counted")
			}
		})
}

// What an authenticate may have ended is suspect, and the token that it brought is above that.
func TestAnAuthenticateCastsSuspicionOnWhatItMayHaveEnded(t *testing.T) {
	authenticate, ends, doesNot := simulator.EndpointAuthenticate, new(true), new(false)
	for name, test := range map[string]struct {
		ends    *bool
		fails   []simulator.Failure // one after the other
		retries int
		opens   bool
		suspect bool
	}{
		"it brings a token, and nothing is known":      {opens: true, suspect: true},
		"it brings a token, and ends earlier ones":     {ends: ends, opens: true, suspect: true},
		"it brings a token, and ends none":             {ends: doesNot, opens: true},
		"its answer is lost, and nothing is known":     {fails: []simulator.Failure{lost()}},
		"its answer is lost, and it ends earlier ones": {ends: ends, fails: []simulator.Failure{lost()}, suspect: true},
		"its answer is lost, and it ends none":         {ends: doesNot, fails: []simulator.Failure{lost()}},
		"the answer before the last is lost": {
			ends: ends, fails: []simulator.Failure{lost(), status(501)},
			retries: 1, suspect: true,
		},
		"the first answer of three is lost": {
			ends:  ends,
			fails: []simulator.Failure{lost(), status(503), status(501)}, retries: 2, suspect: true,
		},
		"a token of no use, and nothing is known": {fails: []simulator.Failure{{
			Kind:          simulator.FailureExpiry,
			ExpirySeconds: "2",
		}}, suspect: true},
		"the last answer is lost": {
			ends: ends, fails: []simulator.Failure{status(503), lost()},
			retries: 1, suspect: true,
		},
		"none is lost": {
			ends:  ends,
			fails: []simulator.Failure{status(503), status(501)}, retries: 1,
		},
		"it is refused": {
			ends: doesNot, fails: []simulator.Failure{status(401)},
			suspect: true,
		},
		"it is refused in other words": {
			ends: doesNot, fails: []simulator.Failure{status(400)},
			suspect: true,
		},
		"it fails":        {ends: ends, fails: []simulator.Failure{status(501)}},
		"it is not there": {ends: ends, fails: []simulator.Failure{status(404)}},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				other := s.stored("other", s.config.URL, s.config.UserAPIToken)
				config := *s.config
				config.MaxRetries = test.retries
				s.write(&config)
				s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: test.ends, Epoch: 7})
				for _, failure := range test.fails {
					s.FailNext(authenticate, 1, failure)
				}
				grant, err := s.server.Authenticate(t.Context(), Asked{})
				if (err == nil) != test.opens {
					t.Fatal(err)
				}
				epoch := s.traits("default").Epoch
				if (epoch > 7) != test.suspect || (s.traits(other.Name).Epoch > 0) != test.suspect {
					t.Errorf("suspicion is %d, of another config with the token %d", epoch, s.traits(other.Name).Epoch)
				}
				if test.opens && grant.Epoch != epoch {
					t.Errorf("the new token is above %d, not %d", grant.Epoch, epoch)
				}
			})
		})
	}
}

// The first refusal tells that the token was replaced; the ones after it tell nothing new.
func TestOnlyTheFirstOfSeveralRefusalsCastsSuspicion(t *testing.T) {
	for _, code := range []int{401, 400} {
		withSimulator(t, nil, func(t *testing.T, s *simulated) {
			s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: new(false), Epoch: 7})
			s.FailNext(simulator.EndpointAuthenticate, 2, status(code))
			var suspicions []int64
			for range 2 {
				if _, err := s.server.Authenticate(t.Context(), Asked{}); err == nil {
					t.Fatal("no error")
				}
				suspicions = append(suspicions, s.traits("default").Epoch)
				time.Sleep(time.Minute)
			}
			if suspicions[0] == 7 || suspicions[1] != suspicions[0] || s.made()[simulator.EndpointAuthenticate] != 2 {
				t.Errorf("%d: suspicion is %d", code, suspicions)
			}
			s.authenticate()
			s.FailNext(simulator.EndpointAuthenticate, 1, status(code))
			if _, err := s.server.Authenticate(t.Context(), Asked{}); err == nil ||
				s.traits("default").Epoch == suspicions[1] {
				t.Errorf("%d: after a success, a refusal is not the first: %v", code, err)
			}
		})
	}
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: new(false), Epoch: 7})
		s.FailNext(simulator.EndpointAuthenticate, 1, status(501))
		s.FailNext(simulator.EndpointAuthenticate, 1, status(400))
		for _, suspect := range []bool{false, true} {
			if _, err := s.server.Authenticate(t.Context(), Asked{}); err == nil ||
				(s.traits("default").Epoch > 7) != suspect {
				t.Errorf("suspicion is %d: %v", s.traits("default").Epoch, err)
			}
			time.Sleep(15 * time.Second)
		}
	})
}

// Of two authenticates that overlap, either may have ended the other's session: neither token is
// above suspicion.
func TestTokensOfAuthenticatesThatOverlapAreSuspectWhereOneMayEndTheOther(t *testing.T) {
	for name, test := range map[string]struct {
		ends    *bool
		suspect bool
	}{"not known": {nil, true}, "it ends them": {new(true), true}, "it ends none": {new(false), false}} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(t *testing.T, s *simulated) {
				s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: test.ends, Epoch: 7})
				var grants [3]*Grant
				var calls sync.WaitGroup
				for i := range 2 {
					calls.Go(func() { grants[i] = s.authenticate() })
				}
				calls.Wait()
				between := s.traits("default").Epoch
				for i, grant := range grants[:2] {
					if (grant.Epoch < between) != test.suspect {
						t.Errorf("%d is above %d, and the count is %d", i, grant.Epoch, between)
					}
				}
				if grants[2] = s.authenticate(); grants[2].Epoch != s.traits("default").Epoch {
					t.Error("one alone is suspect")
				}
			})
		})
	}
}

// The tick asks after the tokens that readers share, and by them a reboot is found.
func TestATokenThatReadersShareWatchesTheServerAndOneOfAReadersOwnDoesNot(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.server.watch.traitsConfirmed(time.Now())
		if _, err := s.server.Authenticate(AwaitedBy(t.Context(), t.Context()), Asked{}); err != nil ||
			!s.server.watch.watchedUntil.Equal(time.Now()) {
			t.Errorf("a reader's own: until %s, %v", s.server.watch.watchedUntil, err)
		}
		shared := s.authenticate()
		if want := time.Now().Add(time.Hour); !s.server.watch.watchedUntil.Equal(want) || s.server.watch.hadGap() {
			t.Errorf("a shared one: until %s, want %s", s.server.watch.watchedUntil, want)
		}
		time.Sleep(30 * time.Minute)
		if _, err := s.server.Refresh(t.Context(), shared.RefreshToken, Asked{}); err != nil ||
			!s.server.watch.watchedUntil.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("one refreshed: until %s, %v", s.server.watch.watchedUntil, err)
		}
	})
}

func TestWhatARefreshCameToCountsForTheAttemptsAfterIt(t *testing.T) {
	for name, test := range map[string]struct {
		fails   []simulator.Failure
		retries int
		refused bool // the User-API token was, before
		lost    bool
		next    time.Duration
		state   health.State
	}{
		"it brings a token": {state: health.StateOK},
		"it brings one, and authenticate would not": {
			refused: true, next: 30 * time.Second,
			state: health.StateFailing,
		},
		"it is refused": {
			fails: []simulator.Failure{status(401)},
			state: health.StateUnknown,
		},
		"it fails": {
			fails: []simulator.Failure{status(500)},
			state: health.StateUnknown,
		},
		"the server is too busy": {
			fails: []simulator.Failure{status(503)}, next: time.Second,
			state: health.StateFailing,
		},
		"the first answer of three is lost": {
			fails:   []simulator.Failure{lost(), status(503), status(401)},
			retries: 2, lost: true, state: health.StateUnknown,
		},
		"its answer is lost": {
			fails: []simulator.Failure{lost()}, lost: true, next: time.Second,
			state: health.StateFailing,
		},
		"the answer before the last is lost": {
			fails: []simulator.Failure{lost(), status(401)}, retries: 1,
			lost: true, state: health.StateUnknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				config := *s.config
				config.MaxRetries = test.retries
				s.write(&config)
				grant := s.authenticate()
				s.server.record.StartOver()
				s.server.generation = s.server.record.Generation()
				s.knows(store.ServerTraits{Epoch: 7})
				if test.refused {
					s.server.noteRefused(t.Context(), time.Now(),
						health.NewFailure(s.server.config, ncentral.CallAuthenticate,
							&ncentral.Error{Kind: ncentral.KindUnauthorized}))
				}
				s.server.backOff.begin(time.Now(), time.Now(), failed())
				time.Sleep(time.Second)
				s.events.Events = nil
				for _, failure := range test.fails {
					s.FailNext(simulator.EndpointRefresh, 1, failure)
				}
				epoch := s.traits("default").Epoch
				refreshed, err := s.server.Refresh(t.Context(), grant.RefreshToken, Asked{})
				var failure *health.Failure
				if errors.As(err, &failure) != (test.fails != nil) || failure != nil && failure.Lost != test.lost {
					t.Errorf("%+v", err)
				}
				if err == nil && (refreshed.Epoch != epoch || s.server.backOff.cause != nil) {
					t.Errorf("the new token is above %d, not %d, or attempts are still held back", refreshed.Epoch,
						epoch)
				}
				if slices.Contains(s.sentEvents(), string(events.CredentialRecovered)) {
					t.Error("a refresh tells that the User-API token works")
				}
				got := s.status(s.config)
				var next time.Duration
				if !got.NextAttempt.IsZero() {
					next = time.Until(got.NextAttempt)
				}
				if test.refused {
					next += time.Second
				} else if test.next > 0 {
					next /= 2 // it is the second that failed
				}
				if got.State != test.state || next != test.next {
					t.Errorf("%s, next attempt in %s", got.State, next)
				}
			})
		})
	}
}

// What was never sent, or given up, tells nothing of the server.
func TestAnAttemptThatWasNotMadeOrGivenUpHoldsNothingBack(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		for _, kind := range []ncentral.Kind{ncentral.KindCanceled, ncentral.KindQueued} {
			s.server.noteNotObtained(t.Context(), time.Now(),
				health.NewFailure(s.server.config, ncentral.CallAuthenticate, &ncentral.Error{Kind: kind}))
		}
		for _, kind := range []ncentral.Kind{ncentral.KindServerError, ncentral.KindUnauthorized} {
			failure := health.NewFailure(s.server.config, ncentral.CallAuthenticate,
				&ncentral.Error{Kind: kind}).NotMadeFor("default", ncentral.CallAuthenticate)
			s.server.noteAuthenticated(t.Context(), time.Now(), failure)
		}
		s.server.noteAuthenticated(t.Context(), time.Now(), errors.New("none of N-central's"))
		if got := s.status(s.config); got.State != health.StateUnknown || !got.NextAttempt.IsZero() ||
			s.log.Len() != 0 {
			t.Errorf("%+v; the log: %s", got, s.log)
		}
	})
}

func TestARefusalIsToldOfUnlessItIsAnotherCredentials(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		refusal := func() *health.Failure {
			return health.NewFailure(s.server.config, ncentral.CallAuthenticate,
				&ncentral.Error{Call: ncentral.CallAuthenticate, Kind: ncentral.KindUnauthorized})
		}
		s.server.noteRefused(t.Context(), time.Now(), refusal())
		want := []string{string(events.AuthenticateRefused), string(events.CredentialDegraded)}
		if diff := cmp.Diff(want, s.sentEvents()); diff != "" ||
			strings.Count(s.log.String(), "refused the User-API token") != 1 {
			t.Errorf("events (-want +got):\n%s\nthe log: %s", diff, s.log)
		}
		s.server.record.StartOver()
		s.server.noteRefused(t.Context(), time.Now(), refusal())
		if got := s.sentEvents(); len(got) != 2 {
			t.Errorf("of a credential that is no more: %v", got)
		}
	})
}

// A token that died under no suspicion, and by no authenticate of the engine's own, tells that the
// server has changed.
func TestWhatAValidationTells(t *testing.T) {
	page := simulator.Failure{Kind: simulator.FailureHTML}
	for name, test := range map[string]struct {
		traits   store.ServerTraits
		epoch    int64 // of the token
		dies     bool
		fails    map[simulator.Endpoint]simulator.Failure
		overlaps bool
		want     Verdict
		fault    ncentral.Kind
		text     string // in its error
		calls    map[simulator.Endpoint]int
		state    health.State
	}{
		"it lives": {
			want: Verdict{Valid: true}, calls: map[simulator.Endpoint]int{"validate": 1},
			state: health.StateUnknown,
		},
		"it died": {
			dies: true, want: Verdict{Unexplained: true},
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateUnknown,
		},
		"it died, and was suspect": {
			traits: store.ServerTraits{Epoch: 8}, epoch: 7, dies: true,
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateUnknown,
		},
		"it died, and was suspect from the first": {
			traits: store.ServerTraits{Epoch: 8}, dies: true,
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateUnknown,
		},
		"there is no validate, and data tells nothing": {
			traits: store.ServerTraits{CanValidate: new(false)},
			fails:  map[simulator.Endpoint]simulator.Failure{"service_orgs": page}, want: Verdict{Inconclusive: true},
			fault: ncentral.KindNotFound, text: "validate: N-central does not know the call: this server has no " +
				"validate", calls: map[simulator.Endpoint]int{"service_orgs": 1}, state: health.StateDegraded,
		},
		"it died under its suspicion": {
			traits: store.ServerTraits{Epoch: 7}, epoch: 7, dies: true,
			want: Verdict{Unexplained: true}, calls: map[simulator.Endpoint]int{"validate": 1},
			state: health.StateUnknown,
		},
		"it died, and is of the future": {
			traits: store.ServerTraits{Epoch: 7}, epoch: -1, dies: true,
			want: Verdict{Unexplained: true}, calls: map[simulator.Endpoint]int{"validate": 1},
			state: health.StateUnknown,
		},
		"it died beside an authenticate": {
			dies: true, overlaps: true, calls: map[simulator.Endpoint]int{"validate": 1},
			state: health.StateUnknown,
		},
		"it died beside one that ends none": {
			traits: store.ServerTraits{AuthenticateEndsEarlierSessions: new(false)}, dies: true, overlaps: true,
			want:  Verdict{Unexplained: true},
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateUnknown,
		},
		"there is no validate": {
			traits: store.ServerTraits{CanValidate: new(false)}, want: Verdict{Valid: true},
			calls: map[simulator.Endpoint]int{"service_orgs": 1}, state: health.StateUnknown,
		},
		"there is one": {
			traits: store.ServerTraits{CanValidate: new(true)}, want: Verdict{Valid: true},
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateUnknown,
		},
		"validate tells nothing": {
			fails: map[simulator.Endpoint]simulator.Failure{"validate": page}, want: Verdict{Valid: true},
			calls: map[simulator.Endpoint]int{"validate": 1, "service_orgs": 1}, state: health.StateUnknown,
		},
		"nothing tells": {
			fails: map[simulator.Endpoint]simulator.Failure{"validate": page, "service_orgs": page},
			want:  Verdict{Inconclusive: true}, fault: ncentral.KindMalformed,
			calls: map[simulator.Endpoint]int{"validate": 1, "service_orgs": 1}, state: health.StateDegraded,
		},
		"no answer": {
			fails: map[simulator.Endpoint]simulator.Failure{"validate": status(503)}, fault: ncentral.KindUnavailable,
			calls: map[simulator.Endpoint]int{"validate": 1}, state: health.StateDegraded,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				grant := s.authenticate()
				s.server.record.StartOver()
				s.server.generation = s.server.record.Generation()
				s.server.watch.traitsConfirmed(time.Now())
				s.knows(test.traits)
				if test.dies {
					s.Reboot()
				}
				for endpoint, failure := range test.fails {
					s.FailNext(endpoint, 1, failure)
				}
				if test.overlaps {
					defer s.server.credential.beginAuthenticate()()
				}
				s.made()
				token := &store.Token{
					AccessToken: grant.AccessToken, Epoch: test.epoch,
					GrantedUntil: time.Now().Add(3 * time.Hour),
				}
				verdict, err := s.server.Validate(t.Context(), token)
				if verdict != test.want || ncentral.KindOf(err) != test.fault || err != nil &&
					!strings.Contains(err.Error(), test.text) {
					t.Errorf("%+v, %v", verdict, err)
				}
				if diff := cmp.Diff(test.calls, s.made()); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if got := s.status(s.config); got.State != test.state {
					t.Errorf("%s because of %q", got.State, got.Reasons)
				}
				if watched := s.server.watch.watchedUntil.Equal(token.GrantedUntil); watched != test.want.Valid {
					t.Errorf("it watches the server: %t", watched)
				}
			})
		})
	}
}

// That the server tells nothing of tokens is over once it does.
func TestAValidationThatTellsEndsTheWant(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		token := &store.Token{AccessToken: s.authenticate().AccessToken}
		for _, endpoint := range []simulator.Endpoint{simulator.EndpointValidate, simulator.EndpointServiceOrgs} {
			s.FailNext(endpoint, 1, simulator.Failure{Kind: simulator.FailureHTML})
		}
		for _, want := range []health.State{health.StateDegraded, health.StateOK} {
			if _, err := s.server.Validate(t.Context(), token); (err == nil) != (want == health.StateOK) ||
				s.status(s.config).State != want {
				t.Errorf("%s, %v", s.status(s.config).State, err)
			}
		}
	})
}

func TestADataCallTellsOfTheUserUnlessItWasNotAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		fails    simulator.Failure
		kind     ncentral.Kind
		answered bool
	}{
		"well":      {answered: true},
		"not seen":  {fails: status(403), answered: true},
		"it fails":  {fails: status(500), kind: ncentral.KindServerError, answered: true},
		"too busy":  {fails: status(503), kind: ncentral.KindUnavailable},
		"no answer": {fails: lost(), kind: ncentral.KindUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				token := s.authenticate().AccessToken
				if test.fails != (simulator.Failure{}) {
					s.FailNext(simulator.EndpointServiceOrgs, -1, test.fails)
				}
				failure, answered := s.server.Probe(t.Context(), token)
				if (failure == nil) != (test.kind == "") || failure != nil && failure.Kind != test.kind ||
					answered != test.answered {
					t.Errorf("answered: %t, %v", answered, failure)
				}
			})
		})
	}
}

// Log and events tell of a user that works no more once, and of one that works again.
func TestATurnOfTheUserIsToldOf(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		failure := health.NewFailure(s.server.config, ncentral.CallData,
			&ncentral.Error{Call: ncentral.CallData, Kind: ncentral.KindServerError})
		for i, test := range []struct {
			failure *health.Failure
			events  []string
			log     string
		}{
			{nil, nil, ""},
			{failure, []string{string(events.CredentialDegraded)}, "a data call failed though the token is valid"},
			{failure, nil, "a data call failed though the token is valid"},
			{nil, []string{string(events.CredentialRecovered)}, "new tokens can be had again"},
			{nil, nil, ""},
		} {
			s.events.Events = nil
			s.log.Reset()
			s.server.NoteProbed(t.Context(), test.failure)
			if diff := cmp.Diff(test.events, s.sentEvents()); diff != "" ||
				!strings.Contains(s.log.String(), test.log) || (test.log == "") != (s.log.Len() == 0) {
				t.Errorf("%d: events (-want +got):\n%s\nthe log: %s", i, diff, s.log)
			}
		}
	})
}

func TestWhatALogoutCameTo(t *testing.T) {
	for name, test := range map[string]struct {
		knobs  func(*simulator.Knobs)
		fails  int
		known  *bool
		want   LogoutResult
		traits *bool
	}{
		"it ended the session":  {want: LogoutDone, traits: new(true)},
		"the session had ended": {fails: 401, want: LogoutDone},
		"this server cannot": {
			knobs: func(k *simulator.Knobs) { k.LogoutAbsent = true }, known: new(true),
			want: LogoutUnsupported, traits: new(false),
		},
		"this server cannot, as is found": {
			knobs: func(k *simulator.Knobs) { k.LogoutAbsent = true },
			want:  LogoutUnsupported, traits: new(false),
		},
		"this server can, after all":      {known: new(false), want: LogoutDone, traits: new(true)},
		"it failed":                       {fails: 500, known: new(true), want: LogoutFailed, traits: new(true)},
		"it failed for want of an answer": {fails: 503, want: LogoutFailed},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, test.knobs, func(t *testing.T, s *simulated) {
				token := s.authenticate().AccessToken
				s.knows(store.ServerTraits{CanLogOut: test.known})
				if test.fails != 0 {
					s.FailNext(simulator.EndpointLogout, 1, status(test.fails))
				}
				ending, err := s.server.Logout(t.Context(), token)
				if ending != test.want || (err == nil) != (test.want == LogoutDone) {
					t.Errorf("%d, %v", ending, err)
				}
				if diff := cmp.Diff(test.traits, s.traits("default").CanLogOut); diff != "" {
					t.Errorf("whether it can log out (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A known thing is not written again.
func TestWhatIsKnownIsNotLearntAgain(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		first, second := s.authenticate().AccessToken, s.authenticate().AccessToken
		if _, err := s.server.Logout(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		s.storage.refusesWrites = "learnt/"
		if _, err := s.server.Logout(t.Context(), second); err != nil || s.log.Len() != 0 {
			t.Errorf("%v; the log: %s", err, s.log)
		}
		s.storage.refusesWrites = ""
		s.knows(store.ServerTraits{CanLogOut: new(false), AuthenticateEndsEarlierSessions: new(false)})
		s.Change(func(k *simulator.Knobs) { k.LogoutAbsent = true })
		s.storage.refusesWrites = "learnt/"
		if ending, _ := s.server.Logout(t.Context(), s.authenticate().AccessToken); ending != LogoutUnsupported ||
			s.log.Len() != 0 {
			t.Errorf("%d; the log: %s", ending, s.log)
		}
	})
}

// slowEvents is an event system that takes its time.
type slowEvents struct{ tried []string }

func (e *slowEvents) SendEvent(ctx context.Context, _ logical.EventType, event *logical.EventData) error {
	e.tried = append(e.tried, event.Metadata.AsMap()[events.Config].(string))
	time.Sleep(900 * time.Millisecond)
	return ctx.Err()
}

// The rest is told of at the next tick.
func TestTheTickDoesNotWaitForASlowEventSystem(t *testing.T) {
	withRegistry(t, func(t *testing.T, b *bench) {
		core := &slowEvents{}
		b.Registry.events = events.NewSender(core, hclog.NewNullLogger())
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			config := b.config(name, testURL, "token")
			config.PasswordChangedAt, config.PasswordMaxAge, config.ExpiryWarning = time.Now(), time.Hour, time.Hour
			if err := b.store.Configs.Put(t.Context(), name, config); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []time.Duration{5400 * time.Millisecond, 900 * time.Millisecond, 0} {
			began := time.Now()
			if err := b.AnnounceExpiries(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("it took %s, want %s: %v", time.Since(began), want, err)
			}
		}
		if got := strings.Join(core.tried, ""); got != "abcdefg" {
			t.Errorf("told of %s", got)
		}
	})
}

// The tick tells of each end, whatever else of the configs cannot be read.
func TestTheTickTellsOfEndsThatAreNear(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		for _, name := range []string{"a", "b"} {
			config := s.bench.config(name, testURL, "token")
			config.PasswordChangedAt, config.PasswordMaxAge, config.ExpiryWarning = time.Now(), time.Hour, 2*time.Hour
			if err := s.store.Configs.Put(t.Context(), name, config); err != nil {
				t.Fatal(err)
			}
		}
		expiring := s.bench.config("c", testURL, s.AddUserExpiring("expiring", time.Hour))
		expiring.ExpiryWarning = 2 * time.Hour
		if err := s.store.Configs.Put(t.Context(), "c", expiring); err != nil {
			t.Fatal(err)
		}
		s.store.Invalidate("config/default")
		s.storage.refusesReads = "config/default"
		for _, want := range []int{3, 3} { // the second time says nothing new
			if err := s.AnnounceExpiries(t.Context()); err == nil || len(s.events.Events) != want ||
				strings.Count(s.log.String(), " expires at ") != want {
				t.Errorf("%v: %v; the log: %s", err, s.sentEvents(), s.log)
			}
		}
		for i, name := range []string{"a", "b", "c"} {
			sent := s.events.Events[i]
			if metadata := sent.Event.Metadata.AsMap(); string(sent.Type) != string(events.CredentialExpiring) ||
				metadata[events.Config] != name || metadata[events.ExpiresAt] == "" {
				t.Errorf("%s: %v", sent.Type, metadata)
			}
		}
	})
}

// What a call came to is told of the server, unless it is in the nature of the call, or never
// reached it.
func TestWhatACallTellsOfTheServer(t *testing.T) {
	hang := simulator.Failure{Kind: simulator.FailureHang}
	for name, test := range map[string]struct {
		fails   simulator.Failure
		timeout time.Duration // 0: as long as it takes
		gone    bool          // the caller goes as it ends
		held    time.Duration // for so long there is no place
		kind    ncentral.Kind
		success bool
		failure bool
		outage  bool
	}{
		"well": {success: true},
		// users/me is answered
		"the user may not see": {fails: status(403), kind: ncentral.KindForbidden, success: true},
		"the token is dead":    {fails: status(401), kind: ncentral.KindUnauthorized},
		"it fails": {
			fails: status(500), kind: ncentral.KindServerError, failure: true,
			success: true,
		},
		"too busy": {
			fails: status(503), kind: ncentral.KindUnavailable, failure: true,
			outage: true,
		},
		"no answer in time": {fails: hang, kind: ncentral.KindTimeout, failure: true, outage: true},
		"the caller goes":   {fails: hang, timeout: time.Second, gone: true, kind: ncentral.KindCanceled},
		"no place": {
			timeout: 5 * time.Second, held: 8 * time.Second, kind: ncentral.KindQueued,
			failure: true,
		},
		"a place too late": {
			fails: hang, timeout: 5 * time.Second, held: time.Second,
			kind: ncentral.KindQueued, failure: true,
		},
		"a place in time, and no answer": {
			fails: hang, timeout: 12 * time.Second, held: time.Second,
			kind: ncentral.KindTimeout, failure: true, outage: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				config := *s.config
				config.MaxRetries, config.MaxRequestsInFlight = 0, 1
				s.write(&config)
				grant := s.authenticate()
				var holding sync.WaitGroup
				if test.held > 0 {
					s.FailNext(simulator.EndpointLogout, 1, simulator.Failure{
						Kind:  simulator.FailureSlow,
						Delay: simulator.Delay(test.held),
					})
					holding.Go(func() { _ = s.server.client.Logout(t.Context(), "other") })
					synctest.Wait()
				}
				if test.fails != (simulator.Failure{}) {
					s.FailNext(simulator.EndpointServiceOrgs, 1, test.fails)
				}
				s.server.outage.begin(time.Now().Add(-time.Hour), time.Now().Add(-time.Hour), failed()) // which is over
				began := time.Now()
				s.server.record.NoteOutcome(s.server.generation, nil, began.Add(-time.Hour))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.gone {
					time.AfterFunc(test.timeout, cancel)
				} else if test.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, test.timeout)
					defer cancel()
				}
				failure, answered := s.server.Probe(ctx, grant.AccessToken)
				kind := ncentral.Kind("")
				if failure != nil {
					kind = failure.Kind
				}
				if test.kind == ncentral.KindForbidden && answered {
					kind = test.kind // which is well
				}
				if kind != test.kind {
					t.Errorf("%v", failure)
				}
				ended := time.Now()
				got := s.status(s.config)
				if got.LastSuccess.Equal(ended) != test.success || got.LastFailure.Equal(ended) != test.failure {
					t.Errorf("last success %s, last failure %s, ended %s", got.LastSuccess, got.LastFailure, ended)
				}
				lifted := s.server.outage.cause == nil
				if outage := s.server.noOutage(ended) != nil; outage != test.outage ||
					lifted != (answered && !test.outage) {
					t.Errorf("the server counts as silent: %t, what was before is over: %t", outage, lifted)
				}
				s.ClearFailures()
				holding.Wait()
			})
		})
	}
}

// Log and events tell that no token can be had once; of a refusal of the User-API token the log has
// a line of its own.
func TestThatNoTokenCanBeHadIsToldOfOnce(t *testing.T) {
	for kind, want := range map[ncentral.Kind]int{ncentral.KindServerError: 1, ncentral.KindUnauthorized: 0} {
		withSimulator(t, nil, func(t *testing.T, s *simulated) {
			for range 2 {
				s.server.reportObtaining(t.Context(), health.NewFailure(s.server.config, ncentral.CallAuthenticate,
					&ncentral.Error{Call: ncentral.CallAuthenticate, Kind: kind}))
			}
			if got := strings.Count(s.log.String(), "new tokens cannot be had"); got != want ||
				len(s.events.Events) != 1 {
				t.Errorf("%s: %d lines, %v", kind, got, s.sentEvents())
			}
			if s.server.reportObtaining(t.Context(), nil); !slices.Contains(s.sentEvents(),
				string(events.CredentialRecovered)) {
				t.Errorf("%s: that one can be had again is not told of", kind)
			}
		})
	}
}

func TestAnAuthenticateThatTeachesNothingWritesNothing(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.knows(store.ServerTraits{AuthenticateEndsEarlierSessions: new(false)})
		s.storage.refusesWrites = "learnt/"
		if s.authenticate(); s.log.Len() != 0 {
			t.Errorf("the log: %s", s.log)
		}
	})
}

func TestAuthenticatesThatOverlapAndFailBringNothing(t *testing.T) {
	withSimulator(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(t *testing.T, s *simulated) {
		s.FailNext(simulator.EndpointAuthenticate, -1, status(401))
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				if grant, err := s.server.Authenticate(t.Context(), Asked{}); grant != nil || err == nil {
					t.Error(grant, err)
				}
			})
		}
		calls.Wait()
	})
}

// It was opened all the same, and is to be ended.
func TestASessionThatIsOfNoUseIsAnErrorWithTheSessionInIt(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		s.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
			Kind:          simulator.FailureExpiry,
			ExpirySeconds: "-1",
		})
		grant, err := s.server.Authenticate(t.Context(), Asked{})
		var failure *health.Failure
		if !errors.As(err, &failure) || failure.Kind != ncentral.KindMalformed ||
			!strings.Contains(failure.Error(), "authenticate: the answer is not one of N-central's API") {
			t.Error(err)
		}
		var unusable *UnusableGrantError
		if grant != nil || !errors.As(err, &unusable) || unusable.Grant.AccessToken == "" ||
			unusable.Grant.Access != time.Hour {
			t.Errorf("%+v", grant)
		}
	})
}

func TestATokenThatDiedWhileAnAuthenticateCameAndWentIsNoSignOfAReboot(t *testing.T) {
	withSimulator(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(t *testing.T, s *simulated) {
		token := &store.Token{AccessToken: s.authenticate().AccessToken, Epoch: time.Now().Add(time.Hour).UnixNano()}
		s.Reboot()
		time.AfterFunc(500*time.Millisecond, func() { s.server.credential.beginAuthenticate()() })
		if verdict, err := s.server.Validate(t.Context(), token); verdict != (Verdict{}) || err != nil {
			t.Errorf("%+v, %v", verdict, err)
		}
	})
}

// No connection outlives what it was opened for.
func TestConnectionsAreClosedWithTheServerTheyLeadTo(t *testing.T) {
	for name, end := range map[string]func(*simulated){
		"a new version":   func(s *simulated) { config := *s.config; s.write(&config) },
		"the config ends": func(s *simulated) { s.Evict("default") },
		"the mount ends":  func(s *simulated) { s.bench.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			withSimulator(t, nil, func(t *testing.T, s *simulated) {
				if s.authenticate(); s.open.Load() != 1 {
					t.Fatalf("%d connections are open", s.open.Load())
				}
				if end(s); s.open.Load() != 0 {
					t.Errorf("%d connections are still open", s.open.Load())
				}
			})
		})
	}
}

// Readers of a server that is left alone get the failure at once instead of queueing.
func TestNobodyQueuesForAServerThatIsLeftAlone(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		config := *s.config
		config.MaxRequestsInFlight = 1
		s.write(&config)
		s.FailNext(simulator.EndpointLogout, 1, simulator.Failure{
			Kind:  simulator.FailureSlow,
			Delay: simulator.Delay(8 * time.Second),
		})
		var holding sync.WaitGroup
		holding.Go(func() { _ = s.server.client.Logout(t.Context(), "other") })
		synctest.Wait()
		s.server.outage.begin(time.Now(), time.Now(), failed())
		began := time.Now()
		if failure, _ := s.server.Probe(t.Context(), "token"); failure == nil || !failure.NotMade ||
			!time.Now().Equal(began) {
			t.Errorf("after %s: %v", time.Since(began), failure)
		}
		holding.Wait()
	})
}

// A second try that ends with the time for all of it has had the first one's time too.
func TestARetryThatIsNotAnsweredIsTheServersSilence(t *testing.T) {
	withSimulator(t, nil, func(t *testing.T, s *simulated) {
		config := *s.config
		config.MaxRetries = 1
		s.write(&config)
		s.FailNext(simulator.EndpointServiceOrgs, 1, status(503))
		s.FailNext(simulator.EndpointServiceOrgs, 1, simulator.Failure{Kind: simulator.FailureHang})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if failure, _ := s.server.Probe(ctx, "token"); failure == nil || failure.Kind != ncentral.KindTimeout ||
			s.server.noOutage(time.Now()) == nil {
			t.Errorf("%v; the server counts as silent: %t", failure, s.server.noOutage(time.Now()) != nil)
		}
	})
}

// What was told of the user stands while N-central cannot be asked, and no longer than it tells of
// users.
func TestWhatWasToldOfTheUserStandsUntilThereIsANewAnswer(t *testing.T) {
	asks := map[string]func(s *simulated, token string){
		"probe": func(s *simulated, token string) { _, _ = s.server.Probe(s.t.Context(), token) },
		"check": func(s *simulated, _ string) { s.server.Check(s.t.Context()) },
	}
	for name, ask := range asks {
		for code, stands := range map[int]bool{404: false, 403: false, 503: true} {
			t.Run(fmt.Sprintf("%s, %d", name, code), func(t *testing.T) {
				withSimulator(t, nil, func(t *testing.T, s *simulated) {
					token := s.authenticate().AccessToken
					ask(s, token)
					if s.server.record.LastUser(s.server.generation) == nil {
						t.Fatal("nothing was told of the user")
					}
					s.FailNext(simulator.EndpointUser, -1, status(code))
					ask(s, token)
					if (s.server.record.LastUser(s.server.generation) != nil) != stands {
						t.Errorf("what was told stands: %t", !stands)
					}
				})
			})
		}
	}
}
