// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
)

// Server listens for a Simulator. It speaks HTTP/1.1, so that a failure can reset its connection.
type Server struct {
	// URL is the base URL, without a trailing slash.
	URL string
	// CAPEM is the certificate to trust; nil for plain HTTP.
	CAPEM []byte

	simulator *Simulator
	listen    func() (net.Listener, error)
	tlsConfig *tls.Config // nil for plain HTTP

	mutex    sync.Mutex
	listener net.Listener // the latest one, which is closed while the server is stopped
	running  *http.Server // nil while the server is stopped
	ended    chan struct{}
}

// Listen serves the Simulator at an address such as 127.0.0.1:0. It serves plain HTTP, or HTTPS
// with a new certificate for that host, 127.0.0.1, ::1 and localhost. The caller must close the
// Server.
func Listen(s *Simulator, address string, plain bool) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	bound := listener.Addr().String()
	server := &Server{
		URL:       "http://" + bound,
		simulator: s,
		listen:    func() (net.Listener, error) { return net.Listen("tcp", bound) },
	}
	if !plain {
		if err := server.secure(bound); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	server.start(listener)
	s.addServer(server)
	return server, nil
}

// ListenInMemory serves the Simulator over plain HTTP and net.Pipe, for tests inside a
// testing/synctest bubble. Clients reach it by DialContext only. The caller must close the Server.
func ListenInMemory(s *Simulator) *Server {
	server := &Server{
		URL:       "http://localhost",
		simulator: s,
		listen:    func() (net.Listener, error) { return newPipeListener(), nil },
	}
	server.start(newPipeListener())
	s.addServer(server)
	return server
}

func (server *Server) secure(bound string) error {
	host, _, err := net.SplitHostPort(bound)
	if err != nil {
		return err
	}
	certificate, caPEM, err := NewCertificate(host, "127.0.0.1", "::1", "localhost")
	if err != nil {
		return err
	}
	server.URL = "https://" + bound
	server.CAPEM = caPEM
	server.tlsConfig = &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
	return nil
}

// start serves on a listener. The caller holds the mutex, or nobody else knows the server yet.
func (server *Server) start(listener net.Listener) {
	running := &http.Server{
		Handler:  server.simulator.Handler(),
		ErrorLog: log.New(io.Discard, "", 0), // a client that distrusts the certificate is no news
	}
	ended := make(chan struct{})
	server.listener, server.running, server.ended = listener, running, ended
	if server.tlsConfig != nil {
		listener = tls.NewListener(listener, server.tlsConfig)
	}
	go func() {
		defer close(ended)
		_ = running.Serve(listener) // returns when Stop closes it
	}()
}

// Stop makes the server unreachable: it refuses new connections and closes open ones.
func (server *Server) Stop() {
	server.mutex.Lock()
	defer server.mutex.Unlock()
	if server.running == nil {
		return
	}
	_ = server.running.Close() // the listener is closed whatever this returns
	<-server.ended
	server.running = nil
}

// Restart starts a stopped server again on the same port. It fails where another process has taken
// the port.
func (server *Server) Restart() error {
	server.mutex.Lock()
	defer server.mutex.Unlock()
	if server.running != nil {
		return nil
	}
	listener, err := server.listen()
	if err != nil {
		return fmt.Errorf("listening again: %w", err)
	}
	server.start(listener)
	return nil
}

// Close stops the server for good.
func (server *Server) Close() {
	server.simulator.removeServer(server)
	server.Stop()
}

// DialContext connects to this server, whatever the address. It is for http.Transport.
func (server *Server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	server.mutex.Lock()
	listener := server.listener
	server.mutex.Unlock()
	if pipe, ok := listener.(*pipeListener); ok {
		return pipe.dial(ctx)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", listener.Addr().String())
}

func (s *Simulator) addServer(server *Server) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.servers = append(s.servers, server)
}

func (s *Simulator) removeServer(server *Server) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.servers = slices.DeleteFunc(s.servers, func(other *Server) bool { return other == server })
}

// SetDown stops or restarts every server that listens for this Simulator. It fails where there is
// none, or where a port is no longer free.
func (s *Simulator) SetDown(down bool) error {
	s.mutex.Lock()
	servers := slices.Clone(s.servers)
	s.mutex.Unlock()
	if len(servers) == 0 {
		return errors.New("no server listens")
	}
	var failed []error
	for _, server := range servers {
		if down {
			server.Stop()
		} else {
			failed = append(failed, server.Restart())
		}
	}
	return errors.Join(failed...)
}
