// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

// tokenOf makes a token that was issued so many minutes ago, is promised for so many from now, and
// lives for so many.
func tokenOf(name, chain string, now time.Time, issued, promised, lives int) Token {
	minutes := func(n int) time.Time { return now.Add(time.Duration(n) * time.Minute) }
	return Token{
		AccessToken: name, Chain: chain, IssuedAt: minutes(-issued), ExpiresAt: minutes(promised),
		GrantedUntil: minutes(lives),
	}
}

func namesOf(tokens []Token) (names []string) {
	for _, token := range tokens {
		names = append(names, token.AccessToken)
	}
	return names
}

func TestASessionHoldsAllTokensThatLive(t *testing.T) {
	now := time.Now()
	current := tokenOf("current", "a", now, 1, 1, 1)
	ended := tokenOf("ended", "a", now, 1, 0, 0)
	session := &Session{Current: &current, Earlier: []Token{
		tokenOf("past its promise", "b", now, 9, -1, 1), ended,
		tokenOf("earlier", "b", now, 5, 1, 1),
	}}
	if names := namesOf(session.Tokens(now)); !slices.Equal(names, []string{"current", "past its promise", "earlier"}) {
		t.Error(names)
	}
	if names := namesOf((&Session{Current: &ended}).Tokens(now)); names != nil {
		t.Error("of a session that ended:", names)
	}
	for name, want := range map[string]bool{"current": true, "earlier": true, "ended": true, "other": false} {
		if session.Holds(name) != want {
			t.Errorf("it holds %q: %t", name, !want)
		}
	}
	var none *Session
	if none.Tokens(now) != nil || none.Holds("current") || (&Session{}).Tokens(now) != nil || (&Session{}).Holds("") {
		t.Error("no session holds tokens")
	}
}

func TestASessionServesTheConfigAndRoleThatItWasObtainedFor(t *testing.T) {
	config, role := &Config{fingerprint: "c"}, &Role{fingerprint: "r"}
	var none *Session
	for name, test := range map[string]struct {
		session *Session
		want    bool
	}{
		"both":           {&Session{ConfigFingerprint: "c", RoleFingerprint: "r", Current: &Token{}}, true},
		"another config": {&Session{ConfigFingerprint: "x", RoleFingerprint: "r", Current: &Token{}}, false},
		"another role":   {&Session{ConfigFingerprint: "c", RoleFingerprint: "x", Current: &Token{}}, false},
		"no token":       {&Session{ConfigFingerprint: "c", RoleFingerprint: "r"}, false},
		"none":           {none, false},
	} {
		if test.session.Serves(config, role) != test.want {
			t.Errorf("%s: %t", name, !test.want)
		}
	}
}

// A token ends alone where no other of its chain is still promised: N-central may end them
// together.
func TestTokensPastTheirPromiseAreEndedWhereThatEndsNoOther(t *testing.T) {
	now := time.Now()
	current := tokenOf("current", "a", now, 1, 50, 60)
	session := &Session{RoleFingerprint: "r", Current: &current, Earlier: []Token{
		tokenOf("with the current", "a", now, 60, -1, 5),
		tokenOf("promised", "b", now, 60, 1, 5),
		tokenOf("with one that is promised", "b", now, 60, -1, 5),
		tokenOf("over", "c", now, 60, 0, 5),
		tokenOf("lapsed", "d", now, 60, -1, 0),
	}}
	kept, over := session.PastPromise(now)
	if names := namesOf(kept.Earlier); !slices.Equal(names, []string{
		"with the current", "promised",
		"with one that is promised",
	}) {
		t.Error("kept:", names)
	}
	if names := namesOf(over); !slices.Equal(names, []string{"over"}) {
		t.Error("over:", names)
	}
	if kept.Current != &current || kept.RoleFingerprint != "r" || len(session.Earlier) != 5 {
		t.Error("the session is another, or the one before was changed")
	}
	if _, over := (&Session{Earlier: session.Earlier[:1]}).PastPromise(now); len(over) != 1 {
		t.Error("without a current token, of its chain none is promised:", over)
	}
}

func TestASessionKeepsTheFiftyNewestOfItsEarlierTokens(t *testing.T) {
	now := time.Now()
	by := tokenOf("by", "new", now, 0, 60, 60)
	current := tokenOf("1", "c", now, 1, 50, 60)
	session := &Session{Current: &current}
	for age := 2; age <= 50; age++ {
		session.Earlier = append([]Token{tokenOf(strconv.Itoa(age), strconv.Itoa(age), now, age, -1, 60)},
			session.Earlier...)
	}
	kept, ended := session.EarlierAfter(&by, now)
	if len(kept) != 50 || len(ended) != 0 {
		t.Errorf("of 50, %d are kept, %d ended", len(kept), len(ended))
	}
	session.Earlier = append(session.Earlier,
		tokenOf("51", "51", now, 51, -1, 60),
		tokenOf("52", "52", now, 52, 1, 60),   // promised
		tokenOf("53", "new", now, 53, -1, 60), // with the new one
		tokenOf("54", "2", now, 54, -1, 60),   // with one that is kept
		tokenOf("55", "55", now, 55, -1, 0),   // lapsed
		tokenOf("56", "56", now, 56, 0, 60),
		tokenOf("57", "52", now, 57, -1, 60), // with one that is promised
	)
	kept, ended = session.EarlierAfter(&by, now)
	if len(kept) != 50 || kept[0].AccessToken != "1" || kept[49].AccessToken != "50" {
		t.Error("kept:", namesOf(kept))
	}
	if names := namesOf(ended); !slices.Equal(names, []string{"51", "56"}) {
		t.Error("ended:", names)
	}
}

