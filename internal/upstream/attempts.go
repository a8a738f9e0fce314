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

// attempts is the transport that every attempt of every call to one server goes through. It holds the requests in flight
// to their limit, in the order in which they came, and each attempt to request_timeout, which counts from when its turn
// has come until the body is read.
type attempts struct {
	next    http.RoundTripper
	places  *semaphore.Weighted
	limit   int
	timeout time.Duration

	inFlight prometheus.Gauge
}

func (a *attempts) RoundTrip(request *http.Request) (*http.Response, error) {
	turn, stop := whileAwaited(request.Context())
	defer stop()
	if err := a.places.Acquire(turn, 1); err != nil {
		kind := ncentral.KindQueued
		if errors.Is(err, context.Canceled) {
			kind = ncentral.KindCanceled
		}
		return nil, &ncentral.Error{
			Kind:   kind,
			Detail: fmt.Sprintf("max_requests_in_flight is %d", a.limit),
			Err:    err,
		}
	}
	ctx, cancel := context.WithTimeout(request.Context(), a.timeout)
	a.inFlight.Inc()
	done := sync.OnceFunc(func() {
		cancel()
		a.inFlight.Dec()
		a.places.Release(1)
	})
	response, err := a.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		done()
		return nil, err
	}
	response.Body = &attemptBody{ReadCloser: response.Body, done: done}
	return response, nil
}

// CloseIdleConnections lets http.Client reach the transport below.
func (a *attempts) CloseIdleConnections() {
	if idle, ok := a.next.(interface{ CloseIdleConnections() }); ok {
		idle.CloseIdleConnections()
	}
}

type readerKey struct{}

// AwaitedBy answers a context of its own for a call that the reader's context must not break off, since N-central may have
// opened a session by then that nobody would know of. An attempt that has not been sent when the reader goes is not made.
// The reader's values stay behind.
func AwaitedBy(ctx, reader context.Context) context.Context {
	return context.WithValue(ctx, readerKey{}, reader)
}

// whileAwaited answers a context that also ends with the reader of the call, if it has one.
func whileAwaited(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if reader, ok := ctx.Value(readerKey{}).(context.Context); ok {
		stop := context.AfterFunc(reader, cancel)
		return ctx, func() { stop(); cancel() }
	}
	return ctx, cancel
}

// attemptBody ends the attempt when the body is closed.
type attemptBody struct {
	io.ReadCloser
	done func()
}

func (b *attemptBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
