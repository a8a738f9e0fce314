// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import "testing"

// A role's lease may be written while a read is under way: what was made for one kind of answer is not
// handed out in the other.
func TestAnswersWithAndWithoutALeaseAreRenderedApart(t *testing.T) {
	shared := &sharedFields{}
	made := 0
	render := func(kind string) func() map[string]any {
		return func() map[string]any { made++; return map[string]any{"kind": kind} }
	}
	for range 2 {
		if got := shared.Rendered(true, render("leased"))["kind"]; got != "leased" {
			t.Errorf("under a lease: %v", got)
		}
		if got := shared.Rendered(false, render("unleased"))["kind"]; got != "unleased" {
			t.Errorf("without one: %v", got)
		}
	}
	if made != 2 {
		t.Errorf("rendered %d times, want once each", made)
	}
}
