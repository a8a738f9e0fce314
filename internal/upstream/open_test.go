// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// A lifetime that no token of N-central has is an answer gone wrong: of the access token it makes
// the session one that is of no use and is to be ended, of the refresh token one that is refreshed
// no more.
func TestLifetimesOfNoUseAreRefused(t *testing.T) {
	const year = 366 * 24 * time.Hour
	for name, test := range map[string]struct {
		session ncentral.Session
		asked   ncentral.Overrides
		access  time.Duration
		refresh time.Duration // 0: no refresh token is left
		ofNoUse bool
	}{
		"stated": {
			session: ncentral.Session{
				AccessLifetime: time.Minute, AccessLifetimeStated: true,
				RefreshLifetime: time.Hour, RefreshLifetimeStated: true,
			},
			access: time.Minute, refresh: time.Hour,
		},
		"stated, whatever was asked for": {
			session: ncentral.Session{
				AccessLifetime: time.Minute, AccessLifetimeStated: true,
				RefreshLifetime: time.Hour, RefreshLifetimeStated: true,
			},
			asked:  ncentral.Overrides{Access: time.Second, Refresh: time.Second},
			access: time.Minute, refresh: time.Hour,
		},
		"unstated": {access: time.Hour, refresh: 25 * time.Hour},
		"unstated, and shorter asked for": {
			asked:  ncentral.Overrides{Access: time.Minute, Refresh: time.Hour},
			access: time.Minute, refresh: time.Hour,
		},
		"unstated, and longer asked for": {
			asked:  ncentral.Overrides{Access: 2 * time.Hour, Refresh: 50 * time.Hour},
			access: time.Hour, refresh: 25 * time.Hour,
		},
		"an access token of 2 s": {
			session: ncentral.Session{AccessLifetime: 2 * time.Second, AccessLifetimeStated: true}, access: time.Hour,
			refresh: 25 * time.Hour, ofNoUse: true,
		},
		"an access token of just over 2 s": {
			session: ncentral.Session{AccessLifetime: 2*time.Second + 1, AccessLifetimeStated: true},
			access:  2*time.Second + 1, refresh: 25 * time.Hour,
		},
		"an access token of a year": {
			session: ncentral.Session{AccessLifetime: year, AccessLifetimeStated: true}, access: year,
			refresh: 25 * time.Hour,
		},
		"an access token of more than a year": {
			session: ncentral.Session{AccessLifetime: year + 1, AccessLifetimeStated: true}, access: time.Hour,
			refresh: 25 * time.Hour, ofNoUse: true,
		},
		"a refresh token of no life": {
			session: ncentral.Session{RefreshLifetimeStated: true}, access: time.Hour,
		},
		"a refresh token of a moment": {
			session: ncentral.Session{RefreshLifetime: 1, RefreshLifetimeStated: true}, access: time.Hour, refresh: 1,
		},
		"a refresh token of a year": {
			session: ncentral.Session{RefreshLifetime: year, RefreshLifetimeStated: true}, access: time.Hour,
			refresh: year,
		},
		"a refresh token of more than a year": {
			session: ncentral.Session{RefreshLifetime: year + 1, RefreshLifetimeStated: true}, access: time.Hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.session.AccessToken, test.session.RefreshToken = "access", "refresh"
			grant, err := (&Server{config: &storeConfig}).judge(ncentral.CallRefresh, &test.session, test.asked)
			if unusable, ok := errors.AsType[*UnusableGrantError](err); ok {
				grant = &unusable.Grant
			}
			if grant.Access != test.access || grant.Refresh != test.refresh ||
				(grant.RefreshToken != "") != (test.refresh > 0) {
				t.Errorf("access %s, refresh %s, refresh token %q", grant.Access, grant.Refresh, grant.RefreshToken)
			}
			var failure *health.Failure
			if errors.As(err, &failure) != test.ofNoUse || test.ofNoUse &&
				(failure.Kind != ncentral.KindMalformed || failure.Step != ncentral.CallRefresh) {
				t.Error(err)
			}
		})
	}
}

// Only an answer that was lost on its way leaves open whether N-central acted on the call.
func TestWhetherACallThatFailedMayHaveArrived(t *testing.T) {
	for name, test := range map[string]struct {
		cause error
		want  bool
	}{
		"no answer in time":           {&ncentral.Error{Kind: ncentral.KindTimeout}, true},
		"the connection broke":        {&ncentral.Error{Kind: ncentral.KindUnreachable}, true},
		"no connection":               {&ncentral.Error{Kind: ncentral.KindUnreachable, NotSent: true}, false},
		"a connection that timed out": {&ncentral.Error{Kind: ncentral.KindTimeout, NotSent: true}, false},
		"none that is trusted": {&ncentral.Error{
			Kind: ncentral.KindUnreachable, NotSent: true,
			Fault: ncentral.FaultSelfSigned,
		}, false},
		"no certificate for the server": {&ncentral.Error{
			Kind:  ncentral.KindUnreachable,
			Fault: ncentral.FaultClientCertificate,
		}, false},
		"an answer that is not whole":  {&ncentral.Error{Kind: ncentral.KindMalformed, Status: 200}, true},
		"a page of something before":   {&ncentral.Error{Kind: ncentral.KindMalformed, Status: 302}, false},
		"a proxy that waited in vain":  {&ncentral.Error{Kind: ncentral.KindUnavailable, Status: 504}, true},
		"a proxy that finds no server": {&ncentral.Error{Kind: ncentral.KindUnavailable, Status: 502}, false},
		"a refusal":                    {&ncentral.Error{Kind: ncentral.KindUnauthorized, Status: 401}, false},
		"no place in time":             {&ncentral.Error{Kind: ncentral.KindQueued}, false},
		"no answer at all":             {errors.New("no"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mayHaveArrived(&health.Failure{Cause: test.cause}); got != test.want {
				t.Errorf("%t, want %t", got, test.want)
			}
			if mayHaveArrived(&health.Failure{Cause: test.cause, NotMade: true}) {
				t.Error("a call that was not made may have arrived")
			}
		})
	}
}
