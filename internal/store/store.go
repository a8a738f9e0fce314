// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package store holds the engine's entries: their form in Vault's storage, their fingerprints, and
// the copies in memory that serve the reads. It is the one package that Vault's Invalidate reaches.
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

// SealWrapped are the storage prefixes whose entries hold a token.
func SealWrapped() []string { return []string{configPrefix, sessionPrefix, owedPrefix} }

// Local are the storage prefixes that belong to one cluster and are not replicated: sessions, the
// logouts owed for them, and what was learnt of the server as that cluster reaches it.
func Local() []string { return []string{sessionPrefix, owedPrefix, learntPrefix, outPrefix} }

// Store is all that one mount keeps.
type Store struct {
	storage logical.Storage
	logger  hclog.Logger

	// Definitions is held while a config or role is written or deleted, so that a role cannot come
	// to name a config that is being deleted. No call to N-central is made under it.
	Definitions sync.Mutex

	Configs  *Collection[Config]
	Roles    *Collection[Role]
	Sessions *Collection[Session]
	Traits   *Collection[ServerTraits]
	// OutOfService are the configs whose users give no tokens of use, by the config's name.
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
	}
}

// Invalidate drops from memory exactly what the storage key names: Vault calls it where another
// node wrote the key.
func (s *Store) Invalidate(key string) {
	s.Configs.invalidate(key)
	s.Roles.invalidate(key)
	s.Sessions.invalidate(key)
	s.Traits.invalidate(key)
	s.OutOfService.invalidate(key)
}
