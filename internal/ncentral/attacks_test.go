// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// newAttacker starts a TLS server on loopback with a hostile handler. It returns a client that
// trusts the server's certificate and limits each attempt to the timeout.
func newAttacker(t *testing.T, http2 bool, timeout time.Duration, handler http.HandlerFunc) *Client {
	t.Helper()
	server := newTLSServer(t, func(s *httptest.Server) {
		s.EnableHTTP2 = http2
		s.Config.Handler = handler
	})
	return trusting(t, server.URL, certificatePEM(server), timeout)
}

// newRawAttacker is newAttacker for what net/http cannot send: attack writes the answer to each
// request.
func newRawAttacker(t *testing.T, timeout time.Duration, attack func(io.Writer)) *Client {
	t.Helper()
	certificate, authority := newCertificate(t, time.Hour)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	acceptEach(t, listener, func(connection net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(connection)); err == nil {
			attack(connection)
		}
	})
	return trusting(t, "https://"+listener.Addr().String(), authority, timeout)
}

// acceptEach runs handle for each connection until the test ends.
func acceptEach(t *testing.T, listener net.Listener, handle func(net.Conn)) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			handle(connection)
			_ = connection.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
}

func trusting(t *testing.T, url, authority string, timeout time.Duration) *Client {
	t.Helper()
	transport, err := NewTransport(TransportOptions{CACert: authority})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return New(Options{BaseURL: url, Transport: timedAttempts(transport, timeout)})
}

// callsWithSecrets returns the calls that carry a secret.
func callsWithSecrets(ctx context.Context, c *Client) map[string]func(secret string) error {
	return map[string]func(string) error{
		"authenticate": func(secret string) error { _, err := c.Authenticate(ctx, secret, Overrides{}); return err },
		"refresh":      func(secret string) error { _, err := c.Refresh(ctx, secret, Overrides{}); return err },
		"validate":     func(secret string) error { return c.Validate(ctx, secret) },
		"logout":       func(secret string) error { return c.Logout(ctx, secret) },
		"data":         func(secret string) error { return c.Data(ctx, secret) },
		"server info":  func(secret string) error { _, err := c.ServerInfo(ctx, secret); return err },
	}
}

// overBothOnLoopback runs a test on loopback, once for each version of HTTP.
func overBothOnLoopback(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { test(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, true) })
}

func TestRedirectTakesNoTokenAnywhere(t *testing.T) {
	overBothOnLoopback(t, func(t *testing.T, http2 bool) {
		var taken atomic.Int64
		thief := newTLSServer(t, func(s *httptest.Server) {
			s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { taken.Add(1) })
		})
		var visits, status atomic.Int64
		var location atomic.Value
		client := newAttacker(t, http2, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			visits.Add(1)
			w.Header().Set("Location", location.Load().(string))
			w.WriteHeader(int(status.Load()))
		})
		for _, code := range []int{300, 301, 302, 303, 305, 307, 308} {
			for _, target := range []string{thief.URL + "/api/auth/authenticate", "/api/auth/validate", client.baseURL +
				"/elsewhere"} {
				status.Store(int64(code))
				location.Store(target)
				for name, call := range callsWithSecrets(t.Context(), client) {
					visits.Store(0)
					if err := call(newToken()); KindOf(err) != KindMalformed || visits.Load() != 1 {
						t.Errorf("%s, %d: got %v after %d visits", name, code, err, visits.Load())
					}
				}
			}
		}
		if taken.Load() != 0 {
			t.Errorf("%d requests went where a redirect led", taken.Load())
		}
	})
}

// Tokens from N-central's answers are sent on in headers, by this client and by those who read the
// token.
func TestNothingIsSmuggledInAToken(t *testing.T) {
	var body atomic.Value
	client := newAttacker(t, false, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		_, _ = io.WriteString(w, body.Load().(string))
	})
	secret := newToken()
	for _, evil := range []string{
		"\n", "\r\n", "\r\nX-Evil: 1", " ", "\t", "\x00", "\x1b[31m", "\x7f", "\u0085",
		"\u00a0", "\u2028", "\u202e", "\ufeff", "é",
	} {
		for position, smuggled := range map[string]string{
			"in front": evil + secret, "within": secret + evil + secret,
			"behind": secret + evil,
		} {
			quoted, err := json.Marshal(smuggled)
			if err != nil {
				t.Fatal(err)
			}
			for name, answered := range map[string]string{
				"access token":  `{"tokens":{"access":{"token":%s,"type":"Bearer"},"refresh":{"token":"a"}}}`,
				"refresh token": `{"tokens":{"access":{"token":"a","type":"Bearer"},"refresh":{"token":%s}}}`,
				"type":          `{"tokens":{"access":{"token":"a","type":%s},"refresh":{"token":"a"}}}`,
				"second of two": `{"tokens":{"access":{"token":"a","token":%s,"type":"Bearer"}}}`,
			} {
				body.Store(fmt.Sprintf(answered, quoted))
				session, err := client.Authenticate(t.Context(), newToken(), Overrides{})
				if session != nil || KindOf(err) != KindMalformed {
					t.Errorf("%q %s in the %s: got %v", evil, position, name, err)
				}
				if err != nil && (strings.Contains(err.Error(), secret[:secretPartLength]) ||
					strings.ContainsAny(err.Error(), "\r\n")) {
					t.Errorf("%q %s in the %s: the error holds it", evil, position, name)
				}
			}
		}
	}
}

