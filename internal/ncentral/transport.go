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

	// A connection that is silent for so long is asked for a sign of life, by HTTP/2's
	// ping or TCP's keep-alive, and dropped where none comes in time. One that a
	// firewall forgot is gone after 6s then, before the default request_timeout of 10s
	// is up. Less would tell on a server that pauses to collect its garbage, and more
	// pings than one in 3s some servers take for an attack.
	silenceBeforeProbe = 3 * time.Second
	probeTimeout       = 3 * time.Second
	tcpProbes          = 3
)

// TransportOptions say how to reach a server and whom to trust.
type TransportOptions struct {
	CACert        string // PEM bundle of the only authorities to trust; "": those of the system
	TLSServerName string // name to ask for and to find in the certificate; "": the URL's host
	TLSSkipVerify bool   // accept any certificate

	// DialContext opens connections; nil: as net.Dialer does.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Transport keeps connections alive, speaks TLS 1.2 or later and HTTP/2 where
// offered, and takes its proxy from the environment. A connection that an attempt
// timed out on is not used again.
type Transport struct {
	build   func() *http.Transport
	current atomic.Pointer[http.Transport]

	certificateAsked atomic.Bool // whether the server has ever asked for a client certificate
}

// NewTransport makes a Transport. The error is that of a CACert that is not a bundle
// of PEM certificates.
func NewTransport(options TransportOptions) (*Transport, error) {
	tlsConfig := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         options.TLSServerName,
		InsecureSkipVerify: options.TLSSkipVerify,
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
		return new(tls.Certificate), nil // which is to show none
	}
	transport.build = func() *http.Transport {
		return &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			OnProxyConnectResponse: keepProxyRefusal,
			DialContext:            dial,
			TLSClientConfig:        tlsConfig.Clone(), // the transport changes its own
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

// RoundTrip is http.RoundTripper's.
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
		return nil, &attemptError{error: err, connected: connected, byProxy: proxy != nil, certificateAsked: t.certificateAsked.Load()}
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

// retire has later attempts make connections of their own. It is all of the old ones
// that are left, not the one that an attempt timed out on: what made that one fall
// silent has most likely struck the idle ones too, and each would cost an attempt.
// Other calls on them, which HTTP/2 lets share one, go on to their end; after it the
// connections are closed, at once or for being idle.
func (t *Transport) retire(used *http.Transport) {
	if t.current.CompareAndSwap(used, t.build()) {
		used.CloseIdleConnections()
	}
}

// CloseIdleConnections closes the connections that no call is using.
func (t *Transport) CloseIdleConnections() {
	t.current.Load().CloseIdleConnections()
}

// watchedBody tells how reading it failed.
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

// parseAuthorities is stricter than x509.CertPool.AppendCertsFromPEM, which leaves
// out in silence what it cannot read.
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
	if read < max(strings.Count(bundle, "-----BEGIN CERTIFICATE-----"), strings.Count(bundle, "-----END CERTIFICATE-----")) {
		return nil, errors.New("the PEM bundle holds a certificate that is damaged or cut short")
	}
	if read == 0 {
		return nil, errors.New("no whole certificate in PEM form found: it begins with a line -----BEGIN CERTIFICATE----- and ends with a line -----END CERTIFICATE-----")
	}
	return pool, nil
}
