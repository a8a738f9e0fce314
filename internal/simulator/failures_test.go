// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// failing makes the next authenticate fail and returns its answer.
func failing(s *Simulator, client *testClient, failure Failure) (response, error) {
	token := s.AddUser("some-user")
	client.undescribed = isUndescribed(failure)
	defer func() { client.undescribed = false }()
	s.FailNext(EndpointAuthenticate, 1, failure)
	return client.try(context.Background(), http.MethodPost, authenticatePath, bearer(token), "")
}

func TestFailureAnswers(t *testing.T) {
	tests := []struct {
		name     string
		failure  Failure
		status   int
		header   header
		begins   string
		contains string
		sessions int
	}{
		{
			"status",
			Failure{Kind: FailureStatus, Status: 503},
			503,
			header{
				"Content-Type": "application/json",
				"Retry-After":  "",
			},
			`{"status":503,"message":"[ID=`, "SERVICE UNAVAILABLE: ", 0,
		},
		{
			"status with Retry-After",
			Failure{Kind: FailureStatus, Status: 429, RetryAfterSeconds: 7},
			429,
			header{"Retry-After": "7"},
			`{"status":429`, "TOO MANY REQUESTS: ", 0,
		},
		{
			"status 401",
			Failure{Kind: FailureStatus, Status: 401},
			401, nil, "{",
			"UNAUTHORIZED: UnauthorizedException: ", 0,
		},
		{
			"status 403",
			Failure{Kind: FailureStatus, Status: 403},
			403, nil, "{",
			"FORBIDDEN: AccessDeniedException: ", 0,
		},
		{
			"status 500",
			Failure{Kind: FailureStatus, Status: 500},
			500, nil, "{",
			"INTERNAL SERVER ERROR: UnexpectedDmsResponseException: ", 0,
		},
		{"html", Failure{Kind: FailureHTML}, 200, header{"Content-Type": "text/html"}, "<!DOCTYPE html>", "", 0},
		{
			"block page",
			Failure{Kind: FailureHTML, Status: 403},
			403,
			header{"Content-Type": "text/html", "Retry-After": ""},
			"<!DOCTYPE html>", "blocked", 0,
		},
		{
			"maintenance page",
			Failure{Kind: FailureHTML, Status: 503, RetryAfterSeconds: 7},
			503,
			header{"Content-Type": "text/html", "Retry-After": "7"},
			"<!DOCTYPE html>", "", 0,
		},
		{"redirect", Failure{Kind: FailureRedirect}, 302, header{"Location": "/login"}, "<!DOCTYPE html>", "", 0},
		{"no tokens", Failure{Kind: FailureNoTokens}, 200, nil, `{"refresh":"/api/auth/refresh"`, "", 0},
		{
			"line feed",
			Failure{Kind: FailureLineFeedToken},
			200, nil,
			`{"tokens":{"access":{"token":"a-line\nanother"`, "", 0,
		},
		{
			"control characters",
			Failure{Kind: FailureControlToken},
			200, nil,
			`{"tokens":{"access":{"token":"a-token\r\nX-Evil: 1\u0000`, `"type":"a-token\r\n`, 0,
		},
		{
			"message",
			Failure{Kind: FailureMessage, Message: "The token is invalid."},
			200,
			header{"Content-Type": "application/json"},
			`{"message":"The token is invalid."}`, "", 0,
		},
		{"error message", Failure{Kind: FailureErrorMessage}, 200, nil, `{"Error Message":`, "", 0},
		{
			"oversized",
			Failure{Kind: FailureOversized},
			200,
			header{"Content-Type": "application/json"},
			`{"tokens":{"access":{"token":"`, `,"padding":"xxx`, 1,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				answered, err := failing(s, client, test.failure)
				if err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "status", answered.status, test.status)
				for name, value := range test.header {
					wantEqual(t, name, answered.header.Get(name), value)
				}
				wantEqual(t, "begins as it should", strings.HasPrefix(answered.body, test.begins), true)
				wantEqual(t, "contains what it should", strings.Contains(answered.body, test.contains), true)
				wantEqual(t, "sessions", s.OpenSessions(), test.sessions)
				wantEqual(t, "failed", s.Count(EndpointAuthenticate, OutcomeFailed), 1)
				wantEqual(t, "next", client.data(client.authenticate(s.AddUser("some-user")).Tokens.Access.Token), 200)
			})
		})
	}
}

