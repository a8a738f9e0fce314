// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// Watch knows whether a reboot of a config's server would have been noticed, by the tokens that
// N-central is asked after. It outlasts the config's versions.
type Watch struct {
	// storageProven is set once N-central was asked after a token that came from storage, and
	// storageDoubted once that was tried in vain.
	storageProven, storageDoubted atomic.Bool

	mu sync.Mutex // guards what follows
	// watchedUntil is until when a token lives that the tick asks after, and that a reboot would be
	// found by; unwatched is set where one was obtained later than that, and at first, for nobody
	// knows what was before this process started.
	watchedUntil time.Time
	unwatched    bool
}

func newWatch() *Watch { return &Watch{unwatched: true} }

// StorageIsProven reports whether N-central was asked, since this process started, after a token of
// the config that came from storage. Until then what is stored may be of the past: a restored
// snapshot, or from before a reboot of N-central.
func (w *Watch) StorageIsProven() bool { return w.storageProven.Load() }

// ProveStorage notes that N-central was asked after a token that came from storage.
func (w *Watch) ProveStorage() { w.storageProven.Store(true) }

// DoubtStorage notes that N-central could not be asked after a token that came from storage.
func (w *Watch) DoubtStorage() { w.storageDoubted.Store(true) }

// StorageWasDoubted reports whether that was tried in vain.
func (w *Watch) StorageWasDoubted() bool { return w.storageDoubted.Load() }

// End notes that tokens were ended by which a reboot would have been found.
func (w *Watch) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchedUntil = time.Time{}
}

// tokenObtained notes that a token was obtained that is asked after until then.
func (w *Watch) tokenObtained(until, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.After(w.watchedUntil) {
		w.unwatched = true
	}
	w.watchedUntil = latest(w.watchedUntil, until)
}

// tokenAccepted notes that a token is accepted that was there before, and is asked after until
// then.
func (w *Watch) tokenAccepted(until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchedUntil = latest(w.watchedUntil, until)
}

// traitsConfirmed notes that the server's traits, as they are known, hold at that time.
func (w *Watch) traitsConfirmed(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unwatched, w.watchedUntil = false, latest(w.watchedUntil, now)
}

// hadGap reports whether there was a time, since the server's traits were found out, in which no
// token would have told of a reboot.
func (w *Watch) hadGap() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unwatched
}

func latest(one, other time.Time) time.Time {
	if other.After(one) {
		return other
	}
	return one
}
