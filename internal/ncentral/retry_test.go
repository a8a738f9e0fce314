// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script is a server that answers one step after another, and repeats the last one.
type script struct {
	steps  []func(*http.Request) (*http.Response, error)
	sentAt []time.Time
	bodies []string
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	step := s.steps[min(len(s.sentAt), len(s.steps)-1)]
	s.sentAt = append(s.sentAt, time.Now())
	if r.Body != nil {
		body, _ := io.ReadAll(r.Body)
		s.bodies = append(s.bodies, string(body))
	}
	return step(r)
}

// waits returns the times between the attempts.
func (s *script) waits() []time.Duration {
	var waits []time.Duration
	for i := 1; i < len(s.sentAt); i++ {
		waits = append(waits, s.sentAt[i].Sub(s.sentAt[i-1]))
	}
	return waits
}

func statuses(codes ...int) *script {
	s := &script{}
	for _, code := range codes {
		body := `{}`
		if code == http.StatusOK {
			body = validBody
		}
		s.steps = append(s.steps, reply(code, typeJSON, body))
	}
	return s
}

func failures(causes ...error) *script {
	s := &script{}
	for _, cause := range causes {
		s.steps = append(s.steps, func(*http.Request) (*http.Response, error) { return nil, cause })
	}
	return s
}

func retryAfterSteps(value string) *script {
	return &script{steps: []func(*http.Request) (*http.Response, error){
		retryAfterReply(429, value), reply(200, typeJSON, validBody),
	}}
}

func retryAfterReply(status int, value string) transportFunc {
	return func(*http.Request) (*http.Response, error) {
		response := newResponse(status, typeJSON, http.NoBody)
		response.Header.Set("Retry-After", value)
		return response, nil
	}
}

func retryingClient(s *script, maxRetries int) *Client {
	return New(Options{BaseURL: testURL, Transport: s, MaxRetries: maxRetries})
}

// expectWaits compares the waits with the schedule. Up to a quarter is added to each.
func expectWaits(t *testing.T, got, schedule []time.Duration) {
	t.Helper()
	ok := slices.EqualFunc(got, schedule,
		func(got, base time.Duration) bool { return base <= got && got <= base+base/4 })
	if !ok {
		t.Errorf("waits are %v, want %v and up to a quarter more", got, schedule)
	}
}

func TestBackoffSchedules(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	attemptTimeout := &script{steps: []func(*http.Request) (*http.Response,
		error){func(r *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithTimeout(r.Context(), 0)
		defer cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}}
	tests := map[string]struct {
		server  *script
		retries int
		waits   []time.Duration
		kind    Kind // "" where the call succeeds
	}{
		"too many requests": {
			statuses(429, 429, 429, 429, 200), 4,
			[]time.Duration{2 * s, 5 * s, 10 * s, 10 * s},
			"",
		},
		"unavailable": {
			statuses(503, 502, 504, 503, 503, 503, 200), 6,
			[]time.Duration{500 * ms, s, 2 * s, 4 * s, 8 * s, 8 * s},
			"",
		},
		"connection errors": {
			failures(syscall.ECONNREFUSED, io.EOF), 2,
			[]time.Duration{500 * ms, s},
			KindUnreachable,
		},
		"attempts that time out": {attemptTimeout, 2, []time.Duration{500 * ms, s}, KindTimeout},
		"mixed":                  {statuses(503, 429, 200), 3, []time.Duration{500 * ms, 5 * s}, ""},
		"retries used up":        {statuses(503), 2, []time.Duration{500 * ms, s}, KindUnavailable},
		"no retries":             {statuses(503), 0, nil, KindUnavailable},
		"500 once":               {statuses(500, 200), 3, []time.Duration{500 * ms}, ""},
		"500 once at most":       {statuses(500, 500, 200), 3, []time.Duration{500 * ms}, KindServerError},
		"500 once at most, in between": {
			statuses(500, 503, 500, 200), 5,
			[]time.Duration{500 * ms, s},
			KindServerError,
		},
		"a 500 at last": {statuses(503, 500, 200), 5, []time.Duration{500 * ms, s}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := retryingClient(test.server, test.retries).Validate(t.Context(), newToken())
				if KindOf(err) != test.kind || (err == nil) != (test.kind == "") {
					t.Errorf("got %v, want kind %q", err, test.kind)
				}
				expectWaits(t, test.server.waits(), test.waits)
			})
		})
	}
}

func TestFailuresThatAreNotRetried(t *testing.T) {
	for _, status := range []int{201, 204, 301, 400, 401, 403, 404, 405, 409, 415, 501, 505} {
		server := statuses(status)
		if retryingClient(server, 3).Validate(t.Context(), newToken()) == nil || len(server.sentAt) != 1 {
			t.Errorf("status %d: %d attempts, want one that fails", status, len(server.sentAt))
		}
	}
	hidden := &script{steps: []func(*http.Request) (*http.Response,
		error){reply(200, typeJSON, `{"Error Message":"x"}`)}}
	if err := retryingClient(hidden, 3).Validate(t.Context(), newToken()); KindOf(err) != KindHiddenError ||
		len(hidden.sentAt) != 1 {
		t.Errorf("hidden error: %v after %d attempts", err, len(hidden.sentAt))
	}
}

