// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Random histories of a mount, held against the promises.

package backend

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The histories that a run of the model tries unless -rapid.checks says another number, drawn from
// one seed unless -rapid.seed says another, so that a change is held against the same histories as
// the one before it. No fail files are written: the seed that a failure names repeats it.
func init() {
	_ = flag.Set("rapid.seed", "1")
	checks := "500"
	if raceDetected {
		checks = "250"
	}
	_ = flag.Set("rapid.checks", checks)
	_ = flag.Set("rapid.nofailfile", "true")
}

// step is one thing that happens in a history.
type step struct {
	what string
	do   func(w *world)
}

func (s step) GoString() string { return s.what } // as rapid writes what it drew

// TestEveryHistoryKeepsThePromises lives through random histories of a mount and holds each against
// the promises. One that fails is made as short as it can be; -rapid.seed repeats it.
func TestEveryHistoryKeepsThePromises(t *testing.T) {
	var mu sync.Mutex
	var total figures
	var histories atomic.Int64
	t.Run("histories", func(t *testing.T) {
		for _, half := range []string{"one", "other"} { // one for each of two cores
			t.Run(half, func(t *testing.T) {
				t.Parallel()
				rapid.Check(t, func(rt *rapid.T) {
					if half == "other" {
						rapid.Uint64().Draw(rt, "what makes it draw other histories")
					}
					life := drawLife(rt)
					var story string
					rapid.SyncTest(
						rt,
						func(*rapid.T) { story = life.live(func(f figures) { mu.Lock(); total.add(f); mu.Unlock() }) },
					)
					histories.Add(1)
					if story != "" {
						rt.Fatalf("%s\n\nthe history: %s", story, life)
					}
				})
			})
		}
	})
	t.Logf("%d histories: %s", histories.Load(), total)
}

// life is a history: what the servers are like, and what happens.
type life struct {
	knobs  simulator.Knobs
	verify bool
	steps  []step
}

func (l life) String() string {
	var text strings.Builder
	knobs, _ := l.knobs.MarshalJSON()
	fmt.Fprintf(&text, "knobs %s, verify=%t", knobs, l.verify)
	for _, s := range l.steps {
		text.WriteString("\n  " + s.what)
	}
	return text.String()
}

// live lives through the history, and tells the story where a promise was broken.
func (l life) live(count func(figures)) (story string) {
	w := newWorld(l.knobs)
	defer func() {
		w.end()
		count(w.figures)
	}()
	w.settleIn(l.verify)
	for _, s := range l.steps {
		if w.isBroken() {
			break
		}
		s.do(w)
		w.settle()
	}
	if !w.isBroken() {
		w.finish()
	}
	if w.isBroken() {
		return w.story()
	}
	return ""
}

// settleIn writes the configs and roles that every history begins with: two configs of one user,
// and one of each of two others. The last gives tokens only in place of others.
func (w *world) settleIn(verify bool) {
	a := w.sites[0]
	for _, config := range []struct{ name, user string }{
		{"a", "user-1"}, {"b", "user-1"}, {"c", "user-2"}, {"d", "user-3"},
	} {
		w.writeConfig(
			config.name,
			configModel{
				site: a, user: config.user, token: w.tokenOf(a, config.user), timeout: requestTimeout, retries: 3,
			},
			verify,
		)
	}
	for _, name := range roleNames {
		w.writeRole(name, firstRoles()[name])
	}
	w.forgetBeginning()
}

func firstRoles() map[string]roleModel {
	return map[string]roleModel{
		"unleased":  {config: "a", minTTL: -1},
		"leased":    {config: "a", lease: true, ttl: 20 * time.Minute, minTTL: -1},
		"dedicated": {config: "a", lease: true, dedicated: true, ttl: 5 * time.Minute, minTTL: -1},
		"twin":      {config: "b", minTTL: time.Minute},
		"quick":     {config: "c", lease: true, ttl: 40 * time.Second, minTTL: -1},
		"own":       {config: "c", lease: true, dedicated: true, minTTL: -1, fallbacks: []string{"d"}},
		"steady":    {config: "a", minTTL: -1, fallbacks: []string{"d", "c"}, reread: 15 * time.Second},
		"lasting":   {config: "d", lease: true, ttl: 20 * time.Minute, minTTL: -1, fallbacks: []string{"c"}},
	}
}

var (
	roleNames   = []string{"unleased", "leased", "dedicated", "twin", "quick", "own", "steady", "lasting"}
	configNames = []string{"a", "b", "c", "d"}
	userNames   = []string{"user-1", "user-2", "user-3"}
)

