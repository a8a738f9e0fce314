// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

const (
	// grace is how long the engine may take to notice that N-central ended a session: its tick comes once a minute.
	grace = 70 * time.Second
	// usesPerRead are how often a token is used beside the moment in which it came and the last moment of its life.
	usesPerRead = 3
	// leastLeft is how long before a token's stated end it is used for the last time.
	leastLeft = 50 * time.Millisecond
)

// handout is a token that a read was answered.
type handout struct {
	role         *role
	token        string
	lease        string
	dedicated    bool // or may be
	sent         time.Time
	until        time.Time // as stated
	seenDead     bool
	revokedSince time.Time // zero where nobody revoked its lease
}

// ledger holds every token handed out to its promise.
type ledger struct {
	outages *spans
	began   time.Time

	dead findings // handouts of a token that was dead, or died before its time

	mu      sync.Mutex
	closed  bool
	tokens  map[string]*role // that they were handed out for
	told    map[string]bool  // of those that were dead
	leases  []*handout       // that may be revoked
	uses    int
	excused int // uses of a token that had been ended, as it may
}

func newLedger(outages *spans) *ledger {
	return &ledger{outages: outages, tokens: map[string]*role{}, told: map[string]bool{}}
}

// take notes a handout, uses the token at once, and has it used at random moments until its stated end.
func (l *ledger) take(h *handout, random *rand.Rand) {
	l.mu.Lock()
	l.tokens[h.token] = h.role
	if h.lease != "" && random.IntN(2) == 0 {
		l.leases = append(l.leases, h)
	}
	l.mu.Unlock()
	l.use(h)
	left := time.Until(h.until) - leastLeft
	if left <= 0 {
		return
	}
	time.AfterFunc(left, func() { l.use(h) })
	for range usesPerRead {
		time.AfterFunc(time.Duration(random.Int64N(int64(left))), func() { l.use(h) })
	}
}

// use uses the token as N-central would see it, injected failures aside.
func (l *ledger) use(h *handout) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	n := h.role.ncentral
	lives := n.AccessTokenLives(h.token)
	now := time.Now()
	if now.After(h.until) {
		return // the machine was too busy to use it in time
	}
	l.uses++
	if lives {
		return
	}
	issued, known := n.IssuedWith(h.token)
	reason := "it is none of this server's"
	if known {
		reason = l.judge(h, issued, now)
	}
	if reason == "" {
		l.excused++
		return
	}
	if h.seenDead {
		return
	}
	h.seenDead = true
	if l.told[h.token] {
		l.dead.addUntold()
		return
	}
	l.told[h.token] = true
	l.dead.add("%s", l.tell(h, issued, now, reason))
}

// judge says why a token should not have been refused at that time; empty where it may.
func (l *ledger) judge(h *handout, issued simulator.IssuedToken, now time.Time) string {
	n := h.role.ncentral
	switch issued.EndedBy {
	case "":
		if n.lockouts.during(now.Add(-time.Second), now) {
			return ""
		}
		return "it lapsed before its stated end"
	case simulator.EndedByLogout:
		switch {
		case issued.EndedAt.Before(h.sent):
			return "the engine had logged it out before it was asked for"
		case !h.endedOnRequest(issued.EndedAt):
			return "the engine logged it out, and nobody had asked for that"
		}
		return ""
	case simulator.EndedByRefresh:
		return "the engine ended it by a refresh"
	}
	if calm := longestCalm(issued.EndedAt, h.sent, &n.silences, l.outages); calm > grace {
		return fmt.Sprintf("N-central had ended it (%s), and could be asked for %s at a stretch since", issued.EndedBy, calm.Round(time.Second))
	}
	return ""
}

// endedOnRequest reports whether somebody asked for the end of the session that the engine logged out at that time.
func (h *handout) endedOnRequest(at time.Time) bool {
	if h.dedicated && !h.revokedSince.IsZero() && !at.Before(h.revokedSince) {
		return true
	}
	// What was asked for while the token was under way, or later, may be done at any time from then on.
	return h.role.endings.during(h.sent, at)
}

// tell describes a finding without the token.
func (l *ledger) tell(h *handout, issued simulator.IssuedToken, now time.Time, reason string) string {
	sum := sha256.Sum256([]byte(h.token))
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Sub(l.began).Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%s of %s, token %s: %s; issued at %s by %s, lapses %s, ended %s, read %s, stated end %s, used %s; may be dedicated %t",
		h.role.name, h.role.ncentral.name, hex.EncodeToString(sum[:4]), reason, at(issued.IssuedAt), issued.Endpoint, at(issued.ExpiresAt),
		at(issued.EndedAt), at(h.sent), at(h.until), at(now), h.dedicated)
}

// leaseToRevoke takes one of the leases that may be revoked, and notes that it is.
func (l *ledger) leaseToRevoke(draw int) (lease string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.leases) == 0 {
		return ""
	}
	last := len(l.leases) - 1
	index := draw % len(l.leases)
	h := l.leases[index]
	l.leases[index] = l.leases[last]
	l.leases = l.leases[:last]
	h.revokedSince = time.Now()
	return h.lease
}

// close ends all use.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// handedOutFor returns the name of the role for which readers got the token; empty where none did.
func (l *ledger) handedOutFor(token string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.tokens[token]; r != nil {
		return r.name
	}
	return ""
}