func TestA501AfterA500IsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := statuses(500, 501, 200)
		if err := retryingClient(server, 3).Validate(t.Context(), newToken()); failureOf(t, err).Status != 501 {
			t.Errorf("got %v", err)
		}
	})
}

// An answer that arrived counts, even where the caller waits for no other attempt.
func TestFailureWhileTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := &script{steps: []func(*http.Request) (*http.Response,
		error){func(r *http.Request) (*http.Response, error) {
		cancel()
		return reply(503, typeJSON, `{}`)(r)
	}}}
	if err := retryingClient(server, 3).Validate(ctx, newToken()); KindOf(err) != KindUnavailable {
		t.Errorf("got %v, want the 503", err)
	}
}

func TestRefreshDoesNotRepeatA500(t *testing.T) {
	server := statuses(500)
	_, err := retryingClient(server, 3).Refresh(t.Context(), newToken(), Overrides{})
	if KindOf(err) != KindServerError || len(server.sentAt) != 1 {
		t.Errorf("%v after %d attempts, want a 500 after one", err, len(server.sentAt))
	}
}

func TestRefreshSendsItsTokenWithEveryAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, token := statuses(503, 503), newToken()
		server.steps = append(server.steps, reply(200, typeJSON, sessionBody(newToken(), "")))
		if _, err := retryingClient(server, 3).Refresh(t.Context(), token, Overrides{}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(server.bodies, []string{token, token, token}) {
			t.Error("the bodies of the three attempts are not the refresh token")
		}
	})
}

func TestWithoutRetries(t *testing.T) {
	server := statuses(503)
	client := retryingClient(server, 3)
	if err := client.WithoutRetries().Validate(t.Context(), newToken()); KindOf(err) != KindUnavailable ||
		len(server.sentAt) != 1 {
		t.Errorf("%v after %d attempts, want a 503 after one", err, len(server.sentAt))
	}
	synctest.Test(t, func(t *testing.T) { _ = client.Validate(t.Context(), newToken()) })
	if len(server.sentAt) != 1+4 {
		t.Errorf("the client that it was made from makes %d attempts, want 4", len(server.sentAt)-1)
	}
}

func TestErrorOfTheTransportIsAnsweredAsItIs(t *testing.T) {
	own := &Error{Call: CallAuthenticate, Kind: KindUnavailable, Detail: "cooling down"}
	server := failures(own)
	if got := failureOf(t, retryingClient(server, 3).Validate(t.Context(), newToken())); got != own ||
		len(server.sentAt) != 1 {
		t.Errorf("got %+v after %d attempts", got, len(server.sentAt))
	}
	canceled, cancel := context.WithCancel(t.Context())
	server = &script{steps: []func(*http.Request) (*http.Response, error){func(*http.Request) (*http.Response, error) {
		cancel()
		return nil, own
	}}}
	if got := failureOf(t, retryingClient(server, 3).Validate(canceled, newToken())); got != own {
		t.Errorf("with a context that has ended: got %+v", got)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	in := func(wait time.Duration) func() string {
		return func() string { return time.Now().Add(wait).UTC().Format(http.TimeFormat) }
	}
	text := func(value string) func() string {
		return func() string { return value }
	}
	tests := map[string]struct {
		value func() string
		want  time.Duration
	}{
		"seconds": {text("7"), 7 * time.Second},
		"date":    {in(7 * time.Second), 7 * time.Second},
		// These name no later time, so the schedule applies.
		"zero":        {text("0"), 2 * time.Second},
		"negative":    {text("-5"), 2 * time.Second},
		"neither":     {text("soon"), 2 * time.Second},
		"empty":       {text(""), 2 * time.Second},
		"date before": {in(-time.Hour), 2 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := retryAfterSteps(test.value())
				if err := retryingClient(server, 3).Validate(t.Context(), newToken()); err != nil {
					t.Fatal(err)
				}
				expectWaits(t, server.waits(), []time.Duration{test.want})
			})
		})
	}
}

func TestRetryAfterOfAnError(t *testing.T) {
	tests := map[string]time.Duration{
		"30": 30 * time.Second, "": 0, "9223372036854775807": 24 * time.Hour,
		"Fri, 31 Dec 9999 23:59:59 GMT": 24 * time.Hour,
	}
	for value, want := range tests {
		failure := failureOf(t, retryingClient(retryAfterSteps(value), 0).Validate(t.Context(), newToken()))
		if failure.Kind != KindRateLimited || failure.RetryAfter != want {
			t.Errorf("%q: got %s and %v, want %v", value, failure.Kind, failure.RetryAfter, want)
		}
	}
}