func drawLife(rt *rapid.T) life {
	l := life{knobs: simulator.DefaultKnobs(), verify: rapid.Bool().Draw(rt, "verify")}
	for range rapid.IntRange(0, 2).Draw(rt, "knobs") {
		rapid.SampledFrom(upgrades()).Draw(rt, "knob").change(&l.knobs)
	}
	for _, act := range []string{"first", "second", "third", "fourth"} {
		l.steps = append(l.steps, rapid.SliceOfN(rapid.Custom(drawStep), 1, 30).Draw(rt, act+" act")...)
	}
	return l
}

// upgrade is a way in which servers differ.
type upgrade struct {
	what   string
	change func(*simulator.Knobs)
}

func (u upgrade) String() string { return u.what }

func (u upgrade) GoString() string { return u.what }

func upgrades() []upgrade {
	return []upgrade{
		{
			"single-use refresh tokens",
			func(k *simulator.Knobs) { k.SingleUseRefreshTokens = !k.SingleUseRefreshTokens },
		},
		{
			"refresh ends the predecessor",
			func(k *simulator.Knobs) { k.RefreshEndsPredecessor = !k.RefreshEndsPredecessor },
		},
		{
			"authenticate ends earlier sessions",
			func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = !k.AuthenticateEndsEarlierSessions },
		},
		{"regenerate ends sessions", func(k *simulator.Knobs) { k.RegenerateEndsSessions = !k.RegenerateEndsSessions }},
		{"logout ends the chain", func(k *simulator.Knobs) { k.LogoutEndsChain = !k.LogoutEndsChain }},
		{"no users/me", func(k *simulator.Knobs) { k.UserAbsent = !k.UserAbsent }},
		{"users/me forbidden", func(k *simulator.Knobs) { k.UserForbidden = !k.UserForbidden }},
		{
			"expired passwords refuse authenticate",
			func(k *simulator.Knobs) { k.ExpiredPasswordRefusesAuthenticate = !k.ExpiredPasswordRefusesAuthenticate },
		},
		{
			"expired passwords fail users/me",
			func(k *simulator.Knobs) { k.ExpiredPasswordFailsUser = !k.ExpiredPasswordFailsUser },
		},
		{
			"barred users authenticate",
			func(k *simulator.Knobs) { k.BarredUsersAuthenticate = !k.BarredUsersAuthenticate },
		},
		{"no logout", func(k *simulator.Knobs) { k.LogoutAbsent = !k.LogoutAbsent }},
		{"hidden errors", func(k *simulator.Knobs) { k.HideCoreErrors = !k.HideCoreErrors }},
		{"overrides ignored", func(k *simulator.Knobs) { k.IgnoreOverrides = !k.IgnoreOverrides }},
		{
			"long overrides refused",
			func(k *simulator.Knobs) { k.RefuseLongOverrides, k.AccessLimit = true, 15*time.Minute },
		},
		{"longer grants", func(k *simulator.Knobs) { k.GrantLongerBy = 7 * time.Minute }},
		{"short refresh tokens", func(k *simulator.Knobs) { k.RefreshLimit = 30 * time.Minute }},
		{"latency", func(k *simulator.Knobs) { k.Latency = 700 * time.Millisecond }},
		{"clock ahead", func(k *simulator.Knobs) { k.ClockOffset = 10 * time.Minute }},
		{"data forbidden", func(k *simulator.Knobs) { k.DataForbidden = !k.DataForbidden }},
		{"no start time", func(k *simulator.Knobs) { k.OmitStartTime = !k.OmitStartTime }},
	}
}

// drawStep draws what happens next. What is dearer to live through is drawn less often.
func drawStep(rt *rapid.T) step {
	draw := rapid.SampledFrom([]func(*rapid.T) step{
		drawPass, drawPass, drawPass, drawPass, drawRead, drawRead, drawRead, drawRead, drawBurst, drawBurst, drawStorm,
		drawFault, drawFault, drawFault, drawDown, drawReboot, drawReboot, drawRegenerate, drawForeign, drawDeath,
		drawDeath,
		drawRecovery, drawFallbacks,
		drawWriteConfig, drawWriteRole, drawDelete, drawEnd, drawCheck, drawNode, drawNode, drawStorage, drawDamage,
		drawTune, drawLook,
	}).Draw(rt, "kind")
	return draw(rt)
}

