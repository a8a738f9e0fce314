// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCounts(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		client.authenticate(s.AddUser("some-user"))
		client.call(http.MethodPost, authenticatePath, bearer("unknown"), "")
		client.call(http.MethodPost, authenticatePath, nil, "")
		client.call(http.MethodGet, "/api/health", nil, "")
		want := map[Endpoint]map[Outcome]int{
			EndpointAuthenticate: {OutcomeOK: 1, OutcomeRefused: 1, OutcomeBadRequest: 1},
			EndpointHealth:       {OutcomeOK: 1},
		}
		if diff := cmp.Diff(want, s.Counts()); diff != "" {
			t.Error(diff)
		}
		wantEqual(t, "authenticate", s.Count(EndpointAuthenticate, AnyOutcome), 3)
		wantEqual(t, "ok", s.Count(AnyEndpoint, OutcomeOK), 2)
		wantEqual(t, "all", s.Count(AnyEndpoint, AnyOutcome), 4)
		s.ResetCounts()
		wantEqual(t, "after the reset", len(s.Counts()), 0)
		wantEqual(t, "access log", len(s.Requests()), 4)
	})
}

func TestOutcomes(t *testing.T) {
	for status, want := range map[int]Outcome{
		200: OutcomeOK, 400: OutcomeBadRequest, 415: OutcomeBadRequest, 401: OutcomeRefused, 403: OutcomeRefused,
		404: OutcomeNotFound, 405: OutcomeNotFound, 429: OutcomeRateLimited, 500: OutcomeServerError,
		503: OutcomeServerError,
	} {
		wantEqual(t, "outcome", outcomeOf(status), want)
	}
}

// together makes calls at the same moment and returns the number of answers by status.
func together(client *testClient, count int) map[int]int {
	var mutex sync.Mutex
	var calls sync.WaitGroup
	statuses := map[int]int{}
	for range count {
		calls.Go(func() {
			answered := client.call(http.MethodGet, "/api/health", nil, "")
			mutex.Lock()
			defer mutex.Unlock()
			statuses[answered.status]++
		})
	}
	calls.Wait()
	return statuses
}

func TestRequestsInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.Latency = time.Second })
		if diff := cmp.Diff(map[int]int{200: 50, 429: 10}, together(client, 60)); diff != "" {
			t.Error(diff)
		}
		wantEqual(t, "rate limited", s.Count(EndpointHealth, OutcomeRateLimited), 10)
		wantEqual(t, "of another endpoint", s.MaxInFlight(EndpointLinks), 0)

		s.Change(func(k *Knobs) { k.MaxInFlight = 2 })
		s.ResetCounts()
		if diff := cmp.Diff(map[int]int{200: 2}, together(client, 2)); diff != "" {
			t.Error(diff)
		}
		wantEqual(t, "at most", s.MaxInFlight(EndpointHealth), 2)
	})
}

func TestRetryAfter(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.Change(func(k *Knobs) { k.MaxInFlight = 1; k.Latency = time.Minute })
		tooMany := func() response {
			var held sync.WaitGroup
			held.Go(func() { client.call(http.MethodGet, "/api/health", nil, "") })
			defer held.Wait()
			pass(time.Second)
			return client.call(http.MethodGet, "/api/health", nil, "")
		}
		answered := tooMany()
		client.wantError(answered, 429, "TOO MANY REQUESTS: ")
		wantEqual(t, "by default", answered.header.Get("Retry-After"), "")
		s.Change(func(k *Knobs) { k.RetryAfterSeconds = 9 })
		wantEqual(t, "by the knob", tooMany().header.Get("Retry-After"), "9")
	})
}

func TestAccessLog(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		token := s.AddUser("some-user")
		overrides := bearer(token).with(accessOverrideHeader, "10m").with(refreshOverrideHeader,
			"2h").with("User-Agent", "someone/1")
		tokens := client.tokens(client.call(http.MethodPost, authenticatePath, overrides, "")).Tokens
		pass(time.Minute)
		client.refresh(tokens.Refresh.Token)
		client.call(http.MethodGet, "/nowhere", bearer("stray"), "")
		client.call(http.MethodPost, refreshPath, bearer("in the header").with("Content-Type", "text/plain"),
			"in the body")

		const goUserAgent = "Go-http-client/1.1"
		want := []RequestRecord{
			{
				Endpoint: EndpointAuthenticate, Method: "POST", Path: authenticatePath, Outcome: OutcomeOK, Status: 200,
				AccessOverride: "10m", RefreshOverride: "2h", UserAgent: "someone/1",
			},
			{
				Endpoint: EndpointRefresh, Method: "POST", Path: refreshPath, Outcome: OutcomeOK, Status: 200,
				UserAgent: goUserAgent,
			},
			{
				Endpoint: EndpointOther, Method: "GET", Path: "/nowhere", Outcome: OutcomeNotFound, Status: 404,
				UserAgent: goUserAgent,
			},
			{
				Endpoint: EndpointRefresh, Method: "POST", Path: refreshPath, Outcome: OutcomeRefused, Status: 401,
				UserAgent: goUserAgent,
			},
		}
		secrets := []string{token, tokens.Refresh.Token, "stray", "in the header"}
		got := s.Requests()
		begin := got[0].Time
		wantEqual(t, "requests", len(got), len(want))
		for i := range got {
			wantEqual(t, "the right secret", got[i].Secret == secrets[i], true)
			got[i].Secret = ""
			if i > 0 {
				wantEqual(t, "time", got[i].Time.Sub(begin), time.Minute)
			}
			got[i].Time = time.Time{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, secret := range append(secrets, "in the body") {
			wantEqual(t, "received", s.Received(secret), true)
		}
		wantEqual(t, "received", s.Received(tokens.Access.Token), false)
	})
}

