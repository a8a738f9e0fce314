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

// Collection is all entries of one kind: those in Vault's storage under a prefix, and copies in
// memory that answer the reads. Readers share an entry, so it is never changed in place: change a
// copy and Put it.
type Collection[T any] struct {
	storage logical.Storage
	prefix  string
	// absenceKept is set if memory also keeps that storage has no entry of a name. That is allowed
	// only for names which are looked up after something else of that name was found. Otherwise
	// callers could fill memory with invented names.
	absenceKept bool
	// prepare sets the fields that are not stored, and returns an error if the entry lacks
	// something.
	prepare func(name string, entry *T) error
	// instead returns what is used in place of an entry that cannot be read; nil counts as absent.
	// If instead is nil, Get returns an *UnreadableError.
	instead func(name string, unreadable error) *T

	writes sync.Mutex // one write at a time, so that memory and storage change in the same order

	mu      sync.RWMutex
	entries map[string]*T
	// doubtful holds the names for which a write failed. It may have been done all the same, so the
	// next Get asks storage again.
	doubtful map[string]bool
	// unstored holds the names of entries that only memory has, or that storage has in an older
	// form.
	unstored map[string]bool
	// lacking holds the names for which Named found no entry, or none that can be read: then with
	// the error.
	lacking map[string]error
	changes uint64 // counts forget and doubt; a Get that began before one of them keeps nothing
}

// Storable reports whether Vault's storage accepts the name. It refuses two dots in a row.
func Storable(name string) bool { return !strings.Contains(name, "..") }

// Get returns the entry of that name, or nil if there is none. If memory holds the name, it makes
// no storage call. The error is storage's, or an *UnreadableError.
func (c *Collection[T]) Get(ctx context.Context, name string) (*T, error) {
	return c.get(ctx, name, c.absenceKept)
}

// Find is Get for a name that a caller may have invented: memory never keeps that it is absent.
func (c *Collection[T]) Find(ctx context.Context, name string) (*T, error) {
	return c.get(ctx, name, false)
}

// Named is Get for a name that a stored entry has. Memory also keeps that there is no entry of that
// name, or none that can be read, until it is written or invalidated, or a Get finds it.
func (c *Collection[T]) Named(ctx context.Context, name string) (*T, error) {
	c.mu.RLock()
	_, known := c.entries[name]
	lack, lacks := c.lacking[name]
	before := c.changes
	c.mu.RUnlock()
	if lacks && !known {
		return nil, lack
	}
	entry, err := c.Get(ctx, name)
	_, unreadable := errors.AsType[*UnreadableError](err)
	if entry != nil || err != nil && !unreadable {
		return entry, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == before {
		c.lacking[name] = err
	}
	return nil, err
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
	if c.doubtful[name] { // storage has answered
		delete(c.entries, name)
		delete(c.doubtful, name)
	}
	// A concurrent reader may have kept a copy of the same entry. Both return that one, so that
	// pointers can be compared.
	if kept, known := c.entries[name]; known {
		return kept, nil
	}
	if fetched != nil || keepAbsence {
		c.entries[name] = fetched
	}
	return fetched, nil
}

// Peek is Get, but adds nothing to memory. It is for walks over all entries, since there may be
// very many.
func (c *Collection[T]) Peek(ctx context.Context, name string) (*T, error) {
	if c.Holds(name) {
		return c.Get(ctx, name)
	}
	return c.fetch(ctx, name)
}

// fetch returns the stored entry, or what is used in its place.
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

// Holds reports whether memory holds the name, so that a Get of it makes no storage call unless a
// write of it has failed.
func (c *Collection[T]) Holds(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, known := c.entries[name]
	return known
}

// Put writes the entry to storage and then to memory. If it fails, memory keeps what it had, but
// the next Get asks storage: the write may have been done all the same.
func (c *Collection[T]) Put(ctx context.Context, name string, entry *T) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	if err := c.write(ctx, name, entry); err != nil {
		c.doubt(name)
		return err
	}
	c.remember(name, entry, false)
	return nil
}

// Keep puts the entry into memory alone; a nil one says that there is none. It is for what is needed
// though storage refused it, or before storage has taken it. Names lists it.
func (c *Collection[T]) Keep(name string, entry *T) {
	c.remember(name, entry, true)
}

// Store has storage take what memory alone holds under that name, a nil entry as a deletion. Memory
// may change meanwhile: what it has then is kept, and still unstored.
func (c *Collection[T]) Store(ctx context.Context, name string) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	c.mu.RLock()
	entry, unstored := c.entries[name], c.unstored[name]
	c.mu.RUnlock()
	if !unstored {
		return nil
	}
	if err := c.write(ctx, name, entry); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[name] == entry {
		delete(c.unstored, name)
	}
	return nil
}

// write writes the entry to storage; if it is nil, it deletes the one that is there.
func (c *Collection[T]) write(ctx context.Context, name string, entry *T) error {
	if entry == nil {
		if err := c.storage.Delete(ctx, c.prefix+name); err != nil {
			return fmt.Errorf("deleting %s%s from storage: %w", c.prefix, name, err)
		}
		return nil
	}
	stored, err := encode(c.prefix+name, entry)
	if err != nil {
		return fmt.Errorf("encoding %s%s: %w", c.prefix, name, err)
	}
	if err := c.storage.Put(ctx, stored); err != nil {
		return fmt.Errorf("writing %s%s to storage: %w", c.prefix, name, err)
	}
	return nil
}

// IsUnstored reports whether storage has not taken what memory holds.
func (c *Collection[T]) IsUnstored(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.unstored[name]
}

func (c *Collection[T]) remember(name string, entry *T, unstored bool) {
	if entry != nil {
		_ = c.prepare(name, entry) // whoever writes an entry has seen to it that nothing is missing
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[name] = entry
	delete(c.doubtful, name)
	delete(c.lacking, name)
	if unstored {
		c.unstored[name] = true
	} else {
		delete(c.unstored, name)
	}
}

// Delete removes the entry from storage and memory. It is no error if there is none.
func (c *Collection[T]) Delete(ctx context.Context, name string) error {
	if !Storable(name) {
		return nil
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	if err := c.write(ctx, name, nil); err != nil {
		c.doubt(name)
		return err
	}
	c.forget(name)
	return nil
}

// Names returns the names of the stored entries and of those that only memory holds, sorted.
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

// All returns the entries, sorted by name. It returns those that could be read even if there is an
// error, which may be several joined ones.
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

// Each visits the entries, sorted by name, until visit returns false. It adds nothing to memory,
// since there may be very many entries. It stops if storage fails. The errors of entries that
// cannot be read are joined and returned at the end.
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
	delete(c.lacking, name)
}

// doubt makes the next Get ask storage again. What memory holds stays, in case storage does not
// answer. An unstored entry is not doubted: storage is known to have an older form, or none.
func (c *Collection[T]) doubt(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.lacking, name)
	if _, known := c.entries[name]; known && !c.unstored[name] {
		c.doubtful[name] = true
	}
}

// invalidate forgets the entry with that storage key, if the key has the prefix of this collection.
func (c *Collection[T]) invalidate(key string) {
	if name, ours := strings.CutPrefix(key, c.prefix); ours {
		c.forget(name)
	}
}
