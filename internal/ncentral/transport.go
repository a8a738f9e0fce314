// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	dialTimeout           = 10 * time.Second
	tlsHandshakeTimeout   = 10 * time.Second
	idleConnectionTimeout = 90 * time.Second

	// N-central serves at most 50 requests in flight per endpoint [D].
	maxIdleConnections = 50

	maxHeaderBytes = 256 << 10

	// A connection that has been silent for this long is probed, by HTTP/2's ping or TCP's
	// keep-alive, and closed where no reply comes in time. So a connection that a firewall has
	// dropped is gone after 6s, before the default request_timeout of 10s. With a shorter time, a
	// server that pauses to collect garbage would lose its connections. Some servers also take more
	// than one ping in 3s for an attack.
	silenceBeforeProbe = 3 * time.Second
	probeTimeout       = 3 * time.Second
	tcpProbes          = 3
)

// TransportOptions say how to reach a server and which certificates to trust.
type TransportOptions struct {
	CACert        string // PEM bundle of the only authorities to trust; "" for those of the system
	TLSServerName string // name to ask for and to expect in the certificate; "" for the URL's host
	TLSSkipVerify bool   // accept any certificate

	// DialContext opens connections; nil for net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Transport keeps connections alive, speaks TLS 1.2 or later, speaks HTTP/2 where the server offers
// it, and takes its proxy from the environment. It does not reuse a connection on which an attempt
// timed out.
type Transport struct {
	build   func() *http.Transport
	current atomic.Pointer[http.Transport]

	certificateAsked atomic.Bool // the server has asked for a client certificate at least once
}

// NewTransport returns a Transport. It fails where CACert is not a bundle of PEM certificates.
func NewTransport(options TransportOptions) (*Transport, error) {
	tlsConfig := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         options.TLSServerName,
		InsecureSkipVerify: options.TLSSkipVerify, //nolint:gosec // as the config has it
	}
	if options.CACert != "" {
		authorities, err := parseAuthorities(options.CACert)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = authorities
	}
	dial := options.DialContext
	if dial == nil {
		dial = newDialer().DialContext
	}
	transport := new(Transport)
	tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		transport.certificateAsked.Store(true)
		return new(tls.Certificate), nil // an empty certificate means that the client shows none
	}
	transport.build = func() *http.Transport {
		return &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			OnProxyConnectResponse: keepProxyRefusal,
			DialContext:            dial,
			TLSClientConfig:        tlsConfig.Clone(), // the transport changes its own copy
			TLSHandshakeTimeout:    tlsHandshakeTimeout,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: silenceBeforeProbe, PingTimeout: probeTimeout},
			MaxIdleConns:           maxIdleConnections,
			MaxIdleConnsPerHost:    maxIdleConnections,
			IdleConnTimeout:        idleConnectionTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
		}
	}
	transport.current.Store(transport.build())
	return transport, nil
}

func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: silenceBeforeProbe, Interval: probeTimeout / tcpProbes, Count: tcpProbes,
		},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	used := t.current.Load()
	retireIfLate := func(err error) {
		if isTimeout(err) || errors.Is(r.Context().Err(), context.DeadlineExceeded) {
			t.retire(used)
		}
	}
	connected := false
	traced := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	})
	response, err := used.RoundTrip(r.WithContext(traced))
	if err != nil {
		retireIfLate(err)
		proxy, _ := used.Proxy(r)
		return nil, &attemptError{
			error: err, connected: connected, byProxy: proxy != nil,
			certificateAsked: t.certificateAsked.Load(),
		}
	}
	response.Body = &watchedBody{ReadCloser: response.Body, failed: retireIfLate}
	return response, nil
}

func keepProxyRefusal(_ context.Context, _ *url.URL, _ *http.Request, answered *http.Response) error {
	if answered.StatusCode != http.StatusOK {
		return proxyRefusal(answered.StatusCode)
	}
	return nil
}

// retire makes later attempts use new connections. It gives up all old connections, not only the
// one that an attempt timed out on: whatever silenced that one has most likely silenced the idle
// ones too, and each would cost an attempt. Other calls on the old connections (HTTP/2 shares them)
// run to their end. The connections are closed after that, at once or when their idle time is over.
func (t *Transport) retire(used *http.Transport) {
	if t.current.CompareAndSwap(used, t.build()) {
		used.CloseIdleConnections()
	}
}

// CloseIdleConnections closes the connections that no call is using.
func (t *Transport) CloseIdleConnections() {
	t.current.Load().CloseIdleConnections()
}

// watchedBody calls failed when reading it fails.
type watchedBody struct {
	io.ReadCloser
	failed func(error)
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed(err)
	}
	return n, err
}

// parseAuthorities is stricter than x509.CertPool.AppendCertsFromPEM, which silently skips what it
// cannot read.
func parseAuthorities(bundle string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	read := 0
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the PEM bundle cannot be read: %w", read+1, err)
		}
		pool.AddCert(certificate)
		read++
	}
	if read < max(strings.Count(bundle, "-----BEGIN CERTIFICATE-----"),
		strings.Count(bundle, "-----END CERTIFICATE-----")) {
		return nil, errors.New("the PEM bundle holds a certificate that is damaged or cut short")
	}
	if read == 0 {
		return nil, errors.New("no whole certificate in PEM form found: it begins with a line -----BEGIN " +
			"CERTIFICATE----- and ends with a line -----END CERTIFICATE-----")
	}
	return pool, nil
}
