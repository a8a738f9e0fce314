// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package simulator is a stand-in N-central server: it answers the authentication API as N-central does, holds sessions
// as N-central does, and has a knob for everything that nobody public knows of N-central. Tests run it in process, over
// TCP or in memory; cmd/ncentral-simulator runs it as a command.
//
// The tags in its comments say how a fact of N-central is known: [D] its documentation, [S] its OpenAPI document, [O]
// observed in public clients, [?] nobody public knows.
package simulator

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"
)

// Simulator is one N-central server. All its methods may be called at any time, from any goroutine. It starts no
// goroutine and takes the time from package time alone, so that it can live inside a testing/synctest bubble; make it
// inside the bubble then.
type Simulator struct {
	mutex      sync.Mutex // never held while waiting
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

// New makes a server without users.
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

// Handler answers N-central's API.
func (s *Simulator) Handler() http.Handler {
	return http.HandlerFunc(s.serve)
}

// Knobs answers the knobs as they stand.
func (s *Simulator) Knobs() Knobs {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.knobs
}

// Change changes knobs while the server runs: every request sees all of a change or nothing of it. The function must not
// call the Simulator.
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

// serverClock is the time as this server believes it to be. Lifetimes are kept by the true clock.
func (s *Simulator) serverClock() time.Time {
	return time.Now().Add(s.knobs.ClockOffset)
}
