// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

func TestARefusalOfTheUserAPITokenIsOneOfAuthenticateAlone(t *testing.T) {
	for _, kind := range ncentral.Kinds() {
		refused := kind == ncentral.KindUnauthorized || kind == ncentral.KindForbidden
		mayBe := kind == ncentral.KindBadRequest || kind == ncentral.KindHiddenError
		for _, step := range ncentral.Calls() {
			failure := &Failure{Step: step, Kind: kind, Cause: &ncentral.Error{Kind: kind}}
			isAuthenticate := step == ncentral.CallAuthenticate
			if failure.CredentialRejected() != (refused && isAuthenticate) ||
				failure.MayBeRejection() != (mayBe && isAuthenticate) {
				t.Errorf("%s, %s: refused %t, in other words %t", step, kind, failure.CredentialRejected(),
					failure.MayBeRejection())
			}
		}
	}
}

func TestTheRemedyFitsTheStepAndTheKind(t *testing.T) {
	const none = ""
	for _, test := range []struct {
		step ncentral.Call
		kind ncentral.Kind
		want string // in it; empty where there is to be none
	}{
		{
			ncentral.CallAuthenticate, ncentral.KindUnauthorized,
			"write the token that the user has now, or a new one, to user_api_token",
		},
		{
			ncentral.CallAuthenticate, ncentral.KindForbidden,
			"write the token that the user has now, or a new one, to user_api_token",
		},
		{ncentral.CallValidate, ncentral.KindUnauthorized, none},
		{ncentral.CallData, ncentral.KindForbidden, none},
		{ncentral.CallAuthenticate, ncentral.KindUnreachable, "the server is up"},
		{ncentral.CallAuthenticate, ncentral.KindTimeout, "the server is up"},
		{ncentral.CallRefresh, ncentral.KindRateLimited, "lower max_requests_in_flight"},
		{ncentral.CallLinks, ncentral.KindMalformed, "without /api"},
		{ncentral.CallLinks, ncentral.KindNotFound, "without /api"},
		{ncentral.CallData, ncentral.KindServerError, "password has most likely expired"},
		{ncentral.CallData, ncentral.KindHiddenError, "password has most likely expired"},
		{ncentral.CallAuthenticate, ncentral.KindServerError, "or the API user's password has expired"},
		{ncentral.CallAuthenticate, ncentral.KindHiddenError, "or the API user's password has expired"},
		{ncentral.CallLinks, ncentral.KindBadRequest, "with its port"},
		{ncentral.CallAuthenticate, ncentral.KindBadRequest, "may mean that it refuses the User-API token"},
		{ncentral.CallRefresh, ncentral.KindBadRequest, none},
		{ncentral.CallValidate, ncentral.KindQueued, "raise max_requests_in_flight"},
		{ncentral.CallAuthenticate, ncentral.KindCanceled, none},
		{ncentral.CallAuthenticate, ncentral.KindUnavailable, none},
	} {
		failure := &Failure{Step: test.step, Kind: test.kind, Cause: &ncentral.Error{Call: test.step, Kind: test.kind}}
		if got := failure.Remedy(); (got == "") != (test.want == none) || !strings.Contains(got, test.want) {
			t.Errorf("%s, %s: %q, want %q in it", test.step, test.kind, got, test.want)
		}
	}
}

func TestAFailureTellsConfigStepCauseRemedyAndTheNextAttempt(t *testing.T) {
	cause := &ncentral.Error{Call: ncentral.CallRefresh, Kind: ncentral.KindQueued, Detail: "no place."}
	failure := &Failure{Config: "one", Step: ncentral.CallRefresh, Kind: ncentral.KindQueued, Cause: cause}
	const text = `config "one": refresh: the call waited too long for a place among the requests in flight: no ` +
		`place; try later, or raise max_requests_in_flight`
	if got := failure.Error(); got != text {
		t.Error(got)
	}
	if got := (&Failure{Config: "one", Cause: &ncentral.Error{
		Call: ncentral.CallRefresh,
		Kind: ncentral.KindServerError,
	}}).Error(); got != `config "one": refresh: N-central failed` {
		t.Error("without a remedy:", got)
	}
	failure.Next = time.Now().Add(-time.Second)
	if got := failure.Error(); got != text {
		t.Error("with a next attempt that is past:", got)
	}
	failure.Next = time.Now().Add(time.Hour)
	if got, want := failure.Error(),
		text+"; it is not tried again before "+failure.Next.UTC().Format(time.RFC3339); got != want {
		t.Error("with a next attempt to come:", got)
	}
	failure.Next = time.Time{}
	later := failure.NotMadeFor("two", ncentral.CallAuthenticate)
	if got := later.Error(); !strings.HasPrefix(got,
		`config "two": authenticate: not tried, since an earlier call failed: refresh: `) {
		t.Error(got)
	}
	if failure.NotMade || failure.Config != "one" {
		t.Error("the failure of the earlier call is changed:", failure)
	}
}

func TestAFailureOfTheTransportsOwnGetsTheCallThatItBelongsTo(t *testing.T) {
	own := &ncentral.Error{Kind: ncentral.KindQueued}
	failure := NewFailure(&storeConfig, ncentral.CallLogout, own)
	if own.Call != ncentral.CallLogout || failure.Step != ncentral.CallLogout || failure.Kind != ncentral.KindQueued ||
		failure.Config != "default" {
		t.Errorf("%+v, because of %+v", failure, own)
	}
	told := &ncentral.Error{Call: ncentral.CallValidate, Kind: ncentral.KindUnauthorized}
	if _ = NewFailure(&storeConfig, ncentral.CallLogout, told); told.Call != ncentral.CallValidate {
		t.Errorf("the call of an error that knows it becomes %s", told.Call)
	}
	if other := NewFailure(&storeConfig, ncentral.CallRefresh,
		errors.New("none of N-central's")); other.Step != ncentral.CallRefresh || other.Kind != "" {
		t.Errorf("another error becomes %+v", other)
	}
	if again := NewFailure(&storeConfig, ncentral.CallRefresh, errors.Join(failure)); again != failure {
		t.Errorf("a failure that is known becomes %+v", again)
	}
}

func TestAFailureIsDownWhereTimeMayMendItAndFinalWhereNot(t *testing.T) {
	down := map[ncentral.Kind]bool{
		ncentral.KindUnreachable: true, ncentral.KindTimeout: true, ncentral.KindRateLimited: true,
		ncentral.KindUnavailable: true, ncentral.KindQueued: true,
	}
	final := map[ncentral.Kind]bool{
		ncentral.KindUnauthorized: true, ncentral.KindForbidden: true, ncentral.KindBadRequest: true,
		ncentral.KindNotFound: true,
	}
	for _, kind := range ncentral.Kinds() {
		failure := &Failure{Step: ncentral.CallRefresh, Kind: kind, Cause: errors.New("no")}
		if failure.Down() != down[kind] || failure.Final() != final[kind] {
			t.Errorf("%s: down %t, final %t", kind, failure.Down(), failure.Final())
		}
	}
}
