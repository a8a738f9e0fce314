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
	// grace is how long the engine may take to notice that N-central ended a session. Its tick
	// comes once a minute.
	grace = 70 * time.Second
	// usesPerRead is how often a token is used between the moment it came and its last moment.
	usesPerRead = 3
	// leastLeft is how long before its stated end a token is used for the last time.
	leastLeft = 50 * time.Millisecond
)

// handout is a token that a read returned.
type handout struct {
	role         *role
	token        string
	lease        string
	dedicated    bool // also where it may be dedicated
	sent         time.Time
	until        time.Time // as stated
	seenDead     bool
	revokedSince time.Time // zero where nobody revoked its lease
}

// ledger checks that every token handed out keeps its promise.
type ledger struct {
	outages *spans
	began   time.Time

	dead    findings // handouts of tokens that were dead, or died early
	useless findings // handouts of tokens whose user had died

	mu       sync.Mutex
	closed   bool
	tokens   map[string]*role // the role that each was handed out for
	reported map[string]bool  // the dead tokens already in the findings
	leases   []*handout       // those that may be revoked
	uses     int
	excused  int // uses of a token that was ended for a good reason
}

func newLedger(outages *spans) *ledger {
	return &ledger{outages: outages, tokens: map[string]*role{}, reported: map[string]bool{}}
}

// record records a handout. It uses the token at once, at random moments, and near its stated end.
func (l *ledger) record(h *handout, random *rand.Rand) {
	l.mu.Lock()
	l.tokens[h.token] = h.role
	if h.lease != "" && random.IntN(2) == 0 {
		l.leases = append(l.leases, h)
	}
	l.mu.Unlock()
	l.judgeDeath(h)
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

// use uses the token as N-central would see it, without injected failures.
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
	if l.reported[h.token] {
		l.dead.addHidden()
		return
	}
	l.reported[h.token] = true
	l.dead.add("%s", l.describe(h, issued, now, reason))
}

// judgeDeath records a finding if the token's user had died long before it was handed out.
func (l *ledger) judgeDeath(h *handout) {
	issued, known := h.role.ncentral.IssuedWith(h.token)
	if !known {
		return
	}
	if reason := h.role.ncentral.ofUser(issued.User).judgeDeath(h.sent, l.outages); reason != "" {
		l.useless.add("%s", l.describe(h, issued, time.Now(), reason))
	}
}

// judge returns why a token should have been valid at that time, or "" where there is a good reason
// that it was not.
func (l *ledger) judge(h *handout, issued simulator.IssuedToken, now time.Time) string {
	n := h.role.ncentral.ofUser(issued.User)
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
	if calm := longestCalm(issued.EndedAt, h.sent, n.silences, l.outages); calm > grace {
		return fmt.Sprintf("N-central had ended it (%s), and could be asked for %s at a stretch since", issued.EndedBy,
			calm.Round(time.Second))
	}
	return ""
}

// endedOnRequest reports whether somebody asked for the end of a session that the engine logged out
// at that time.
func (h *handout) endedOnRequest(at time.Time) bool {
	if h.dedicated && !h.revokedSince.IsZero() && !at.Before(h.revokedSince) {
		return true
	}
	// What was asked for during the read, or later, may be done at any time from then on.
	return h.role.endings.during(h.sent, at)
}

// describe describes a finding without the token.
func (l *ledger) describe(h *handout, issued simulator.IssuedToken, now time.Time, reason string) string {
	sum := sha256.Sum256([]byte(h.token))
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Sub(l.began).Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%s of %s, token %s: %s; issued at %s by %s, lapses %s, ended %s, read %s, stated end %s, "+
		"used %s; may be dedicated %t",
		h.role.name, h.role.ncentral.name, hex.EncodeToString(sum[:4]), reason, at(issued.IssuedAt), issued.Endpoint,
		at(issued.ExpiresAt),
		at(issued.EndedAt), at(h.sent), at(h.until), at(now), h.dedicated)
}

// leaseToRevoke takes one of the leases that may be revoked, and records that it is revoked.
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

// close stops the use of all tokens.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// handedOutFor returns the name of the role for which readers got the token, or "".
func (l *ledger) handedOutFor(token string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.tokens[token]; r != nil {
		return r.name
	}
	return ""
}
