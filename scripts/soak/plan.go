// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	roleCount   = 50
	readerCount = 64

	requestTimeout = 3 * time.Second
	// flightLimit is the longest that the engine may take for a token.
	flightLimit = 3 * requestTimeout

	firstFault          = 8 * time.Second // before that, every role is read once
	leastRereadInterval = 10 * time.Second
	// longestTTL is longer than the soak.
	longestTTL = 20 * time.Minute
	// calmAfterReboot is longer than grace, so the engine has no excuse left.
	calmAfterReboot = grace + 10*time.Second
)

// plan is everything that is drawn from a seed: the roles, and what happens when.
type plan struct {
	definitions []definition // of the roles, at first
	episodes    [][]episode  // by N-central server
	deaths      []death      // of the users of the server that has two
	disruptions []disruption
	rewrites    []rewrite
}

// episode is a time during which an N-central server has faults.
type episode struct {
	at, lasts time.Duration
	faults    []fault
}

// disruption kills or seals the server or the plugin.
type disruption struct {
	at   time.Duration
	kind string
}

const (
	killPlugin = "plugin killed"
	killServer = "server killed"
	sealServer = "sealed"
)

// rewrite is something that a user with rights does to the engine.
type rewrite struct {
	at         time.Duration
	kind       string
	role       int        // where it concerns a role
	config     int        // where it concerns a config
	definition definition // where it writes a role
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

// deathsPart is the random source of the deaths.
const deathsPart = 100

// draw draws a plan. Each part has its own random source, so that a change to one does not shift
// the others.
func draw(seed uint64, duration time.Duration) plan {
	source := func(part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, part)) }
	var p plan
	random := source(0)
	for range roleCount {
		p.definitions = append(p.definitions, drawDefinition(random))
	}
	p.disruptions = drawDisruptions(source(1), duration)
	p.rewrites = drawRewrites(source(2), duration)
	for i, profile := range profiles {
		if profile.twoUsers {
			p.episodes = append(p.episodes, nil)
			p.deaths = drawDeaths(source(deathsPart), duration)
			continue
		}
		p.episodes = append(p.episodes, drawEpisodes(source(uint64(3+i)), duration))
	}
	return p
}

// definition is how a role is written.
type definition struct {
	dedicated bool
	lease     bool
	ttl       time.Duration
	// reread is the reread_interval of a shared role with two users.
	reread time.Duration
}

// drawDefinition draws lifetimes, mostly of seconds. One outlives the grace after a reboot, and one
// outlives the soak.
func drawDefinition(random *rand.Rand) definition {
	ttl := time.Duration(pick(random, 6, 8, 10, 12, 15, 20, 30, 60)) * time.Second
	if random.IntN(4) == 0 {
		ttl = longestTTL
	}
	kind := random.IntN(5)
	return definition{
		dedicated: kind == 0, lease: kind <= 2, ttl: ttl, reread: time.Duration(kind%2) * leastRereadInterval,
	}
}

func (d definition) fields() map[string]any {
	fields := map[string]any{"ttl": d.ttl.String(), "lease": d.lease, "credential_type": "shared"}
	if d.dedicated {
		fields["credential_type"] = "dedicated"
	}
	return fields
}

// drawEpisodes draws episodes with pauses between them. Some pauses are long enough that the engine
// must have noticed a reboot by their end.
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

// drawDisruptions draws each kind at least once. There are none in the last part of the soak, so
// that the plugin process can be compared with itself over some time.
func drawDisruptions(random *rand.Rand, duration time.Duration) (all []disruption) {
	kinds := []string{killPlugin, killServer, sealServer}
	random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	pause := min(duration/6, 40*time.Second)
	for at := firstFault; at < duration*6/10; at += pause + seconds(random, 0, pause.Seconds()/3) {
		kind := killPlugin
		if len(all) < len(kinds) {
			kind = kinds[len(all)]
		} else if random.IntN(3) == 0 {
			kind = kinds[random.IntN(len(kinds))]
		}
		all = append(all, disruption{at: at, kind: kind})
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
			config:     random.IntN(len(profiles) + 1),
			definition: drawDefinition(random),
		})
	}
	return all
}

func seconds(random *rand.Rand, least, most float64) time.Duration {
	return time.Duration((least + (most-least)*random.Float64()) * float64(time.Second))
}

// String describes an episode in one line.
func (e episode) String() string {
	names := []string{fmt.Sprintf("%s for %s", e.faults[0].name, e.lasts.Round(time.Millisecond))}
	for _, more := range e.faults[1:] {
		names = append(names, more.name)
	}
	return strings.Join(names, ", ")
}
