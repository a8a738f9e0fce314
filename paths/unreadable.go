// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/store"
)

// orUnreadable separates the error of an entry that cannot be read from other errors of storage.
// Such an entry exists: it can be deleted, or overwritten by a full write.
func orUnreadable[T any](entry T, err error) (T, *store.UnreadableError, error) {
	if unreadable, ok := errors.AsType[*store.UnreadableError](err); ok {
		return entry, unreadable, nil
	}
	return entry, nil, err
}

// toChange returns the stored entry that a write changes. For a POST that is nil if there is none,
// or if it cannot be read; in that case the second result says why, and the POST must give all that
// a new entry needs, so that nothing is guessed. A PATCH of such an entry is an error.
func toChange[T any](
	ctx context.Context, entries *store.Collection[T], req *logical.Request, kind, name string,
) (*T, *store.UnreadableError, error) {
	stored, unreadable, err := orUnreadable(entries.Get(ctx, name))
	switch {
	case err != nil || stored != nil || req.Operation != logical.PatchOperation:
		return stored, unreadable, err
	case unreadable != nil:
		return nil, nil, logical.CodedError(http.StatusBadRequest, unreadable.Error())
	}
	return nil, nil, logical.CodedError(http.StatusNotFound,
		fmt.Sprintf("there is no %s %q to change: write it with POST first", kind, name))
}

// mistakeOver returns a 400 for a mistake in a write. If the write was to replace an unreadable
// entry, it names that too.
func mistakeOver(unreadable *store.UnreadableError, err error) (*logical.Response, error) {
	if unreadable != nil {
		err = fmt.Errorf("%w; %w", err, unreadable)
	}
	return mistake(err)
}

// leftOut separates joined errors: it returns a warning for each entry that cannot be read, and the
// other errors of storage.
func leftOut(err error) (warnings []string, failure error) {
	var unreadable *store.UnreadableError
	joined, isJoined := err.(interface{ Unwrap() []error })
	switch {
	case isJoined:
		for _, one := range joined.Unwrap() {
			some, other := leftOut(one)
			warnings, failure = append(warnings, some...), errors.Join(failure, other)
		}
		return warnings, failure
	case errors.As(err, &unreadable):
		return []string{"left out: " + unreadable.Error()}, nil
	}
	return nil, err
}

// overwritten returns the warning for whoever replaced an unreadable entry.
func overwritten(before *store.UnreadableError) []string {
	if before == nil {
		return nil
	}
	return []string{"the entry before could not be read, so every field that was not given has its default now"}
}

// exists is an existence check. Its answer decides whether Vault asks for the right to create or to
// update. An entry that cannot be read exists: whoever may only create must not replace it, and
// whoever may update must be able to.
func exists[T any](entry *T, err error) (bool, error) {
	entry, unreadable, err := orUnreadable(entry, err)
	if err != nil {
		return false, errors.New("whether there is such an entry cannot be read from storage")
	}
	return entry != nil || unreadable != nil, nil
}
