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

// failed returns an error of the packages below in Vault's way: 400 for the caller's mistakes and a
// refused credential, 503 where N-central is not there or too busy, 502 where it answers what it
// should not. It is never 403, on which Vault's Secrets Operator throws its own Vault token away,
// and 500 only for failures of this node.
func failed(err error) (*logical.Response, error) {
	var failure *health.Failure
	var limit *sessions.LimitError
	var useless *sessions.UselessLifetimeError
	var late *sessions.LateError
	var allOut *sessions.AllOutError
	switch {
	case errors.Is(err, sessions.ErrNeedsActiveNode):
		return nil, logical.ErrReadOnly
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

// isTransient reports whether the same request may well succeed when it is made again.
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

// mistake returns a 400 whose text is the error's.
func mistake(err error) (*logical.Response, error) {
	return logical.ErrorResponse(err.Error()), nil
}