func TestOversizedIsWellFormed(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		answered, err := failing(s, client, Failure{Kind: FailureOversized})
		if err != nil {
			t.Fatal(err)
		}
		client.tokens(answered)
		wantEqual(t, "2 MB", len(answered.body) > 2_000_000, true)
		begin, end := padding(nil)
		wantEqual(t, "an empty body, padded", json.Valid(append(begin, end...)), true)
	})
}

func TestTruncated(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		answered, err := failing(s, client, Failure{Kind: FailureTruncated})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		wantEqual(t, "status", answered.status, 200)
		wantEqual(t, "begins", strings.HasPrefix(answered.body, `{"tokens":`), true)
		wantEqual(t, "sessions", s.OpenSessions(), 1)
		wantEqual(t, "failed", s.Count(EndpointAuthenticate, OutcomeFailed), 1)
	})
}

func TestTruncatedEmptyBody(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		access := client.authenticate(s.AddUser("some-user")).Tokens.Access.Token
		s.FailNext(EndpointLogout, 1, Failure{Kind: FailureTruncated})
		_, err := client.try(context.Background(), http.MethodPost, "/api/auth/logout", bearer(access), "")
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		wantEqual(t, "lives", s.AccessTokenLives(access), false)
	})
}

func TestResetAndLostAnswer(t *testing.T) {
	for kind, sessions := range map[FailureKind]int{FailureReset: 0, FailureLostAnswer: 1} {
		inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
			if _, err := failing(s, client, Failure{Kind: kind}); !errors.Is(err, io.EOF) {
				t.Errorf("%s: got %v", kind, err)
			}
			wantEqual(t, "sessions", s.OpenSessions(), sessions)
			wantEqual(t, "failed", s.Count(EndpointAuthenticate, OutcomeFailed), 1)
		})
	}
}

func TestHangUntilTheClientLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.FailNext(EndpointHealth, 1, Failure{Kind: FailureHang})
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if _, err := client.try(ctx, http.MethodGet, "/api/health", nil, ""); !errors.Is(err,
			context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		wantEqual(t, "failed", s.Count(EndpointHealth, OutcomeFailed), 1)
	})
}

func TestHangUntilCleared(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.FailNext(AnyEndpoint, -1, Failure{Kind: FailureHang})
		begin := time.Now()
		go func() {
			time.Sleep(time.Minute)
			wantEqual(t, "pending", s.Count(EndpointHealth, OutcomePending), 1)
			s.ClearFailures()
		}()
		wantEqual(t, "status", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
		wantEqual(t, "took", time.Since(begin), time.Minute)
		wantEqual(t, "ok", s.Count(EndpointHealth, OutcomeOK), 1)
		wantEqual(t, "next", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
	})
}

func TestSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		begin := time.Now()
		slow := Failure{Kind: FailureSlow, Delay: Delay(3 * time.Second)}
		answered, err := failing(s, client, slow)
		if err != nil {
			t.Fatal(err)
		}
		client.tokens(answered)
		wantEqual(t, "took", time.Since(begin), 3*time.Second)
		wantEqual(t, "ok", s.Count(EndpointAuthenticate, OutcomeOK), 1)

		s.FailNext(EndpointAuthenticate, 1, slow)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := client.try(ctx, http.MethodPost, authenticatePath, bearer(s.AddUser("another-user")),
			""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wantEqual(t, "sessions, that of the client who left included", s.OpenSessions(), 2)
	})
}

