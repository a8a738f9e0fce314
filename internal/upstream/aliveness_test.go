// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"testing"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// Validate decides; where it tells nothing, the data call does. What does not answer tells of no
// token.
func TestWhetherATokenLivesIsValidatesWordElseTheDataCalls(t *testing.T) {
	const well ncentral.Kind = ""
	tests := []struct {
		validate, data ncentral.Kind
		want           aliveness
		dataAsked      bool
		why            ncentral.Kind // whose failure is the error; none where the answer is certain
	}{
		{validate: well, want: alive},
		{validate: ncentral.KindUnauthorized, want: dead},
		{validate: ncentral.KindUnreachable, want: unanswered, why: ncentral.KindUnreachable},
		{validate: ncentral.KindTimeout, want: unanswered, why: ncentral.KindTimeout},
		{validate: ncentral.KindRateLimited, want: unanswered, why: ncentral.KindRateLimited},
		{validate: ncentral.KindUnavailable, want: unanswered, why: ncentral.KindUnavailable},
		{validate: ncentral.KindQueued, want: unanswered, why: ncentral.KindQueued},
		{validate: ncentral.KindCanceled, want: unanswered, why: ncentral.KindCanceled},

		{validate: ncentral.KindNotFound, data: well, want: alive, dataAsked: true},
		{validate: ncentral.KindForbidden, data: ncentral.KindForbidden, want: alive, dataAsked: true},
		{validate: ncentral.KindMalformed, data: ncentral.KindUnauthorized, want: dead, dataAsked: true},
		{
			validate: ncentral.KindServerError, data: ncentral.KindTimeout, want: unanswered, dataAsked: true,
			why: ncentral.KindTimeout,
		},
		{
			validate: ncentral.KindServerError, data: ncentral.KindCanceled, want: unanswered, dataAsked: true,
			why: ncentral.KindCanceled,
		},
		{
			validate: ncentral.KindHiddenError, data: ncentral.KindServerError, want: inconclusive, dataAsked: true,
			why: ncentral.KindHiddenError,
		},
		{
			validate: ncentral.KindNotFound, data: ncentral.KindMalformed, want: inconclusive, dataAsked: true,
			why: ncentral.KindNotFound,
		},
	}
	for _, test := range tests {
		answer := func(kind ncentral.Kind) error {
			if kind == well {
				return nil
			}
			return &ncentral.Error{Kind: kind}
		}
		dataAsked := false
		found, err := askWhetherAlive(
			func() error { return answer(test.validate) },
			func() error { dataAsked = true; return answer(test.data) },
		)
		if found != test.want || dataAsked != test.dataAsked || ncentral.KindOf(err) != test.why {
			t.Errorf("validate %q, data %q: %d, data asked: %t, because of %v", test.validate, test.data, found,
				dataAsked, err)
		}
	}
}
