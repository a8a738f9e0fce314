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

// orUnreadable takes apart the error of a stored entry that cannot be read and storage's own. Such
// an entry exists: it can be overwritten by a full write, and deleted.
func orUnreadable[T any](entry T, err error) (T, *store.UnreadableError, error) {
	if unreadable, ok := errors.AsType[*store.UnreadableError](err); ok {
		return entry, unreadable, nil
	}
	return entry, nil, err
}

// toChange returns the stored entry that a write changes. There is none where a POST makes a new
// one, or replaces one that cannot be read, which is returned too: that takes all that a new entry
// needs, so that nothing of it is guessed.
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

// mistakeOver returns the mistake in a write that is to replace an unreadable entry, if there is
// one.
func mistakeOver(unreadable *store.UnreadableError, err error) (*logical.Response, error) {
	if unreadable != nil {
		err = fmt.Errorf("%w; %w", err, unreadable)
	}
	return mistake(err)
}

// leftOut takes apart joined errors: it returns a warning for each entry that cannot be read, and
// storage's own errors.
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

// overwritten is what the writer of an entry should know that took the place of an unreadable one.
func overwritten(before *store.UnreadableError) []string {
	if before == nil {
		return nil
	}
	return []string{"the entry before could not be read, so every field that was not given has its default now"}
}

// exists is an existence check, by which Vault asks its policies for create or update. An entry
// that cannot be read exists: who may only create must not replace it, and who may update must be
// able to.
func exists[T any](entry *T, err error) (bool, error) {
	entry, unreadable, err := orUnreadable(entry, err)
	if err != nil {
		return false, errors.New("whether there is such an entry cannot be read from storage")
	}
	return entry != nil || unreadable != nil, nil
}
