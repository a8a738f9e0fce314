// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package store holds the engine's entries: their form in Vault's storage, their fingerprints, and the copies in memory
// that serve the reads. It is the one room that Vault's Invalidate reaches.
package store

import (
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// The prefixes of the engine's keys in Vault's storage.
const (
	configPrefix  = "config/"
	rolePrefix    = "role/"
	sessionPrefix = "session/"
	owedPrefix    = "owed/"
	learntPrefix  = "learnt/"
)

// SealWrapped are the storage prefixes whose entries hold a token.
func SealWrapped() []string { return []string{configPrefix, sessionPrefix, owedPrefix} }

// Local are the storage prefixes that belong to one cluster and are not replicated: sessions, the logouts owed for them,
// and what was learnt of the server as that cluster reaches it.
func Local() []string { return []string{sessionPrefix, owedPrefix, learntPrefix} }

// Store is all that one mount keeps.
type Store struct {
	storage logical.Storage

	// Definitions is held while a config or role is written or deleted, so that a role cannot come to name a config
	// that is being deleted. No call to N-central is made under it.
	Definitions sync.Mutex

	Configs  *Collection[Config]
	Roles    *Collection[Role]
	Sessions *Collection[Session]
	Learnt   *Collection[Learnt]
}

// New answers the store of one mount. It makes no storage call.
func New(storage logical.Storage) *Store {
	return &Store{
		storage:  storage,
		Configs:  newCollection(storage, configPrefix, false, (*Config).prepare),
		Roles:    newCollection(storage, rolePrefix, false, (*Role).prepare),
		Sessions: newCollection(storage, sessionPrefix, true, (*Session).prepare),
		Learnt:   newCollection(storage, learntPrefix, true, (*Learnt).prepare),
	}
}

func newCollection[T any](storage logical.Storage, prefix string, absenceKept bool, prepare func(*T, string)) *Collection[T] {
	return &Collection[T]{
		storage:     storage,
		prefix:      prefix,
		absenceKept: absenceKept,
		prepare:     func(name string, entry *T) { prepare(entry, name) },
		entries:     map[string]*T{},
	}
}

// Invalidate drops from memory exactly what the storage key names: Vault calls it where another node wrote the key.
func (s *Store) Invalidate(key string) {
	_ = s.Configs.invalidate(key) || s.Roles.invalidate(key) || s.Sessions.invalidate(key) || s.Learnt.invalidate(key)
}
