// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"errors"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/sessions"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

// failed returns an error of the packages below in the form that Vault expects. It is a 400 for the
// caller's mistakes and a refused credential, a 503 if N-central cannot be reached or is too busy,
// a 502 if N-central answers what it should not, and a 500 for failures of this node alone. It is
// never a 403: Vault's Secrets Operator would throw its own Vault token away.
func failed(err error) (*logical.Response, error) {
	var failure *health.Failure
	var limit *sessions.LimitError
	var useless *sessions.UselessLifetimeError
	var late *sessions.LateError
	var allOut *sessions.AllOutError
	switch {
	case errors.Is(err, upstream.ErrOutdated):
		return nil, logical.CodedError(http.StatusConflict, err.Error()+": try again")
	case errors.As(err, &limit), errors.As(err, &useless), errors.Is(err, sessions.ErrUnknownRole),
		errors.Is(err, sessions.ErrUnknownConfig):
		return logical.ErrorResponse(err.Error()), nil
	case errors.As(err, &failure) && failure.CredentialRejected(), errors.As(err, &allOut):
		return logical.ErrorResponse(err.Error()), nil
	case failure != nil && (failure.Down() || failure.Kind == ncentral.KindCanceled), errors.As(err, &late),
		isTransient(err):
		return nil, logical.CodedError(http.StatusServiceUnavailable, err.Error())
	case failure != nil:
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	}
	return nil, err
}

// isTransient reports whether the same request may well succeed if it is made again.
func isTransient(err error) bool {
	for _, transient := range []error{
		sessions.ErrSuperseded, sessions.ErrDeadOnArrival, sessions.ErrTimeOver, sessions.ErrTooManyWaiting,
		sessions.ErrMaxLeaseUnknown,
		sessions.ErrEnded, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return false
}

// mistake returns a 400 with the text of the error.
func mistake(err error) (*logical.Response, error) {
	return logical.ErrorResponse(err.Error()), nil
}
