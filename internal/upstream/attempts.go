// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

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
}

func (a *attempts) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := a.places.Acquire(request.Context(), 1); err != nil {
		return nil, &ncentral.Error{
			Kind:   ncentral.KindQueued,
			Detail: fmt.Sprintf("max_requests_in_flight is %d", a.limit),
			Err:    err,
		}
	}
	ctx, cancel := context.WithTimeout(request.Context(), a.timeout)
	done := sync.OnceFunc(func() {
		cancel()
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

// attemptBody ends the attempt when the body is closed.
type attemptBody struct {
	io.ReadCloser
	done func()
}

func (b *attemptBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
