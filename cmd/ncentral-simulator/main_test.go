// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// starting runs the command until the test ends it. It returns the line that the command prints
// when it is ready, and a channel with its exit code.
func starting(ctx context.Context, t *testing.T, arguments ...string) (said ready, ended <-chan int) {
	t.Helper()
	output, writer := io.Pipe()
	codes := make(chan int, 1)
	go func() {
		var complaint strings.Builder
		code := run(ctx, arguments, writer, &complaint)
		if code != 0 {
			t.Errorf("code %d: %s", code, complaint.String())
		}
		_ = writer.Close()
		codes <- code
	}()
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(line), "eyJ") {
		t.Error("the line holds a token")
	}
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatal(err)
	}
	return said, codes
}

func TestServesOverTLSUntilTerminated(t *testing.T) {
	directory := t.TempDir()
	certificate, secret := filepath.Join(directory, "ca.pem"), filepath.Join(directory, "token")
	if err := os.WriteFile(secret, []byte(strings.Repeat("old", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	said, ended := starting(ctx, t, "-ca-cert-file", certificate, "-user-api-token-file", secret,
		"-access-limit", "10m")
	want := ready{URL: said.URL, AdminURL: said.AdminURL, CACertFile: certificate, UserAPITokenFile: secret}
	if said != want || !strings.HasPrefix(said.URL, "https://127.0.0.1:") ||
		!strings.HasPrefix(said.AdminURL, "http://127.0.0.1:") {
		t.Errorf("got %+v", said)
	}
	information, err := os.Stat(secret)
	if err != nil || information.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v %v", information.Mode(), err)
	}

	body := authenticate(t, said, certificate, secret)
	if !strings.Contains(body, `"expirySeconds":600`) {
		t.Error("the knob was not turned")
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != 0 {
		t.Errorf("got code %d", code)
	}
	if connection, err := net.Dial("tcp", strings.TrimPrefix(said.AdminURL, "http://")); err == nil {
		_ = connection.Close()
		t.Error("the admin address still answers")
	}
}

// authenticate uses the files that the command wrote, and returns the body of the answer.
func authenticate(t *testing.T, said ready, certificate, secret string) string {
	t.Helper()
	caPEM, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(caPEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, said.URL+"/api/auth/authenticate",
		http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	answered, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answered.Body.Close() }()
	body, err := io.ReadAll(answered.Body)
	if err != nil || answered.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %v", answered.StatusCode, err)
	}
	return string(body)
}

func TestPlainHTTP(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	said, ended := starting(ctx, t, "-plain-http")
	for _, url := range []string{said.URL + "/api/auth", said.AdminURL + "/counts"} {
		answered, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = answered.Body.Close()
		if answered.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", url, answered.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	<-ended
}

func TestCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	missing := filepath.Join(t.TempDir(), "missing", "file")
	for _, arguments := range [][]string{
		{"-listen", taken.Addr().String()},
		{"-admin-listen", taken.Addr().String()},
		{"-ca-cert-file", missing},
		{"-user-api-token-file", missing},
	} {
		var complaint strings.Builder
		code := run(t.Context(), arguments, io.Discard, &complaint)
		if code != 1 || !strings.HasPrefix(complaint.String(), "ncentral-simulator: ") {
			t.Errorf("%v: got code %d, %q", arguments, code, complaint.String())
		}
	}
}