func TestSlowLorisEndsWithItsAttempt(t *testing.T) {
	const timeout = 300 * time.Millisecond // enough for a busy machine to write a status line
	drip := func(w io.Writer, flush func()) {
		for range 3000 { // of 10ms each: the test's own time limit fails it long before the end
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
			flush()
			time.Sleep(10 * time.Millisecond)
		}
	}
	raw := func(beginning string) func(t *testing.T) *Client {
		return func(t *testing.T) *Client {
			return newRawAttacker(t, timeout, func(w io.Writer) {
				_, _ = io.WriteString(w, beginning)
				drip(w, func() {})
			})
		}
	}
	body := func(http2 bool) func(t *testing.T) *Client {
		return func(t *testing.T) *Client {
			return newAttacker(t, http2, timeout, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", typeJSON)
				drip(w, func() { _ = http.NewResponseController(w).Flush() })
			})
		}
	}
	silence := func(t *testing.T) *Client {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		acceptEach(t, listener, func(connection net.Conn) { _, _ = io.Copy(io.Discard, connection) })
		_, authority := newCertificate(t, time.Hour)
		return trusting(t, "https://"+listener.Addr().String(), authority, timeout)
	}
	attacks := map[string]struct {
		attacked func(t *testing.T) *Client
		kind     Kind
	}{
		"handshake":    {silence, KindTimeout},
		"status line":  {raw("HTTP/1.1 200 "), KindTimeout},
		"header":       {raw("HTTP/1.1 200 OK\r\nX-Drip: "), KindTimeout},
		"chunk":        {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), KindTimeout},
		"body":         {body(false), KindTimeout},
		"body, HTTP/2": {body(true), KindTimeout},
		"body of a 401": {raw("HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: " +
			"1000\r\n\r\n"), KindTimeout},
		// The status alone decides.
		"body of a 503": {raw("HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: " +
			"1000\r\n\r\n"), KindUnavailable},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Run("attack", func(t *testing.T) {
				client := attack.attacked(t)
				began := time.Now()
				if err := client.Validate(t.Context(), newToken()); KindOf(err) != attack.kind {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took < timeout || took > 50*timeout {
					t.Errorf("took %s, with %s for the attempt", took, timeout)
				}
			})
			goleak.VerifyNone(t, before)
		})
	}
}

