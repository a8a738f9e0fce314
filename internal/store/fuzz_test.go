// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// anyEntries are bytes that may lie in storage in an entry's place.
var anyEntries = []string{
	``, `null`, `{}`, `[]`, `1`, `"text"`, `{"format":1`, `{"format":2}`, `{"format":"1"}`, `{"format":-1}`,
	"\x1f\x8b\b", "\x00\xff",
	`{"format":1,"url":"https://ncentral.example.com","user_api_token":"a.b.c","request_timeout":10000000000,` +
		`"written_at":"2026-01-02T03:04:05Z"}`,
	`{"url":"https://ncentral.example.com","user_api_token":"a.b.c",` +
		`"password_changed_at":"9999-12-31T23:59:59-23:59","password_max_age":9223372036854775807}`,
	`{"format":1,"config":"default","credential_type":"shared","ttl":-1,"min_ttl":-9223372036854775808,"lease":true}`,
	`{"config":"default","credential_type":"neither"}`,
	`{"config_fingerprint":"a","role_fingerprint":"b","current":{"config":"default",` +
		`"url":"https://ncentral.example.com","access_token":"a","issued_at":"9999-12-31T23:59:59Z",` +
		`"expires_at":"9999-12-31T23:59:59Z","dies_at":"9999-12-31T23:59:59Z"},"earlier":[{},null]}`,
	`{"current":{},"earlier":[{"dies_at":"0000-01-01T00:00:00Z"}]}`,
	`{"url":"https://ncentral.example.com","clock_offset":-9223372036854775808,"can_log_out":null,"epoch":-1}`,
	`{"config":"default","url":"https://ncentral.example.com","access_token":"a","dies_at":"9999-12-31T23:59:59Z"}`,
}

// FuzzStoredEntries puts any bytes in the place of one entry of each kind. That one is readable, or
// an error of its own; it can be used as far as it is readable, and overwritten; and the entries
// beside it are what they were.
func FuzzStoredEntries(f *testing.F) {
	for _, value := range anyEntries {
		f.Add([]byte(value))
	}
	config := Config{
		URL: "https://ncentral.example.com", UserAPIToken: "a.b.c", RequestTimeout: time.Second,
		MaxRequestsInFlight: 1,
	}
	role := Role{Config: "default", CredentialType: Shared}
	session := Session{Current: &Token{AccessToken: "a", GrantedUntil: time.Now().Add(time.Hour)}}
	f.Fuzz(func(t *testing.T, value []byte) {
		storage := &logical.InmemStorage{}
		s := New(storage, hclog.NewNullLogger())
		replaceOne(t, storage, s.Configs, value, config)
		replaceOne(t, storage, s.Roles, value, role)
		replaceOne(t, storage, s.Sessions, value, session)
		replaceOne(t, storage, s.Traits, value, ServerTraits{URL: config.URL})

		if err := storage.Put(t.Context(), &logical.StorageEntry{
			Key:   "owed/default/damaged/999999999999-a",
			Value: value,
		}); err != nil {
			t.Fatal(err)
		}
		sound := owe(t, s, "default", "sound", time.Now().Add(time.Hour))
		debts := listOwed(t, s, 10)
		if !slices.ContainsFunc(debts, func(debt PendingLogout) bool { return debt.Key == sound.Key }) {
			t.Errorf("the debt beside it is not listed: %v", debts)
		}
	})
}

func replaceOne[T any](t *testing.T, storage logical.Storage, entries *Collection[T], value []byte, sound T) {
	t.Helper()
	beside := sound
	if err := entries.Put(t.Context(), "sound", &beside); err != nil {
		t.Fatal(err)
	}
	if err := storage.Put(t.Context(), &logical.StorageEntry{
		Key:   entries.prefix + "damaged",
		Value: value,
	}); err != nil {
		t.Fatal(err)
	}
	entry, err := entries.Get(t.Context(), "damaged")
	var unreadable *UnreadableError
	if err != nil && (!errors.As(err, &unreadable) || entries.instead != nil) {
		t.Errorf("%s: %v", entries.prefix, err)
	}
	if entry != nil {
		use(entry)
		_ = entries.Put(t.Context(), "damaged", entry) // a time that cannot be written is an error
	}
	all, _ := entries.All(t.Context())
	if !slices.Contains(all, &beside) {
		t.Errorf("%s: the entry beside it is gone", entries.prefix)
	}
	if err := entries.Put(t.Context(), "damaged", &sound); err != nil {
		t.Errorf("%s: it cannot be overwritten: %v", entries.prefix, err)
	}
	entries.forget("damaged")
	if read := get(t, entries, "damaged"); read == nil {
		t.Errorf("%s: what was written over it is not there", entries.prefix)
	}
	if err := entries.Delete(t.Context(), "damaged"); err != nil {
		t.Errorf("%s: it cannot be deleted: %v", entries.prefix, err)
	}
}

// use has worked out what the engine works out of an entry.
func use(entry any) {
	now := time.Now()
	switch entry := entry.(type) {
	case *Config:
		_, _, _ = entry.PasswordExpiresAt(), entry.UserAPITokenExpiresAt(), entry.FlightLimit()
	case *Role:
		_ = entry.MinTTLWithin(entry.ExpectedLifetime())
	case *Session:
		_ = entry.Tokens(now)
		_, _ = entry.PastPromise(now)
		_, _ = entry.EarlierAfter(&Token{}, now)
		_ = entry.Lapsed(now, now, now)
	}
}

// FuzzClaimsOfAUserAPIToken has any claims in a User-API token, which is read and never trusted:
// its expiry is one that an answer can tell, or none.
func FuzzClaimsOfAUserAPIToken(f *testing.F) {
	for _, claims := range []string{
		`{}`, `null`, `[]`, `{"exp":1800000000}`, `{"exp":1e300}`, `{"exp":-1}`, `{"exp":"1800000000"}`, `{"exp":null}`,
		`{"exp":253402300800}`,
		`{"exp":1800000000.5,"nbf":"never"}`, `{"exp":0}`, `{"aud":[1]}`, ``, `{"exp":{}}`,
	} {
		f.Add([]byte(claims))
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`))
		for _, token := range []string{string(claims), header + "." + base64.RawURLEncoding.EncodeToString(claims) +
			".c2ln"} {
			at := expiryOf(token)
			if told, err := time.Parse(time.RFC3339, at.Format(time.RFC3339)); err != nil ||
				!told.Equal(at.Truncate(time.Second)) || at.Before(time.Unix(0, 0)) && !at.IsZero() {
				t.Errorf("expires at %s: %v", at, err)
			}
		}
	})
}
