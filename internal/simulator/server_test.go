// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

func listening(t *testing.T, plain bool) (*Simulator, *Server, *testClient) {
	t.Helper()
	s := New(DefaultKnobs())
	server, err := Listen(s, "127.0.0.1:0", plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	if !plain {
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(server.CAPEM)
		transport.TLSClientConfig = &tls.Config{RootCAs: trusted}
	}
	return s, server, newTestClient(t, server, transport)
}

func TestListen(t *testing.T) {
	for _, plain := range []bool{false, true} {
		_, server, client := listening(t, plain)
		wantEqual(t, "has a certificate", server.CAPEM != nil, !plain)
		wantEqual(t, "status", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
		connection, err := server.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = connection.Close()
	}
}

func TestCertificate(t *testing.T) {
	_, server, _ := listening(t, false)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(server.CAPEM)
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		connection, err := tls.Dial("tcp", server.URL[len("https://"):],
			&tls.Config{RootCAs: trusted, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = connection.Close()
	}
	_, err := tls.Dial("tcp", server.URL[len("https://"):],
		&tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"})
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Errorf("without trust: got %v", err)
	}
}

func TestResetOverTCP(t *testing.T) {
	for _, plain := range []bool{false, true} {
		s, _, client := listening(t, plain)
		token := s.AddUser("some-user")
		s.FailNext(EndpointAuthenticate, 1, Failure{Kind: FailureReset})
		_, err := client.try(t.Context(), http.MethodPost, authenticatePath, bearer(token), "")
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("plain %v: got %v", plain, err)
		}
	}
}

func TestStopAndRestart(t *testing.T) {
	s, server, client := listening(t, false)
	token := s.AddUser("some-user")
	access := client.authenticate(token).Tokens.Access.Token
	s.FailNext(EndpointHealth, 1, Failure{Kind: FailureHang})
	hanging := make(chan error, 1)
	go func() {
		_, err := client.try(context.Background(), http.MethodGet, "/api/health", nil, "")
		hanging <- err
	}()
	for s.Count(EndpointHealth, OutcomePending) == 0 {
		time.Sleep(time.Millisecond) // a real network has no fake clock to wait by
	}

	server.Stop()
	server.Stop()
	if err := <-hanging; err == nil {
		t.Error("an open connection outlived Stop")
	}
	_, err := client.try(t.Context(), http.MethodGet, "/api/health", nil, "")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while down: got %v", err)
	}
	for range 2 {
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	wantEqual(t, "after the restart", client.data(access), 200)
}

func TestRestartOnATakenPort(t *testing.T) {
	_, server, _ := listening(t, true)
	address := server.URL[len("http://"):]
	server.Stop()
	taker, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taker.Close() }()
	if err := server.Restart(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
}

func TestListenFails(t *testing.T) {
	if _, err := Listen(New(DefaultKnobs()), "127.0.0.1:nonsense", true); err == nil {
		t.Error("no error")
	}
}

func TestSetDown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
		if err := s.SetDown(true); err != nil {
			t.Fatal(err)
		}
		_, err := client.try(t.Context(), http.MethodGet, "/api/health", nil, "")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("while down: got %v", err)
		}
		if err := s.SetDown(false); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "status", client.call(http.MethodGet, "/api/health", nil, "").status, 200)
	})
	if err := New(DefaultKnobs()).SetDown(true); err == nil {
		t.Error("no error without a server")
	}
}

func TestDialInMemoryEndsWithItsContext(t *testing.T) {
	listener := newPipeListener() // nobody accepts
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := listener.dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
