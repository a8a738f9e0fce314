// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package simulator is a stand-in N-central server. It serves the authentication API as N-central
// does, keeps sessions as N-central does, and has a knob for everything that is not publicly known
// of N-central.
//
// Start with [New] and [Simulator.AddUser], and serve it with [ListenInMemory] or [Listen].
// [Simulator.Change] changes knobs, and [Simulator.FailNext] makes calls fail. [Simulator.Counts],
// [Simulator.Requests] and [Simulator.Issued] show what happened. cmd/ncentral-simulator runs it as
// a command, with [Simulator.AdminHandler] to control it.
//
// Who owns what: a Simulator owns the users, sessions and records, all under one mutex. A [Server]
// owns a listener and its connections, and the caller closes it. A Simulator outlives its servers.
//
// The tests are beside each file. described_test.go checks every answer against an OpenAPI
// description of N-central, and every request of internal/ncentral too. The examples show how a
// test uses the package.
//
// The tags in the comments name the source of a fact about N-central: [D] its documentation, [S]
// its OpenAPI document, [O] observed in public clients, [?] not publicly known.
package simulator

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"
)

// Simulator is one N-central server. Any goroutine may call its methods at any time. It starts no
// goroutine and uses only package time as its clock, so it works in a testing/synctest bubble if it
// is made there.
type Simulator struct {
	mutex      sync.Mutex // never held during a wait
	knobs      Knobs
	key        []byte // signs every token
	startTime  time.Time
	users      map[string]*user
	sessions   sessions
	issued     []*IssuedToken
	issuedWith map[string]*IssuedToken // by access token
	secrets    []string
	failures   []failureRule
	cleared    chan struct{} // closed when the failures are cleared
	records    records
	servers    []*Server
}

// New returns a server without users.
func New(knobs Knobs) *Simulator {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return &Simulator{
		knobs:      knobs,
		key:        key,
		startTime:  time.Now(),
		users:      map[string]*user{},
		sessions:   newSessions(),
		issuedWith: map[string]*IssuedToken{},
		cleared:    make(chan struct{}),
		records:    newRecords(),
	}
}

// Handler returns a handler for N-central's API.
func (s *Simulator) Handler() http.Handler {
	return http.HandlerFunc(s.serve)
}

// Knobs returns the current knobs.
func (s *Simulator) Knobs() Knobs {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.knobs
}

// Change changes knobs while the server runs. Every request sees all of a change or none of it. The
// function must not call the Simulator.
func (s *Simulator) Change(change func(*Knobs)) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	change(&s.knobs)
}

// Reboot ends every session and gives the server a new start time. User-API tokens survive it [D].
func (s *Simulator) Reboot() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, p := range s.sessions.byAccess {
		s.endAccess(p, EndedByReboot)
	}
	s.sessions = newSessions()
	s.startTime = time.Now()
}

// serverClock returns the time by this server's own clock. Lifetimes follow the true clock.
func (s *Simulator) serverClock() time.Time {
	return time.Now().Add(s.knobs.ClockOffset)
}
