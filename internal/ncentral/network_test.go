// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// network is a TLS server and the connections between it and its client. It lives in a synctest
// bubble.
type network struct {
	listener  *pipeListener
	authority string

	mu    sync.Mutex
	wires []*wire
	dials int
	open  atomic.Int64
}

// newNetwork starts a server that speaks only this version of HTTP. At the end of the test it
// checks that no connection is left.
func newNetwork(t *testing.T, http2 bool, handler http.HandlerFunc) *network {
	t.Helper()
	certificate, authority := newCertificate(t, time.Hour)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	server := &http.Server{
		Handler:   handler,
		Protocols: protocols,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	n := &network{
		listener:  &pipeListener{accepted: make(chan net.Conn), closed: make(chan struct{})},
		authority: authority,
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(n.listener, "", "")
	}()
	t.Cleanup(func() {
		time.Sleep(idleConnectionTimeout + time.Second)
		if open := n.open.Load(); open != 0 {
			t.Errorf("%d connections are open long after the last call", open)
		}
		_ = server.Close()
		<-ended
	})
	return n
}

// transport returns a Transport whose connections all belong to the network.
func (n *network) transport(t *testing.T) *Transport {
	t.Helper()
	transport, err := NewTransport(TransportOptions{
		CACert: n.authority, TLSServerName: "127.0.0.1",
		DialContext: n.dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.listener.accepted <- far:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.open.Add(1)
	connection := &wire{Conn: near, lost: make(chan struct{}), closed: make(chan struct{}), network: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	n.wires = append(n.wires, connection)
	return connection, nil
}

func (n *network) dialed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// lose silences every open connection, as a firewall does that drops them: what is written
// vanishes, and nothing arrives.
func (n *network) lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, connection := range n.wires {
		close(connection.lost)
	}
	n.wires = nil
}

type pipeListener struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case connection := <-l.accepted:
		return connection, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// wire is the client's end of a connection.
type wire struct {
	net.Conn
	lost    chan struct{}
	closed  chan struct{}
	once    sync.Once
	network *network
}

func (w *wire) Write(p []byte) (int, error) {
	select {
	case <-w.lost:
		return len(p), nil
	default:
		return w.Conn.Write(p)
	}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	select {
	case <-w.lost:
		<-w.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (w *wire) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.network.open.Add(-1)
	})
	return w.Conn.Close()
}

// timedAttempts limits each attempt, including the reading of its body, to the timeout.
func timedAttempts(next http.RoundTripper, timeout time.Duration) http.RoundTripper {
	return transportFunc(func(r *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		response, err := next.RoundTrip(r.WithContext(ctx))
		if err != nil {
			cancel()
			return nil, err
		}
		response.Body = closeFunc{response.Body, cancel}
		return response, nil
	})
}

type closeFunc struct {
	io.ReadCloser
	closed func()
}

func (c closeFunc) Close() error {
	defer c.closed()
	return c.ReadCloser.Close()
}
