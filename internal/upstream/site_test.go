// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// issuer is a certificate with its key, be it an authority's or a server's.
type issuer struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw}))
}

func (i *issuer) tls() *tls.Config {
	shown := tls.Certificate{Certificate: [][]byte{i.certificate.Raw}, PrivateKey: i.key}
	return &tls.Config{Certificates: []tls.Certificate{shown}}
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSAKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newIssuer makes a certificate that the parent signs, or that signs itself where that is nil.
func newIssuer(t *testing.T, parent *issuer, key crypto.Signer, template x509.Certificate) *issuer {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.BasicConstraintsValid = true
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	signer := &issuer{&template, key}
	if parent != nil {
		signer = parent
	}
	raw, err := x509.CreateCertificate(rand.Reader, &template, signer.certificate, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, raw, key)
}

func parsed(t *testing.T, raw []byte, key crypto.Signer) *issuer {
	t.Helper()
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{certificate, key}
}

func newAuthority(t *testing.T, parent *issuer, name string) *issuer {
	t.Helper()
	return newIssuer(t, parent, newKey(t), x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true})
}

// onLoopback is a server's certificate for 127.0.0.1.
func onLoopback() x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: "ncentral"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
}

// signedWithMD5 changes a certificate signed with SHA-256 and RSA into one that says MD5: its
// signature is none.
func signedWithMD5(t *testing.T, from *issuer) *issuer {
	t.Helper()
	sha256, md5 := []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"), []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04")
	return parsed(t, bytes.ReplaceAll(from.certificate.Raw, sha256, md5), from.key)
}

// serveHTTP starts a server that the handler answers for; over TLS, unless the config is nil.
func serveHTTP(t *testing.T, config *tls.Config, handler http.Handler) (address string) {
	t.Helper()
	listener := listen(t)
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if config == nil {
			_ = server.Serve(listener)
		} else {
			_ = server.Serve(tls.NewListener(listener, config))
		}
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return listener.Addr().String()
}

// serveRaw starts a server that does this with each connection, once the client has written to it.
func serveRaw(t *testing.T, do func(*net.TCPConn)) (address string) {
	t.Helper()
	listener := listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = connection.Read(make([]byte, 4096))
			do(connection.(*net.TCPConn))
			_ = connection.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return listener.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// serveDNS starts a DNS server that answers every question with this code, and returns a dialer
// that asks it.
func serveDNS(t *testing.T, code byte) DialContext {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		message := make([]byte, 512)
		for {
			length, from, err := socket.ReadFrom(message)
			if err != nil {
				return
			}
			message[2] |= 0x80 // an answer
			message[3] = 0x80 | code
			_, _ = socket.WriteTo(message[:length], from)
		}
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-ended
	})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
	return (&net.Dialer{Resolver: resolver}).DialContext
}

// newNCentral is an N-central with one user.
func newNCentral() (handler http.Handler, userAPIToken string) {
	nCentral := simulator.New(simulator.DefaultKnobs())
	return nCentral.Handler(), nCentral.AddUser("api-user")
}

// connectingProxy is a proxy that lets everybody in who has its password and connects to one
// address, whatever is asked for.
func connectingProxy(t *testing.T, to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Errorf("the proxy was sent %s", r.Method)
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer near.Close()
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		_, _ = io.Copy(near, far)
	})
}

const ownProcess = "TEST_IN_ITS_OWN_PROCESS"

// inItsOwnProcess reports whether the test runs in a process of its own, and sees to it that it
// does: the environment's proxy is read once in a process.
func inItsOwnProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(ownProcess) == t.Name() {
		return true
	}
	var pattern []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(pattern, "/"), "-test.v")
	command.Env = append(os.Environ(), ownProcess+"="+t.Name())
	output, err := command.CombinedOutput()
	if err != nil || !bytes.Contains(output, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, output)
	}
	return false
}

// weakSigner signs with an RSA key that crypto/rsa takes to be too short.
type weakSigner struct{ *rsa.PrivateKey }

func (w weakSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	sha256 := []byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20")
	size := w.Size()
	padded := append(bytes.Repeat([]byte{0xff}, size-3-len(sha256)-len(digest)), 0)
	padded = append(append(append([]byte{0, 1}, padded...), sha256...), digest...)
	signature := new(big.Int).Exp(new(big.Int).SetBytes(padded), w.D, w.N)
	return signature.FillBytes(make([]byte, size)), nil
}
