// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// Collection is one kind of entry: how it lies in Vault's storage under a prefix, and the copies of it in memory that
// serve the reads. Entries are shared between readers and never changed in place: change a copy and Put it.
type Collection[T any] struct {
	storage logical.Storage
	prefix  string
	// absenceKept says that memory also keeps what storage does not hold. It is right only for names that are looked up
	// after something of that name was found, so that callers cannot fill memory with names of their invention.
	absenceKept bool
	prepare     func(name string, entry *T)

	writes sync.Mutex // one write at a time, so that memory and storage change in the same order

	mu      sync.RWMutex
	entries map[string]*T
	changes uint64 // counts writes and invalidations: what was read before one is not kept after it
}

// Storable says whether Vault's storage takes the name: it refuses keys with two dots in a row.
func Storable(name string) bool { return !strings.Contains(name, "..") }

// Get answers the entry of that name, or nil where there is none. A name that memory holds costs no storage call.
func (c *Collection[T]) Get(ctx context.Context, name string) (*T, error) {
	if !Storable(name) {
		return nil, nil
	}
	c.mu.RLock()
	entry, known := c.entries[name]
	before := c.changes
	c.mu.RUnlock()
	if known {
		return entry, nil
	}

	stored, err := c.storage.Get(ctx, c.prefix+name)
	if err != nil {
		return nil, fmt.Errorf("reading %s%s from storage: %w", c.prefix, name, err)
	}
	if stored != nil {
		entry = new(T)
		if err := stored.DecodeJSON(entry); err != nil {
			return nil, fmt.Errorf("the stored entry %s%s cannot be read: %w", c.prefix, name, err)
		}
		c.prepare(name, entry)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == before && (entry != nil || c.absenceKept) {
		// A concurrent reader may have kept its own copy of the same bytes: one copy serves all, so that pointers compare.
		if kept, known := c.entries[name]; known {
			return kept, nil
		}
		c.entries[name] = entry
	}
	return entry, nil
}

// Holds says whether memory holds what storage has under that name, so that a Get makes no storage call.
func (c *Collection[T]) Holds(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, known := c.entries[name]
	return known
}

// Put writes the entry to storage and then to memory. After an error, memory is as it was.
func (c *Collection[T]) Put(ctx context.Context, name string, entry *T) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	stored, err := logical.StorageEntryJSON(c.prefix+name, entry)
	if err != nil {
		return fmt.Errorf("encoding %s%s: %w", c.prefix, name, err)
	}
	if err := c.storage.Put(ctx, stored); err != nil {
		return fmt.Errorf("writing %s%s to storage: %w", c.prefix, name, err)
	}
	c.Keep(name, entry)
	return nil
}

// Keep puts the entry in memory alone: for one that storage refused and that is worth having all the same.
func (c *Collection[T]) Keep(name string, entry *T) {
	c.prepare(name, entry)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	c.entries[name] = entry
}

// Delete removes the entry from storage and memory. Deleting what is not there is no error.
func (c *Collection[T]) Delete(ctx context.Context, name string) error {
	if !Storable(name) {
		return nil
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	if err := c.storage.Delete(ctx, c.prefix+name); err != nil {
		return fmt.Errorf("deleting %s%s from storage: %w", c.prefix, name, err)
	}
	c.forget(name)
	return nil
}

// Names lists the stored entries, sorted.
func (c *Collection[T]) Names(ctx context.Context) ([]string, error) {
	names, err := c.storage.List(ctx, c.prefix)
	if err != nil {
		return nil, fmt.Errorf("listing %s in storage: %w", c.prefix, err)
	}
	sort.Strings(names)
	return names, nil
}

// All answers the stored entries, sorted by name. Beside an error stand those that could be read.
func (c *Collection[T]) All(ctx context.Context) ([]*T, error) {
	names, err := c.Names(ctx)
	var entries []*T
	for _, name := range names {
		entry, getErr := c.Get(ctx, name)
		err = errors.Join(err, getErr)
		if entry != nil { // it may have been deleted in the meantime
			entries = append(entries, entry)
		}
	}
	return entries, err
}

func (c *Collection[T]) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.entries, name)
}

// invalidate forgets the entry that the storage key names, and says whether the key is one of this collection.
func (c *Collection[T]) invalidate(key string) bool {
	name, ours := strings.CutPrefix(key, c.prefix)
	if ours {
		c.forget(name)
	}
	return ours
}
