// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestDefaults(t *testing.T) {
	parsed, err := parseOptions(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := options{
		listen: "127.0.0.1:0", adminListen: "127.0.0.1:0", user: "api-user",
		knobs: simulator.DefaultKnobs(),
	}
	if parsed != want {
		t.Errorf("got %+v, want %+v", parsed, want)
	}
}

// TestEveryKnobHasItsFlag sets each flag, except the boolean ones, to a different value.
func TestEveryKnobHasItsFlag(t *testing.T) {
	arguments := strings.Fields(`-listen localhost:1 -admin-listen [::1]:2 -plain-http -user some-user
		-user-api-token-file t -ignore-overrides -refuse-long-overrides -ignore-bad-overrides
		-grant-longer-by 1s -access-limit 2s -refresh-limit 3s
		-omit-expiry-seconds -single-use-refresh-tokens -refresh-ends-predecessor -lenient-refresh-content-type
		-logout-absent -authenticate-ends-earlier-sessions -regenerate-ends-sessions
		-expired-password-refuses-authenticate -data-forbidden -hide-core-errors -links-nested -omit-start-time
		-override-errors-name-field=false -validate-absent -logout-ends-chain -password-change-ends-sessions
		-expired-password-fails-user -barred-users-authenticate -user-absent -user-forbidden -three-links
		-server-version x -max-in-flight 4 -retry-after-seconds 5 -latency 6s -clock-offset -7s`)
	parsed, err := parseOptions(append(arguments, "-hidden-error-key", "error message"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := options{
		listen: "localhost:1", adminListen: "[::1]:2", plainHTTP: true, user: "some-user", userAPITokenFile: "t",
		knobs: simulator.Knobs{
			IgnoreOverrides: true, RefuseLongOverrides: true, IgnoreBadOverrides: true,
			GrantLongerBy: time.Second, AccessLimit: 2 * time.Second, RefreshLimit: 3 * time.Second,
			OmitExpirySeconds: true, SingleUseRefreshTokens: true, RefreshEndsPredecessor: true,
			LogoutEndsChain: true, PasswordChangeEndsSessions: true, ExpiredPasswordFailsUser: true,
			BarredUsersAuthenticate: true,
			UserAbsent:              true, UserForbidden: true, ThreeLinks: true,
			LenientRefreshContentType: true, LogoutAbsent: true, ValidateAbsent: true,
			AuthenticateEndsEarlierSessions: true,
			RegenerateEndsSessions:          true, ExpiredPasswordRefusesAuthenticate: true, DataForbidden: true,
			HideCoreErrors: true, HiddenErrorKey: "error message", LinksNested: true, OmitStartTime: true,
			ServerVersion: "x",
			MaxInFlight:   4, RetryAfterSeconds: 5, Latency: 6 * time.Second, ClockOffset: -7 * time.Second,
		},
	}
	if parsed != want {
		t.Errorf("got %+v, want %+v", parsed, want)
	}
}

func TestUsage(t *testing.T) {
	var printed strings.Builder
	if code := run(t.Context(), []string{"-h"}, io.Discard, &printed); code != 0 {
		t.Errorf("got code %d", code)
	}
	var empty options
	empty.flagSet().VisitAll(func(described *flag.Flag) {
		if described.Usage == "" || !strings.Contains(printed.String(), "  -"+described.Name) {
			t.Errorf("-%s is not described", described.Name)
		}
	})
}

func TestBadFlags(t *testing.T) {
	tests := map[string]string{
		"-nonsense":         "flag provided but not defined: -nonsense",
		"-latency x":        `invalid value "x" for flag -latency`,
		"-max-in-flight 0":  "-max-in-flight: must be at least 1",
		"-access-limit 1ms": "-access-limit: must be at least 1s",
		"-hidden-error-key x": `-hidden-error-key: must be one of ` +
			`["Error Message" "error message"], not "x"`,
		"-listen 0.0.0.0:0":                     "-listen: \"0.0.0.0:0\" is not a loopback address",
		"-listen :0":                            "-listen: \":0\" is not a loopback address",
		"-listen 127.0.0.1":                     "-listen: \"127.0.0.1\" is not host:port",
		"-admin-listen 192.0.2.1:80":            "-admin-listen: \"192.0.2.1:80\" is not a loopback address",
		"-admin-listen example.com:80":          "-admin-listen: \"example.com:80\" is not a loopback address",
		"-plain-http -ca-cert-file certificate": "-ca-cert-file: there is no certificate with -plain-http",
		"-user=":                                "-user: must not be empty",
		"serve":                                 `unexpected argument "serve"`,
	}
	for arguments, want := range tests {
		var printed strings.Builder
		code := run(t.Context(), strings.Fields(arguments), io.Discard, &printed)
		if code != 2 || !strings.HasPrefix(printed.String(), "ncentral-simulator: "+want) ||
			strings.Count(printed.String(), "\n") != 1 {
			t.Errorf("%s: got code %d, %q, want 2, %q", arguments, code, printed.String(), want)
		}
	}
}
