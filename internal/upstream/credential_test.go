// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"testing"
	"testing/synctest"
	"time"
)

// Of two authenticates that overlap, each is told, for either may have ended the other's session.
func TestAuthenticatesOverlapWhereOneBeginsBeforeTheOtherEnds(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(*credential) []bool
		want []bool
	}{
		"alone": {func(c *credential) []bool { return []bool{c.beginAuthenticate()()} }, []bool{false}},
		"one after the other": {func(c *credential) []bool {
			return []bool{
				c.beginAuthenticate()(),
				c.beginAuthenticate()(),
			}
		}, []bool{false, false}},
		"the first ends first": {func(c *credential) []bool {
			first, second := c.beginAuthenticate(), c.beginAuthenticate()
			return []bool{first(), second()}
		}, []bool{true, true}},
		"one within the other": {func(c *credential) []bool {
			first, second := c.beginAuthenticate(), c.beginAuthenticate()
			return []bool{second(), first(), c.beginAuthenticate()()}
		}, []bool{true, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			credential := newCredential()
			got := test.do(credential)
			for i, want := range test.want {
				if got[i] != want {
					t.Errorf("%d overlapped: %t", i, got[i])
				}
			}
			if calls := credential.authCallsSoFar(); calls.underWay != 0 || calls.begun < len(got)-1 {
				t.Errorf("%+v", calls)
			}
		})
	}
	credential := newCredential()
	end := credential.beginAuthenticate()
	if calls := credential.authCallsSoFar(); calls != (authCalls{underWay: 1, begun: 1}) {
		t.Errorf("while one is under way: %+v", calls)
	}
	end()
	if calls := credential.authCallsSoFar(); calls != (authCalls{begun: 1}) {
		t.Errorf("after it: %+v", calls)
	}
}

func TestARefusalIsTheFirstUntilTheCredentialWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		credential, now := newCredential(), time.Now()
		refused := func() bool { return credential.beginCoolDown(now, failed()) }
		if !refused() || refused() {
			t.Error("the first refusal is not told from the second")
		}
		credential.endWait()
		if cause, _ := credential.pausedAt(now, time.Time{}); cause != nil || credential.refusal() == nil {
			t.Error("it is not tried, or the refusal is forgotten")
		}
		if refused() {
			t.Error("a refusal after a write of the config is the first")
		}
		if cause, until := credential.pausedAt(now, time.Time{}); cause == nil || !until.After(now) {
			t.Error("it is tried again at once")
		}
		credential.noteAccepted()
		if cause, _ := credential.pausedAt(now, time.Time{}); cause != nil || credential.refusal() != nil {
			t.Error("the refusal outlasts a success")
		}
		if !refused() {
			t.Error("a refusal after a success is not the first")
		}
	})
}