func TestDrip(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		begin := time.Now()
		drip := Failure{Kind: FailureDrip, Delay: Delay(100 * time.Millisecond)}
		answered, err := failing(s, client, drip)
		if err != nil {
			t.Fatal(err)
		}
		client.tokens(answered)
		wantEqual(t, "took", time.Since(begin), time.Duration(len(answered.body))*100*time.Millisecond)
		wantEqual(t, "failed", s.Count(EndpointAuthenticate, OutcomeFailed), 1)

		s.FailNext(EndpointHealth, 1, drip)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		answered, err = client.try(ctx, http.MethodGet, "/api/health", nil, "")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		wantEqual(t, "status", answered.status, 200)
		//nolint:gocritic // the body is the beginning of the text, not the other way about
		wantEqual(t, "the beginning alone", strings.HasPrefix(`{"currentTime":`, answered.body) &&
			answered.body != "", true)
	})
}

// firstMiB makes a call and returns the first MiB of its body. It reports whether the body was
// compressed.
func firstMiB(t *testing.T, client *testClient, path string) (body []byte, compressed bool) {
	t.Helper()
	answered, err := client.http.Get(client.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answered.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(answered.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return body, answered.Uncompressed
}

func TestGzipBomb(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		s.FailNext(EndpointHealth, 1, Failure{Kind: FailureGzipBomb})
		body, compressed := firstMiB(t, client, "/api/health")
		wantEqual(t, "compressed", compressed, true)
		wantEqual(t, "goes on beyond 1 MiB", len(body), 1<<20)
		wantEqual(t, "begins", strings.HasPrefix(string(body),
			`{"currentTime":"2000-01-01T00:00:00.000Z","padding":"xxx`), true)
		wantEqual(t, "failed", s.Count(EndpointHealth, OutcomeFailed), 1)
	})
}

func TestEndlessHeaders(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		_, err := failing(s, client, Failure{Kind: FailureEndlessHeaders})
		if err == nil || !strings.Contains(err.Error(), "headers exceeded") {
			t.Errorf("got %v", err)
		}
		wantEqual(t, "failed", s.Count(EndpointAuthenticate, OutcomeFailed), 1)
		wantEqual(t, "sessions", s.OpenSessions(), 0)
	})
}

func TestSameTokens(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		one, other := s.AddUser("some-user"), s.AddUser("another-user")
		first := client.authenticate(one).Tokens
		client.authenticate(other)
		pass(time.Minute)
		s.FailNext(AnyEndpoint, -1, Failure{Kind: FailureSameTokens})
		for name, again := range map[string]tokensBody{
			"authenticate": client.authenticate(one),
			"refresh":      client.refresh(first.Refresh.Token),
		} {
			wantEqual(t, name+": the same access token", again.Tokens.Access.Token == first.Access.Token, true)
			wantEqual(t, name+": the same refresh token", again.Tokens.Refresh.Token == first.Refresh.Token, true)
			wantEqual(t, name+": what is left", again.Tokens.Access.ExpirySeconds, "3540")
		}
		wantEqual(t, "failed", s.Count(AnyEndpoint, OutcomeFailed), 2)
		wantEqual(t, "sessions", s.OpenSessions(), 2)
		pass(time.Hour)
		if client.authenticate(one).Tokens.Access.Token == first.Access.Token {
			t.Error("a token that has lapsed was answered again")
		}
	})
}