// The entry of a session is kept while a token of it lives, and while a reader waits for what its
// refresh token brings.
func TestASessionLapsesWhenNothingOfItIsOfUse(t *testing.T) {
	now := time.Now()
	live, dead := tokenOf("live", "a", now, 1, 1, 1), tokenOf("dead", "a", now, 60, -1, 0)
	refreshable := dead
	refreshable.RefreshToken, refreshable.RefreshExpiresAt = "refresh", now.Add(1)
	expired := refreshable
	expired.RefreshExpiresAt = now
	withoutOne := refreshable
	withoutOne.RefreshToken = ""
	var none *Session
	for name, test := range map[string]struct {
		session             *Session
		lastRead, rotatesAt time.Time
		want                bool
	}{
		"a token lives":               {&Session{Current: &live}, now, now, false},
		"an earlier token lives":      {&Session{Current: &dead, Earlier: []Token{live}}, now, now, false},
		"no refresh token":            {&Session{Current: &dead}, now, now, true},
		"a reader waits":              {&Session{Current: &refreshable}, now, now, false},
		"nobody came since it is due": {&Session{Current: &refreshable}, now.Add(-1), now, true},
		"when it is due is not known": {&Session{Current: &refreshable}, now, time.Time{}, true},
		"the refresh token ended":     {&Session{Current: &expired}, now, now, true},
		"the refresh token is none":   {&Session{Current: &withoutOne}, now, now, true},
		"no current token":            {&Session{}, now, now, true},
		"none":                        {none, now, now, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.session.Lapsed(now, test.lastRead, test.rotatesAt); got != test.want {
				t.Errorf("%t, want %t", got, test.want)
			}
		})
	}
}

// A clock that was ahead gives a token no longer life.
func TestATokenFromTheFutureHasItsWholeLifeLeftAtMostAndIsSuspect(t *testing.T) {
	now := time.Now().Round(0)
	future := tokenOf("future", "a", now, -10, 70, 80)
	future.RefreshExpiresAt, future.Epoch = now.Add(100*time.Minute), 7
	session := &Session{Current: &future, Earlier: []Token{future, tokenOf("past", "a", now, 1, 10, 10)}}
	before := time.Now()
	if err := session.prepare("monitoring"); err != nil {
		t.Fatal(err)
	}
	late := func(got time.Time, minutes int) bool {
		want := before.Add(time.Duration(minutes) * time.Minute)
		return got.Before(want.Add(-time.Second)) || got.After(want.Add(time.Minute))
	}
	for _, token := range []Token{*session.Current, session.Earlier[0]} {
		if late(token.IssuedAt, 0) || late(token.ExpiresAt, 60) || late(token.GrantedUntil, 70) ||
			late(token.RefreshExpiresAt, 90) || token.Epoch >= 0 {
			t.Errorf("%+v", token)
		}
	}
	if past := session.Earlier[1]; !past.ExpiresAt.Equal(now.Add(10*time.Minute)) || past.Epoch < 0 {
		t.Errorf("a token of the past is another: %+v", past)
	}
	future.RefreshExpiresAt = time.Time{}
	if seen := future.seenAt(now); !seen.RefreshExpiresAt.IsZero() {
		t.Errorf("a refresh token's end that is not known becomes %s", seen.RefreshExpiresAt)
	}
	future.ObtainedHere = true
	if seen := future.seenAt(now); seen != &future {
		t.Error("a token of this process counts as one of another's")
	}
	issuedNow := tokenOf("now", "a", now, 0, 10, 10)
	if seen := issuedNow.seenAt(now); seen != &issuedNow {
		t.Error("a token that is issued now counts as one of the future")
	}
}

func TestATokenIsHandedOutUntilTwoSecondsBeforeItsPromiseEnds(t *testing.T) {
	now := time.Now()
	token := Token{IssuedAt: now, ExpiresAt: now.Add(time.Minute), GrantedUntil: now.Add(time.Hour)}
	if got := token.ServableUntil().Sub(now); got != 58*time.Second {
		t.Errorf("for %s", got)
	}
	if got := token.Lifetime(); got != time.Minute {
		t.Errorf("its lifetime is %s", got)
	}
	if !token.MayBeAccepted(now.Add(time.Hour-1)) || token.MayBeAccepted(now.Add(time.Hour)) {
		t.Error("it does not live until its grant ends")
	}
}

func TestWhatARoleAsksForIsWhatItsReadersExpectElseAnHour(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{0: time.Hour, 1: 1, time.Minute: time.Minute} {
		if got := (&Role{TTL: ttl}).ExpectedLifetime(); got != want {
			t.Errorf("ttl %s: %s, want %s", ttl, got, want)
		}
	}
	if DefaultRefreshLifetime != 25*time.Hour {
		t.Errorf("a refresh token is taken to live for %s", DefaultRefreshLifetime)
	}
}
