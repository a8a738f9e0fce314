// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"bufio"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sentRequest is what a server saw of a request.
type sentRequest struct {
	Method, URI, Authorization, ContentType, Accept, UserAgent string
	AccessOverride, RefreshOverride                            []string
	Body                                                       string
	Length                                                     int64
}

func TestRequestsAsSent(t *testing.T) {
	token := newToken()
	lifetimes := Overrides{Access: 10 * time.Minute, Refresh: 90*time.Minute + 700*time.Millisecond}
	tests := map[string]struct {
		call   func(context.Context, *Client) error
		answer string
		want   sentRequest
	}{
		"links": {
			func(ctx context.Context, c *Client) error { _, err := c.Links(ctx); return err },
			`{}`,
			sentRequest{Method: "GET", URI: "/base/api/auth"},
		},
		"authenticate": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Authenticate(ctx, token, Overrides{})
				return err
			},
			sessionBody(newToken(), newToken()),
			sentRequest{Method: "POST", URI: "/base/api/auth/authenticate", Authorization: "Bearer " + token},
		},
		"authenticate with overrides": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Authenticate(ctx, token, lifetimes)
				return err
			},
			sessionBody(newToken(), newToken()),
			sentRequest{
				Method: "POST", URI: "/base/api/auth/authenticate", Authorization: "Bearer " + token,
				AccessOverride: []string{"600s"}, RefreshOverride: []string{"5400s"},
			},
		},
		"authenticate with an override under a second": {
			func(ctx context.Context, c *Client) error {
				_, err := c.Authenticate(ctx, token, Overrides{Access: 999 * time.Millisecond})
				return err
			},
			sessionBody(newToken(), newToken()),
			sentRequest{Method: "POST", URI: "/base/api/auth/authenticate", Authorization: "Bearer " + token},
		},
		"refresh": {
			func(ctx context.Context, c *Client) error { _, err := c.Refresh(ctx, token, Overrides{}); return err },
			sessionBody(newToken(), newToken()),
			sentRequest{
				Method: "POST", URI: "/base/api/auth/refresh", ContentType: "text/plain", Body: token,
				Length: int64(len(token)),
			},
		},
		"refresh with overrides": {
			func(ctx context.Context, c *Client) error { _, err := c.Refresh(ctx, token, lifetimes); return err },
			sessionBody(newToken(), newToken()),
			sentRequest{
				Method: "POST", URI: "/base/api/auth/refresh", ContentType: "text/plain", Body: token,
				Length:         int64(len(token)),
				AccessOverride: []string{"600s"}, RefreshOverride: []string{"5400s"},
			},
		},
		"validate": {
			func(ctx context.Context, c *Client) error { return c.Validate(ctx, token) },
			validBody,
			sentRequest{Method: "GET", URI: "/base/api/auth/validate", Authorization: "Bearer " + token},
		},
		"logout": {
			func(ctx context.Context, c *Client) error { return c.Logout(ctx, token) },
			``,
			sentRequest{Method: "POST", URI: "/base/api/auth/logout", Authorization: "Bearer " + token},
		},
		"health": {
			func(ctx context.Context, c *Client) error { _, err := c.Health(ctx); return err },
			`{"currentTime":"2023-09-27T15:43:16.793Z"}`,
			sentRequest{Method: "GET", URI: "/base/api/health"},
		},
		"server info": {
			func(ctx context.Context, c *Client) error { _, err := c.ServerInfo(ctx, token); return err },
			`{"version":"3.1.0"}`,
			sentRequest{Method: "GET", URI: "/base/api/server-info", Authorization: "Bearer " + token},
		},
		"user": {
			func(ctx context.Context, c *Client) error { _, err := c.User(ctx, token); return err },
			`{"data":{}}`,
			sentRequest{Method: "GET", URI: "/base/api/users/me", Authorization: "Bearer " + token},
		},
		"data": {
			func(ctx context.Context, c *Client) error { return c.Data(ctx, token) },
			`{"data":[]}`,
			sentRequest{Method: "GET", URI: "/base/api/service-orgs?pageSize=1", Authorization: "Bearer " + token},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var seen []sentRequest
			client := serve(t, "/base", func(w http.ResponseWriter, r *http.Request) {
				seen = append(seen, record(r))
				if test.answer != "" {
					w.Header().Set("Content-Type", "application/json;charset=UTF-8")
				}
				io.WriteString(w, test.answer)
			})
			client.userAgent = "someone/v1.2.3"
			if err := test.call(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			test.want.Accept, test.want.UserAgent = "application/json", "someone/v1.2.3"
			if diff := cmp.Diff([]sentRequest{test.want}, seen); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func record(r *http.Request) sentRequest {
	body, _ := io.ReadAll(r.Body)
	return sentRequest{
		Method: r.Method, URI: r.RequestURI, Body: string(body), Length: r.ContentLength,
		Authorization: r.Header.Get("Authorization"), ContentType: r.Header.Get("Content-Type"),
		Accept:          r.Header.Get("Accept"),
		UserAgent:       r.Header.Get("User-Agent"),
		AccessOverride:  r.Header.Values("X-Access-Expiry-Override"),
		RefreshOverride: r.Header.Values("X-Refresh-Expiry-Override"),
	}
}

// serve starts a server and returns a client of it that does not retry.
func serve(t *testing.T, basePath string, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	transport, err := NewTransport(TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client := New(Options{BaseURL: server.URL + basePath, Transport: transport})
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func TestTokensThatCannotBeSent(t *testing.T) {
	client := clientOf(transportFunc(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return nil, io.EOF
	}))
	calls := map[string]func(token string) error{
		"authenticate": func(token string) error {
			_, err := client.Authenticate(t.Context(), token, Overrides{})
			return err
		},
		"refresh":  func(token string) error { _, err := client.Refresh(t.Context(), token, Overrides{}); return err },
		"validate": func(token string) error { return client.Validate(t.Context(), token) },
		"logout":   func(token string) error { return client.Logout(t.Context(), token) },
		"data":     func(token string) error { return client.Data(t.Context(), token) },
		"user":     func(token string) error { _, err := client.User(t.Context(), token); return err },
	}
	secret := newToken()
	for name, call := range calls {
		for _, token := range []string{
			"", secret + "\n", secret + " " + secret, secret + "\x00", secret + "é",
			strings.Repeat(secret, 300),
		} {
			err := call(token)
			if KindOf(err) != KindBadRequest {
				t.Errorf("%s: kind %q, want %q", name, KindOf(err), KindBadRequest)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error holds the token", name)
			}
		}
	}
}

// A token's lifetime does not include the time in the transport's queue, but it does include the
// time for connecting.
func TestSentAtComesAfterQueueing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queueing, connecting, answering = 5 * time.Second, time.Second, 2 * time.Second
		transport, err := NewTransport(TransportOptions{DialContext: func(context.Context, string,
			string,
		) (net.Conn, error) {
			time.Sleep(connecting)
			near, far := net.Pipe()
			go answerOverPipe(far, answering, sessionBody(rand.Text(), rand.Text()))
			return near, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer transport.CloseIdleConnections()
		client := clientOf(transportFunc(func(r *http.Request) (*http.Response, error) {
			time.Sleep(queueing)
			return transport.RoundTrip(r)
		}))

		for _, connecting := range []time.Duration{connecting, 0} { // the second call reuses the connection
			start := time.Now()
			session, err := client.Authenticate(t.Context(), newToken(), Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			if waited := session.SentAt.Sub(start); waited != queueing {
				t.Errorf("sent %v after the start, want %v", waited, queueing)
			}
			if took := time.Since(start); took != queueing+connecting+answering {
				t.Errorf("took %v, want %v", took, queueing+connecting+answering)
			}
		}
	})
}

// answerOverPipe answers requests until the client closes the connection.
func answerOverPipe(connection net.Conn, delay time.Duration, body string) {
	defer connection.Close()
	reader := bufio.NewReader(connection)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, request.Body)
		time.Sleep(delay)
		response := newResponse(http.StatusOK, "application/json", strings.NewReader(body))
		response.ProtoMajor, response.ProtoMinor, response.ContentLength = 1, 1, int64(len(body))
		_ = response.Write(connection)
	}
}

func TestSentAtHasAMonotonicReading(t *testing.T) {
	client := clientOf(reply(http.StatusOK, typeJSON, sessionBody(newToken(), "")))
	session, err := client.Authenticate(t.Context(), newToken(), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if session.SentAt == session.SentAt.Round(0) {
		t.Error("SentAt has none")
	}
}

func TestSentAtIsThatOfTheAttemptThatSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		attempts := 0
		client := New(Options{
			BaseURL: testURL, MaxRetries: 1,
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				if attempts++; attempts == 1 {
					return newResponse(http.StatusServiceUnavailable, "", http.NoBody), nil
				}
				return reply(http.StatusOK, "application/json", sessionBody(newToken(), ""))(r)
			}),
		})
		session, err := client.Authenticate(t.Context(), newToken(), Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		if session.SentAt.Sub(start) < firstBackoff {
			t.Errorf("sent %v after the start, which is before the second attempt", session.SentAt.Sub(start))
		}
	})
}