func TestExpiryOverride(t *testing.T) {
	tests := []struct {
		stated json.Number
		lives  time.Duration
	}{
		{"10", 10 * time.Second},
		{"0", 0},
		{"-5", 0},
		{"1.5", 1500 * time.Millisecond},
		{"7200", 2 * time.Hour},
		{"1e400", maxLifetime},
		{"99999999999999999999", maxLifetime},
	}
	for _, test := range tests {
		t.Run(test.stated.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				answered, err := failing(s, client, Failure{Kind: FailureExpiry, ExpirySeconds: test.stated})
				if err != nil {
					t.Fatal(err)
				}
				wantEqual(t, "stated", strings.Contains(answered.body, `"type":"Bearer","expirySeconds":`+
					test.stated.String()+"}"), true)
				issued := s.Issued()[0]
				wantEqual(t, "lifetime", issued.ExpiresAt.Sub(issued.IssuedAt), test.lives)
				wantEqual(t, "lives", s.AccessTokenLives(issued.Access), test.lives > 0)
				wantEqual(t, "ok", s.Count(EndpointAuthenticate, OutcomeOK), 1)
			})
		})
	}
}

func TestFailuresInTheirOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		client.undescribed = true // 502 and similar statuses come from what stands before N-central
		s.FailNext(EndpointHealth, 2, Failure{Kind: FailureStatus, Status: 503})
		s.FailNext(EndpointHealth, 0, Failure{Kind: FailureStatus, Status: 504})
		s.FailNext(AnyEndpoint, -1, Failure{Kind: FailureStatus, Status: 502})
		wantEqual(t, "links", client.call(http.MethodGet, "/api/auth", nil, "").status, 502)
		for _, want := range []int{503, 503, 502, 502} {
			wantEqual(t, "health", client.call(http.MethodGet, "/api/health", nil, "").status, want)
		}
		s.ClearFailures()
		wantEqual(t, "health, cleared", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
	})
}

func TestBadFailures(t *testing.T) {
	tests := []struct {
		failure Failure
		want    string
	}{
		{Failure{}, `kind: no failure of kind ""`},
		{Failure{Kind: "nonsense"}, `kind: no failure of kind "nonsense"`},
		{Failure{Kind: FailureStatus}, "status: must be 400 to 599, not 0"},
		{Failure{Kind: FailureStatus, Status: 200}, "status: must be 400 to 599, not 200"},
		{
			Failure{Kind: FailureStatus, Status: 429, RetryAfterSeconds: -1},
			"retry_after_seconds: must not be negative, not -1",
		},
		{Failure{Kind: FailureHTML, Status: 199}, "status: must be 200 to 599, not 199"},
		{Failure{Kind: FailureHTML, Status: 600}, "status: must be 200 to 599, not 600"},
		{Failure{Kind: FailureHang, Status: 500}, `status: only for failures of the kinds ["status" "html"]`},
		{
			Failure{Kind: FailureHang, RetryAfterSeconds: 1},
			`retry_after_seconds: only for failures of the kinds ["status" "html"]`,
		},
		{Failure{Kind: FailureHang, ExpirySeconds: "1"}, `expiry_seconds: only for failures of the kinds ["expiry"]`},
		{Failure{Kind: FailureHang, Message: "x"}, `message: only for failures of the kinds ["message"]`},
		{Failure{Kind: FailureHang, Delay: 1}, `delay: only for failures of the kinds ["slow" "drip"]`},
		{Failure{Kind: FailureMessage}, "message: must be given"},
		{Failure{Kind: FailureSlow}, "delay: must be given, and more than 0"},
		{Failure{Kind: FailureDrip, Delay: -1}, "delay: must be given, and more than 0"},
		{Failure{Kind: FailureExpiry}, "expiry_seconds: must be a JSON number"},
		{Failure{Kind: FailureExpiry, ExpirySeconds: "1 2"}, "expiry_seconds: must be a JSON number"},
		{Failure{Kind: FailureExpiry, ExpirySeconds: `"1"`}, "expiry_seconds: must be a JSON number"},
	}
	for _, test := range tests {
		if err := test.failure.Check(); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

func TestFailNextPanicsOnNonsense(t *testing.T) {
	s := New(DefaultKnobs())
	for _, ask := range []func(){
		func() { s.FailNext("nonsense", 1, Failure{Kind: FailureHang}) },
		func() { s.FailNext(AnyEndpoint, 1, Failure{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			ask()
		}()
	}
}
