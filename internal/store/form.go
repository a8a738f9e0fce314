// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// currentFormat is the form in which entries are stored. Each carries its number, so that an entry
// of a later version of the engine is told from a damaged one. It is raised when this version would
// misread what that one writes.
const currentFormat = 1

var (
	errNewer      = errors.New("it was written by a newer version of this engine")
	errIncomplete = errors.New("it lacks what every entry of its kind has")
	errOutOfRange = errors.New("a number in it is out of range")
)

// UnreadableError says that a stored entry is damaged, or was written by a newer version of the
// engine. It can be overwritten and deleted like any other.
type UnreadableError struct {
	Key   string // in storage
	Cause error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the stored entry %s cannot be read: %s: restore it, write it again with all that a new one "+
		"needs, or delete it", e.Key, reasonOf(e.Cause))
}

// reasonOf says why an entry cannot be read, without quoting it.
func reasonOf(err error) string {
	if errors.Is(err, errNewer) || errors.Is(err, errIncomplete) || errors.Is(err, errOutOfRange) {
		return err.Error()
	}
	return "it is damaged"
}

// Unwrap returns the cause, which may quote the entry.
func (e *UnreadableError) Unwrap() error { return e.Cause }

// tellsOfDamage reports whether storage failed to read an entry because its bytes are not what was
// written. The seal of the storage finds most damage before the engine sees the entry, and its
// error comes over a boundary that passes texts alone. Other failures pass, and say nothing of the
// entry.
func tellsOfDamage(err error) bool { return strings.Contains(err.Error(), "decryption failed") }

// encode makes a storage entry of a struct, with the number of its form.
func encode(key string, entry any) (*logical.StorageEntry, error) {
	stored, err := logical.StorageEntryJSON(key, entry)
	if err != nil {
		return nil, err
	}
	stored.Value = append(fmt.Appendf(nil, `{"format":%d,`, currentFormat), stored.Value[1:]...)
	return stored, nil
}

// decode reads a storage entry into a struct. One without a number has the first form.
func decode(stored *logical.StorageEntry, entry any) error {
	var form struct {
		Format int `json:"format"`
	}
	if err := stored.DecodeJSON(&form); err != nil {
		return err
	}
	if form.Format > currentFormat {
		return errNewer
	}
	return stored.DecodeJSON(entry)
}
