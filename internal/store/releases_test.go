// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What releases have stored is read by this version, and what this version stores by the releases
// of the same form. testdata/releases has a file for each version, which holds what it stores for
// the same entries. go test ./internal/store -update writes that of backend/VERSION.

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

var update = flag.Bool("update", false, "write what this version stores to testdata/releases")

// stored is the entries of a version, by key.
type stored map[string]json.RawMessage

// idOfLogout is the random part of a key.
var idOfLogout = regexp.MustCompile(`-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func at(clock string) time.Time {
	parsed, err := time.Parse(time.RFC3339, clock)
	if err != nil {
		panic(err)
	}
	return parsed
}

// The entries of which every version says how it stores them. Each kind has one in which every
// field is set, and those with optional fields one with none of these. When a field is added, set
// it here; change nothing else. Their time is about that of a synctest bubble.
var (
	fullConfig = Config{
		URL: "https://ncentral.example.com", UserAPIToken: "not-a-real-user-api-token", CACert: "not a certificate",
		TLSServerName: "other.example.com", TLSSkipVerify: true, RequestTimeout: 10 * time.Second, MaxRetries: 3,
		MaxRequestsInFlight: 20, RefreshTokenTTL: 24 * time.Hour, PasswordChangedAt: at("1999-12-01T00:00:00Z"),
		PasswordMaxAge: 90 * 24 * time.Hour, ExpiryWarning: 14 * 24 * time.Hour,
		UserAPITokenSetAt: at("1999-12-01T12:00:00Z"), WrittenAt: at("1999-12-01T12:00:00Z"),
	}
	leastConfig = Config{
		URL: "https://ncentral.example.com", UserAPIToken: "another-that-is-no-user-api-token",
		RequestTimeout: time.Second, MaxRequestsInFlight: 1, UserAPITokenSetAt: at("1999-12-01T13:00:00Z"),
		WrittenAt: at("1999-12-01T13:00:00Z"),
	}
	minTTL   = 5 * time.Minute
	fullRole = Role{
		Config: "full", CredentialType: Shared, TTL: 55 * time.Minute, MinTTL: &minTTL, Lease: true,
		FallbackConfigs: []string{"least"}, RereadInterval: 10 * time.Minute,
	}
	leastRole  = Role{Config: "least", CredentialType: Dedicated}
	fullOrigin = Origin{Config: "full", URL: "https://ncentral.example.com"}
	fullToken  = Token{
		Origin: fullOrigin, AccessToken: "not-a-real-access-token", TokenType: "Bearer",
		RefreshToken: "not-a-real-refresh-token", ObtainedBy: ByRefresh, Chain: "not-a-real-chain",
		IssuedAt: at("1999-12-31T23:50:00Z"), ExpiresAt: at("2000-01-01T00:45:00Z"),
		GrantedUntil:     at("2000-01-01T00:50:00Z"),
		RefreshExpiresAt: at("2000-01-02T00:50:00Z"), LastValidatedAt: at("1999-12-31T23:59:00Z"), Epoch: 2,
		Warnings: []string{"a warning"},
	}
	leastToken = Token{
		Origin: fullOrigin, AccessToken: "another-that-is-no-access-token", ObtainedBy: ByAuthenticate,
		IssuedAt: at("1999-12-31T23:40:00Z"), ExpiresAt: at("2000-01-01T00:35:00Z"),
		GrantedUntil: at("2000-01-01T00:40:00Z"),
	}
	fullSession = Session{Current: &fullToken, Earlier: []Token{leastToken}, LastReadAt: at("1999-12-31T23:58:00Z")}
	offset, yes = time.Second, true
	fullTraits  = ServerTraits{
		URL: "https://ncentral.example.com", ServerVersion: "2026.1.0.0", ClockOffset: &offset,
		StartTime: "a start time",
		CanLogOut: &yes, CanValidate: &yes, RefreshEndsPredecessor: &yes, AuthenticateEndsEarlierSessions: &yes,
		RefreshRejected: true, AccessOverrideCeiling: time.Minute, RefreshOverrideCeiling: time.Hour, Epoch: 2,
	}
	leastTraits = ServerTraits{URL: "https://ncentral.example.com"}
	fullOut     = OutOfService{
		ConfigWrittenAt: leastConfig.WrittenAt, Since: at("1999-12-31T23:00:00Z"), Kind: "refused",
		Reason: "a reason", UserFails: true,
	}
	fullLogout = PendingLogout{
		Origin: fullOrigin, AccessToken: "a-third-that-is-no-access-token", GrantedUntil: at("2000-01-01T00:50:00Z"),
	}
)

// storedByThisVersion returns what this version stores for the entries.
func storedByThisVersion(t *testing.T) stored {
	t.Helper()
	storage := &logical.InmemStorage{}
	s := New(storage, hclog.NewNullLogger())
	config, role, session, out := fullConfig, fullRole, fullSession, fullOut
	least, leastOfRole, traits, leastOfTraits := leastConfig, leastRole, fullTraits, leastTraits
	_, owedErr := s.PutPendingLogout(t.Context(), "full", fullLogout)
	err := errors.Join(
		s.Configs.Put(t.Context(), "full", &config), s.Configs.Put(t.Context(), "least", &least),
		s.Roles.Put(t.Context(), "full", &role), s.Roles.Put(t.Context(), "least", &leastOfRole), owedErr,
		s.Traits.Put(t.Context(), "full", &traits), s.Traits.Put(t.Context(), "least", &leastOfTraits),
		s.OutOfService.Put(t.Context(), "least", &out),
	)
	session.ConfigFingerprint, session.RoleFingerprint = config.Fingerprint(), role.Fingerprint()
	if err := errors.Join(err, s.Sessions.Put(t.Context(), "full", &session)); err != nil {
		t.Fatal(err)
	}
	entries := stored{}
	keys, err := logical.CollectKeys(t.Context(), storage)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		entry, err := storage.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		key = idOfLogout.ReplaceAllString(key, "-00000000-0000-0000-0000-000000000000")
		entries[key] = bytes.TrimSpace(entry.Value)
	}
	return entries
}

func fileOf(version string) string { return filepath.Join("testdata", "releases", version+".json") }

// thisVersion returns the version that is being worked on, or is being released.
func thisVersion(t *testing.T) string {
	t.Helper()
	version, err := os.ReadFile("../../backend/VERSION")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(version))
}

func storedBy(t *testing.T, file string) stored {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: go test ./internal/store -update writes that of this version", err)
	}
	var entries stored
	if err := json.Unmarshal(content, &entries); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return entries
}

// forEachRelease runs the test in a bubble, on what each version stores.
func forEachRelease(t *testing.T, test func(t *testing.T, entries stored)) {
	t.Helper()
	files, err := filepath.Glob(fileOf("*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, storedBy(t, file)) })
		})
	}
}

// fieldsOf returns the fields of an entry.
func fieldsOf(t *testing.T, entry []byte) map[string]any {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(entry, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// lacks returns where later lacks a field of earlier, or has another value for it.
func lacks(later, earlier any, path string) []string {
	switch earlier := earlier.(type) {
	case map[string]any:
		fields, same := later.(map[string]any)
		if !same {
			return []string{path}
		}
		var lacking []string
		for name, value := range earlier {
			lacking = append(lacking, lacks(fields[name], value, path+"."+name)...)
		}
		return lacking
	case []any:
		values, same := later.([]any)
		if !same || len(values) != len(earlier) {
			return []string{path}
		}
		var lacking []string
		for i := range earlier {
			lacking = append(lacking, lacks(values[i], earlier[i], path)...)
		}
		return lacking
	}
	if later != earlier {
		return []string{path}
	}
	return nil
}

// storageWith returns storage that holds those entries.
func storageWith(t *testing.T, entries stored) *logical.InmemStorage {
	t.Helper()
	storage := &logical.InmemStorage{}
	for key, value := range entries {
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	return storage
}

// readAs reads the entry of that key in the way of its kind.
func readAs(t *testing.T, s *Store, key string) (entry any, err error) {
	t.Helper()
	prefix, name, _ := strings.Cut(key, "/")
	ctx := t.Context()
	switch prefix + "/" {
	case configPrefix:
		entry, err = s.Configs.Get(ctx, name)
	case rolePrefix:
		entry, err = s.Roles.Get(ctx, name)
	case sessionPrefix:
		entry, err = s.Sessions.Get(ctx, name)
	case learntPrefix:
		entry, err = s.Traits.Get(ctx, name)
	case outPrefix:
		entry, err = s.OutOfService.Get(ctx, name)
	case owedPrefix:
		entry, err = s.owed(ctx, key)
	default:
		t.Fatalf("no kind of entry has the key %s", key)
	}
	if reflect.ValueOf(entry).IsNil() {
		return nil, err
	}
	return entry, err
}

// The form of a release never changes: whoever changes how an entry is stored raises the version in
// backend/VERSION, unless that is not released yet, and writes its file.
func TestTheFormOfThisVersionIsTheOneThatIsWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := storedByThisVersion(t)
		file := fileOf(thisVersion(t))
		if *update {
			content, err := json.MarshalIndent(entries, "", "  ")
			if err := errors.Join(err, os.WriteFile(file, append(content, '\n'), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		writtenDown := storedBy(t, file)
		for key := range writtenDown {
			if entries[key] == nil {
				t.Errorf("%s has %s, which is not stored", file, key)
			}
		}
		for key, entry := range entries {
			if writtenDown[key] == nil {
				t.Fatalf("%s lacks %s: go test ./internal/store -update", file, key)
			}
			if diff := cmp.Diff(fieldsOf(t, writtenDown[key]), fieldsOf(t, entry)); diff != "" {
				t.Errorf("%s is not stored as %s has it. If that version is released, raise backend/VERSION first. "+
					"Then: go test ./internal/store -update\n%s", key, file, diff)
			}
		}
	})
}

func TestEveryFieldThatIsStoredIsWrittenDown(t *testing.T) {
	session := fullSession
	session.ConfigFingerprint, session.RoleFingerprint = "as the config has it", "as the role has it"
	for _, full := range []any{fullConfig, fullRole, session, fullToken, fullTraits, fullOut, fullLogout} {
		value := reflect.ValueOf(full)
		for _, field := range reflect.VisibleFields(value.Type()) {
			if field.IsExported() && field.Tag.Get("json") != "-" && value.FieldByIndex(field.Index).IsZero() {
				t.Errorf("the entries here lack %s.%s: set it, then go test ./internal/store -update",
					value.Type(), field.Name)
			}
		}
	}
}

func TestThisVersionReadsWhatReleasesStored(t *testing.T) {
	forEachRelease(t, func(t *testing.T, entries stored) {
		s := New(storageWith(t, entries), hclog.NewNullLogger())
		for key, value := range entries {
			entry, err := readAs(t, s, key)
			if err != nil || entry == nil {
				t.Errorf("%s is read as %v, %v", key, entry, err)
				continue
			}
			again, err := encode(key, entry)
			if err != nil {
				t.Fatal(err)
			}
			earlier := fieldsOf(t, value)
			delete(earlier, "format")
			if lost := lacks(fieldsOf(t, again.Value), earlier, key); lost != nil {
				t.Errorf("read and written again, these are lost or changed: %v", lost)
			}
		}
		if logouts, err := s.ListPendingLogouts(t.Context(), 9); err != nil || len(logouts) != 1 {
			t.Errorf("logouts owed: %v, %v", logouts, err)
		}
	})
}

// Releases of the same form take an entry of this version for one of theirs. They ignore fields
// that they do not know, so this version may add some, and no more.
func TestReleasesOfTheSameFormReadWhatThisVersionStores(t *testing.T) {
	forEachRelease(t, func(t *testing.T, entries stored) {
		now := storedByThisVersion(t)
		for key, value := range entries {
			earlier := fieldsOf(t, value)
			if earlier["format"] != float64(currentFormat) {
				continue // to that release this version's entries are of a newer one, which its error says
			}
			if now[key] == nil {
				t.Errorf("%s is not stored any more: raise currentFormat", key)
			} else if lost := lacks(fieldsOf(t, now[key]), earlier, key); lost != nil {
				t.Errorf("that release would miss or misread these: keep them, or raise currentFormat: %v", lost)
			}
		}
	})
}

// What a release of a later form stores is no damage to this version.
func TestAnEntryOfALaterFormSaysSoWhateverItsKind(t *testing.T) {
	forEachRelease(t, func(t *testing.T, entries stored) {
		for key, value := range entries {
			later := fieldsOf(t, value)
			later["format"] = currentFormat + 1
			encoded, err := json.Marshal(later)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s := New(storageWith(t, stored{key: encoded}), hclog.New(&hclog.LoggerOptions{Output: &log}))
			entry, err := readAs(t, s, key)
			traits, isTraits := entry.(*ServerTraits)
			if entry != nil && (!isTraits || traits.URL != "") {
				t.Errorf("%s is read: %+v", key, entry)
			}
			told := log.String()
			if err != nil {
				told = err.Error()
			}
			if !strings.Contains(told, errNewer.Error()) {
				t.Errorf("%s: %s", key, told)
			}
		}
	})
}
