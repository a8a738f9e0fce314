// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// N-central's side of attempts: it answers when it is told to.
type heldServer struct {
	mu   sync.Mutex
	sent []string // paths, in the order in which they came
	hold chan struct{}
	fail error
}

func (s *heldServer) RoundTrip(request *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.sent = append(s.sent, request.URL.Path)
	s.mu.Unlock()
	select {
	case <-s.hold:
	case <-request.Context().Done():
		return nil, request.Context().Err()
	}
	if s.fail != nil {
		return nil, s.fail
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

func (s *heldServer) paths() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.sent, " ")
}

// attempt makes one in the background. What it returns waits for the outcome.
func attempt(ctx context.Context, transport http.RoundTripper, path string) func() (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, http.NoBody)
	if err != nil {
		panic(err)
	}
	var response *http.Response
	done := make(chan struct{})
	go func() {
		defer close(done)
		response, err = transport.RoundTrip(request)
	}()
	synctest.Wait() // it has its turn, or waits for it
	return func() (*http.Response, error) { <-done; return response, err }
}

func inFlightOf(t *testing.T, a *attempts) float64 {
	t.Helper()
	var metric dto.Metric
	if err := a.inFlight.Write(&metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetGauge().GetValue()
}

// withAttempts runs the test in a bubble on so many places.
func withAttempts(t *testing.T, limit int, test func(t *testing.T, a *attempts, server *heldServer)) {
	synctest.Test(t, func(t *testing.T) {
		server := &heldServer{hold: make(chan struct{})}
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"})
		test(t, newAttempts(server, limit, 10*time.Second, gauge), server)
	})
}

func TestAQuarterOfThePlacesIsKeptForWhatReadersShare(t *testing.T) {
	for limit, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 7: 6, 8: 6, 11: 9, 12: 9, 50: 38} {
		if got := PlacesPerReader(limit); got != want {
			t.Errorf("of %d, calls for one reader may take %d, want %d", limit, got, want)
		}
	}
}

func TestAttemptsWaitForTheirTurnAndThoseForOneReaderLeaveAPlace(t *testing.T) {
	withAttempts(t, 4, func(t *testing.T, a *attempts, server *heldServer) {
		var waiting []func() (*http.Response, error)
		for _, path := range []string{"/1", "/2", "/3", "/4", "/5"} {
			waiting = append(waiting, attempt(forOneReader(t.Context()), a, path))
		}
		if got := server.paths(); got != "/1 /2 /3" {
			t.Errorf("of those for one reader are sent: %s", got)
		}
		for _, path := range []string{"/shared", "/waits"} {
			waiting = append(waiting, attempt(t.Context(), a, path))
		}
		if got := server.paths(); got != "/1 /2 /3 /shared" || inFlightOf(t, a) != 4 {
			t.Errorf("sent: %s, %v in flight", got, inFlightOf(t, a))
		}
		close(server.hold)
		for _, wait := range waiting[:2] {
			response, err := wait()
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time gives back no second place
				response.Body.Close()
			}
			synctest.Wait()
		}
		if got := server.paths(); got != "/1 /2 /3 /shared /waits /4" || inFlightOf(t, a) != 4 {
			t.Errorf("with two places given back are sent: %s, %v in flight", got, inFlightOf(t, a))
		}
		for _, wait := range waiting[2:] {
			if response, err := wait(); err == nil {
				response.Body.Close()
			}
		}
		synctest.Wait()
		if got := inFlightOf(t, a); got != 0 || !a.places.TryAcquire(4) || !a.perReader.TryAcquire(3) {
			t.Errorf("after all of them, %v are in flight, or places are lacking", got)
		}
	})
}

func TestAnAttemptThatFailsGivesItsPlaceBack(t *testing.T) {
	withAttempts(t, 1, func(t *testing.T, a *attempts, server *heldServer) {
		server.fail = errors.New("reset")
		first, second := attempt(forOneReader(t.Context()), a, "/1"), attempt(t.Context(), a, "/2")
		close(server.hold)
		for _, wait := range []func() (*http.Response, error){first, second} {
			if _, err := wait(); !errors.Is(err, server.fail) {
				t.Error(err)
			}
		}
		if inFlightOf(t, a) != 0 || !a.places.TryAcquire(1) || !a.perReader.TryAcquire(1) {
			t.Error("a place is lacking")
		}
	})
}

