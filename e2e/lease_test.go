// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What leased and unleased answers say, and what the mount itself does to them.

package e2e

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func expectSame(t *testing.T, want, got any) {
	t.Helper()
	if difference := cmp.Diff(want, got); difference != "" {
		t.Errorf("(-want +got):\n%s", difference)
	}
}

// expectToken holds what every answer of creds/NAME says of its token.
func (m *mount) expectToken(answer credentials, lifetime time.Duration) {
	m.t.Helper()
	if answer.Data["token_type"] != "Bearer" {
		m.t.Errorf("token_type is %v", answer.Data["token_type"])
	}
	if answer.Data["url"] != m.server.URL {
		m.t.Errorf("url is %v, want %s", answer.Data["url"], m.server.URL)
	}
	if !strings.HasSuffix(answer.Data["expires_at"].(string), "Z") {
		m.t.Errorf("expires_at is not in UTC: %v", answer.Data["expires_at"])
	}
	if at := number(m.t, answer.Data, "expires_at_seconds"); at != answer.expiresAt.Unix() {
		m.t.Errorf("expires_at_seconds is %d, expires_at %d", at, answer.expiresAt.Unix())
	}
	if left := time.Until(answer.expiresAt); left > lifetime || left < lifetime-10*time.Second {
		m.t.Errorf("the token is promised for another %s, want about %s", left, lifetime)
	}
	if answer.Renewable {
		m.t.Error("the answer is renewable")
	}
}

func fields(data map[string]any) []string { return slices.Sorted(maps.Keys(data)) }

func TestLeasedAnswer(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{"ttl": "20m"})
	answer := m.read("monitoring")
	m.expectToken(answer, 20*time.Minute)
	expectSame(
		t, []string{"access_token", "config", "expires_at", "expires_at_seconds", "token_type", "url"},
		fields(answer.Data),
	)
	if !strings.HasPrefix(answer.LeaseID, m.path+"/creds/monitoring/") {
		t.Errorf("the lease is %q", answer.LeaseID)
	}
	if answer.LeaseDuration < 1190 || answer.LeaseDuration > 1200 {
		t.Errorf("lease_duration is %d, want what the token has left of 1200", answer.LeaseDuration)
	}
	end := time.Now().Add(time.Duration(answer.LeaseDuration) * time.Second)
	if end.After(answer.expiresAt.Add(time.Second)) {
		t.Errorf("the lease ends at %s, after its token at %s", end, answer.expiresAt)
	}
}

func TestUnleasedAnswer(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{"ttl": "20m", "lease": false})
	began := time.Now().Truncate(time.Second)
	answer := m.read("monitoring")
	m.expectToken(answer, 20*time.Minute)
	expectSame(t, []string{
		"access_token", "config", "expires_at", "expires_at_seconds", "last_vault_rotation", "rotation_period",
		"token_type",
		"ttl", "url",
	}, fields(answer.Data))
	if answer.LeaseID != "" || answer.LeaseDuration != 0 {
		t.Errorf("there is a lease: %q, %d", answer.LeaseID, answer.LeaseDuration)
	}
	// Five minutes before its end the token is replaced.
	if period := number(t, answer.Data, "rotation_period"); period != 900 {
		t.Errorf("rotation_period is %d, want 900", period)
	}
	if ttl := number(t, answer.Data, "ttl"); ttl < 890 || ttl > 900 {
		t.Errorf("ttl is %d, want what is left of 900", ttl)
	}
	rotated, err := time.Parse(time.RFC3339, answer.Data["last_vault_rotation"].(string))
	if err != nil || rotated.Before(began) || rotated.After(time.Now()) {
		t.Errorf("last_vault_rotation is %v, %v", answer.Data["last_vault_rotation"], err)
	}

	eventually(t, 5*time.Second, func() error {
		later := m.read("monitoring")
		if number(t, later.Data, "ttl") >= number(t, answer.Data, "ttl") {
			return errors.New("ttl stands still")
		}
		delete(later.Data, "ttl")
		expected := maps.Clone(answer.Data)
		delete(expected, "ttl")
		expectSame(t, redactedToken(expected), redactedToken(later.Data))
		return nil
	})
}

