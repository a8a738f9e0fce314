// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// Collection is one kind of entry: how it lies in Vault's storage under a prefix, and the copies of
// it in memory that serve the reads. Entries are shared between readers and never changed in place:
// change a copy and Put it.
type Collection[T any] struct {
	storage logical.Storage
	prefix  string
	// absenceKept says that memory also keeps what storage does not hold. It is right only for
	// names that are looked up after something of that name was found, so that callers cannot fill
	// memory with names of their invention.
	absenceKept bool
	prepare     func(name string, entry *T) error
	// instead returns what stands in the place of an entry that cannot be read; nil where nothing
	// does.
	instead func(name string, unreadable error) *T

	writes sync.Mutex // one write at a time, so that memory and storage change in the same order

	mu      sync.RWMutex
	entries map[string]*T
	// doubtful are the names of which a write failed: it may have been done all the same, so that
	// storage is asked again.
	doubtful map[string]bool
	// unstored are the names of entries that memory alone holds, or holds in another form than
	// storage.
	unstored map[string]bool
	changes  uint64 // counts what makes memory lack or doubt an entry: what was read before is not kept after it
}

// Storable reports whether Vault's storage takes the name: it refuses keys with two dots in a row.
func Storable(name string) bool { return !strings.Contains(name, "..") }

// Get returns the entry of that name, or nil where there is none. A name that memory holds costs no
// storage call. The error is storage's, or an *UnreadableError.
func (c *Collection[T]) Get(ctx context.Context, name string) (*T, error) {
	return c.get(ctx, name, c.absenceKept)
}

// Find is Get for names that a caller may have invented: memory does not keep that there is none.
func (c *Collection[T]) Find(ctx context.Context, name string) (*T, error) {
	return c.get(ctx, name, false)
}

func (c *Collection[T]) get(ctx context.Context, name string, keepAbsence bool) (*T, error) {
	if !Storable(name) {
		return nil, nil
	}
	c.mu.RLock()
	entry, known := c.entries[name]
	doubtful := c.doubtful[name]
	before := c.changes
	c.mu.RUnlock()
	if known && !doubtful {
		return entry, nil
	}

	fetched, err := c.fetch(ctx, name)
	if err != nil && known {
		return entry, nil
	}
	if err != nil {
		return nil, err
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != before {
		return fetched, nil
	}
	if c.doubtful[name] { // storage has said what is
		delete(c.entries, name)
		delete(c.doubtful, name)
	}
	// A concurrent reader may have kept its own copy of the same bytes: one copy serves all, so
	// that pointers compare.
	if kept, known := c.entries[name]; known {
		return kept, nil
	}
	if fetched != nil || keepAbsence {
		c.entries[name] = fetched
	}
	return fetched, nil
}

// Peek is Get that leaves memory as it is: for walks, since there may be very many entries.
func (c *Collection[T]) Peek(ctx context.Context, name string) (*T, error) {
	if c.Holds(name) {
		return c.Get(ctx, name)
	}
	return c.fetch(ctx, name)
}

// fetch returns the stored entry, or what stands in its place.
func (c *Collection[T]) fetch(ctx context.Context, name string) (*T, error) {
	stored, err := c.storage.Get(ctx, c.prefix+name)
	switch {
	case err == nil && stored == nil:
		return nil, nil
	case err != nil && !tellsOfDamage(err):
		return nil, fmt.Errorf("reading %s%s from storage: %w", c.prefix, name, err)
	}
	entry := new(T)
	if err == nil {
		err = decode(stored, entry)
	}
	if err == nil {
		err = c.prepare(name, entry)
	}
	switch {
	case err == nil:
		return entry, nil
	case c.instead == nil:
		return nil, &UnreadableError{Key: c.prefix + name, Cause: err}
	}
	return c.instead(name, err), nil
}

// Holds reports whether memory holds what storage has under that name, so that a Get makes no
// storage call.
func (c *Collection[T]) Holds(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, known := c.entries[name]
	return known
}

// Put writes the entry to storage and then to memory. After an error memory is as it was, and looks
// at storage again when that answers: the write may have been done all the same.
func (c *Collection[T]) Put(ctx context.Context, name string, entry *T) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	stored, err := encode(c.prefix+name, entry)
	if err != nil {
		return fmt.Errorf("encoding %s%s: %w", c.prefix, name, err)
	}
	if err := c.storage.Put(ctx, stored); err != nil {
		c.doubt(name)
		return fmt.Errorf("writing %s%s to storage: %w", c.prefix, name, err)
	}
	c.remember(name, entry, false)
	return nil
}

