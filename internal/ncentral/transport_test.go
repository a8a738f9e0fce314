// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

// newTLSServer starts a server whose certificate is for example.com and 127.0.0.1.
func newTLSServer(t *testing.T, configure func(*httptest.Server)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		io.WriteString(w, validBody)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	if configure != nil {
		configure(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func certificatePEM(server *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// newCertificate returns a self-signed certificate for 127.0.0.1 that is valid for this long from
// now. Where the validity is negative, the certificate expired that long ago.
func newCertificate(t *testing.T, validity time.Duration) (certificate tls.Certificate, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(min(0, validity) - time.Hour), NotAfter: time.Now().Add(validity),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	authority = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, authority
}

// validateOver makes one call that may be retried, and counts its attempts.
func validateOver(t *testing.T, serverURL string, options TransportOptions) (attempts int, protocol string, err error) {
	t.Helper()
	transport, err := NewTransport(options)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	counting := transportFunc(func(r *http.Request) (*http.Response, error) {
		attempts++
		response, err := transport.RoundTrip(r)
		if err == nil {
			protocol = response.Proto
		}
		return response, err
	})
	err = New(Options{BaseURL: serverURL, Transport: counting, MaxRetries: 3}).Validate(t.Context(), newToken())
	return attempts, protocol, err
}

func TestTrust(t *testing.T) {
	server := newTLSServer(t, nil)
	expired := newTLSServer(t, func(s *httptest.Server) {
		certificate, _ := newCertificate(t, -time.Hour)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	})
	authority := certificatePEM(server)
	tests := map[string]struct {
		server  *httptest.Server
		options TransportOptions
		detail  string // "" where the certificate is trusted
	}{
		"trusted":            {server, TransportOptions{CACert: authority}, ""},
		"under another name": {server, TransportOptions{CACert: authority, TLSServerName: "example.com"}, ""},
		"verification off":   {server, TransportOptions{TLSSkipVerify: true}, ""},
		"one of a bundle": {
			server,
			TransportOptions{CACert: "# first\n" + certificatePEM(expired) + "# second\n" + authority},
			"",
		},
		"unknown authority": {server, TransportOptions{}, "unknown authority"},
		"other authority":   {server, TransportOptions{CACert: certificatePEM(expired)}, "unknown authority"},
		"wrong name": {
			server,
			TransportOptions{CACert: authority, TLSServerName: "other.invalid"},
			"another name",
		},
		"expired": {expired, TransportOptions{CACert: certificatePEM(expired)}, "has expired"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			attempts, protocol, err := validateOver(t, test.server.URL, test.options)
			if attempts != 1 {
				t.Errorf("%d attempts, want 1", attempts)
			}
			if test.detail == "" {
				if err != nil || protocol != "HTTP/2.0" {
					t.Errorf("got %v over %s, want success over HTTP/2.0", err, protocol)
				}
				return
			}
			failure := failureOf(t, err)
			if failure.Kind != KindUnreachable || !failure.Fault.isPermanent() ||
				!strings.HasPrefix(failure.Detail, "certificate ") || !strings.Contains(failure.Detail, test.detail) {
				t.Errorf("got %+v, want a detail with %q", failure, test.detail)
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	server := newTLSServer(t, func(s *httptest.Server) {
		s.EnableHTTP2 = false
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	})
	transport, err := NewTransport(TransportOptions{CACert: certificatePEM(server)})
	if err != nil {
		t.Fatal(err)
	}
	if transport.current.Load().TLSClientConfig.MinVersion != tls.VersionTLS12 {
		t.Error("the transport does not ask for TLS 1.2")
	}
	err = New(Options{BaseURL: server.URL, Transport: transport}).Validate(t.Context(), newToken())
	if KindOf(err) != KindUnreachable {
		t.Errorf("got %v", err)
	}
}

func TestServerWithoutTLS(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	transport, err := NewTransport(TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := strings.Replace(server.URL, "http://", "https://", 1)
	failure := failureOf(t, New(Options{BaseURL: address, Transport: transport}).Validate(t.Context(), newToken()))
	if failure.Kind != KindUnreachable || failure.Detail != "the server does not speak TLS on this port" {
		t.Errorf("got %+v", failure)
	}
}

func TestProxy(t *testing.T) {
	transport, err := NewTransport(TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	current := transport.current.Load()
	if reflect.ValueOf(current.Proxy).Pointer() != reflect.ValueOf(http.ProxyFromEnvironment).Pointer() {
		t.Error("the proxy is not taken from the environment")
	}

	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	current.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(closed.URL) }
	failure := failureOf(t, New(Options{
		BaseURL:   "https://ncentral.invalid",
		Transport: transport,
	}).Validate(t.Context(), newToken()))
	if failure.Kind != KindUnreachable || failure.Fault != FaultRefused || !failure.AtProxy || !failure.NotSent {
		t.Errorf("got %+v", failure)
	}
}

// A proxy that is shown a wrong password again and again may lock its user.
func TestProxyThatRefusesIsNotAskedAgain(t *testing.T) {
	for status, want := range map[int]struct {
		fault    Fault
		connects int
	}{407: {FaultProxyCredential, 1}, 403: {FaultProxyForbids, 1}, 503: {FaultProxyFailed, 2}} {
		connects := 0
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			connects++
			w.WriteHeader(status)
		}))
		transport, err := NewTransport(TransportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		transport.current.Load().Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
		client := New(Options{BaseURL: "https://ncentral.invalid", Transport: transport, MaxRetries: 1})
		failure := failureOf(t, client.Validate(t.Context(), newToken()))
		if failure.Kind != KindUnreachable || failure.Fault != want.fault || !failure.NotSent ||
			connects != want.connects {
			t.Errorf("%d: got %+v after %d attempts", status, failure, connects)
		}
		proxy.Close()
	}
}

func TestCACertsThatAreRefused(t *testing.T) {
	whole := certificatePEM(newTLSServer(t, nil))
	notOne := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")}))
	other := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("no certificate")}))
	tests := map[string]string{
		"text":             "no PEM",
		"white space":      " \n",
		"cut in half":      whole[:len(whole)/2],
		"no certificate":   notOne,
		"another block":    other,
		"the second cut":   whole + whole[:len(whole)/2],
		"the first cut":    whole[:len(whole)/2] + "\n" + whole,
		"the second wrong": whole + notOne,
	}
	for name, bundle := range tests {
		if _, err := NewTransport(TransportOptions{CACert: bundle}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
