// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A connection is not reused after an attempt on it ran out of time, whoever noticed that first.
func TestWhatRetiresConnections(t *testing.T) {
	odd := errors.New("odd")
	for name, test := range map[string]struct {
		failure  error
		deadline time.Duration // 0 for none
		body     bool          // the failure comes while the body is read
		want     bool
	}{
		"a timeout of the transport's own": {failure: os.ErrDeadlineExceeded, want: true},
		"another failure as time was up":   {failure: odd, deadline: time.Second, want: true},
		"another failure in time":          {failure: odd, deadline: time.Hour},
		"a failure of a call without end":  {failure: odd},
		"a body that came too slowly":      {failure: os.ErrDeadlineExceeded, body: true, want: true},
		"a body as time was up":            {failure: odd, deadline: time.Second, body: true, want: true},
		"a body that broke off":            {failure: odd, body: true},
		"a body that ended":                {failure: io.EOF, body: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport, err := NewTransport(TransportOptions{})
				if err != nil {
					t.Fatal(err)
				}
				used := transport.current.Load()
				fail := func() error { time.Sleep(2 * time.Second); return test.failure }
				used.RegisterProtocol("test", transportFunc(func(*http.Request) (*http.Response, error) {
					if test.body {
						return newResponse(200, typeJSON,
							readerFunc(func([]byte) (int, error) { return 0, fail() })), nil
					}
					return nil, fail()
				}))
				ctx, cancel := context.WithCancel(t.Context())
				if test.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.deadline)
				}
				defer cancel()
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "test://ncentral", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				response, err := transport.RoundTrip(request)
				if err == nil {
					_, err = response.Body.Read(make([]byte, 1))
				}
				if retired := transport.current.Load() != used; !errors.Is(err, test.failure) || retired != test.want {
					t.Errorf("%v; its connections are retired: %t", err, retired)
				}
			})
		})
	}
}

// Otherwise they would stay open at N-central's side until their idle time is over.
func TestIdleConnectionsAreClosedAsSoonAsOneIsFoundLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Bool
		server := newNetwork(t, false, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond) // so that simultaneous calls need separate connections
			if hanging.Load() {
				<-r.Context().Done()
			}
			answerValid(w, r)
		})
		client := clientOf(timedAttempts(server.transport(t), time.Second))
		client.baseURL = "https://ncentral"
		validateAtOnce(t, client, 3)
		if open := server.open.Load(); open != 3 {
			t.Fatalf("%d connections are open, want 3", open)
		}
		hanging.Store(true)
		if err := client.Validate(t.Context(), newToken()); KindOf(err) != KindTimeout {
			t.Fatalf("got %v", err)
		}
		synctest.Wait()
		if open := server.open.Load(); open != 0 {
			t.Errorf("%d connections are still open", open)
		}
	})
}
