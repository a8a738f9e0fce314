// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Every fault with every kind of role, held against the promises.

package backend

import (
	"cmp"
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

var (
	matrixFull = flag.Bool(
		"matrix.full", false, "matrix: try every pair of faults with every kind of role, which takes long",
	)
	matrixCell = flag.String("matrix.cell", "", "matrix: try only the cells whose name holds this")
)

// TestMatrixOfFaultsAndRoles leads a fixed life for every knob of the simulator and everything that
// can befall a server, a node or the storage, alone and in pairs, with every kind of role, and
// holds each against the promises. A cell that fails is tried again by its name: -matrix.cell.
func TestMatrixOfFaultsAndRoles(t *testing.T) {
	cells := slices.DeleteFunc(allCells(t), func(c cell) bool { return !strings.Contains(c.String(), *matrixCell) })
	if raceDetected && *matrixCell == "" { // a part of them, of all sorts
		cells = everyNth(cells, 8)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // each life leaves much behind
	var mu sync.Mutex
	var total figures
	failed := 0
	t.Run("cells", func(t *testing.T) {
		workers := runtime.GOMAXPROCS(0)
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for i := worker; i < len(cells); i += workers {
					story, lived := cells[i].try(t)
					mu.Lock()
					total.add(lived)
					if story != "" {
						failed++
						if failed <= 5 {
							t.Errorf("%s\n%s", cells[i], story)
						} else {
							t.Errorf("%s: %s", cells[i], firstOf(story))
						}
					}
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d cells: %s", len(cells), total)
}

func everyNth[T any](all []T, n int) (some []T) {
	for i := 0; i < len(all); i += n {
		some = append(some, all[i])
	}
	return some
}

func firstOf(story string) string {
	lines := strings.SplitN(story, "\n", 3)
	return strings.Join(lines[:min(len(lines), 2)], " ")
}

// factor is a knob that is not at its default, or something that befalls the mount.
type factor struct {
	name   string
	nature func(*simulator.Knobs) // nil for an event
	event  func(w *world)
}

// kind is what the roles of a cell are like.
type kind struct {
	role  roleModel
	name  string
	count int
}

func (k kind) String() string { return fmt.Sprintf("%d %s", k.count, k.name) }

// cell is one life of the matrix.
type cell struct {
	kind    kind
	factors []factor
}

func (c cell) String() string {
	var names []string
	for _, f := range c.factors {
		names = append(names, f.name)
	}
	return c.kind.String() + " | " + strings.Join(names, " + ")
}

// allKinds are shared and dedicated roles, with and without a lease, of all lifetimes; one of them,
// and then twelve.
func allKinds() (kinds []kind) {
	for _, count := range []int{1, 12} {
		for _, ttl := range []time.Duration{0, 40 * time.Second, 2 * time.Hour} {
			for name, role := range map[string]roleModel{
				"unleased": {}, "leased": {lease: true}, "dedicated": {lease: true, dedicated: true},
			} {
				role.ttl = ttl
				kinds = append(kinds, newKind(role, name, count))
			}
		}
	}
	return sortedKinds(kinds)
}

// kindsOfTwoUsers are roles with fallback_configs: one of them, and twelve where somebody dies.
func kindsOfTwoUsers(counts ...int) (kinds []kind) {
	for _, count := range counts {
		for name, role := range map[string]roleModel{
			"unleased": {}, "leased": {lease: true, ttl: 15 * time.Minute}, "dedicated": {lease: true, dedicated: true},
			"unleased and reread": {reread: 15 * time.Second}, "leased and reread": {lease: true, reread: time.Minute},
		} {
			role.fallbacks = []string{"of another user"} // settle knows which
			kinds = append(kinds, newKind(role, name+" of two users", count))
		}
	}
	return sortedKinds(kinds)
}

func newKind(role roleModel, name string, count int) kind {
	role.minTTL = -1
	return kind{role, fmt.Sprintf("%s ttl %s", name, role.ttl), count}
}

func sortedKinds(kinds []kind) []kind {
	slices.SortFunc(kinds, func(a, b kind) int { return cmp.Or(a.count-b.count, strings.Compare(a.name, b.name)) })
	return kinds
}

// allCells are all cells: of roles with one user, and of roles with two.
func allCells(t *testing.T) []cell {
	return append(cellsOfOneUser(t), cellsOfTwoUsers(t)...)
}

// cellsOfTwoUsers are the factors alone with roles that have fallback_configs, and the ways in which
// users die, alone with each of their kinds, and in pairs with all else, with one kind after the
// other.
func cellsOfTwoUsers(t *testing.T) (cells []cell) {
	ones, twelves := kindsOfTwoUsers(1), kindsOfTwoUsers(12)
	next := 0
	add := func(factors ...factor) {
		k := ones[next%len(ones)]
		if next++; next%8 == 0 { // they are dear
			k = twelves[next/8%len(twelves)]
		}
		cells = append(cells, cell{k, factors})
	}
	others := slices.Concat(natures(t), mishaps(), faults(typicalFailures(), []simulator.Endpoint{
		simulator.EndpointAuthenticate, simulator.EndpointServiceOrgs,
	}))
	dying := deathsAndRecoveries()
	for _, f := range others {
		add(f)
	}
	for i, f := range dying {
		for _, k := range slices.Concat(ones, twelves) {
			cells = append(cells, cell{k, []factor{f}})
		}
		for _, other := range slices.Concat(dying[i:], others) {
			add(other, f)
		}
	}
	return cells
}

// deathsAndRecoveries are the ways in which users die, for good or for some time, and what is done
// to the roles meanwhile.
func deathsAndRecoveries() []factor {
	all := map[string]func(w *world){
		"both users die, the second returns": func(w *world) {
			w.dies(w.sites[0], "user-1", deaths()[0])
			w.dies(w.sites[0], "user-2", deaths()[1])
			w.after(2*time.Minute, func() { w.isSetRight(w.sites[0], "user-2") })
		},
		"the second user dies": func(w *world) { w.dies(w.sites[0], "user-2", deaths()[0]) },
		"other fallback_configs": func(w *world) {
			w.rewriteRole(func(r *roleModel) {
				if len(r.fallbacks) > 0 {
					r.config, r.fallbacks = "c", []string{"a"}
				}
			})
		},
	}
	for _, of := range deaths() {
		all["user "+of.what] = func(w *world) { w.dies(w.sites[0], "user-1", of) }
		all["user "+of.what+" for some time"] = func(w *world) {
			w.dies(w.sites[0], "user-1", of)
			w.after(150*time.Second, func() { w.isSetRight(w.sites[0], "user-1") })
		}
	}
	return sortedFactors(all)
}

// cellsOfOneUser are the factors alone with every kind of role, and the pairs that can meet, each
// with one kind after the other.
func cellsOfOneUser(t *testing.T) (cells []cell) {
	kinds := allKinds()
	ones, twelves := kinds[:len(kinds)/2], kinds[len(kinds)/2:]
	next := 0
	add := func(every bool, factors ...factor) {
		if every || *matrixFull {
			for _, k := range kinds {
				cells = append(cells, cell{k, factors})
			}
			return
		}
		next++
		k := ones[next%len(ones)]
		if next%4 == 0 { // they are dear
			k = twelves[next/4%len(twelves)]
		}
		cells = append(cells, cell{k, factors})
	}
	natures, events := natures(t), mishaps()
	every, typical := faults(waysToFail(), callsOfTheEngine()), faults(typicalFailures(), []simulator.Endpoint{
		simulator.EndpointAuthenticate, simulator.EndpointRefresh, simulator.EndpointValidate,
	})
	add(true)
	for _, f := range slices.Concat(natures, events) {
		add(true, f)
	}
	for _, f := range deathsAndRecoveries() {
		add(false, f)
	}
	for _, f := range every {
		add(false, f)
	}
	for _, nature := range natures {
		for _, event := range slices.Concat(events, typical) {
			add(false, nature, event)
		}
	}
	for i, event := range events {
		for _, other := range slices.Concat(events[i:], typical) {
			add(false, event, other)
		}
	}
	return cells
}

// natures are all knobs of the simulator, each at another value than its default.
func natures(t *testing.T) (all []factor) {
	others := map[string][]func(*simulator.Knobs){
		"GrantLongerBy":  {func(k *simulator.Knobs) { k.GrantLongerBy = 7 * time.Minute }},
		"AccessLimit":    {func(k *simulator.Knobs) { k.AccessLimit = 10 * time.Minute }},
		"RefreshLimit":   {func(k *simulator.Knobs) { k.RefreshLimit = 30 * time.Minute }},
		"ServerVersion":  {func(k *simulator.Knobs) { k.ServerVersion = "" }},
		"HiddenErrorKey": {func(k *simulator.Knobs) { k.HideCoreErrors, k.HiddenErrorKey = true, "error message" }},
		"MaxInFlight":    {func(k *simulator.Knobs) { k.MaxInFlight, k.Latency = 2, 300*time.Millisecond }},
		"RetryAfterSeconds": {
			func(k *simulator.Knobs) { k.MaxInFlight, k.RetryAfterSeconds, k.Latency = 2, 3, 300*time.Millisecond },
		},
		"Latency": {func(k *simulator.Knobs) { k.Latency = 700 * time.Millisecond }},
		"ClockOffset": {
			func(k *simulator.Knobs) { k.ClockOffset = 10 * time.Minute },
			func(k *simulator.Knobs) { k.ClockOffset = -10 * time.Minute },
		},
	}
	knobs := reflect.TypeFor[simulator.Knobs]()
	for i := range knobs.NumField() {
		field := knobs.Field(i)
		changes := others[field.Name]
		if field.Type.Kind() == reflect.Bool {
			changes = []func(*simulator.Knobs){func(k *simulator.Knobs) {
				knob := reflect.ValueOf(k).Elem().Field(i)
				knob.SetBool(!knob.Bool())
			}}
		}
		if changes == nil {
			t.Errorf("the matrix has no other value for the knob %s", field.Name)
		}
		for n, change := range changes {
			all = append(all, factor{name: fmt.Sprintf("%s %d", field.Name, n+1), nature: change})
		}
	}
	return all
}

// mishaps are what befalls servers, nodes, storage and definitions, in other ways than by calls
// that fail.
func mishaps() []factor {
	all := map[string]func(w *world){
		"reboot":  func(w *world) { w.reboot(w.sites[0], nil) },
		"down":    func(w *world) { w.goDown(w.sites[0], 90*time.Second) },
		"restart": (*world).restart,
		"kill":    (*world).kill,
		"check":   func(w *world) { w.check("a") },
		"regenerate and write": func(w *world) {
			w.regenerate(w.sites[0], "user-1")
			w.rewriteConfigs(false)
		},
		"regenerate, write late": func(w *world) {
			w.regenerate(w.sites[0], "user-1")
			w.after(2*time.Minute, func() { w.rewriteConfigs(true) })
		},
		"another client": func(w *world) { w.foreignSession(w.sites[0], "user-1") },
		"retune config":  func(w *world) { w.rewriteConfigs(false) },
		"verify config":  func(w *world) { w.rewriteConfigs(true) },
		"rewrite role": func(w *world) {
			w.rewriteRole(
				func(r *roleModel) { r.ttl = (50*time.Minute - r.ttl%(50*time.Minute)/2).Truncate(time.Second) },
			)
		},
		"change of type": func(w *world) {
			w.rewriteRole(func(r *roleModel) { r.dedicated, r.lease, r.reread = !r.dedicated, true, 0 })
		},
		"delete sessions":        func(w *world) { w.deleteSessions("r0") },
		"delete role, anew":      (*world).makeRoleAnew,
		"storage refuses":        func(w *world) { w.storageFails(&w.ground.refusesWrites, 90*time.Second) },
		"storage is mute":        func(w *world) { w.storageFails(&w.ground.refusesReads, 90*time.Second) },
		"short max_lease_ttl":    func(w *world) { w.tune(2 * time.Minute) },
		"damaged session":        func(w *world) { w.damage("session/", 0) },
		"damaged learnt":         func(w *world) { w.damage("learnt/", 0) },
		"damaged logout owed":    func(w *world) { w.damage("owed/", 0) },
		"damaged out of service": func(w *world) { w.damage("out/", 0) },
		"readers that hang up": func(w *world) {
			w.reads("r0", 3, want{minTTL: 50 * time.Minute, hangUp: time.Millisecond})
		},
		"storm that validates": func(w *world) { w.storm("r0", want{validate: true}, 5*time.Second) },
		"a standby beside":     (*world).haveStandby,
		"all leases are ended": (*world).endLeases,
		"upgrade of the server": func(w *world) {
			w.reboot(w.sites[0], func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true })
		},
	}
	return sortedFactors(all)
}

func sortedFactors(all map[string]func(w *world)) (factors []factor) {
	for name, event := range all {
		factors = append(factors, factor{name: name, event: event})
	}
	slices.SortFunc(factors, func(a, b factor) int { return strings.Compare(a.name, b.name) })
	return factors
}

// typicalFailures are of each kind one, for the pairs.
func typicalFailures() []simulator.Failure {
	return []simulator.Failure{
		{Kind: simulator.FailureStatus, Status: 401},
		{Kind: simulator.FailureStatus, Status: 429},
		{Kind: simulator.FailureStatus, Status: 503, RetryAfterSeconds: 40},
		{Kind: simulator.FailureHang},
		{Kind: simulator.FailureHTML},
		{Kind: simulator.FailureErrorMessage},
		{Kind: simulator.FailureLostAnswer},
		{Kind: simulator.FailureSlow, Delay: simulator.Delay(7 * time.Second)},
	}
}

// faults make calls of an endpoint fail: two of them, or all for some time.
func faults(ways []simulator.Failure, endpoints []simulator.Endpoint) (all []factor) {
	for i, failure := range ways {
		for _, endpoint := range endpoints {
			count := 2
			if i%2 == 0 {
				count = -1
			}
			all = append(all, factor{name: fmt.Sprintf("%s fails %+v", endpoint, failure), event: func(w *world) {
				w.suffer(w.sites[0], endpoint, count, failure, 90*time.Second)
			}})
		}
	}
	return all
}

func (w *world) rewriteConfigs(verify bool) {
	for _, name := range configNames {
		if c, there := w.configOf(name); there {
			c.retries, c.token = 5-c.retries, w.tokenOf(c.site, c.user)
			w.writeConfig(name, c, verify)
		}
	}
}

func (w *world) rewriteRole(change func(*roleModel)) {
	if r, there := w.roleOf("r0"); there {
		change(&r)
		w.writeRole("r0", r)
	}
}

func (w *world) makeRoleAnew() {
	if r, there := w.roleOf("r0"); there {
		w.deleteRole("r0")
		w.writeRole("r0", r)
	}
}

// try leads the cell's life in a bubble of its own.
func (c cell) try(t *testing.T) (story string, lived figures) {
	defer func() {
		if p := recover(); p != nil {
			story = fmt.Sprintf("promise %s:\n  %v", nothingPanics, p)
		}
	}()
	synctest.Test(t, func(*testing.T) {
		knobs := c.knobs()
		w := newWorld(knobs)
		c.live(w, knobs.AccessLimit)
		if !w.isBroken() {
			w.finish()
		}
		w.end()
		lived = w.figures
		if w.isBroken() {
			story = w.story()
		}
	})
	return story, lived
}

// live is what happens in every cell: cold readers, reads at odd moments, and what befalls the
// mount twice: while its tokens are good, and around the moment at which those that live as long as
// the server lets them are rotated.
func (c cell) live(w *world, life time.Duration) {
	roles := c.settle(w)
	for _, role := range roles {
		w.burst(role, 3)
	}
	w.readOn(roles, life/3)
	c.befall(w, 20*time.Second)
	w.storm(roles[0], want{}, 4*time.Second)
	minTTL := min(max(life/6, 5*time.Minute), life/2) // its default
	w.readOn(roles, life-minTTL-min(life/10, longestWindow)-time.Second)
	c.befall(w, 2*time.Second)
	w.storm(roles[len(roles)-1], want{}, 4*time.Second)
	w.readOn(roles, life+2*time.Minute)
}

// knobs are what the cell's servers are like. They let tokens live for an hour, as N-central does
// by default; where something befalls the mount it is less, so that much can be tried, unless the
// servers keep to themselves how long it is.
func (c cell) knobs() simulator.Knobs {
	knobs := simulator.DefaultKnobs()
	if slices.ContainsFunc(c.factors, func(f factor) bool { return f.event != nil }) {
		knobs.AccessLimit = 20 * time.Minute
	}
	for _, f := range c.factors {
		if f.nature != nil {
			f.nature(&knobs)
		}
	}
	if knobs.OmitExpirySeconds {
		knobs.AccessLimit = simulator.DefaultKnobs().AccessLimit
	}
	return knobs
}

// settle writes the configs and roles: twelve roles share three configs, two of which are of one
// user. A role with a fallback falls back to a config of the other.
func (c cell) settle(w *world) (roles []string) {
	a := w.sites[0]
	users := []string{"user-1", "user-1", "user-2"}
	hasFallback := len(c.kind.role.fallbacks) > 0
	for i := range users {
		if i >= c.kind.count && (!hasFallback || i == 1) {
			continue
		}
		w.writeConfig(
			configNames[i],
			configModel{site: a, user: users[i], token: w.tokenOf(a, users[i]), timeout: requestTimeout, retries: 3},
			i != 1,
		)
	}
	for i := range c.kind.count {
		r := c.kind.role
		r.config = configNames[i%3]
		if hasFallback {
			r.fallbacks = []string{map[string]string{"a": "c", "b": "c", "c": "a"}[r.config]}
		}
		roles = append(roles, fmt.Sprintf("r%d", i))
		w.writeRole(roles[i], r)
	}
	w.forgetBeginning()
	return roles
}

// befall has the cell's events happen, one shortly after the other.
func (c cell) befall(w *world, apart time.Duration) {
	for _, f := range c.factors {
		if f.event != nil && !w.isBroken() {
			f.event(w)
			w.pass(apart)
		}
	}
}

// formsOfReads are how roles of two users are read.
var formsOfReads = []want{{}, {standby: true}, {validate: true}, {}, {minTTL: 15 * time.Second}}

// readOn has the roles read in turn, at odd moments, until so long after the beginning.
func (w *world) readOn(roles []string, until time.Duration) {
	every := 47*time.Second + 300*time.Millisecond
	for i := 0; !w.isBroken(); i++ {
		left := until - time.Since(w.began)
		if left <= 0 {
			return
		}
		w.pass(min(left, every))
		asks := want{standby: i%3 == 2}
		if r, _ := w.roleOf(roles[0]); len(r.fallbacks) > 0 {
			asks = formsOfReads[i%len(formsOfReads)]
		}
		w.reads(roles[i%len(roles)], 1, asks)
		w.settle()
	}
}
