// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Of what N-central refuses to be asked for, no more is left out than it must be.
func TestAfterA400TheOverrideThatItNamesIsLeftOutElseTheAccessOverrideElseBoth(t *testing.T) {
	const access, refresh = 10 * time.Minute, 2 * time.Hour
	both := ncentral.Overrides{Access: access, Refresh: refresh}
	accessAlone, refreshAlone, none := ncentral.Overrides{Access: access}, ncentral.Overrides{Refresh: refresh},
		ncentral.Overrides{}
	tests := map[string]struct {
		sent    ncentral.Overrides
		fields  []string
		named   ncentral.Overrides
		askNext ncentral.Overrides
	}{
		"access named":  {both, []string{ncentral.AccessOverride}, accessAlone, refreshAlone},
		"refresh named": {both, []string{ncentral.RefreshOverride}, refreshAlone, accessAlone},
		"both named": {
			both,
			[]string{ncentral.AccessOverride, ncentral.RefreshOverride},
			both,
			none,
		},
		"neither named":                   {both, nil, none, refreshAlone},
		"one sent, and named":             {accessAlone, []string{ncentral.AccessOverride}, accessAlone, none},
		"access sent, neither named":      {accessAlone, nil, none, none},
		"refresh sent, neither named":     {refreshAlone, nil, none, none},
		"another named than what is sent": {refreshAlone, []string{ncentral.AccessOverride}, none, none},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			named := namedIn(&health.Failure{Cause: &ncentral.Error{Status: 400, Fields: test.fields}}, test.sent)
			if named != test.named {
				t.Errorf("named: %+v, want %+v", named, test.named)
			}
			if next := lessThan(test.sent, named); next != test.askNext {
				t.Errorf("asked for next: %+v, want %+v", next, test.askNext)
			}
		})
	}
	if named := namedIn(errors.New("no answer"), both); named != none {
		t.Errorf("an error that is no answer names %+v", named)
	}
}

func TestALifetimeThatWasRefusedIsNotAskedForAgainAndAShorterOneIs(t *testing.T) {
	refused := store.ServerTraits{AccessOverrideCeiling: 10 * time.Minute, RefreshOverrideCeiling: time.Hour}
	tests := map[string]struct {
		asked, want ncentral.Overrides
		traits      store.ServerTraits
	}{
		"nothing was refused": {
			ncentral.Overrides{Access: time.Hour, Refresh: time.Hour},
			ncentral.Overrides{Access: time.Hour, Refresh: time.Hour},
			store.ServerTraits{},
		},
		"as long": {ncentral.Overrides{Access: 10 * time.Minute, Refresh: time.Hour}, ncentral.Overrides{}, refused},
		"longer": {
			ncentral.Overrides{Access: 11 * time.Minute, Refresh: 2 * time.Hour},
			ncentral.Overrides{},
			refused,
		},
		"a shorter access token": {
			ncentral.Overrides{Access: 10*time.Minute - 1, Refresh: time.Hour},
			ncentral.Overrides{Access: 10*time.Minute - 1},
			refused,
		},
		"a shorter refresh token": {
			ncentral.Overrides{Access: 10 * time.Minute, Refresh: time.Hour - 1},
			ncentral.Overrides{Refresh: time.Hour - 1},
			refused,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := withoutRefused(test.asked, test.traits); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// A 400 for an Authorization that a proxy took out judges no override: the call is not repeated for
// it.
func TestA400ThatMayRefuseOverridesIsTold(t *testing.T) {
	for err, want := range map[error]bool{
		&health.Failure{Cause: &ncentral.Error{Status: 400}}:                                         true,
		&health.Failure{Cause: &ncentral.Error{Status: 400, Fault: ncentral.FaultWebPage}}:           true,
		&health.Failure{Cause: &ncentral.Error{Status: 400, Fault: ncentral.FaultAuthorizationLost}}: false,
		&health.Failure{Cause: &ncentral.Error{Status: 401}}:                                         false,
		errors.New("no"): false,
		nil:              false,
	} {
		if isBadRequest(err) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
}

func TestTheShortestLifetimeThatWasRefusedIsKept(t *testing.T) {
	for _, test := range []struct{ one, other, want time.Duration }{
		{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {5, 3, 3}, {3, 5, 3},
	} {
		if got := shorter(test.one, test.other); got != test.want {
			t.Errorf("of %d and %d: %d, want %d", test.one, test.other, got, test.want)
		}
	}
	named, leftOut := ncentral.Overrides{Access: 7}, ncentral.Overrides{Refresh: 9}
	for _, got := range []ncentral.Overrides{merged(named, leftOut), merged(leftOut, named)} {
		if got != (ncentral.Overrides{Access: 7, Refresh: 9}) {
			t.Errorf("refused are %+v", got)
		}
	}
}
