// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	roleCount   = 50
	readerCount = 64

	requestTimeout = 3 * time.Second
	// flightLimit is the longest that the engine may take for a token.
	flightLimit = 3 * requestTimeout

	firstFault = 8 * time.Second // until then every role is read once
	// longestTTL is longer than the soak.
	longestTTL = 20 * time.Minute
	// calmAfterReboot is longer than grace: the engine has no excuse left.
	calmAfterReboot = grace + 10*time.Second
)

// plan is all that is drawn from a seed: who is there, and what happens when, from the start of the soak.
type plan struct {
	definitions []definition // of the roles, at first
	episodes    [][]episode  // of each N-central server
	blows       []blow
	rewrites    []rewrite
}

// episode is a time in which an N-central server fails.
type episode struct {
	at, lasts time.Duration
	faults    []fault
}

// blow strikes the server or the plugin.
type blow struct {
	at   time.Duration
	kind string
}

const (
	blowKillPlugin = "plugin killed"
	blowKillServer = "server killed"
	blowSeal       = "sealed"
)

// rewrite is what somebody with rights does to the engine.
type rewrite struct {
	at         time.Duration
	kind       string
	role       int        // of those that concern a role
	config     int        // of those that concern a config
	definition definition // of those that write one
}

const (
	rewriteRole     = "role rewritten"
	rewriteConfig   = "config rewritten"
	recreateRole    = "role deleted and made anew"
	deleteConfig    = "config deleted, or not, for its roles"
	checkConfig     = "config checked"
	endSessions     = "sessions ended"
	revokeLease     = "lease revoked"
	revokeAllLeases = "leases of a role revoked"
	readState       = "status, metrics and lists read"
)

// draw draws a plan. The parts have sources of their own, so that none shifts with another.
func draw(seed uint64, duration time.Duration) plan {
	source := func(part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, part)) }
	var p plan
	random := source(0)
	for range roleCount {
		p.definitions = append(p.definitions, drawDefinition(random))
	}
	p.blows = drawBlows(source(1), duration)
	p.rewrites = drawRewrites(source(2), duration)
	for i := range tempers {
		p.episodes = append(p.episodes, drawEpisodes(source(uint64(3+i)), duration))
	}
	return p
}

// definition is what a role is to be.
type definition struct {
	dedicated bool
	lease     bool
	ttl       time.Duration
}

// drawDefinition draws lifetimes of seconds mostly, and one that outlives the grace after a reboot, or the soak.
func drawDefinition(random *rand.Rand) definition {
	ttl := pick[time.Duration](random, 6, 8, 10, 12, 15, 20, 30, 60) * time.Second
	if random.IntN(4) == 0 {
		ttl = longestTTL
	}
	kind := random.IntN(5)
	return definition{dedicated: kind == 0, lease: kind <= 2, ttl: ttl}
}

func (d definition) fields() map[string]any {
	fields := map[string]any{"ttl": d.ttl.String(), "lease": d.lease, "credential_type": "shared"}
	if d.dedicated {
		fields["credential_type"] = "dedicated"
	}
	return fields
}

// drawEpisodes draws times of trouble with pauses between them, some of which are long enough to hold the engine to what it
// must have noticed by then of a reboot.
func drawEpisodes(random *rand.Rand, duration time.Duration) (all []episode) {
	for at := firstFault + seconds(random, 0, 10); at < duration; {
		if random.IntN(4) == 0 {
			all = append(all, episode{at: at, faults: []fault{reboot}})
			at += calmAfterReboot
			continue
		}
		one := episode{at: at, lasts: seconds(random, 1, 12), faults: []fault{drawFault(random)}}
		if random.IntN(3) == 0 {
			one.faults = append(one.faults, drawFault(random))
		}
		one.lasts = min(one.lasts, duration-at)
		all = append(all, one)
		at += one.lasts + seconds(random, 1, 10)
	}
	return all
}

// drawBlows draws each kind at least once. The last part of the soak has none, so that what the plugin process holds can be
// compared over some time.
func drawBlows(random *rand.Rand, duration time.Duration) (all []blow) {
	kinds := []string{blowKillPlugin, blowKillServer, blowSeal}
	random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	pause := min(duration/6, 40*time.Second)
	for at := firstFault; at < duration*6/10; at += pause + seconds(random, 0, pause.Seconds()/3) {
		kind := blowKillPlugin
		if len(all) < len(kinds) {
			kind = kinds[len(all)]
		} else if random.IntN(3) == 0 {
			kind = kinds[random.IntN(len(kinds))]
		}
		all = append(all, blow{at: at, kind: kind})
	}
	return all
}

func drawRewrites(random *rand.Rand, duration time.Duration) (all []rewrite) {
	kinds := []string{
		rewriteRole, rewriteRole, rewriteRole, rewriteConfig, recreateRole, recreateRole, deleteConfig, checkConfig,
		endSessions, endSessions, endSessions, revokeLease, revokeLease, revokeLease, revokeAllLeases, readState,
	}
	for at := firstFault; at < duration; at += seconds(random, 0.3, 2) {
		all = append(all, rewrite{
			at:         at,
			kind:       kinds[random.IntN(len(kinds))],
			role:       random.IntN(roleCount),
			config:     random.IntN(len(tempers)),
			definition: drawDefinition(random),
		})
	}
	return all
}

func seconds(random *rand.Rand, least, most float64) time.Duration {
	return time.Duration((least + (most-least)*random.Float64()) * float64(time.Second))
}

// String tells an episode in a line.
func (e episode) String() string {
	text := fmt.Sprintf("%s for %s", e.faults[0].name, e.lasts.Round(time.Millisecond))
	for _, more := range e.faults[1:] {
		text += ", " + more.name
	}
	return text
}
