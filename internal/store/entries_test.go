// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"testing"
	"time"
	"unsafe"
)

// suspended returns the time as it reads after the machine was suspended for that long: the wall
// clock went on, the monotonic one stood still. time.Time keeps the monotonic reading in its second
// word.
func suspended(t time.Time, by time.Duration) time.Time {
	later := t.Add(by)
	(*[2]int64)(unsafe.Pointer(&later))[1] -= int64(by)
	return later
}

func TestATokenIsDueAsSoonAsOneClockSaysSo(t *testing.T) {
	now := time.Now()
	then := now.Add(time.Hour)
	tests := map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"both clocks went on":                {now.Add(20 * time.Minute), 40 * time.Minute},
		"the machine was suspended":          {suspended(now, 20*time.Minute), 40 * time.Minute},
		"the wall clock was set back":        {suspended(now.Add(20*time.Minute), -20*time.Minute), 40 * time.Minute},
		"after a restart, the wall clock":    {now.Add(20 * time.Minute).Round(0), 40 * time.Minute},
		"suspended for longer than it lives": {suspended(now, 2*time.Hour), -time.Hour},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Remaining(then, test.now); got != test.want {
				t.Errorf("%s remain, want %s", got, test.want)
			}
		})
	}
}

func TestFingerprintsChangeWithExactlyTheFieldsThatRetire(t *testing.T) {
	fiveMinutes := 5 * time.Minute
	configs := map[string]struct {
		change  func(*Config)
		retires bool
	}{
		"url":                    {func(c *Config) { c.URL += "x" }, true},
		"user_api_token":         {func(c *Config) { c.UserAPIToken += "x" }, true},
		"ca_cert":                {func(c *Config) { c.CACert += "x" }, true},
		"tls_server_name":        {func(c *Config) { c.TLSServerName += "x" }, true},
		"tls_skip_verify":        {func(c *Config) { c.TLSSkipVerify = true }, true},
		"a field's end moved":    {func(c *Config) { c.URL, c.UserAPIToken = c.URL+c.UserAPIToken, "" }, true},
		"request_timeout":        {func(c *Config) { c.RequestTimeout++ }, false},
		"max_retries":            {func(c *Config) { c.MaxRetries++ }, false},
		"max_requests_in_flight": {func(c *Config) { c.MaxRequestsInFlight++ }, false},
		"refresh_token_ttl":      {func(c *Config) { c.RefreshTokenTTL++ }, false},
		"password_changed_at":    {func(c *Config) { c.PasswordChangedAt = time.Now() }, false},
		"password_max_age":       {func(c *Config) { c.PasswordMaxAge++ }, false},
		"expiry_warning":         {func(c *Config) { c.ExpiryWarning++ }, false},
		"written_at":             {func(c *Config) { c.WrittenAt = time.Now() }, false},
	}
	for field, test := range configs {
		before := Config{URL: "https://a", UserAPIToken: "b"}
		after := before
		test.change(&after)
		_, _ = before.prepare("default"), after.prepare("default") // what is lacking in them does not matter
		if (before.Fingerprint() != after.Fingerprint()) != test.retires {
			t.Errorf("config %s: retires is not %t", field, test.retires)
		}
	}
	roles := map[string]struct {
		change  func(*Role)
		retires bool
	}{
		"config":          {func(r *Role) { r.Config = "other" }, true},
		"credential_type": {func(r *Role) { r.CredentialType = "other" }, true},
		"ttl":             {func(r *Role) { r.TTL++ }, true},
		"min_ttl":         {func(r *Role) { r.MinTTL = &fiveMinutes }, false},
		"lease":           {func(r *Role) { r.Lease = true }, false},
	}
	for field, test := range roles {
		before := Role{Config: "default", CredentialType: Shared}
		after := before
		test.change(&after)
		_, _ = before.prepare("monitoring"), after.prepare("monitoring") // what is lacking in them does not matter
		if (before.Fingerprint() != after.Fingerprint()) != test.retires {
			t.Errorf("role %s: retires is not %t", field, test.retires)
		}
	}
}

func TestMinTTLIsASixthOfTheTokensLifeUnlessGivenAndNeverMoreThanHalf(t *testing.T) {
	tenMinutes, zero := 10*time.Minute, time.Duration(0)
	tests := []struct {
		role     Role
		lifetime time.Duration
		want     time.Duration
	}{
		{Role{}, 24 * time.Hour, 4 * time.Hour},
		{Role{}, time.Hour, 10 * time.Minute},
		{Role{}, 31 * time.Minute, 5*time.Minute + 10*time.Second},
		{Role{}, 30 * time.Minute, 5 * time.Minute},
		{Role{}, 12 * time.Minute, 5 * time.Minute},
		{Role{}, 6 * time.Minute, 3 * time.Minute},
		{Role{MinTTL: &tenMinutes}, time.Hour, 10 * time.Minute},
		{Role{MinTTL: &tenMinutes}, 12 * time.Minute, 6 * time.Minute},
		{Role{MinTTL: &zero}, time.Hour, 0},
	}
	for _, test := range tests {
		if got := test.role.MinTTLWithin(test.lifetime); got != test.want {
			t.Errorf("min_ttl %v of %s: %s, want %s", test.role.MinTTL, test.lifetime, got, test.want)
		}
	}
}

// Vault's clients give a request up after 60 s, and would not get to know what became of it.
func TestNoFlightOutlastsVaultsClients(t *testing.T) {
	for timeout := LeastRequestTimeout; timeout <= MostRequestTimeout; timeout += time.Second {
		config := Config{RequestTimeout: timeout}
		if limit := config.FlightLimit(); limit > 3*timeout || limit > 57*time.Second {
			t.Errorf("request_timeout %s: a flight may take %s", timeout, limit)
		}
	}
}