func drawPass(rt *rapid.T) step {
	longest := rapid.SampledFrom(
		[]time.Duration{3 * time.Second, 70 * time.Second, 15 * time.Minute, 65 * time.Minute},
	).Draw(rt, "scale")
	d := time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(longest)).Draw(rt, "time")).Truncate(
		time.Millisecond,
	)
	return step{fmt.Sprintf("%s pass", d), func(w *world) {
		for d > 0 && !w.isBroken() {
			w.pass(min(d, 5*time.Minute))
			d -= 5 * time.Minute
		}
	}}
}

func drawRole(rt *rapid.T) string { return rapid.SampledFrom(roleNames).Draw(rt, "role") }

func drawWant(rt *rapid.T) want {
	asks := want{standby: rapid.IntRange(0, 4).Draw(rt, "standby") == 4}
	switch rapid.IntRange(0, 5).Draw(rt, "asks") {
	case 3:
		asks.validate = true
	case 4:
		asks.minTTL = rapid.SampledFrom(
			[]time.Duration{15 * time.Second, 2 * time.Minute, 9 * time.Minute, 28 * time.Minute},
		).Draw(rt, "min_ttl")
	case 5:
		asks.hangUp = rapid.SampledFrom(
			[]time.Duration{time.Millisecond, 800 * time.Millisecond, 12 * time.Second},
		).Draw(rt, "hang-up")
	}
	return asks
}

func drawRead(rt *rapid.T) step {
	role, readers, asks := drawRole(rt), rapid.IntRange(1, 3).Draw(rt, "readers"), drawWant(rt)
	return step{fmt.Sprintf("%d read %s%s", readers, role, asks), func(w *world) {
		if asks.standby {
			w.haveStandby()
		}
		w.reads(role, readers, asks)
	}}
}

func drawBurst(rt *rapid.T) step {
	role, readers := drawRole(rt), rapid.IntRange(2, 12).Draw(rt, "readers")
	return step{fmt.Sprintf("a burst of %d readers of %s", readers, role), func(w *world) { w.burst(role, readers) }}
}

func drawStorm(rt *rapid.T) step {
	role, asks := drawRole(rt), want{validate: rapid.IntRange(0, 3).Draw(rt, "validate") == 3}
	return step{
		fmt.Sprintf("a storm of readers of %s%s", role, asks), func(w *world) { w.storm(role, asks, 20*time.Second) },
	}
}

// drawSite draws one of the two servers, of which the second is used by few configs.
func drawSite(rt *rapid.T) int { return rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(rt, "site") }

func drawFault(rt *rapid.T) step {
	site, endpoint := drawSite(rt), rapid.SampledFrom(callsOfTheEngine()).Draw(rt, "endpoint")
	failure := rapid.SampledFrom(waysToFail()).Draw(rt, "failure")
	count := rapid.SampledFrom([]int{1, 2, -1}).Draw(rt, "count")
	lasts := rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, 2 * time.Minute, 11 * time.Minute}).Draw(
		rt, "lasts",
	)
	return step{fmt.Sprintf(
		"site %d: %d of %s fail with %+v within %s", site, count, endpoint, failure, lasts,
	), func(w *world) {
		w.suffer(w.sites[site], endpoint, count, failure, lasts)
	}}
}

func drawDown(rt *rapid.T) step {
	site, lasts := drawSite(rt), rapid.SampledFrom([]time.Duration{5 * time.Second, 3 * time.Minute}).Draw(rt, "lasts")
	return step{fmt.Sprintf("site %d is down for %s", site, lasts), func(w *world) { w.goDown(w.sites[site], lasts) }}
}

func drawReboot(rt *rapid.T) step {
	site, to := drawSite(rt), upgrade{}
	if rapid.IntRange(0, 2).Draw(rt, "upgrade") == 2 {
		to = rapid.SampledFrom(upgrades()).Draw(rt, "knob")
	}
	return step{fmt.Sprintf("site %d reboots %s", site, to), func(w *world) { w.reboot(w.sites[site], to.change) }}
}

func drawRegenerate(rt *rapid.T) step {
	site, user := drawSite(rt), rapid.SampledFrom(userNames).Draw(rt, "user")
	written := rapid.Bool().Draw(rt, "written")
	return step{fmt.Sprintf("site %d: regenerate %s, written=%t", site, user, written), func(w *world) {
		s := w.sites[site]
		w.regenerate(s, user)
		for _, name := range configNames {
			if c, there := w.configOf(name); written && there && c.site == s && c.user == user {
				w.writeConfig(
					name,
					configModel{site: s, user: user, token: w.tokenOf(s, user), timeout: c.timeout, retries: c.retries},
					false,
				)
			}
		}
	}}
}

