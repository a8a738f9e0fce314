// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// sender makes one call that brings a session. The overrides are the lifetimes to ask for.
type sender func(ctx context.Context, overrides ncentral.Overrides) (*ncentral.Session, error)

// openAskingForLess makes the call with the lifetimes that are asked for. While the server answers
// 400, which is how N-central may refuse overrides [?], it makes the call again with less. It
// returns what the last call asked for. If that call succeeds, what was left out and at what length
// is learnt as refused.
func (s *Server) openAskingForLess(
	ctx context.Context, step ncentral.Call, asked ncentral.Overrides, send sender,
) (*ncentral.Session, ncentral.Overrides, error) {
	sent := withoutRefused(asked, s.Traits(ctx))
	session, err := s.openWith(ctx, step, sent, send)
	var refused ncentral.Overrides
	for isBadRequest(err) && sent != (ncentral.Overrides{}) {
		s.record.CountOverrideFallback()
		named := namedIn(err, sent)
		less := lessThan(sent, named)
		refused = merged(named, difference(sent, less))
		sent = less
		session, err = s.openWith(ctx, step, sent, send)
	}
	if err == nil && refused != (ncentral.Overrides{}) {
		s.learnt.change(ctx, func(t *store.ServerTraits) {
			t.AccessOverrideCeiling = shorter(t.AccessOverrideCeiling, refused.Access)
			t.RefreshOverrideCeiling = shorter(t.RefreshOverrideCeiling, refused.Refresh)
		})
	}
	return session, sent, err
}

func (s *Server) openWith(
	ctx context.Context, step ncentral.Call, overrides ncentral.Overrides, send sender,
) (session *ncentral.Session, err error) {
	err = s.call(ctx, step, func(ctx context.Context) (err error) {
		session, err = send(ctx, overrides)
		return err
	})
	return session, err
}

// namedIn returns those of the overrides that the 400 names as wrong.
func namedIn(err error, sent ncentral.Overrides) (named ncentral.Overrides) {
	var callErr *ncentral.Error
	if !errors.As(err, &callErr) {
		return named
	}
	if slices.Contains(callErr.Fields, ncentral.AccessOverride) {
		named.Access = sent.Access
	}
	if slices.Contains(callErr.Fields, ncentral.RefreshOverride) {
		named.Refresh = sent.Refresh
	}
	return named
}

// lessThan returns what to ask for after a 400. The overrides that N-central named are left out. If
// it named none, the access lifetime is left out, and after that everything.
func lessThan(sent, named ncentral.Overrides) ncentral.Overrides {
	switch {
	case named != (ncentral.Overrides{}):
		return difference(sent, named)
	case sent.Access != 0:
		return ncentral.Overrides{Refresh: sent.Refresh}
	}
	return ncentral.Overrides{}
}

// difference returns the first overrides without those that the second ones set.
func difference(of, without ncentral.Overrides) ncentral.Overrides {
	if without.Access != 0 {
		of.Access = 0
	}
	if without.Refresh != 0 {
		of.Refresh = 0
	}
	return of
}

// merged returns what at least one of them sets.
func merged(one, other ncentral.Overrides) ncentral.Overrides {
	return ncentral.Overrides{Access: max(one.Access, other.Access), Refresh: max(one.Refresh, other.Refresh)}
}

// withoutRefused returns the overrides without those that are as long as one that the server has
// refused, or longer.
func withoutRefused(asked ncentral.Overrides, traits store.ServerTraits) ncentral.Overrides {
	if refused := traits.AccessOverrideCeiling; refused > 0 && asked.Access >= refused {
		asked.Access = 0
	}
	if refused := traits.RefreshOverrideCeiling; refused > 0 && asked.Refresh >= refused {
		asked.Refresh = 0
	}
	return asked
}

// shorter returns the shorter of two lifetimes. Zero means that there is none.
func shorter(one, other time.Duration) time.Duration {
	if one == 0 || other == 0 {
		return max(one, other)
	}
	return min(one, other)
}

// isBadRequest reports whether N-central answered 400, which may mean that it refuses the
// overrides.
func isBadRequest(err error) bool {
	var callErr *ncentral.Error
	return errors.As(err, &callErr) && callErr.Status == http.StatusBadRequest &&
		callErr.Fault != ncentral.FaultAuthorizationLost
}