// request_timeout counts from when an attempt's turn has come, until its body is read.
func TestAnAttemptsTimeCountsFromItsTurn(t *testing.T) {
	withAttempts(t, 1, func(t *testing.T, a *attempts, _ *heldServer) {
		began := time.Now()
		first, second := attempt(t.Context(), a, "/1"), attempt(t.Context(), a, "/2")
		for i, wait := range []func() (*http.Response, error){first, second} {
			if _, err := wait(); !errors.Is(err, context.DeadlineExceeded) ||
				time.Since(began) != time.Duration(i+1)*10*time.Second {
				t.Errorf("%d ended after %s: %v", i+1, time.Since(began), err)
			}
		}
	})
}

func TestAnAttemptWithoutAPlaceIsQueuedNotSent(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(context.Context) (context.Context, context.CancelFunc)
		kind   ncentral.Kind
		detail string
	}{
		"in time": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, ncentral.KindQueued, "max_requests_in_flight is 1"},
		"from the outset": {
			func(ctx context.Context) (context.Context,
				context.CancelFunc,
			) {
				return context.WithTimeout(ctx, -1)
			}, ncentral.KindTimeout,
			"the time for all of it was over before it was sent",
		},
		"before it was given up": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, ncentral.KindCanceled, ""},
		"while it was wanted": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			reader, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return AwaitedBy(ctx, reader), cancel
		}, ncentral.KindCanceled, ""},
		"since it was not wanted": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			reader, cancel := context.WithCancel(ctx)
			cancel()
			return WhileWanted(ctx, reader), cancel
		}, ncentral.KindCanceled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			withAttempts(t, 1, func(t *testing.T, a *attempts, server *heldServer) {
				first := attempt(t.Context(), a, "/1")
				for _, per := range []func(context.Context) context.Context{
					forOneReader,
					func(ctx context.Context) context.Context { return ctx },
				} {
					ctx, cancel := test.end(per(t.Context()))
					defer cancel()
					_, err := attempt(ctx, a, "/2")()
					var failure *ncentral.Error
					if !errors.As(err, &failure) || failure.Kind != test.kind || failure.Detail != test.detail ||
						failure.Err == nil {
						t.Errorf("%+v", failure)
					}
				}
				close(server.hold)
				response, err := first()
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if got := server.paths(); got != "/1" || !a.perReader.TryAcquire(1) || !a.places.TryAcquire(1) {
					t.Errorf("sent: %s, or a place is lacking", got)
				}
			})
		})
	}
}

// N-central may have opened a session by then that nobody would know of.
func TestAnAttemptThatWasSentIsNotBrokenOffForNotBeingWanted(t *testing.T) {
	withAttempts(t, 1, func(t *testing.T, a *attempts, server *heldServer) {
		reader, cancel := context.WithCancel(t.Context())
		wait := attempt(AwaitedBy(t.Context(), reader), a, "/1")
		cancel()
		synctest.Wait()
		close(server.hold)
		response, err := wait()
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	})
}

// Whoever comes next sees what the one before led to.
func TestATurnKeepsItsPlaceUntilItsAnswerIsActedOn(t *testing.T) {
	withAttempts(t, 1, func(t *testing.T, a *attempts, server *heldServer) {
		close(server.hold)
		var refusal *health.Failure
		gate := func(time.Time) *health.Failure { return refusal }
		first, endFirst := withTurn(t.Context(), gate)
		second, endSecond := withTurn(t.Context(), gate)
		answer := func(wait func() (*http.Response, error)) error {
			response, err := wait()
			if err == nil {
				response.Body.Close()
			}
			return err
		}
		if err := answer(attempt(first, a, "/1")); err != nil {
			t.Fatal(err)
		}
		if sent := turnOf(first).sentAt; !sent.Equal(time.Now()) {
			t.Errorf("it was sent at %s", sent)
		}
		if err := answer(attempt(first, a, "/1again")); err != nil { // its own place is in nobody's way
			t.Fatal(err)
		}
		waiting := attempt(second, a, "/2")
		if got := server.paths(); got != "/1 /1again" {
			t.Errorf("sent: %s", got)
		}
		refusal = &health.Failure{Kind: ncentral.KindUnauthorized, Cause: errors.New("refused")}
		endFirst()
		var known *health.Failure
		if err := answer(waiting); !errors.As(err, &known) || known != refusal ||
			ncentral.KindOf(err) != ncentral.KindUnauthorized {
			t.Error(err)
		}
		endFirst() // once more gives back no second place
		endSecond()
		if got := server.paths(); got != "/1 /1again" || inFlightOf(t, a) != 0 || !a.places.TryAcquire(1) ||
			a.places.TryAcquire(1) {
			t.Errorf("sent: %s, or there is a place too many or too few", got)
		}
	})
}