// redactedToken keeps the token out of the tests' output.
func redactedToken(data map[string]any) map[string]any {
	data["access_token"] = fingerprint(data["access_token"].(string))
	return data
}

func TestRevokingASharedLeaseEndsNothing(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{})
	one, two, three := m.read("monitoring"), m.read("monitoring"), m.read("monitoring")
	if one.LeaseID == two.LeaseID || two.LeaseID == three.LeaseID {
		t.Error("two reads share a lease")
	}
	m.ResetCounts()
	if err := m.client.Sys().RevokeWithContext(t.Context(), one.LeaseID); err != nil {
		t.Fatal(err)
	}
	m.expectRevoked(one)
	if err := m.client.Sys().RevokePrefixWithContext(t.Context(), m.path+"/creds/monitoring"); err != nil {
		t.Fatal(err)
	}
	m.expectRevoked(two)
	m.expectRevoked(three)
	if answer := m.read("monitoring"); answer.token != one.token {
		t.Error("revoking a lease replaced the token")
	}
	m.expectCalls(nil)
}

func (m *mount) expectRevoked(answer credentials) {
	m.t.Helper()
	_, err := m.client.Logical().WriteWithContext(m.t.Context(), "sys/leases/lookup", map[string]any{
		"lease_id": answer.LeaseID,
	})
	if statusOf(err) != badRequest {
		m.t.Errorf("the lease is still there: %v", err)
	}
	if !m.AccessTokenLives(answer.token) {
		m.t.Error("revoking the lease ended the token that others hold")
	}
}

func TestDisablingTheMount(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, sharedServer, api.MountConfigInput{}, nil)
	m.write("roles/monitoring", map[string]any{})
	answer := m.read("monitoring")
	m.ResetCounts()
	if err := m.SetDown(true); err != nil {
		t.Fatal(err)
	}
	m.unmount()
	m.fails(notFound, request{operation: opWrite, path: "roles/monitoring"})
	if !m.AccessTokenLives(answer.token) {
		t.Error("disabling the mount ended a shared token")
	}
	mounts, err := m.client.Sys().ListMountsWithContext(t.Context())
	if err != nil || mounts[m.path+"/"] != nil {
		t.Errorf("the mount is still there: %v", err)
	}
}

func TestMaxLeaseTTLOfTheMount(t *testing.T) {
	t.Parallel()
	m := newMountOn(t, sharedServer, api.MountConfigInput{MaxLeaseTTL: "10m"}, nil)
	t.Cleanup(m.unmount)
	m.write("roles/without-ttl", map[string]any{})
	m.write("roles/long", map[string]any{"ttl": "30m"})
	m.write("roles/short", map[string]any{"ttl": "4m"})
	for role, want := range map[string]time.Duration{
		"without-ttl": 10 * time.Minute, "long": 10 * time.Minute, "short": 4 * time.Minute,
	} {
		answer := m.read(role)
		m.expectOverrides(want.String())
		m.expectToken(answer, want)
		if most := int(want / time.Second); answer.LeaseDuration > most || answer.LeaseDuration < most-10 {
			t.Errorf("the lease of %s is %ds, want what is left of %ds", role, answer.LeaseDuration, most)
		}
		if warned := warns(answer.Warnings, "max_lease_ttl"); warned != (role == "long") {
			t.Errorf("role %s is warned that its ttl was cut: %t", role, warned)
		}
	}
	m.expectCalls(calls{simulator.EndpointAuthenticate: 3})
}

func TestNoOverrideIsSentWithoutNeed(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{})
	m.expectToken(m.read("monitoring"), time.Hour)
	m.expectOverrides("")
}
