// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package store holds the engine's entries: how they look in Vault's storage, their fingerprints,
// and the copies in memory from which reads are answered. It knows nothing of N-central's API.
//
// There are six kinds of entry. A Config and a Role are what users write. A Session holds a shared
// role's tokens (Token), the current one and earlier ones that still live. ServerTraits are what
// was learnt of a config's server, with the epoch by which tokens become suspect. OutOfService says
// that roles with a fallback pass a config over. A PendingLogout is a logout that is owed.
// Dedicated tokens are not stored here: their leases hold them.
//
// A Collection keeps all entries of one kind. Get returns the same pointer until the entry changes,
// so callers can compare pointers, and must copy an entry before they change it. Put writes to
// storage first and then to memory. Keep puts one into memory alone, because storage refused it or
// must not be waited for, and Store has storage take it. Pending logouts are in no collection: they
// are always read from storage.
//
// Store.Definitions orders the writes of configs and roles. In a Collection, writes orders the
// writes of its kind, and mu guards its maps; mu is never held during a storage call. The order of
// all locks is in docs/design.md.
//
// The tests beside the files test the entries and the collection. What damage and failing storage
// do to a mount is in backend/damage_test.go and backend/entries_test.go.
package store

import (
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
)

// The prefixes of the engine's keys in Vault's storage.
const (
	configPrefix  = "config/"
	rolePrefix    = "role/"
	sessionPrefix = "session/"
	owedPrefix    = "owed/"
	learntPrefix  = "learnt/"
	outPrefix     = "out/"
)

// SealWrapped returns the storage prefixes whose entries hold a token.
func SealWrapped() []string { return []string{configPrefix, sessionPrefix, owedPrefix} }

// Local returns the storage prefixes of what each cluster has for itself, and Vault does not
// replicate: sessions, the logouts owed for them, what was learnt of the servers, and which configs
// are out of service.
func Local() []string { return []string{sessionPrefix, owedPrefix, learntPrefix, outPrefix} }

// Store is all that one mount stores.
type Store struct {
	storage logical.Storage
	logger  hclog.Logger

	// Definitions is held while a config or role is written or deleted, so that no role can name a
	// config that is being deleted. It is never held during a call to N-central.
	Definitions sync.Mutex

	Configs  *Collection[Config]
	Roles    *Collection[Role]
	Sessions *Collection[Session]
	Traits   *Collection[ServerTraits]
	// OutOfService holds the configs that are out of service, by name.
	OutOfService *Collection[OutOfService]
}

// New returns the store of one mount. It makes no storage call.
func New(storage logical.Storage, logger hclog.Logger) *Store {
	s := &Store{
		storage:      storage,
		logger:       logger,
		Configs:      newCollection(storage, configPrefix, (*Config).prepare),
		Roles:        newCollection(storage, rolePrefix, (*Role).prepare),
		Sessions:     newCollection(storage, sessionPrefix, (*Session).prepare),
		Traits:       newCollection(storage, learntPrefix, (*ServerTraits).prepare),
		OutOfService: newCollection(storage, outPrefix, (*OutOfService).prepare),
	}
	s.Sessions.absenceKept, s.Traits.absenceKept, s.OutOfService.absenceKept = true, true, true
	s.Sessions.instead = func(role string, err error) *Session {
		logger.Error("a stored session cannot be read and counts as absent: what it held lives until it expires",
			"role", role, "error", reasonOf(err))
		return nil
	}
	s.Traits.instead = func(config string, err error) *ServerTraits {
		logger.Error("what was learnt of a server cannot be read: it is found out again, and tokens "+
			"are validated first",
			"config", config, "error", reasonOf(err))
		return &ServerTraits{Epoch: time.Now().UnixNano()}
	}
	s.OutOfService.instead = func(config string, err error) *OutOfService {
		logger.Error("whether a config is out of service cannot be read: it is tried again", "config", config, "error",
			reasonOf(err))
		return nil
	}
	return s
}

func newCollection[T any](storage logical.Storage, prefix string, prepare func(*T, string) error) *Collection[T] {
	return &Collection[T]{
		storage:  storage,
		prefix:   prefix,
		prepare:  func(name string, entry *T) error { return prepare(entry, name) },
		entries:  map[string]*T{},
		doubtful: map[string]bool{},
		unstored: map[string]bool{},
		lacking:  map[string]error{},
	}
}

// Invalidate drops the entry with that storage key from memory. Vault calls it when another node
// has written the key.
func (s *Store) Invalidate(key string) {
	s.Configs.invalidate(key)
	s.Roles.invalidate(key)
	s.Sessions.invalidate(key)
	s.Traits.invalidate(key)
	s.OutOfService.invalidate(key)
}