// Keep puts the entry in memory alone: for one that storage refused and that is worth having all
// the same. Names lists it.
func (c *Collection[T]) Keep(name string, entry *T) {
	c.remember(name, entry, true)
}

// IsUnstored reports whether memory alone holds the entry, for storage refused it.
func (c *Collection[T]) IsUnstored(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.unstored[name]
}

func (c *Collection[T]) remember(name string, entry *T, unstored bool) {
	_ = c.prepare(name, entry) // what is lacking in it is for its writer to see
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[name] = entry
	delete(c.doubtful, name)
	if unstored {
		c.unstored[name] = true
	} else {
		delete(c.unstored, name)
	}
}

// Delete removes the entry from storage and memory. Deleting what is not there is no error.
func (c *Collection[T]) Delete(ctx context.Context, name string) error {
	if !Storable(name) {
		return nil
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	if err := c.storage.Delete(ctx, c.prefix+name); err != nil {
		c.doubt(name)
		return fmt.Errorf("deleting %s%s from storage: %w", c.prefix, name, err)
	}
	c.forget(name)
	return nil
}

// Names lists the entries, sorted: the stored ones, and those that memory alone holds.
func (c *Collection[T]) Names(ctx context.Context) ([]string, error) {
	names, err := c.storage.List(ctx, c.prefix)
	if err != nil {
		return nil, fmt.Errorf("listing %s in storage: %w", c.prefix, err)
	}
	c.mu.RLock()
	for name := range c.unstored {
		names = append(names, name)
	}
	c.mu.RUnlock()
	slices.Sort(names)
	return slices.Compact(names), nil
}

// All returns the stored entries, sorted by name. Beside an error, which may be several joined,
// stand those that could be read.
func (c *Collection[T]) All(ctx context.Context) ([]*T, error) {
	names, err := c.Names(ctx)
	failures := []error{err}
	var entries []*T
	for _, name := range names {
		entry, err := c.Get(ctx, name)
		failures = append(failures, err)
		if entry != nil { // it may have been deleted in the meantime
			entries = append(entries, entry)
		}
	}
	return entries, errors.Join(failures...)
}

// Each visits the stored entries, sorted by name, as long as visit reports that it is to go on. It leaves
// memory as it is. A failure of storage ends the walk; entries that cannot be read are joined in the
// error at its end.
func (c *Collection[T]) Each(ctx context.Context, visit func(*T) (goOn bool)) error {
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	var unreadable []error
	for _, name := range names {
		entry, err := c.Peek(ctx, name)
		var damaged *UnreadableError
		switch {
		case errors.As(err, &damaged):
			unreadable = append(unreadable, err)
		case err != nil:
			return err
		case entry != nil && !visit(entry): // it may have been deleted in the meantime
			return errors.Join(unreadable...)
		}
	}
	return errors.Join(unreadable...)
}

func (c *Collection[T]) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.entries, name)
	delete(c.doubtful, name)
	delete(c.unstored, name)
}

// doubt has the next Get look at storage again. What memory holds stays where storage does not
// answer, and where storage is known to be behind: it holds what was before, or nothing.
func (c *Collection[T]) doubt(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	if _, known := c.entries[name]; known && !c.unstored[name] {
		c.doubtful[name] = true
	}
}

// invalidate forgets the entry that the storage key names, if it is one of this collection.
func (c *Collection[T]) invalidate(key string) {
	if name, ours := strings.CutPrefix(key, c.prefix); ours {
		c.forget(name)
	}
}
