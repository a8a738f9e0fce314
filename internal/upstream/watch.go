// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// Watch knows whether a reboot of a config's server would have been noticed. The tick notices a
// reboot by asking N-central about a token that was obtained before it. So there must have been
// such a token all the time. All versions of a config share the Watch. It also knows whether the
// tokens that came from storage can be trusted.
type Watch struct {
	// storageProven is set once N-central was asked about a token that came from storage.
	// storageDoubted is set once it could not be asked about one.
	storageProven, storageDoubted atomic.Bool

	mu sync.Mutex // guards what follows
	// watchedUntil is until when some token lives by which the tick would notice a reboot.
	// unwatched is set when a token is obtained after that time, so that there was a gap. It is
	// also set at first, since nobody knows what happened before this process started.
	watchedUntil time.Time
	unwatched    bool
}

func newWatch() *Watch { return &Watch{unwatched: true} }

// StorageIsProven reports whether, since this process started, N-central was asked about a token of
// the config that came from storage. Until then, all that is stored may be out of date: an old
// snapshot was restored, or N-central was rebooted.
func (w *Watch) StorageIsProven() bool { return w.storageProven.Load() }

// ProveStorage notes that N-central was asked about a token that came from storage.
func (w *Watch) ProveStorage() { w.storageProven.Store(true) }

// DoubtStorage notes that N-central could not be asked about a token that came from storage.
func (w *Watch) DoubtStorage() { w.storageDoubted.Store(true) }

// StorageWasDoubted reports whether DoubtStorage was called.
func (w *Watch) StorageWasDoubted() bool { return w.storageDoubted.Load() }

// NoteTokensEnded notes that the engine ended tokens by which a reboot would have been noticed.
func (w *Watch) NoteTokensEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchedUntil = time.Time{}
}

// tokenObtained notes that a new token was obtained by which the tick notices a reboot until then.
// If no other token lived at this moment, there was a gap.
func (w *Watch) tokenObtained(until, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.After(w.watchedUntil) {
		w.unwatched = true
	}
	w.watchedUntil = latest(w.watchedUntil, until)
}

// tokenAccepted notes that N-central accepted a token from before, or refreshed its session. It is
// watched until then.
func (w *Watch) tokenAccepted(until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchedUntil = latest(w.watchedUntil, until)
}

// traitsConfirmed notes that what is known of the server was true at that time. A gap before it
// does not matter any more.
func (w *Watch) traitsConfirmed(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unwatched, w.watchedUntil = false, latest(w.watchedUntil, now)
}

// hadGap reports whether, since the server's traits were last confirmed, there was a time in which
// a reboot would not have been noticed.
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