func TestAccessLogIsBounded(t *testing.T) {
	r := newRecords()
	for range maxRecords {
		r.begin(call{path: "/old"})
	}
	r.begin(call{path: "/new"})
	wantEqual(t, "records", len(r.log), maxRecords)
	wantEqual(t, "newest", r.log[maxRecords-1].Path, "/new")
}

func TestHowAccessTokensEnd(t *testing.T) {
	for _, test := range []struct {
		want  Ending
		knobs func(*Knobs)
		end   func(s *Simulator, client *testClient, userAPIToken string, opened tokensBody)
	}{
		{want: EndedByLogout, end: func(_ *Simulator, client *testClient, _ string, opened tokensBody) {
			client.call(http.MethodPost, "/api/auth/logout", bearer(opened.Tokens.Access.Token), "")
		}},
		{want: EndedByReboot, end: func(s *Simulator, _ *testClient, _ string, _ tokensBody) { s.Reboot() }},
		{
			want:  EndedByRefresh,
			knobs: func(k *Knobs) { k.RefreshEndsPredecessor = true },
			end: func(_ *Simulator, client *testClient, _ string, opened tokensBody) {
				client.refresh(opened.Tokens.Refresh.Token)
			},
		},
		{
			want:  EndedByAuthenticate,
			knobs: func(k *Knobs) { k.AuthenticateEndsEarlierSessions = true },
			end: func(_ *Simulator, client *testClient, userAPIToken string, _ tokensBody) {
				client.authenticate(userAPIToken)
			},
		},
		{
			want:  EndedByRegeneration,
			knobs: func(k *Knobs) { k.RegenerateEndsSessions = true },
			end: func(s *Simulator, _ *testClient, _ string, _ tokensBody) {
				_, _ = s.RegenerateUserAPIToken("some-user") // the user is known
			},
		},
	} {
		inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
			if test.knobs != nil {
				s.Change(test.knobs)
			}
			userAPIToken := s.AddUser("some-user")
			opened := client.authenticate(userAPIToken)
			access := opened.Tokens.Access.Token
			pass(time.Minute)
			if issued, _ := s.IssuedWith(access); !issued.EndedAt.IsZero() || issued.EndedBy != "" {
				t.Errorf("a living token was ended at %s by %q", issued.EndedAt, issued.EndedBy)
			}
			test.end(s, client, userAPIToken, opened)
			pass(time.Minute)
			s.Reboot() // this ends nothing that had ended before
			issued, ok := s.IssuedWith(access)
			wantEqual(t, "known", ok, true)
			wantEqual(t, "ended by", issued.EndedBy, test.want)
			wantEqual(t, "ended after", issued.EndedAt.Sub(issued.IssuedAt), time.Minute)
		})
	}
}

func TestTokensThatLapsedWereNotEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		pass(time.Hour)
		s.Reboot()
		if issued, _ := s.IssuedWith(access); !issued.EndedAt.IsZero() {
			t.Errorf("ended by %q", issued.EndedBy)
		}
		_, ok := s.IssuedWith("a token that never was")
		wantEqual(t, "known", ok, false)
	})
}

func TestSessionsWhoseAnswerWasLost(t *testing.T) {
	for _, test := range []struct {
		failure Failure
		lost    bool
	}{
		{Failure{Kind: FailureLostAnswer}, true},
		{Failure{Kind: FailureTruncated}, true},
		{Failure{Kind: FailureOversized}, true},
		{Failure{Kind: FailureGzipBomb}, true},
		{Failure{Kind: FailureDrip, Delay: Delay(time.Minute)}, true},
		{Failure{Kind: FailureSlow, Delay: Delay(time.Second)}, false},
		{Failure{Kind: FailureSlow, Delay: Delay(time.Minute)}, true},
		{Failure{Kind: FailureExpiry, ExpirySeconds: "60"}, false},
	} {
		inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
			token := s.AddUser("some-user")
			client.undescribed = isUndescribed(test.failure)
			s.FailNext(EndpointAuthenticate, 1, test.failure)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, _ = client.try(ctx, http.MethodPost, authenticatePath, bearer(token), "") // a lost answer is an error
			synctest.Wait()
			wantEqual(t, string(test.failure.Kind), s.Issued()[0].Lost, test.lost)
		})
	}
}
