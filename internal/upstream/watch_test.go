// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"testing"
	"time"
)

// Between two tokens that the tick asks after, a reboot would be found by none.
func TestATimeWithoutALiveTokenIsUnwatched(t *testing.T) {
	now := time.Now()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	for name, test := range map[string]struct {
		note func(*Watch)
		want bool
	}{
		"a start, of which nobody knows what was before": {func(*Watch) {}, true},
		"it was asked":          {func(w *Watch) { w.traitsConfirmed(now) }, false},
		"a token without a gap": {func(w *Watch) { w.traitsConfirmed(now); w.tokenObtained(at(60), now) }, false},
		"a token after a gap":   {func(w *Watch) { w.traitsConfirmed(now); w.tokenObtained(at(60), at(1)) }, true},
		"one after the other": {func(w *Watch) {
			w.traitsConfirmed(now)
			w.tokenObtained(at(60),
				now)
			w.tokenObtained(at(120), at(60))
		}, false},
		"the earlier lives longer": {func(w *Watch) {
			w.traitsConfirmed(now)
			w.tokenObtained(at(60), now)
			w.tokenObtained(at(30), at(20))
			w.tokenObtained(at(90), at(50))
		}, false},
		"a refresh bridges": {func(w *Watch) {
			w.traitsConfirmed(now)
			w.tokenAccepted(at(60))
			w.tokenObtained(at(90),
				at(50))
		}, false},
		"a shorter refresh takes nothing": {func(w *Watch) {
			w.traitsConfirmed(now)
			w.tokenAccepted(at(60))
			w.tokenAccepted(at(30))
			w.tokenObtained(at(90), at(50))
		}, false},
		"tokens were ended": {func(w *Watch) {
			w.traitsConfirmed(now)
			w.tokenObtained(at(60), now)
			w.NoteTokensEnded()
			w.tokenObtained(at(90), at(1))
		}, true},
		"it was asked after a gap": {
			func(w *Watch) { w.tokenObtained(at(60), at(1)); w.traitsConfirmed(at(2)) },
			false,
		},
		"being asked takes no token's time": {func(w *Watch) {
			w.tokenObtained(at(60), now)
			w.traitsConfirmed(at(2))
			w.tokenObtained(at(90), at(50))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			watch := newWatch()
			if test.note(watch); watch.hadGap() != test.want {
				t.Errorf("unwatched: %t, want %t", watch.hadGap(), test.want)
			}
		})
	}
}

func TestWhetherStorageWasHeldAgainstTheServerIsRemembered(t *testing.T) {
	watch := newWatch()
	if watch.StorageIsProven() || watch.StorageWasDoubted() {
		t.Error("it was, at the start")
	}
	if watch.DoubtStorage(); watch.StorageIsProven() || !watch.StorageWasDoubted() {
		t.Error("that it was tried in vain is not remembered, or proves it")
	}
	if watch.ProveStorage(); !watch.StorageIsProven() {
		t.Error("it is not")
	}
}