func TestCallsAtTheSameTime(t *testing.T) {
	client := clientOf(transportFunc(func(r *http.Request) (*http.Response, error) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		return reply(http.StatusOK, typeJSON, sessionBody(token, ""))(r)
	}))
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			token := newToken()
			session, err := client.Authenticate(t.Context(), token, Overrides{})
			if err != nil || session.AccessToken != token {
				t.Errorf("a call got another one's answer, or %v", err)
			}
		})
	}
	group.Wait()
}

func TestConnectionIsKeptAcrossCallsAndFailures(t *testing.T) {
	connections := map[string]bool{}
	client := serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		connections[r.RemoteAddr] = true
		w.Header().Set("Content-Type", "application/json")
		if r.URL.RawQuery != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, validBody)
	})
	for range 3 {
		if err := client.Validate(t.Context(), newToken()); err != nil {
			t.Fatal(err)
		}
		if err := client.Data(t.Context(), newToken()); KindOf(err) != KindServerError {
			t.Fatalf("data call: %v, want a 500", err)
		}
	}
	if len(connections) != 1 {
		t.Errorf("%d connections for six calls, want 1", len(connections))
	}
	client.CloseIdleConnections()
	if err := client.Validate(t.Context(), newToken()); err != nil {
		t.Fatal(err)
	}
	if len(connections) != 2 {
		t.Errorf("%d connections after the idle one was closed, want 2", len(connections))
	}
}
