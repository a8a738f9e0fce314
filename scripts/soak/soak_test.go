// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// text returns the plan as text, without its functions.
func (p plan) text() string {
	var text strings.Builder
	fmt.Fprintln(&text, p.definitions, p.disruptions, p.rewrites)
	for _, episodes := range p.episodes {
		for _, one := range episodes {
			fmt.Fprintln(&text, one.at, one)
		}
	}
	for _, one := range p.deaths {
		fmt.Fprintln(&text, one.at, one.lasts, one.of.name, one.second, one.reboots, one.checked)
	}
	return text.String()
}

func TestASeedRepeatsThePlan(t *testing.T) {
	first, again, other := draw(7, 10*time.Minute), draw(7, 10*time.Minute), draw(8, 10*time.Minute)
	if first.text() != again.text() {
		t.Error("the same seed draws another plan")
	}
	if first.text() == other.text() {
		t.Error("another seed draws the same plan")
	}
}

func TestEveryKindOfDisruptionHappens(t *testing.T) {
	for seed := range uint64(100) {
		for _, duration := range []time.Duration{shortestDuration, 10 * time.Minute} {
			disruptions := draw(seed, duration).disruptions
			for _, kind := range []string{killPlugin, killServer, sealServer} {
				if !slices.ContainsFunc(disruptions, func(d disruption) bool { return d.kind == kind }) {
					t.Errorf("seed %d, %s: nothing is %s", seed, duration, kind)
				}
			}
		}
	}
}

func TestEpisodesOfOneServerDoNotOverlap(t *testing.T) {
	for seed := range uint64(100) {
		for i, episodes := range draw(seed, 10*time.Minute).episodes {
			free := time.Duration(0)
			for _, one := range episodes {
				if one.at < free {
					t.Errorf("seed %d, server %d: %s begins at %s, before the one before it ends", seed, i, one, one.at)
				}
				free = one.at + one.lasts
			}
			if free > 10*time.Minute {
				t.Errorf("seed %d, server %d: trouble until %s", seed, i, free)
			}
		}
	}
}

func TestLongestCalm(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for name, test := range map[string]struct {
		troubles []span
		want     int
	}{
		"none":            {nil, 100},
		"in the middle":   {[]span{{at(40), at(50)}}, 50},
		"at the end":      {[]span{{at(40), at(100)}}, 40},
		"going on":        {[]span{{at(30), time.Time{}}}, 30},
		"before":          {[]span{{at(-50), at(-10)}}, 100},
		"across":          {[]span{{at(-50), at(10)}, {at(90), at(200)}}, 80},
		"one in another":  {[]span{{at(20), at(80)}, {at(30), at(40)}}, 20},
		"in any order":    {[]span{{at(60), at(70)}, {at(10), at(20)}}, 40},
		"all of the time": {[]span{{at(-1), at(101)}}, 0},
		"over at once":    {[]span{{at(30), at(30)}}, 70},
	} {
		if calm := longestCalm(at(0), at(100), &spans{all: test.troubles},
			&spans{}); calm != time.Duration(test.want)*time.Second {
			t.Errorf("%s: %s, want %d s", name, calm, test.want)
		}
	}
}

