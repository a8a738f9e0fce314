// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// A config with which a client would hang or crash is not one that anybody wrote.
func TestAConfigBeyondItsBoundsIsDamage(t *testing.T) {
	sound := Config{
		URL: "https://ncentral.example.com", UserAPIToken: "a.b.c", RequestTimeout: time.Second,
		MaxRequestsInFlight: 1,
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"the least of all": {func(*Config) {}, nil},
		"the most of all": {func(c *Config) {
			c.RequestTimeout, c.MaxRetries,
				c.MaxRequestsInFlight = 20*time.Second, 10, 50
		}, nil},
		"no url":                       {func(c *Config) { c.URL = "" }, errIncomplete},
		"no user_api_token":            {func(c *Config) { c.UserAPIToken = "" }, errIncomplete},
		"too short a request_timeout":  {func(c *Config) { c.RequestTimeout = time.Second - 1 }, errOutOfRange},
		"too long a request_timeout":   {func(c *Config) { c.RequestTimeout = 20*time.Second + 1 }, errOutOfRange},
		"fewer retries than none":      {func(c *Config) { c.MaxRetries = -1 }, errOutOfRange},
		"too many retries":             {func(c *Config) { c.MaxRetries = 11 }, errOutOfRange},
		"no request in flight":         {func(c *Config) { c.MaxRequestsInFlight = 0 }, errOutOfRange},
		"too many requests in flight":  {func(c *Config) { c.MaxRequestsInFlight = 51 }, errOutOfRange},
		"a negative refresh_token_ttl": {func(c *Config) { c.RefreshTokenTTL = -1 }, errOutOfRange},
		"a negative password_max_age":  {func(c *Config) { c.PasswordMaxAge = -1 }, errOutOfRange},
		"a negative expiry_warning":    {func(c *Config) { c.ExpiryWarning = -1 }, errOutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			config := sound
			test.change(&config)
			if err := config.prepare("default"); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if config.Name != "default" {
				t.Errorf("its name is %q", config.Name)
			}
		})
	}
}

func TestARoleBeyondItsBoundsIsDamage(t *testing.T) {
	zero, negative := time.Duration(0), time.Duration(-1)
	for name, test := range map[string]struct {
		role Role
		want error
	}{
		"shared":                        {Role{Config: "default", CredentialType: Shared, MinTTL: &zero}, nil},
		"dedicated":                     {Role{Config: "default", CredentialType: Dedicated}, nil},
		"without a config":              {Role{CredentialType: Shared}, errIncomplete},
		"of another kind":               {Role{Config: "default", CredentialType: "other"}, errIncomplete},
		"with a life of less than none": {Role{Config: "default", CredentialType: Shared, TTL: -1}, errOutOfRange},
		"with a negative min_ttl": {
			Role{Config: "default", CredentialType: Shared, MinTTL: &negative},
			errOutOfRange,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.role.prepare("monitoring"); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestWhyAnEntryCannotBeReadIsToldWithoutQuotingIt(t *testing.T) {
	for cause, want := range map[error]string{
		errNewer: errNewer.Error(), errIncomplete: errIncomplete.Error(), errOutOfRange: errOutOfRange.Error(),
		errors.New("invalid character 's' in secret"): "it is damaged",
	} {
		wrapped := fmt.Errorf("entry: %w", cause)
		if got := reasonOf(cause); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if err := error(&UnreadableError{Key: "role/a", Cause: wrapped}); !errors.Is(err, cause) {
			t.Errorf("%v does not tell its cause", err)
		}
	}
}

// The number tells an entry of a later version from a damaged one.
func TestAnEntryCarriesTheNumberOfItsForm(t *testing.T) {
	storage := &logical.InmemStorage{}
	roles := New(storage, hclog.NewNullLogger()).Roles
	put(t, roles, "a", Role{Config: "default"})
	stored, err := storage.Get(t.Context(), "role/a")
	if err != nil {
		t.Fatal(err)
	}
	var form struct {
		Format int    `json:"format"`
		Config string `json:"config"`
	}
	if err := stored.DecodeJSON(&form); err != nil || form.Format != 1 || form.Config != "default" {
		t.Errorf("%+v, %v", form, err)
	}
	stored.Value = []byte(`{"format":"1","config":"default","credential_type":"shared"}`)
	if err := decode(stored, &Role{}); err == nil {
		t.Error("an entry whose number is none is read")
	}
}

func TestTheTrustOfABundleIsWhatIsInIt(t *testing.T) {
	for bundle, want := range map[string]string{
		"": "", " \r\n ": "", "a": "a\n", "a\n": "a\n", "\n a\r\nb\rc\n\n": "a\nb\nc\n",
	} {
		if got := (&Config{CACert: bundle}).Authorities(); got != want {
			t.Errorf("%q: %q, want %q", bundle, got, want)
		}
	}
}

func TestAFlightMayTakeThreeAttemptsAndEndsBeforeVaultsClientsGiveUp(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		time.Second: 3 * time.Second, 10 * time.Second: 30 * time.Second, 18 * time.Second: 54 * time.Second,
		20 * time.Second: 55 * time.Second,
	} {
		if got := (&Config{RequestTimeout: timeout}).FlightLimit(); got != want {
			t.Errorf("request_timeout %s: %s, want %s", timeout, got, want)
		}
	}
}

func TestTheEndOfAUserAPITokenIsItsClaimWhereThatIsATime(t *testing.T) {
	token := func(claims string) string {
		encode := base64.RawURLEncoding.EncodeToString
		return encode([]byte(`{"alg":"HS256"}`)) + "." + encode([]byte(claims)) + ".c2ln"
	}
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	for name, test := range map[string]struct {
		token string
		want  time.Time
	}{
		"no JWT":              {"token", time.Time{}},
		"a JWT cut short":     {token(`{"exp":1800000000}`)[:40], time.Time{}},
		"no claim":            {token(`{}`), time.Time{}},
		"a claim of no type":  {token(`{"exp":"soon"}`), time.Time{}},
		"a claim":             {token(`{"exp":1800000000}`), at(1800000000)},
		"the first second":    {token(`{"exp":0}`), at(0)},
		"before":              {token(`{"exp":-1}`), time.Time{}},
		"the last second":     {token(`{"exp":253402300799}`), at(253402300799)},
		"after the year 9999": {token(`{"exp":253402300800}`), time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{UserAPIToken: test.token}
			_ = config.prepare("default")
			if got := config.UserAPITokenExpiresAt(); !got.Equal(test.want) {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestThePasswordsEndIsKnownWhereItsAgeAndItsLimitAre(t *testing.T) {
	set := time.Date(2026, 1, 1, 2, 0, 0, 0, time.FixedZone("", 7200))
	for name, test := range map[string]struct {
		config Config
		want   time.Time
	}{
		"both": {
			Config{PasswordChangedAt: set, PasswordMaxAge: 48 * time.Hour},
			time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC),
		},
		"no limit": {Config{PasswordChangedAt: set}, time.Time{}},
		"no age":   {Config{PasswordMaxAge: 48 * time.Hour}, time.Time{}},
	} {
		if got := test.config.PasswordExpiresAt(); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
