// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// attempts is the transport through which every attempt of every call to one server goes. It limits
// the requests in flight, first come, first served, and gives each attempt the request_timeout,
// which counts from when the attempt got its place until the body is read. A quarter of the places
// is kept for calls whose result many readers share. Calls that are made for one reader each cannot
// take these, however many there are.
type attempts struct {
	next      http.RoundTripper
	places    *semaphore.Weighted
	perReader *semaphore.Weighted // those of the places that calls for one reader may take
	limit     int
	timeout   time.Duration

	inFlight prometheus.Gauge
}

func newAttempts(next http.RoundTripper, limit int, timeout time.Duration, inFlight prometheus.Gauge) *attempts {
	return &attempts{
		next:      next,
		places:    semaphore.NewWeighted(int64(limit)),
		perReader: semaphore.NewWeighted(int64(PlacesPerReader(limit))),
		limit:     limit,
		timeout:   timeout,
		inFlight:  inFlight,
	}
}

// PlacesPerReader returns how many of the places calls for one reader may take. A quarter, and at
// least one, is kept for what readers share. If there is only one place, all calls share it.
func PlacesPerReader(limit int) int { return max(limit-max(limit/4, 1), 1) }

// RoundTrip makes one attempt: it waits for a place, looks whether the gate of its turn has been
// shut meanwhile, and sends. The place is given back when the turn ends or makes another attempt.
func (a *attempts) RoundTrip(request *http.Request) (*http.Response, error) {
	turn := turnOf(request.Context())
	turn.giveBack()
	release, err := a.takePlace(request.Context())
	if err != nil {
		return nil, err
	}
	if err := turn.checkGate(); err != nil {
		release()
		return nil, err
	}
	turn.noteSent()
	ctx, cancel := context.WithTimeout(request.Context(), a.timeout)
	a.inFlight.Inc()
	done := sync.OnceFunc(func() {
		cancel()
		a.inFlight.Dec()
		turn.keep(release)
	})
	response, err := a.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		done()
		return nil, err
	}
	response.Body = &attemptBody{ReadCloser: response.Body, done: done}
	return response, nil
}

// takePlace waits for a place among the requests in flight. The error is an *ncentral.Error.
func (a *attempts) takePlace(ctx context.Context) (release func(), err error) {
	ctx, stop := untilUnwanted(ctx)
	defer stop()
	if ctx.Err() != nil {
		return nil, noPlace(&ncentral.Error{
			Kind: ncentral.KindTimeout, Fault: ncentral.FaultTimeOver,
			Detail: "the time for all of it was over before it was sent",
		}, ctx.Err())
	}
	pools := []*semaphore.Weighted{a.places}
	if isForOneReader(ctx) {
		pools = []*semaphore.Weighted{a.perReader, a.places}
	}
	for i, pool := range pools {
		if err := pool.Acquire(ctx, 1); err != nil {
			releaseAll(pools[:i])
			return nil, noPlace(&ncentral.Error{
				Kind:   ncentral.KindQueued,
				Detail: fmt.Sprintf("max_requests_in_flight is %d", a.limit),
			}, err)
		}
	}
	return func() { releaseAll(pools) }, nil
}

func releaseAll(pools []*semaphore.Weighted) {
	for _, pool := range pools {
		pool.Release(1)
	}
}

// noPlace returns the error of an attempt that got no place: inTime, or a cancellation if its
// caller gave up.
func noPlace(inTime *ncentral.Error, cause error) error {
	if errors.Is(cause, context.Canceled) {
		inTime = &ncentral.Error{Kind: ncentral.KindCanceled}
	}
	inTime.Err = cause
	return inTime
}

// CloseIdleConnections passes the call of http.Client on to the transport below.
func (a *attempts) CloseIdleConnections() {
	if idle, ok := a.next.(interface{ CloseIdleConnections() }); ok {
		idle.CloseIdleConnections()
	}
}

// turn is what the calls of one piece of work share: their gate, and the place that they hold. The
// place is not given back with the answer, but when the answer has been acted on. So whoever gets
// the place next sees what came of it, such as a pause.
type turn struct {
	gate gate

	mu      sync.Mutex
	release func()
	sentAt  time.Time // of the attempt that was sent last; zero if none was
	retried bool      // an attempt failed and was made again
}

type turnKey struct{}

// withTurn returns a context for calls of one turn. None of their attempts is made once the gate is
// shut. The place is given back when a turn makes another attempt, and by end.
func withTurn(ctx context.Context, gate gate) (traced context.Context, end func()) {
	t := &turn{gate: gate}
	ctx = context.WithValue(ctx, turnKey{}, t)
	return ncentral.WithTrace(ctx, &ncentral.Trace{
		Retrying: func(ncentral.Call, error, time.Duration) { t.noteRetry() },
	}), t.giveBack
}

// turnOf returns the turn of the context, or nil. A call without a turn has no gate, and gives its
// place back with the answer.
func turnOf(ctx context.Context) *turn {
	t, _ := ctx.Value(turnKey{}).(*turn)
	return t
}

// checkGate returns an error if the gate is shut by now, else nil.
func (t *turn) checkGate() error {
	if t == nil {
		return nil
	}
	if failure := t.gate(time.Now()); failure != nil {
		return &ncentral.Error{Kind: failure.Kind, Err: failure}
	}
	return nil
}

// noteSent notes that an attempt is being sent.
func (t *turn) noteSent() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sentAt = time.Now()
}

// noteRetry notes that an attempt failed and is made again.
func (t *turn) noteRetry() {
	t.giveBack()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retried = true
}

// wasCutShort reports whether there was a single attempt, and it was not sent or did not get its
// full time.
func (t *turn) wasCutShort(timeout time.Duration) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.retried && (t.sentAt.IsZero() || time.Since(t.sentAt) < timeout)
}

// keep keeps the place until giveBack. Without a turn it is released at once.
func (t *turn) keep(release func()) {
	if t == nil {
		release()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release = release
}

func (t *turn) giveBack() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.release != nil {
		t.release()
		t.release = nil
	}
}

type wantedKey struct{}

// WhileWanted returns a context for calls that are wanted until the other context ends. After that,
// no attempt is sent any more. An attempt that was sent already is not broken off: N-central may
// have opened a session, and nobody would know of it.
func WhileWanted(ctx, wanted context.Context) context.Context {
	return context.WithValue(ctx, wantedKey{}, wanted)
}

// AwaitedBy is WhileWanted for a call that is made for one reader, who waits for it.
func AwaitedBy(ctx, reader context.Context) context.Context {
	return WhileWanted(forOneReader(ctx), reader)
}

type forOneReaderKey struct{}

// forOneReader returns a context for a call that is made for one reader alone. It takes none of the
// places that are kept for what readers share.
func forOneReader(ctx context.Context) context.Context {
	return context.WithValue(ctx, forOneReaderKey{}, struct{}{})
}

func isForOneReader(ctx context.Context) bool { return ctx.Value(forOneReaderKey{}) != nil }

// untilUnwanted returns a context that also ends when the call is no longer wanted.
func untilUnwanted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if wanted, ok := ctx.Value(wantedKey{}).(context.Context); ok {
		if wanted.Err() != nil {
			cancel() // now: AfterFunc would do it a little later
		}
		stop := context.AfterFunc(wanted, cancel)
		return ctx, func() { stop(); cancel() }
	}
	return ctx, cancel
}

// attemptBody ends the attempt when the body is closed.
type attemptBody struct {
	io.ReadCloser
	done func()
}

// Close closes the body and ends the attempt.
func (b *attemptBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