// What had the whole of its time, or a second try, was not cut short by what came before it.
func TestAnAttemptIsCutShortWhereItHadNotItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := func(time.Time) *health.Failure { return nil }
		for name, test := range map[string]struct {
			do   func(*turn)
			want bool
		}{
			"not sent":                {func(*turn) {}, true},
			"sent just now":           {func(turn *turn) { turn.noteSent() }, true},
			"sent a while ago":        {func(turn *turn) { turn.noteSent(); time.Sleep(time.Second - 1) }, true},
			"sent its whole time ago": {func(turn *turn) { turn.noteSent(); time.Sleep(time.Second) }, false},
			"the second try":          {func(turn *turn) { turn.noteSent(); turn.noteRetry(); turn.noteSent() }, false},
		} {
			ctx, end := withTurn(t.Context(), open)
			turn := turnOf(ctx)
			if test.do(turn); turn.wasCutShort(time.Second) != test.want {
				t.Errorf("%s: %t", name, !test.want)
			}
			end()
		}
		if turnOf(t.Context()).wasCutShort(time.Second) {
			t.Error("a call without a turn was cut short")
		}
	})
}

// A place is not kept while a caller waits to try again.
func TestATurnGivesItsPlaceBackBetweenTwoTries(t *testing.T) {
	withAttempts(t, 1, func(t *testing.T, a *attempts, server *heldServer) {
		close(server.hold)
		server.fail = &net.OpError{Op: "read", Err: errors.New("reset")}
		client := ncentral.New(ncentral.Options{BaseURL: "http://localhost", Transport: a, MaxRetries: 1})
		ctx, end := withTurn(t.Context(), func(time.Time) *health.Failure { return nil })
		defer end()
		var calls sync.WaitGroup
		calls.Go(func() { _ = client.Logout(ctx, "token") })
		synctest.Wait()
		if _, err := attempt(t.Context(), a, "/other")(); !errors.Is(err, server.fail) {
			t.Error(err)
		}
		if got := server.paths(); got != "/api/auth/logout /other" {
			t.Errorf("sent: %s", got)
		}
		calls.Wait()
		if got := server.paths(); got != "/api/auth/logout /other /api/auth/logout" ||
			turnOf(ctx).wasCutShort(time.Hour) {
			t.Errorf("sent: %s, or the second try counts as the first", got)
		}
	})
}

func TestACallThatNobodyWantsIsNotSentThoughThereIsAPlace(t *testing.T) {
	withAttempts(t, 8, func(t *testing.T, a *attempts, server *heldServer) {
		close(server.hold)
		reader, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 {
			if _, err := attempt(AwaitedBy(t.Context(), reader), a,
				"/1")(); ncentral.KindOf(err) != ncentral.KindCanceled {
				t.Fatal(err)
			}
		}
		if got := server.paths(); got != "" {
			t.Errorf("sent: %s", got)
		}
	})
}

// closing counts how often its idle connections were closed.
type closing struct {
	heldServer
	closed int
}

func (c *closing) CloseIdleConnections() { c.closed++ }

func TestIdleConnectionsAreClosedWhereThereAreAny(t *testing.T) {
	server := &closing{}
	newAttempts(server, 1, time.Second, nil).CloseIdleConnections()
	newAttempts(&heldServer{}, 1, time.Second, nil).CloseIdleConnections()
	if server.closed != 1 {
		t.Errorf("they were closed %d times", server.closed)
	}
}