// drawDeath draws how a user dies, and how long its roles are read on.
func drawDeath(rt *rapid.T) step {
	site, user := drawSite(rt), rapid.SampledFrom(userNames).Draw(rt, "user")
	of := rapid.SampledFrom(deaths()).Draw(rt, "of")
	lasts := rapid.SampledFrom([]time.Duration{0, 80 * time.Second, 15 * time.Minute}).Draw(
		rt, "reads go on for",
	)
	return step{fmt.Sprintf("site %d: %s %s, and reads go on for %s", site, user, of, lasts), func(w *world) {
		w.dies(w.sites[site], user, of)
		w.readAllFor(lasts)
	}}
}

func drawRecovery(rt *rapid.T) step {
	site, user := drawSite(rt), rapid.SampledFrom(userNames).Draw(rt, "user")
	lasts := rapid.SampledFrom([]time.Duration{0, 15 * time.Minute}).Draw(rt, "reads go on for")
	return step{fmt.Sprintf("site %d: %s is set right, and reads go on for %s", site, user, lasts), func(w *world) {
		w.isSetRight(w.sites[site], user)
		w.readAllFor(lasts)
	}}
}

// readAllFor has every role read about once a minute.
func (w *world) readAllFor(lasts time.Duration) {
	roles := w.roleNames()
	every := time.Minute / time.Duration(max(1, len(roles)))
	for i := 0; lasts > 0 && len(roles) > 0 && !w.isBroken(); i++ {
		w.pass(every)
		w.reads(roles[i%len(roles)], 1, want{})
		lasts -= every
	}
	w.settle()
}

// drawFallbacks draws a role that gets other fallbacks.
func drawFallbacks(rt *rapid.T) step {
	name := drawRole(rt)
	fallbacks := rapid.SampledFrom(orders()).Draw(rt, "fallbacks")
	return step{fmt.Sprintf("fallback_configs of %s are %v", name, fallbacks), func(w *world) {
		if r, there := w.roleOf(name); there {
			r.fallbacks = fallbacks
			w.writeRole(name, r)
		}
	}}
}

// orders are the fallbacks of roles.
func orders() [][]string {
	return [][]string{nil, {"a"}, {"c"}, {"d"}, {"d", "c"}, {"c", "d"}, {"b", "d"}, {"d", "c", "a"}}
}

func drawForeign(rt *rapid.T) step {
	site, user := drawSite(rt), rapid.SampledFrom(userNames).Draw(rt, "user")
	return step{
		fmt.Sprintf("site %d: another client of %s", site, user),
		func(w *world) { w.foreignSession(w.sites[site], user) },
	}
}

func drawWriteConfig(rt *rapid.T) step {
	name, site, user := rapid.SampledFrom(
		configNames,
	).Draw(rt, "config"), drawSite(rt), rapid.SampledFrom(userNames).Draw(rt, "user")
	keeps := rapid.Bool().Draw(rt, "keeps server and user")
	retries, verify := rapid.SampledFrom([]int{0, 3}).Draw(rt, "retries"), rapid.Bool().Draw(rt, "verify")
	return step{fmt.Sprintf(
		"write config %s: site %d, user %s, keeps=%t, retries %d, verify=%t", name, site, user, keeps, retries, verify,
	), func(w *world) {
		s := w.sites[site]
		if c, there := w.configOf(name); there && keeps {
			s, user = c.site, c.user
		}
		w.writeConfig(
			name,
			configModel{site: s, user: user, token: w.tokenOf(s, user), timeout: requestTimeout, retries: retries},
			verify,
		)
	}}
}

func drawWriteRole(rt *rapid.T) step {
	name := drawRole(rt)
	r := roleModel{
		config:    rapid.SampledFrom(configNames).Draw(rt, "config"),
		dedicated: rapid.IntRange(0, 3).Draw(rt, "type") == 3,
		lease:     rapid.Bool().Draw(rt, "lease"),
		ttl: rapid.SampledFrom(
			[]time.Duration{0, 30 * time.Second, 5 * time.Minute, 20 * time.Minute, 2 * time.Hour},
		).Draw(rt, "ttl"),
		minTTL:    rapid.SampledFrom([]time.Duration{-1, 0, 10 * time.Second}).Draw(rt, "min_ttl"),
		fallbacks: rapid.SampledFrom(orders()).Draw(rt, "fallbacks"),
		reread:    rapid.SampledFrom([]time.Duration{0, 0, 15 * time.Second}).Draw(rt, "reread_interval"),
	}
	if r.lease = r.lease || r.dedicated; r.dedicated {
		r.reread = 0
	}
	return step{fmt.Sprintf("write role %s: %s", name, r), func(w *world) {
		if _, there := w.configOf(r.config); there {
			w.writeRole(name, r)
		}
	}}
}

