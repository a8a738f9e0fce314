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
	unanswered   aliveness = iota // N-central did not answer, or is being left alone
	inconclusive                  // N-central answered, and that does not show whether the token lives
	dead
	alive
)

// askWhetherAlive finds out by validate whether a token lives. If the answer to validate is
// inconclusive, the data call decides. N-able documents no version of which that is true, but
// proxies and older servers may be like that [?]. The error says why for unanswered and
// inconclusive.
func askWhetherAlive(validate, data func() error) (aliveness, error) {
	err := validate()
	switch kind := ncentral.KindOf(err); {
	case err == nil:
		return alive, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil
	case isUnanswered(kind):
		return unanswered, err
	}
	dataErr := data()
	switch kind := ncentral.KindOf(dataErr); {
	case dataErr == nil, kind == ncentral.KindForbidden:
		return alive, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil
	case isUnanswered(kind):
		return unanswered, dataErr
	}
	return inconclusive, err
}

// askByData finds out by the data call whether a token lives, and whether its user works. If the
// data call fails, validate decides whether the token lives. userErr is then why the user seems not
// to work: it is set unless the token is dead or N-central did not answer. The error says why for
// unanswered and inconclusive.
func askByData(validate, data func() error) (found aliveness, userErr, err error) {
	dataErr := data()
	switch kind := ncentral.KindOf(dataErr); {
	case dataErr == nil, kind == ncentral.KindForbidden:
		return alive, nil, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil, nil
	case isUnanswered(kind):
		return unanswered, nil, dataErr
	}
	err = validate()
	switch kind := ncentral.KindOf(err); {
	case err == nil:
		return alive, dataErr, nil
	case kind == ncentral.KindUnauthorized:
		return dead, nil, nil
	case isUnanswered(kind):
		return unanswered, nil, err
	}
	return inconclusive, dataErr, err
}

// isUnanswered reports whether a call that failed with that kind got no answer from N-central that
// counts.
func isUnanswered(kind ncentral.Kind) bool {
	return health.IsDown(kind) || kind == ncentral.KindCanceled
}