func TestNoWaitPastTheDeadline(t *testing.T) {
	tests := map[string]struct {
		server   *script
		deadline time.Duration
		attempts int
		kind     Kind
	}{
		"Retry-After beyond it":      {retryAfterSteps("60"), 59 * time.Second, 1, KindRateLimited},
		"Retry-After at it":          {retryAfterSteps("60"), 60 * time.Second, 1, KindRateLimited},
		"Retry-After just before it": {retryAfterSteps("60"), 61 * time.Second, 2, ""},
		"the schedule beyond it":     {statuses(503), 1200 * time.Millisecond, 2, KindUnavailable},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
				defer cancel()
				err := retryingClient(test.server, 5).Validate(ctx, newToken())
				if KindOf(err) != test.kind || (err == nil) != (test.kind == "") ||
					len(test.server.sentAt) != test.attempts {
					t.Errorf("got %v after %d attempts, want %q after %d", err, len(test.server.sentAt), test.kind,
						test.attempts)
				}
				if last := test.server.sentAt[len(test.server.sentAt)-1]; !last.Equal(time.Now()) {
					t.Errorf("slept %v after the last attempt", time.Since(last))
				}
			})
		})
	}
}

// When the call is over, the caller must heed how long N-central asked it to wait.
func TestRetryAfterBeyondTheCallIsToldInItsError(t *testing.T) {
	tests := map[string]struct {
		steps []func(*http.Request) (*http.Response, error)
		want  time.Duration
	}{
		"429": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(429, "600")},
			10 * time.Minute,
		},
		"502": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(502, "600")},
			10 * time.Minute,
		},
		"503": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(503, "600")},
			10 * time.Minute,
		},
		"504": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(504, "600")},
			10 * time.Minute,
		},
		"500": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(500, "600")},
			10 * time.Minute,
		},
		"a block page": {
			[]func(*http.Request) (*http.Response, error){retryAfterReply(403, "600")},
			10 * time.Minute,
		},
		"after a retry": {[]func(*http.Request) (*http.Response, error){
			reply(503, typeJSON, `{}`),
			retryAfterReply(503, "600"),
		}, 10 * time.Minute},
		"retries used up": {[]func(*http.Request) (*http.Response, error){retryAfterReply(503, "5")}, 5 * time.Second},
		"withdrawn": {[]func(*http.Request) (*http.Response, error){
			retryAfterReply(503, "5"),
			reply(401, typeJSON, refusedBody),
		}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				failure := failureOf(t, retryingClient(&script{steps: test.steps}, 3).Validate(ctx, newToken()))
				if failure.RetryAfter != test.want {
					t.Errorf("%v: RetryAfter is %s, want %s", failure, failure.RetryAfter, test.want)
				}
			})
		})
	}
}

func TestCanceledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := retryingClient(statuses(429), 3).Validate(ctx, newToken())
		if KindOf(err) != KindCanceled || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if time.Since(start) != time.Second {
			t.Errorf("returned after %v, want 1s", time.Since(start))
		}
	})
}

func TestTrace(t *testing.T) {
	type notice struct {
		Call   Call
		Kind   Kind
		Detail string
		Status int
	}
	synctest.Test(t, func(t *testing.T) {
		server := statuses(503)
		server.steps = append(server.steps, reply(429, typeJSON, `{"message":"slow down"}`),
			reply(401, typeJSON, refusedBody))
		var notices []notice
		var waits []time.Duration
		ctx := WithTrace(t.Context(), &Trace{Retrying: func(call Call, err error, wait time.Duration) {
			failure := failureOf(t, err)
			notices = append(notices, notice{call, failure.Kind, failure.Detail, failure.Status})
			waits = append(waits, wait)
			if len(server.sentAt) != len(notices) {
				t.Error("the notice does not come before the wait")
			}
		}})
		if err := retryingClient(server, 3).Validate(ctx, newToken()); KindOf(err) != KindUnauthorized {
			t.Errorf("got %v, want the 401", err)
		}
		want := []notice{{CallValidate, KindUnavailable, "", 503}, {CallValidate, KindRateLimited, "slow down", 429}}
		if diff := cmp.Diff(want, notices); diff != "" {
			t.Errorf("notices (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(server.waits(), waits); diff != "" {
			t.Errorf("waits (-real +noticed):\n%s", diff)
		}
	})
}

func TestTraceIsSilentWhereNothingIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notices := 0
		ctx := WithTrace(t.Context(), &Trace{Retrying: func(Call, error, time.Duration) { notices++ }})
		_ = retryingClient(statuses(401), 3).Validate(ctx, newToken())
		_ = retryingClient(statuses(503), 0).Validate(ctx, newToken())
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = retryingClient(retryAfterSteps("60"), 3).Validate(short, newToken())
		if notices != 0 {
			t.Errorf("%d notices, want none", notices)
		}
		if err := retryingClient(statuses(503, 200), 1).Validate(WithTrace(ctx, &Trace{}), newToken()); err != nil ||
			notices != 1 {
			t.Errorf("with a trace without hooks before one with: %v, %d notices, want 1", err, notices)
		}
	})
}
