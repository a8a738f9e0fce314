// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The risks that remain, as docs/security.md names them.

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The tests of this file hold docs/security.md to what it says that the engine does not protect
// from. Where one fails because the engine does better, the page is to say so.

func TestRefreshTokenOutlivesASessionThatWasEndedTooLate(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{"ttl": "4s", "min_ttl": "1s"})
	answer := m.read("monitoring")
	issued := m.Issued()
	eventually(t, 30*time.Second, func() error {
		if m.AccessTokenLives(answer.token) {
			return errors.New("the access token lives")
		}
		return nil
	})
	m.ResetCounts()
	if warnings := m.delete("sessions/monitoring"); len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	m.expectCalls(nil)
	if status := m.refresh(issued[len(issued)-1].Refresh); status != http.StatusOK {
		t.Errorf("the refresh token was answered with %d, want 200", status)
	}
}

// refresh sends a refresh token to N-central, as a thief of it would.
func (n *ncentral) refresh(token string) (status int) {
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(n.server.CAPEM)
	client := http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}, DisableKeepAlives: true},
	}
	response, err := client.Post(n.server.URL+"/api/auth/refresh", "text/plain", strings.NewReader(token))
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestAdministratorWithTheNetworkGetsAccessTokens(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	answer := m.read("monitoring")

	impostor := simulator.New(simulator.DefaultKnobs())
	m.server.Stop()
	server, err := simulator.Listen(impostor, strings.TrimPrefix(m.server.URL, "https://"), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	m.write("config/default", map[string]any{
		"ca_cert": string(server.CAPEM), "user_api_token": impostor.AddUser(userName), "verify": false,
	})
	m.delete("roles/monitoring")
	if !impostor.Received(answer.token) {
		t.Error("the impostor did not get the access token")
	}
	if impostor.Received(m.userAPIToken) {
		t.Error("the impostor got the stored User-API token")
	}
}

func TestDedicatedSessionOutlivesItsConfig(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	answer := m.read("worker")
	m.delete("roles/worker")
	m.delete("config/default")
	if err := m.client.Sys().RevokeWithContext(t.Context(), answer.LeaseID); err != nil {
		t.Fatal(err)
	}
	m.expectRevoked(answer)
}