func TestRefusedTokens(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	reboot := simulator.IssuedToken{EndedAt: at(0), EndedBy: simulator.EndedByReboot}
	logout := simulator.IssuedToken{EndedAt: at(10), EndedBy: simulator.EndedByLogout}
	for name, test := range map[string]struct {
		issued   simulator.IssuedToken
		handout  handout
		endings  []span
		silences []span
		outages  []span
		lockouts []span
		excused  bool
	}{
		"rebooted, read within the grace": {
			issued: reboot, handout: handout{sent: at(70)},
			excused: true,
		},
		"rebooted, read after the grace": {issued: reboot, handout: handout{sent: at(71)}},
		"rebooted, and not to be asked for some time": {
			issued: reboot, handout: handout{sent: at(100)},
			silences: []span{{at(50), at(60)}}, excused: true,
		},
		"rebooted, and the engine was gone for a while": {
			issued: reboot, handout: handout{sent: at(100)},
			outages: []span{{at(50), at(60)}}, excused: true,
		},
		"rebooted, and asked long after the trouble": {
			issued: reboot, handout: handout{sent: at(200)},
			silences: []span{{at(50), at(60)}},
		},
		"lapsed":                  {issued: simulator.IssuedToken{}},
		"its user was locked out": {lockouts: []span{{at(99), time.Time{}}}, excused: true},
		"refreshed to death": {issued: simulator.IssuedToken{
			EndedAt: at(10),
			EndedBy: simulator.EndedByRefresh,
		}},
		"logged out before it was read": {
			issued: logout, handout: handout{sent: at(11)},
			endings: []span{{at(0), at(20)}},
		},
		"logged out unasked": {issued: logout, handout: handout{sent: at(5)}},
		"logged out on request": {
			issued: logout, handout: handout{sent: at(5)},
			endings: []span{{at(8), at(12)}}, excused: true,
		},
		"logged out late, on request": {
			issued: logout, handout: handout{sent: at(5)},
			endings: []span{{at(6), at(7)}}, excused: true,
		},
		"logged out on a request from before it was read": {
			issued: logout, handout: handout{sent: at(5)},
			endings: []span{{at(3), at(4)}},
		},
		"logged out with its lease": {
			issued:  logout,
			handout: handout{sent: at(5), dedicated: true, revokedSince: at(9)}, excused: true,
		},
		"logged out before its lease was revoked": {
			issued:  logout,
			handout: handout{sent: at(5), dedicated: true, revokedSince: at(11)},
		},
		"logged out with one of the leases that shared it": {
			issued:  logout,
			handout: handout{sent: at(5), revokedSince: at(9)},
		},
	} {
		l := newLedger(&spans{all: test.outages})
		h := test.handout
		h.role = &role{
			endings:  spans{all: test.endings},
			ncentral: &ncentral{silences: &spans{all: test.silences}, lockouts: spans{all: test.lockouts}},
		}
		if reason := l.judge(&h, test.issued, at(100)); (reason == "") != test.excused {
			t.Errorf("%s: %q", name, reason)
		}
	}
}

func TestDeathsOfTwoUsersDoNotOverlap(t *testing.T) {
	for seed := range uint64(100) {
		for _, duration := range []time.Duration{2 * time.Minute, 10 * time.Minute} {
			free, long := time.Duration(0), false
			for _, one := range draw(seed, duration).deaths {
				if one.at < free || one.at+one.lasts > duration {
					t.Errorf("seed %d: %s from %s for %s", seed, one.of.name, one.at, one.lasts)
				}
				free, long = one.at+one.lasts+5*time.Second, long || one.lasts > grace
			}
			if !long {
				t.Errorf("seed %d, %s: no death is long enough to tell", seed, duration)
			}
		}
	}
}

func TestTokensOfDeadUsers(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for name, test := range map[string]struct {
		died    span
		read    time.Time
		outages []span
		wrong   bool
	}{
		"within the grace":   {died: span{from: at(0)}, read: at(70)},
		"after the grace":    {died: span{from: at(0)}, read: at(71), wrong: true},
		"after it came back": {died: span{at(0), at(90)}, read: at(91)},
		"with the engine gone meanwhile": {
			died: span{from: at(0)}, read: at(80), outages: []span{{at(50), at(60)}},
		},
		"long after the engine was gone": {
			died: span{from: at(0)}, read: at(81), outages: []span{{at(50), at(60)}}, wrong: true,
		},
	} {
		n := &ncentral{}
		n.deaths.all = []span{test.died}
		if reason := n.judgeDeath(test.read, &spans{all: test.outages}); (reason != "") != test.wrong {
			t.Errorf("%s: %q", name, reason)
		}
	}
}

func TestReport(t *testing.T) {
	s := newSoak(settings{seed: 1, duration: time.Minute})
	s.watch = &watch{soak: s}
	report := &report{soak: s}
	if broken := report.broken(); broken != 0 {
		t.Errorf("%d rules are broken before anything was found", broken)
	}
	for i := range shownFindings + 2 {
		s.slow.add("finding %d", i)
	}
	s.open.add("a session")
	if broken := report.broken(); broken != 2 {
		t.Errorf("%d rules are broken, want 2", broken)
	}
	var output strings.Builder
	if err := report.print(&output); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"reads that took too long: finding 19\n", "reads that took too long: and 2 more\n", "unexplained: a session\n",
		"\ndead tokens handed out                     0\n", "\nreads that took too long                   22\n",
	} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("%q is not in the report:\n%s", want, output.String())
		}
	}
}
