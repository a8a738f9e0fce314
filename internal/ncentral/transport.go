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
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	dialTimeout           = 10 * time.Second
	tlsHandshakeTimeout   = 10 * time.Second
	idleConnectionTimeout = 90 * time.Second

	// N-central serves at most 50 requests in flight per endpoint [D].
	maxIdleConnections = 50

	maxHeaderBytes = 256 << 10
)

// TransportOptions say how to reach a server and whom to trust.
type TransportOptions struct {
	CACert        string // PEM bundle of the only authorities to trust; "": those of the system
	TLSServerName string // name to ask for and to find in the certificate; "": the URL's host
	TLSSkipVerify bool   // accept any certificate

	// DialContext opens connections; nil: as net.Dialer does.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewTransport makes a transport that keeps connections alive, speaks TLS 1.2 or
// later and HTTP/2 where offered, and takes its proxy from the environment. The
// error is that of a CACert that is not a bundle of PEM certificates.
func NewTransport(options TransportOptions) (*http.Transport, error) {
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
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    tlsHandshakeTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           maxIdleConnections,
		MaxIdleConnsPerHost:    maxIdleConnections,
		IdleConnTimeout:        idleConnectionTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}, nil
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
	if read == 0 {
		return nil, errors.New("no certificate in PEM form found: it begins with a line -----BEGIN CERTIFICATE-----")
	}
	if read < strings.Count(bundle, "-----BEGIN CERTIFICATE-----") {
		return nil, errors.New("the PEM bundle holds a certificate that is damaged or cut short")
	}
	return pool, nil
}

// singleAnswer sees to it that http.Client follows no redirect, not even to look at
// where it leads, and hides CloseIdleConnections, which retryablehttp calls after
// each failure at the cost of the calls that go well.
type singleAnswer struct {
	transport http.RoundTripper
}

func (s singleAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.transport.RoundTrip(r)
	if response != nil {
		// http.Client hands a redirect without a Location back as it came.
		response.Header.Del("Location")
	}
	return response, err
}