// drawDelete draws the deletion of a role or config, or of a role that is made anew at once.
func drawDelete(rt *rapid.T) step {
	if rapid.IntRange(0, 2).Draw(rt, "what") == 2 {
		name := rapid.SampledFrom(configNames).Draw(rt, "config")
		return step{"delete the roles of config " + name + ", and it", func(w *world) {
			for _, role := range roleNames {
				if r, _ := w.roleOf(role); slices.Contains(r.configs(), name) {
					w.deleteRole(role)
				}
			}
			if _, there := w.configOf(name); there {
				w.deleteConfig(name)
			}
		}}
	}
	name, anew := drawRole(rt), rapid.Bool().Draw(rt, "anew")
	return step{fmt.Sprintf("delete role %s, anew=%t", name, anew), func(w *world) {
		w.deleteRole(name)
		r := firstRoles()[name]
		_, stands := w.roleOf(name)
		if _, configured := w.configOf(r.config); anew && !stands && configured {
			w.writeRole(name, r)
		}
	}}
}

// drawEnd draws the end of a role's sessions, or of a lease.
func drawEnd(rt *rapid.T) step {
	if rapid.Bool().Draw(rt, "lease") {
		number := rapid.IntRange(0, 5).Draw(rt, "which")
		return step{fmt.Sprintf("revoke lease %d from the end", number), func(w *world) {
			if l := w.leaseFromEnd(number); l != nil {
				w.endLease(l)
			}
		}}
	}
	name := drawRole(rt)
	return step{"delete sessions " + name, func(w *world) {
		if _, there := w.roleOf(name); there {
			w.deleteSessions(name)
		}
	}}
}

func drawCheck(rt *rapid.T) step {
	name := rapid.SampledFrom(configNames).Draw(rt, "config")
	return step{"check " + name, func(w *world) {
		if _, there := w.configOf(name); there {
			w.check(name)
		}
	}}
}

func drawNode(rt *rapid.T) step {
	if rapid.Bool().Draw(rt, "in good order") {
		return step{"restart", (*world).restart}
	}
	return step{"kill", (*world).kill}
}

func drawStorage(rt *rapid.T) step {
	reads := rapid.Bool().Draw(rt, "reads")
	lasts := rapid.SampledFrom([]time.Duration{time.Second, 90 * time.Second}).Draw(rt, "lasts")
	return step{fmt.Sprintf("storage fails for %s, reads=%t", lasts, reads), func(w *world) {
		if reads {
			w.storageFails(&w.ground.refusesReads, lasts)
		} else {
			w.storageFails(&w.ground.refusesWrites, lasts)
		}
	}}
}

func drawDamage(rt *rapid.T) step {
	prefix, number := rapid.SampledFrom(
		[]string{"session/", "learnt/", "owed/", "out/"},
	).Draw(rt, "prefix"), rapid.IntRange(0, 3).Draw(rt, "number")
	return step{fmt.Sprintf("damage %d of %s", number, prefix), func(w *world) { w.damage(prefix, number) }}
}

func drawTune(rt *rapid.T) step {
	maxLease := rapid.SampledFrom([]time.Duration{768 * time.Hour, 30 * time.Minute, 2 * time.Minute}).Draw(
		rt, "max_lease_ttl",
	)
	return step{fmt.Sprintf("max_lease_ttl is %s", maxLease), func(w *world) { w.tune(maxLease) }}
}

// drawLook draws a look at all that tells of the mount.
func drawLook(*rapid.T) step {
	return step{"look around", func(w *world) {
		storage := w.storageFailures.Load()
		for _, path := range []string{"status", "metrics"} {
			if a := w.get(path); !a.ok() && w.storageIsWell(storage) {
				w.breaks(errorsAreTold, "%s: %d %s", path, a.status, a.text)
			}
		}
		for _, path := range []string{"config/", "roles/", "sessions/"} {
			a := w.request(context.Background(), w.active.Load(), opList, path, nil)
			if !a.ok() && w.storageIsWell(storage) {
				w.breaks(errorsAreTold, "list of %s: %d %s", path, a.status, a.text)
			}
		}
	}}
}
