// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// triesEvery is how often a dead user is tried.
const triesEvery = 10 * time.Minute

// death is a time during which one of the two users of a server does not work. The other one does.
type death struct {
	at, lasts time.Duration
	second    bool // it is the second user
	of        wayToDie
	// reboots says that the server reboots in the middle of it.
	reboots bool
	// checked says that a check ends it for the engine. Otherwise that is a write of the config.
	checked bool
}

// wayToDie is what befalls a user that dies.
type wayToDie struct {
	name        string
	begin       func(*ncentral) error
	useless     bool // the tokens that readers hold are of no use while it lasts
	lockedOut   bool // N-central takes them for invalid
	regenerates bool
}

var waysToDie = []wayToDie{
	{name: "password expired", useless: true, begin: func(n *ncentral) error {
		return n.SetPasswordExpired(n.user, true)
	}},
	{name: "user locked", begin: func(n *ncentral) error { return n.SetUserLocked(n.user, true) }},
	{name: "user disabled", useless: true, lockedOut: true, begin: func(n *ncentral) error {
		return n.SetUserDisabled(n.user, true)
	}},
	{name: "token regenerated", regenerates: true, begin: (*ncentral).regenerate},
}

// drawDeaths draws deaths of the two users, one at a time. Some last longer than grace.
func drawDeaths(random *rand.Rand, duration time.Duration) (all []death) {
	for at := firstFault + seconds(random, 0, 10); at < duration-firstFault; {
		one := death{
			at: at, lasts: seconds(random, 3, 15), second: random.IntN(3) == 0, of: pick(random, waysToDie...),
			reboots: random.IntN(6) == 0, checked: random.IntN(2) == 0,
		}
		if random.IntN(3) == 0 || len(all) == 1 {
			one.lasts += grace
		}
		one.lasts = min(one.lasts, duration-at)
		all = append(all, one)
		at += one.lasts + seconds(random, 6, 12)
	}
	return all
}

// playDeaths has the users of a server die and come back.
func (s *soak) playDeaths(ctx context.Context, began time.Time) error {
	for _, one := range s.plan.deaths {
		if err := sleepUntil(ctx, began.Add(one.at)); err != nil {
			return err
		}
		n := s.paired()
		if one.second {
			n = n.second
		}
		if err := s.playDeath(ctx, n, one); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) playDeath(ctx context.Context, n *ncentral, one death) error {
	s.faults.add(one.of.name+", with another user", 1)
	s.note("%s: %s for %s", n.name, one.of.name, one.lasts)
	// Each role turns to the other user, and back. Until the engine knows, dedicated reads try both.
	n.authenticates.add("deaths", 4*s.sharedRolesOf(n)+readerCount)
	if one.of.useless {
		defer n.deaths.begin()()
	}
	if one.of.lockedOut {
		defer n.lockouts.begin()()
	}
	died, refused := time.Now(), n.currentToken()
	if err := one.of.begin(n); err != nil {
		return err
	}
	if err := sleep(ctx, one.lasts/2); err != nil {
		return err
	}
	if one.reboots {
		n.authenticates.add("sessions ended by the server", s.sharedRolesOf(n)+n.authenticatesToLearn())
		n.Reboot()
	}
	if err := sleep(ctx, one.lasts/2); err != nil {
		return err
	}
	s.findTries(n, refused, died)
	if err := n.calm(); err != nil {
		return err
	}
	return s.persist(ctx, func(ctx context.Context) error {
		if one.checked && !one.of.regenerates {
			return s.check(ctx, n)
		}
		return s.writeConfig(ctx, n)
	})
}

// findTries finds that a dead user was tried more often than it may. What users of the engine do
// with the config explains more.
func (s *soak) findTries(n *ncentral, token string, died time.Time) {
	known := died.Add(grace)
	tries := 0
	for _, request := range n.Requests() {
		if request.Endpoint == simulator.EndpointAuthenticate && request.Secret == token && request.Time.After(known) &&
			!s.outages.during(request.Time.Add(-grace), request.Time) &&
			!n.asked.during(request.Time.Add(-2*flightLimit), request.Time) {
			tries++
		}
	}
	if allowed := 1 + int(time.Since(known)/triesEvery); tries > allowed {
		s.tries.add("%d of %s within %s", tries, n.name, time.Since(known).Round(time.Second))
	}
}

// judgeDeath returns why a token should not have been handed out: its user had died some time
// before, and another one works. It returns "" if all is well.
func (n *ncentral) judgeDeath(sent time.Time, outages *spans) string {
	for _, death := range n.deaths.within(time.Time{}, sent) {
		known := death.from.Add(grace)
		for _, gone := range outages.within(death.from, sent) {
			known = known.Add(gone.to.Sub(gone.from))
		}
		if death.to.Equal(sent) && sent.After(known) {
			return "its user had died " + sent.Sub(death.from).Round(time.Second).String() + " before"
		}
	}
	return ""
}

// noteFailureOfTwoUsers records a finding for a failed read of a role with two users, one of which
// works at any time.
func (s *soak) noteFailureOfTwoUsers(h *handout, err error) {
	now := time.Now()
	if h.role.ncentral.other() != nil && !h.role.endings.during(h.sent.Add(-time.Second), now) {
		s.failedWithTwoUsers.add("%s of %s: %v", h.role.name, h.role.ncentral.name, err)
	}
}

// paired returns the server with two users.
func (s *soak) paired() *ncentral {
	for _, n := range s.ncentrals {
		if n.second != nil {
			return n
		}
	}
	return nil
}

// withSecondUsers returns all that there is a config for: each server, and the second users.
func (s *soak) withSecondUsers() (all []*ncentral) {
	for _, n := range s.ncentrals {
		if all = append(all, n); n.second != nil {
			all = append(all, n.second)
		}
	}
	return all
}

// other returns the other user of the server, or nil.
func (n *ncentral) other() *ncentral {
	if n.second != nil {
		return n.second
	}
	return n.first
}

// ofUser returns the one of the server's users that has that name.
func (n *ncentral) ofUser(user string) *ncentral {
	if other := n.other(); other != nil && other.user == user {
		return other
	}
	return n
}