// bomb compresses a body of this many MiB of well-formed JSON. A gzip file may consist of many
// members, so one MiB is compressed once and repeated.
func bomb(t *testing.T, megabytes int) []byte {
	t.Helper()
	pack := func(content []byte) []byte {
		var packed bytes.Buffer
		writer := gzip.NewWriter(&packed)
		_, err := writer.Write(content)
		if err := errors.Join(err, writer.Close()); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	return append(pack([]byte(validBody)), bytes.Repeat(pack(bytes.Repeat([]byte(" "), 1<<20)), megabytes)...)
}

func TestDecompressionBombStaysSmall(t *testing.T) {
	const megabytes = 256
	packed := bomb(t, megabytes)
	overBothOnLoopback(t, func(t *testing.T, http2 bool) {
		for _, status := range []int{200, 302, 401, 500} {
			client := newAttacker(t, http2, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", typeJSON)
				w.Header().Set("Content-Encoding", "gzip")
				w.WriteHeader(status)
				_, _ = w.Write(packed)
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := client.Validate(t.Context(), newToken())
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("status %d: a body of %d MiB was taken", status, megabytes)
			}
			// This includes what the server allocates and how io.ReadAll grows its buffer: a few
			// MiB.
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > megabytes<<20/8 {
				t.Errorf("status %d: %d bytes were allocated for a body of 1 MiB at most", status, allocated)
			}
		}
	})
}

// countingWriter counts the bytes that could be sent.
type countingWriter struct {
	io.Writer
	sent atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

func TestAnswersWithoutEndAreCutOff(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	line := strings.Repeat("x", 1000)
	attacks := map[string]struct{ beginning, repeated string }{
		"headers":           {ok, "X-" + line + ": y\r\n"},
		"one header":        {ok + "X-Y: ", line},
		"the status line":   {"HTTP/1.1 200 ", line},
		"interim answers":   {"", "HTTP/1.1 103 Early Hints\r\nLink: " + line + "\r\n\r\n"},
		"a body":            {ok + "\r\n" + validBody, strings.Repeat(" ", 1000)},
		"a body of a page":  {"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\r\n", line},
		"empty chunks":      {ok + "Transfer-Encoding: chunked\r\n\r\n", "1;" + line + "\r\n \r\n"},
		"a chunk extension": {ok + "Transfer-Encoding: chunked\r\n\r\n1;", line},
		"trailers":          {ok + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", "X-" + line + ": y\r\n"},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			var counting countingWriter
			client := newRawAttacker(t, time.Minute, func(w io.Writer) {
				counting.Writer = w
				_, err := io.WriteString(&counting, attack.beginning)
				for err == nil {
					_, err = io.WriteString(&counting, attack.repeated)
				}
			})
			if err := client.Validate(t.Context(), newToken()); err == nil {
				t.Error("the answer was taken")
			}
			// The buffers of two sockets are included.
			if sent := counting.sent.Load(); sent > 32<<20 {
				t.Errorf("%d bytes were read", sent)
			}
		})
	}
	t.Run("headers, HTTP/2", func(t *testing.T) {
		client := newAttacker(t, true, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), line)
			}
			answerValid(w, nil)
		})
		if err := client.Validate(t.Context(), newToken()); err == nil {
			t.Error("headers of 1 MB were taken")
		}
	})
}

func TestServerThatIsNotTrustedGetsNoToken(t *testing.T) {
	var requests atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answerValid(w, r)
	})
	trusted := newTLSServer(t, nil) // for example.com and 127.0.0.1
	own := newTLSServer(t, func(s *httptest.Server) { s.Config.Handler = handler })
	expired, expiredAuthority := newCertificate(t, -time.Hour)
	old := newTLSServer(t, func(s *httptest.Server) {
		s.Config.Handler = handler
		s.TLS = &tls.Config{Certificates: []tls.Certificate{expired}}
	})
	stranger, _ := newCertificate(t, time.Hour)
	other := newTLSServer(t, func(s *httptest.Server) {
		s.Config.Handler = handler
		s.TLS = &tls.Config{Certificates: []tls.Certificate{stranger}}
	})
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	tests := map[string]struct {
		url     string
		options TransportOptions
		fault   Fault
	}{
		"a certificate for another name": {
			own.URL,
			TransportOptions{CACert: certificatePEM(own), TLSServerName: "ncentral.invalid"},
			FaultWrongName,
		},
		"another name for the server": {
			strings.Replace(own.URL, "127.0.0.1", "localhost", 1),
			TransportOptions{CACert: certificatePEM(own)},
			FaultWrongName,
		},
		"a certificate that has expired": {old.URL, TransportOptions{CACert: expiredAuthority}, FaultExpired},
		"a certificate of somebody else": {
			other.URL,
			TransportOptions{CACert: certificatePEM(trusted)},
			FaultSelfSigned,
		},
		"one that the system has not got": {own.URL, TransportOptions{}, FaultSelfSigned},
		"no TLS": {
			strings.Replace(plain.URL, "http://", "https://", 1),
			TransportOptions{CACert: certificatePEM(own)},
			FaultNotTLS,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			transport, err := NewTransport(test.options)
			if err != nil {
				t.Fatal(err)
			}
			defer transport.CloseIdleConnections()
			client := New(Options{BaseURL: test.url, Transport: transport})
			for call, send := range callsWithSecrets(t.Context(), client) {
				if failure := failureOf(t, send(newToken())); failure.Kind != KindUnreachable ||
					failure.Fault != test.fault || !failure.NotSent {
					t.Errorf("%s: got %+v", call, failure)
				}
			}
			if requests.Load() != 0 {
				t.Errorf("%d requests were sent", requests.Load())
			}
		})
	}
	if _, _, err := validateOver(t, own.URL, TransportOptions{CACert: certificatePEM(own)}); err != nil ||
		requests.Load() != 1 {
		t.Errorf("the server itself: %v, %d requests", err, requests.Load())
	}
}
