// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

func TestWarningsBeginExpiryWarningAheadOfAnEnd(t *testing.T) {
	end := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	config := &store.Config{Name: "default", ExpiryWarning: 48 * time.Hour}
	tests := map[string]struct {
		at, now time.Time
		want    string
	}{
		"not known":   {time.Time{}, end, ""},
		"far":         {end, end.Add(-48*time.Hour - 1), ""},
		"just near":   {end, end.Add(-48 * time.Hour), " expires at 2026-03-01T12:00:00Z, "},
		"about to be": {end, end.Add(-1), " expires at 2026-03-01T12:00:00Z, "},
		"there":       {end, end, " expired at 2026-03-01T12:00:00Z, "},
		"long past":   {end, end.Add(1000 * time.Hour), " expired at 2026-03-01T12:00:00Z, "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := expiry{what: "the password", at: test.at, remedy: "set a new one"}.warning(config, test.now)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q in it", got, test.want)
			}
		})
	}
}

func TestOfPasswordAndTokenEachEndIsWarnedOf(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	config := &store.Config{
		Name: "default", ExpiryWarning: 48 * time.Hour, PasswordChangedAt: now.Add(-23 * time.Hour),
		PasswordMaxAge: 24 * time.Hour,
	}
	warnings := ExpiryWarnings(config, now)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "password expires at 2026-03-01T13:00:00Z") {
		t.Error(warnings)
	}
	config.PasswordMaxAge = 0
	if warnings := ExpiryWarnings(config, now); len(warnings) != 0 {
		t.Error("with password_max_age 0:", warnings)
	}
}

func TestAnEndIsToldOfOnceADayAndAgainWhenItIsThere(t *testing.T) {
	record, now := NewRecord("default"), time.Now()
	for i, test := range []struct {
		what, warning string
		after         time.Duration
		want          bool
	}{
		{"password", "", 0, false},
		{"password", "expires", 0, true},
		{"password", "expires", 0, false},
		{"password", "expires", 24*time.Hour - 1, false},
		{"token", "expires", 24*time.Hour - 1, true},
		{"password", "expires", 24 * time.Hour, true},
		{"password", "expires", 48*time.Hour - 1, false},
		{"password", "expired", 48*time.Hour - 1, true},
	} {
		if got := record.claimAnnouncement(test.what, test.warning, now.Add(test.after)); got != test.want {
			t.Errorf("%d: %s %q after %s: %t", i, test.what, test.warning, test.after, got)
		}
	}
}
