// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A token from storage may be of the past: N-central is asked after one of its config first.

package backend

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/internal/store"
)

// What lies in storage may be of the past: a restored snapshot, or from before a reboot of
// N-central while Vault was sealed. The first read after a start has one token of the config
// validated, for all who read meanwhile.
func TestAfterAStartOneStoredTokenIsValidatedForAll(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
		roles := m.addRoles(12, nil)
		for _, role := range roles {
			m.readRole(role)
		}
		m.ResetCounts()
		m.start()
		for _, wait := range m.beginAll(roles) {
			if o := wait(); o.token() == "" || len(o.response.Warnings) > 0 {
				t.Error(o.err, o.response)
			}
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// A stored token that is found dead makes all of them suspect, and every reader gets a living one.
func TestAfterAStartDeadStoredTokensAreReplaced(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		roles := m.addRoles(12, nil)
		for _, role := range roles {
			m.readRole(role)
		}
		m.Reboot()
		m.start()
		m.ResetCounts()
		for i, wait := range m.beginAll(roles) {
			if o := wait(); o.token() == "" || !m.AccessTokenLives(o.token()) {
				t.Errorf("role %d was answered a dead token, or none: %v", i, o.err)
			}
		}
		// A reboot may have been an upgrade: whether new sessions end each other is not known
		// any more, so they are validated too.
		tried, opened := m.all(simulator.EndpointValidate), m.all(simulator.EndpointAuthenticate)
		if tried > 24 || opened != 12 {
			t.Errorf("%d validations, %d sessions", tried, opened)
		}
	})
}

// Where N-central cannot be asked, a stored token is served after one request_timeout, with a
// warning, until it can be.
func TestAStoredTokenIsServedWithAWarningWhereNobodyCanBeAsked(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		first := m.expectLives(m.read(nil))
		m.start()
		m.FailNext(simulator.EndpointValidate, -1, hang)
		began := time.Now()
		if warnings := m.warnings(); !strings.Contains(warnings, "comes from storage") {
			t.Errorf("warnings %q", warnings)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the read waited %s, longer than one request_timeout", took)
		}
		m.ClearFailures()
		time.Sleep(20 * time.Second)
		if m.expectLives(m.read(nil)) != first {
			t.Error("another token")
		}
		m.start()
		m.FailNext(simulator.EndpointValidate, 4, status(503))
		if warnings := m.warnings(); !strings.Contains(warnings, "comes from storage") {
			t.Errorf("warnings %q", warnings)
		}
		time.Sleep(20 * time.Second)
		m.ResetCounts()
		if warnings := m.warnings(); warnings != "" {
			t.Errorf("warnings %q", warnings)
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1})
	})
}

// While N-central cannot be asked, the first reader waits for that, and no other.
func TestWhereNobodyCanBeAskedOnlyTheFirstReaderWaits(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.start()
		m.FailNext(simulator.AnyEndpoint, -1, hang)
		for i := range 120 {
			if o := m.beginRead("monitoring", nil)(); o.token() == "" || o.took > time.Second && i > 0 {
				t.Fatalf("read %d waited %s: %v", i, o.took, o.err)
			}
			time.Sleep(time.Second)
		}
		m.ClearFailures()
	})
}

// A token that was obtained since the start proves nothing of those from storage.
func TestANewTokenIsNoProofOfStoredOnes(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.readRole("other")
		m.Reboot()
		m.start()
		m.expectLives(m.read(nil))
		m.expectLives(m.read(map[string]any{"validate": true}))
		m.expectLives(m.readRole("other"))
	})
}

// An authenticate that is under way does not explain why a stored token is dead.
func TestAnAuthenticateExplainsNoDeadStoredToken(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
		roles := m.addRoles(3, nil)
		for _, role := range roles {
			m.readRole(role)
		}
		m.Reboot()
		m.start()
		cold := m.beginRead("monitoring", nil)
		for _, wait := range m.beginAll(roles) {
			if o := wait(); !m.AccessTokenLives(o.token()) {
				t.Error("a dead token was handed out")
			}
		}
		cold()
		for _, role := range roles {
			m.expectLives(m.readRole(role))
		}
	})
}

// A token that a node whose clock was ahead has stored has no more than its life left, and is
// validated first.
func TestATokenFromTheFutureHasNoMoreThanItsLife(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"lease": true, "ttl": "30m"})
		m.read(nil)
		entry, err := m.storage.Get(context.Background(), "session/monitoring")
		if err != nil || entry == nil {
			t.Fatal(entry, err)
		}
		var session store.Session
		if err := entry.DecodeJSON(&session); err != nil {
			t.Fatal(err)
		}
		for _, at := range []*time.Time{
			&session.Current.IssuedAt, &session.Current.ExpiresAt, &session.Current.GrantedUntil,
			&session.Current.RefreshExpiresAt,
		} {
			*at = at.Add(20 * time.Minute)
		}
		changed, err := logical.StorageEntryJSON("session/monitoring", session)
		if err != nil || m.storage.Put(context.Background(), changed) != nil {
			t.Fatal(err)
		}
		m.start()
		m.ResetCounts()
		response, err := m.do(opRead, "creds/monitoring", nil)
		if err != nil || response.IsError() {
			t.Fatal(response, err)
		}
		if response.Secret.TTL != 30*time.Minute {
			t.Errorf("promised for %s", response.Secret.TTL)
		}
		m.expectCalls(calls{simulator.EndpointValidate: 1})
		time.Sleep(10 * time.Minute)
		if response, _ := m.do(opRead, "creds/monitoring", nil); response.Secret.TTL != 20*time.Minute {
			t.Errorf("promised for %s, ten minutes later", response.Secret.TTL)
		}
	})
}

// A validation that stands is proof enough where the config was made anew since.
func TestAValidationThatStandsIsProof(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		spare := map[string]any{"url": m.server.URL, "user_api_token": m.token, "password_max_age": 0, "verify": false}
		first := m.expectLives(m.read(nil))
		m.start()
		m.expectLives(m.read(nil)) // which has it validated
		m.write("config/spare", spare)
		m.write("roles/monitoring", map[string]any{"config": "spare"})
		m.delete("config/default")
		m.write("config/default", spare)
		m.write("roles/monitoring", map[string]any{"config": "default"})
		m.ResetCounts()
		if m.expectLives(m.read(nil)) != first {
			t.Error("another token")
		}
		m.expectCalls(nil)
	})
}
