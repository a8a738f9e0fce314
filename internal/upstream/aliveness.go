// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// aliveness is what N-central says of an access token.
type aliveness int

const (
	notAsked aliveness = iota // N-central does not answer, or is left alone
	untold                    // it answers, and that tells nothing of the token
	dead
	alive
)

// askWhetherAlive asks by validate. Where that tells nothing, which no version of N-central is
// documented to do but proxies and older servers may [?], the data call decides. The error says why
// for notAsked and untold.
func askWhetherAlive(validate, data func() error) (aliveness, error) {
	err := validate()
	switch kind := ncentral.KindOf(err); {
	case err == nil:
		return alive, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil
	case isUnanswered(kind):
		return notAsked, err
	}
	dataErr := data()
	switch kind := ncentral.KindOf(dataErr); {
	case dataErr == nil, kind == ncentral.KindForbidden:
		return alive, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil
	case isUnanswered(kind):
		return notAsked, dataErr
	}
	return untold, err
}

// askByData asks by the data call, which tells beside whether the token's user works. Where it fails,
// validate tells whether the token lives all the same: userErr is why the user then seems not to work,
// also where validate tells nothing. The error says why for notAsked and untold.
func askByData(validate, data func() error) (found aliveness, userErr, err error) {
	dataErr := data()
	switch kind := ncentral.KindOf(dataErr); {
	case dataErr == nil, kind == ncentral.KindForbidden:
		return alive, nil, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil, nil
	case isUnanswered(kind):
		return notAsked, nil, dataErr
	}
	err = validate()
	switch kind := ncentral.KindOf(err); {
	case err == nil:
		return alive, dataErr, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil, nil
	case isUnanswered(kind):
		return notAsked, nil, err
	}
	return untold, dataErr, err
}

// isUnanswered reports whether a call that failed so brought no answer of N-central's that counts.
func isUnanswered(kind ncentral.Kind) bool {
	return health.IsDown(kind) || kind == ncentral.KindCanceled
}
