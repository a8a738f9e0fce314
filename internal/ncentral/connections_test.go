// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func answerValid(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", typeJSON)
	_, _ = io.WriteString(w, validBody)
}

// overBothProtocols runs a test in a bubble, once for each version of HTTP.
func overBothProtocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, http2) })
		})
	}
}

// validateAtOnce makes this many calls at the same time, and all must succeed.
func validateAtOnce(t *testing.T, client *Client, calls int) {
	t.Helper()
	var group sync.WaitGroup
	for range calls {
		group.Go(func() {
			if err := client.Validate(t.Context(), newToken()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	synctest.Wait()
}

// A firewall that drops connections drops the idle ones too: one attempt finds out for all.
func TestRetryAfterALostConnectionGoesOutOnANewOne(t *testing.T) {
	overBothProtocols(t, func(t *testing.T, http2 bool) {
		server := newNetwork(t, http2, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Millisecond) // so that simultaneous calls need separate connections over HTTP/1.1
			answerValid(w, r)
		})
		client := New(Options{
			BaseURL: "https://ncentral", Transport: timedAttempts(server.transport(t), time.Second),
			MaxRetries: 1,
		})
		validateAtOnce(t, client, 3)
		before := server.dialed()

		server.lose()
		for range 3 {
			validateAtOnce(t, client, 1)
		}
		if server.dialed() != before+1 {
			t.Errorf("%d connections were dialed after the loss, want 1", server.dialed()-before)
		}
	})
}

func TestConnectionThatAnAttemptTimedOutOnIsNotUsedAgain(t *testing.T) {
	hangs := map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"half an answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", typeJSON)
			_, _ = io.WriteString(w, validBody[:10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // the answer breaks off
		},
	}
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			overBothProtocols(t, func(t *testing.T, http2 bool) {
				var hanging atomic.Bool
				server := newNetwork(t, http2, func(w http.ResponseWriter, r *http.Request) {
					if hanging.Load() {
						hang(w, r)
						return
					}
					answerValid(w, r)
				})
				client := clientOf(timedAttempts(server.transport(t), time.Second))
				client.baseURL = "https://ncentral"
				validateAtOnce(t, client, 1)
				hanging.Store(true)
				if err := client.Validate(t.Context(), newToken()); KindOf(err) != KindTimeout {
					t.Fatalf("got %v", err)
				}
				hanging.Store(false)
				validateAtOnce(t, client, 1)
				validateAtOnce(t, client, 1)
				if server.dialed() != 2 {
					t.Errorf("%d connections, want a second one after the attempt that timed out", server.dialed())
				}
			})
		})
	}
}

// Over HTTP/2 many calls share a connection. One that is slow must not break off the others.
func TestTimeoutLeavesOtherCallsOnTheConnectionAlone(t *testing.T) {
	overBothProtocols(t, func(t *testing.T, http2 bool) {
		patient := newToken()
		server := newNetwork(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.Header.Get("Authorization"), patient) {
				time.Sleep(5 * time.Second)
			} else {
				<-r.Context().Done()
			}
			answerValid(w, r)
		})
		client := clientOf(timedAttempts(server.transport(t), 10*time.Second))
		client.baseURL = "https://ncentral"
		answered := make(chan error)
		go func() { answered <- client.Validate(t.Context(), patient) }()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.Validate(ctx, newToken()); KindOf(err) != KindTimeout {
			t.Fatalf("got %v", err)
		}
		if err := <-answered; err != nil {
			t.Errorf("the call beside the one that timed out: %v", err)
		}
	})
}

// A caller that cancels says nothing about the connection.
func TestCanceledCallLeavesTheConnectionInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		server := newNetwork(t, true, func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) == 1 {
				<-r.Context().Done()
			}
			answerValid(w, r)
		})
		client := clientOf(server.transport(t))
		client.baseURL = "https://ncentral"
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := client.Validate(ctx, newToken()); KindOf(err) != KindCanceled {
			t.Fatalf("got %v", err)
		}
		validateAtOnce(t, client, 1)
		if server.dialed() != 1 {
			t.Errorf("%d connections, want 1", server.dialed())
		}
	})
}

// The default request_timeout is 10s. A call must not wait that long to learn that its connection
// is gone.
func TestPingsDropALostHTTP2Connection(t *testing.T) {
	const budget = silenceBeforeProbe + probeTimeout
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := newNetwork(t, true, answerValid)
			client := clientOf(server.transport(t))
			client.baseURL = "https://ncentral"
			validateAtOnce(t, client, 1)
			server.lose()
			time.Sleep(budget + time.Second)
			if open := server.open.Load(); open != 0 {
				t.Errorf("%d lost connections are still open", open)
			}
			began := time.Now()
			validateAtOnce(t, client, 1)
			if took := time.Since(began); took > 0 {
				t.Errorf("the first call after it took %s", took)
			}
		})
	})
	t.Run("with a call on it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var server *network
			server = newNetwork(t, true, func(w http.ResponseWriter, r *http.Request) {
				if server.dialed() == 1 {
					server.lose()
				}
				answerValid(w, r)
			})
			client := New(Options{
				BaseURL:   "https://ncentral",
				Transport: timedAttempts(server.transport(t), 20*time.Second), MaxRetries: 1,
			})
			began := time.Now()
			validateAtOnce(t, client, 1)
			if took := time.Since(began); took < silenceBeforeProbe || took > budget+time.Second {
				t.Errorf("took %s, want %s at most, and a backoff", took, budget)
			}
		})
	})
}

func TestPingsKeepALivingHTTP2Connection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newNetwork(t, true, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Second)
			answerValid(w, r)
		})
		client := clientOf(server.transport(t))
		client.baseURL = "https://ncentral"
		validateAtOnce(t, client, 1)
		time.Sleep(idleConnectionTimeout - time.Second)
		validateAtOnce(t, client, 1)
		if server.dialed() != 1 {
			t.Errorf("%d connections, want 1", server.dialed())
		}
	})
}
