// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// currentFormat is the number of the form in which this version stores entries. Every entry carries
// such a number, so that an entry of a newer version is not taken for a damaged one. It is raised
// if older versions would misread the new form.
const currentFormat = 1

var (
	errNewer      = errors.New("it was written by a newer version of this engine")
	errIncomplete = errors.New("it lacks what every entry of its kind has")
	errOutOfRange = errors.New("a number in it is out of range")
)

// UnreadableError is the error of a stored entry that is damaged, or that a newer version of the
// engine wrote. Such an entry can be overwritten and deleted like any other.
type UnreadableError struct {
	Key   string // in storage
	Cause error
}

// Error names the entry and the remedy. It quotes nothing of the entry.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the stored entry %s cannot be read: %s: restore it, write it again with all that a new one "+
		"needs, or delete it", e.Key, reasonOf(e.Cause))
}

// reasonOf returns why an entry cannot be read, without quoting it.
func reasonOf(err error) string {
	if errors.Is(err, errNewer) || errors.Is(err, errIncomplete) || errors.Is(err, errOutOfRange) {
		return err.Error()
	}
	return "it is damaged"
}

// Unwrap returns the cause, which may quote the entry.
func (e *UnreadableError) Unwrap() error { return e.Cause }

// tellsOfDamage reports whether storage could not read an entry because its bytes have changed.
// Vault's encryption finds most damage before the engine sees the entry. A plugin gets the error as
// a text, so the text decides. All other failures of storage say nothing about the entry.
func tellsOfDamage(err error) bool { return strings.Contains(err.Error(), "decryption failed") }

// encode returns the storage entry of a struct, with the number of its form.
func encode(key string, entry any) (*logical.StorageEntry, error) {
	stored, err := logical.StorageEntryJSON(key, entry)
	if err != nil {
		return nil, err
	}
	stored.Value = append(fmt.Appendf(nil, `{"format":%d,`, currentFormat), stored.Value[1:]...)
	return stored, nil
}

// decode reads a storage entry into a struct. An entry without a number has form 1.
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
