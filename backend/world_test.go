// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The world of the model and the matrix: servers, nodes, storage, and what users do.

package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// world is a mount's life as Vault leads it, on storage in memory and in the time of a synctest
// bubble: an active node, a standby where one is asked for, a tick a minute, leases that end, and
// readers. Two N-centrals stand behind it. What happens in it, its witness holds against the
// promises.
type world struct {
	witness
	sites    []*site
	ground   *ground
	maxLease atomic.Int64 // the mount's max_lease_ttl
	log      logBuffer

	active  atomic.Pointer[member]
	standby atomic.Pointer[member]
	nodes   int

	// The witness's lock guards these, and what a site knows of itself.
	configs map[string]*configModel
	roles   map[string]*roleModel
	unsure  map[string]bool // the definitions of which storage may hold another version, since a change of them failed

	busy sync.WaitGroup // what goes on beside the world's own steps
	over chan struct{}  // closed when the life ends: nothing begins any more by itself
}

// configModel is a config as it was last written.
type configModel struct {
	site     *site
	user     string
	token    string // the User-API token that it holds
	timeout  time.Duration
	retries  int
	learntAt time.Time // since when the engine knows what the server is like
	outTo    time.Time // until when it may be out of service; never where something may keep it out
}

// roleModel is a role as it was last written.
type roleModel struct {
	config    string
	dedicated bool
	lease     bool
	ttl       time.Duration
	minTTL    time.Duration // negative: the default
	fallbacks []string
	reread    time.Duration
}

// site is an N-central with its users, and what it suffers.
type site struct {
	*simulator.Simulator
	server *simulator.Server
	url    string
	tokens map[string]string // the User-API tokens by user
	users  map[string]*userModel

	faults     int           // that stand just now
	healedAt   time.Time     // when the last one ended
	patientTo  time.Time     // until when what was suffered may still be a reason to be left alone
	patience   time.Duration // for how long what stands may be one
	settled    int           // how many requests had come when the mount was set up
	known      int           // how many of the tokens that it issued the witness knows
	foreignAt  []time.Time   // when other clients opened sessions
	losesAt    []span        // when answers may have been lost
	deniesAt   []span        // when a token that lives may have been said to be dead
	liesAt     []span        // when a logout may have been answered that was not done
	troubles   []span        // when anything was suffered
	doubt      bool          // whether anything said since the site was last calm may have made live tokens suspect
	mute       bool          // whether a fault that stands keeps tokens from being asked after
	everEnds   bool          // whether a new session ever ended earlier ones
	scarce     bool          // whether it answers 429 in the normal course of things
	everAbsent bool          // whether it ever had no logout
	// Whether it ever left open how long a token lives, and the engine went by what it asked for.
	everOmits   bool
	everRefuses bool // whether it ever refused lifetimes that are too long
	everHides   bool // whether it ever hid a refusal in a 200
}

// noteKnobs keeps what the site's knobs may have led to, whatever they become.
func (s *site) noteKnobs() {
	knobs := s.Knobs()
	s.everEnds = s.everEnds || knobs.AuthenticateEndsEarlierSessions
	s.everHides = s.everHides || knobs.HideCoreErrors
	s.everRefuses = s.everRefuses || knobs.RefuseLongOverrides
	s.everOmits = s.everOmits || knobs.OmitExpirySeconds
	s.everAbsent = s.everAbsent || knobs.LogoutAbsent
	s.scarce = s.scarce || knobs.MaxInFlight < simulator.DefaultKnobs().MaxInFlight
}

// span is a stretch of time; one that is not over has no end.
type span struct {
	from, to time.Time
	attempts int  // of each call that fails in it
	slow     bool // whether calls took long in it
}

func (s span) has(at time.Time) bool {
	return !at.Before(s.from) && (s.to.IsZero() || !at.After(s.to))
}

const (
	requestTimeout  = 10 * time.Second // the default of a config
	longestPatience = 10*time.Minute + 2*time.Second
	usualPatience   = 16 * time.Second
)

// newWorld makes a life that has begun: two servers, each with two users, and an active node that
// has nothing in storage.
func newWorld(knobs simulator.Knobs) *world {
	w := &world{
		ground: &ground{}, configs: map[string]*configModel{}, roles: map[string]*roleModel{},
		unsure: map[string]bool{}, over: make(chan struct{}),
	}
	w.witness.begin()
	w.maxLease.Store(int64(768 * time.Hour))
	for i := range 2 {
		s := &site{
			Simulator: simulator.New(knobs), url: fmt.Sprintf("http://localhost:%d", 8001+i),
			tokens: map[string]string{}, users: map[string]*userModel{},
		}
		s.server = simulator.ListenInMemory(s.Simulator)
		s.noteKnobs()
		for _, user := range userNames {
			s.tokens[user], s.users[user] = s.AddUser(user), &userModel{}
		}
		w.sites = append(w.sites, s)
	}
	w.active.Store(w.newNode(false))
	w.busy.Go(w.tickOn)
	return w
}

// end ends the life, whatever state it is in, so that the bubble can end.
func (w *world) end() {
	close(w.over)
	for _, s := range w.sites {
		w.heal(s)
	}
	w.busy.Wait()
	for _, n := range []*member{w.active.Load(), w.standby.Load()} {
		if n != nil {
			n.Cleanup(context.Background())
		}
	}
	for _, s := range w.sites {
		s.server.Close()
	}
}

// The storage.

// ground is the storage that a cluster's nodes share. It fails on demand.
type ground struct {
	logical.InmemStorage
	refusesReads, refusesWrites atomic.Int32 // how many failures of each last just now
}

// reach is one node's way to the ground.
type reach struct {
	ground  *ground
	standby bool
	cut     atomic.Bool      // the node is no more part of the cluster
	wrote   func(key string) // tells the other nodes
}

var errStorage = errors.New("storage fails")

func (r *reach) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if r.cut.Load() || r.ground.refusesReads.Load() > 0 {
		return nil, errStorage
	}
	return r.ground.Get(ctx, key)
}

func (r *reach) List(ctx context.Context, prefix string) ([]string, error) {
	if r.cut.Load() || r.ground.refusesReads.Load() > 0 {
		return nil, errStorage
	}
	return r.ground.List(ctx, prefix)
}

func (r *reach) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return r.write(entry.Key, func() error { return r.ground.Put(ctx, entry) })
}

func (r *reach) Delete(ctx context.Context, key string) error {
	return r.write(key, func() error { return r.ground.Delete(ctx, key) })
}

func (r *reach) write(key string, do func() error) error {
	switch {
	case r.standby:
		return logical.ErrReadOnly
	case r.cut.Load() || r.ground.refusesWrites.Load() > 0:
		return errStorage
	}
	err := do()
	if err == nil {
		r.wrote(key)
	}
	return err
}

// keysBelow returns the keys of all that is stored below a prefix.
func (g *ground) keysBelow(prefix string) (keys []string) {
	names, _ := g.List(context.Background(), prefix)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			keys = append(keys, g.keysBelow(prefix+name)...)
		} else {
			keys = append(keys, prefix+name)
		}
	}
	return keys
}

// The nodes.

// member is the engine on one node of the cluster.
type member struct {
	*engine
	number  int
	standby bool
	reach   *reach
	began   time.Time

	mu    sync.Mutex
	conns []net.Conn
}

// nodeView is core's view from one node.
type nodeView struct {
	logical.StaticSystemView
	maxLease *atomic.Int64
	state    consts.ReplicationState
}

func (v *nodeView) MaxLeaseTTL() time.Duration { return time.Duration(v.maxLease.Load()) }

func (v *nodeView) ReplicationState() consts.ReplicationState { return v.state }

func (w *world) newNode(standby bool) *member {
	w.nodes++
	n := &member{
		number: w.nodes, standby: standby, reach: &reach{ground: w.ground, standby: standby, wrote: w.tellStandby},
		began: time.Now(),
	}
	view := &nodeView{
		maxLease: &w.maxLease, StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: 768 * time.Hour},
	}
	if standby {
		view.state = consts.ReplicationPerformanceStandby
	}
	logger := hclog.New(&hclog.LoggerOptions{Output: &w.log, Level: hclog.Trace})
	backend, err := newBackend(context.Background(), &logical.BackendConfig{
		Logger: logger, System: view, StorageView: n.reach,
	},
		func(ctx context.Context, _, address string) (net.Conn, error) { return w.dial(ctx, n, address) })
	if err != nil {
		panic(err) // it makes no call that could fail
	}
	n.engine = backend
	return n
}

// dial connects a node to the site at the address.
func (w *world) dial(ctx context.Context, n *member, address string) (net.Conn, error) {
	if n.standby {
		w.breaks(standbysCallNobody, "the standby called %s", address)
	}
	for _, s := range w.sites {
		if "http://"+address != s.url {
			continue
		}
		conn, err := s.server.DialContext(ctx, "tcp", address)
		n.mu.Lock()
		defer n.mu.Unlock() //nolint:revive // the loop ends here
		if n.reach.cut.Load() && err == nil {
			_ = conn.Close()
			return nil, net.ErrClosed
		}
		n.conns = append(n.conns, conn)
		return conn, err
	}
	w.breaks(nothingGoesElsewhere, "a connection to %s was asked for", address)
	return nil, net.ErrClosed
}

func (w *world) tellStandby(key string) {
	if n := w.standby.Load(); n != nil {
		n.InvalidateKey(context.Background(), key)
	}
}

// restart ends the active node in good order and starts another on the same storage.
func (w *world) restart() {
	w.note("restart")
	w.changing(func() {
		w.mayLose()
		defer w.triesBeginAnew()
		w.stop(w.active.Load())
		w.active.Store(w.newNode(false))
	})
}

// kill takes the active node out of the cluster without a word to it, and starts another in its
// place: a crash, or a takeover by another node.
func (w *world) kill() {
	w.note("kill")
	w.changing(func() {
		old := w.active.Load()
		w.mayLose()
		defer w.triesBeginAnew()
		old.reach.cut.Store(true)
		old.mu.Lock()
		for _, conn := range old.conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
		old.mu.Unlock()
		w.active.Store(w.newNode(false))
		w.stop(old)
	})
}

// triesBeginAnew says that a node which starts tries what is out of service later than was due.
func (w *world) triesBeginAnew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLateTriesLocked()
}

// stop holds the end of a node to the promise that it waits for nobody.
func (w *world) stop(n *member) {
	defer w.recovered("the end of a node")
	began := time.Now()
	n.Cleanup(context.Background())
	if took := time.Since(began); took > 2*time.Second && !w.checking.Load() {
		w.breaks(nobodyWaits, "the end of node %d took %s", n.number, took)
	}
}

// mayLose says that what a node that ends has under way may be lost.
func (w *world) mayLose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, s := range w.sites {
		s.losesAt = append(s.losesAt, span{from: now.Add(-3 * requestTimeout), to: now})
	}
}

// tickOn ticks once a minute, as Vault's rollback manager does: never two at a time.
func (w *world) tickOn() {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-w.over:
			return
		case <-ticker.C:
			w.tick()
		}
	}
}

func (w *world) tick() {
	n, began := w.active.Load(), time.Now()
	storage := w.storageFailures.Load()
	defer w.recovered("the tick")
	_, err := n.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RollbackOperation, Storage: n.reach,
	})
	if err != nil && !errors.Is(err, logical.ErrUnsupportedOperation) && w.storageIsWell(storage) &&
		!n.reach.cut.Load() && !w.isDamaged() {
		w.breaks(errorsAreTold, "a tick failed: %v", err)
	}
	if took := time.Since(began); took > 55*time.Second {
		w.breaks(workIsBounded, "a tick took %s", took)
	}
	w.ticked()
}

// The requests.

// answer is what came of a request.
type answer struct {
	response *logical.Response
	status   int // as Vault makes one of it; forwarded for what a standby hands to the active node
	text     string
	err      error
	began    time.Time
	ended    time.Time
}

const forwarded = -1

func (a answer) ok() bool { return a.status == http.StatusOK }

func (a answer) took() time.Duration { return a.ended.Sub(a.began) }

// request makes a request as core does, and holds a failure against the promises.
func (w *world) request(
	ctx context.Context, n *member, operation logical.Operation, path string, data map[string]any,
) (a answer) {
	a.began = time.Now()
	storage := w.storageFailures.Load()
	defer w.recovered(string(operation) + " " + path)
	a.response, a.err = n.HandleRequest(ctx, &logical.Request{
		Operation: operation, Path: path, Data: data, Storage: n.reach, MountPoint: "ncentral/",
	})
	a.ended = time.Now()
	a.classify()
	if a.status == http.StatusInternalServerError && (!w.storageIsWell(storage) || n.reach.cut.Load()) {
		a.status = http.StatusServiceUnavailable // this node's own failure may be told as one
	}
	w.judgeFailure(n, operation, path, a)
	return a
}

func (a *answer) classify() {
	var coded logical.HTTPCodedError
	switch {
	case a.err == nil && a.response.IsError():
		a.status, a.text = http.StatusBadRequest, a.response.Error().Error()
	case a.err == nil:
		a.status = http.StatusOK
	case errors.Is(a.err, logical.ErrReadOnly):
		a.status, a.text = forwarded, a.err.Error()
	case errors.As(a.err, &coded):
		a.status, a.text = coded.Code(), coded.Error()
	default:
		a.status, a.text = http.StatusInternalServerError, a.err.Error()
	}
}

// recovered turns a panic into a promise that was broken.
func (w *world) recovered(what string) {
	if p := recover(); p != nil { //nolint:revive // it is the function that is deferred
		w.breaks(nothingPanics, "%s: %v\n%s", what, p, debug.Stack())
	}
}

func (w *world) write(path string, data map[string]any) answer {
	return w.request(context.Background(), w.active.Load(), opWrite, path, data)
}

func (w *world) delete(path string) answer {
	return w.request(context.Background(), w.active.Load(), opDelete, path, nil)
}

func (w *world) get(path string) answer {
	return w.request(context.Background(), w.active.Load(), opRead, path, nil)
}

// The definitions.

// configOf returns a config as it was last written, and whether there is one.
func (w *world) configOf(name string) (configModel, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.configs[name]; c != nil {
		return *c, true
	}
	return configModel{}, false
}

// roleOf returns a role as it was last written, and whether there is one.
func (w *world) roleOf(name string) (roleModel, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.roles[name]; r != nil {
		return *r, true
	}
	return roleModel{}, false
}

// tokenOf returns the User-API token that a user has by now.
func (w *world) tokenOf(s *site, user string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.tokens[user]
}

// forgetBeginning leaves what was written so far out of account.
func (w *world) forgetBeginning() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changedAt, w.figures.faults = nil, 0
	for _, s := range w.sites {
		s.settled = len(s.Requests())
	}
}

// writeConfig writes a config in full.
func (w *world) writeConfig(name string, c configModel, verify bool) {
	w.note("write config %s: %s at %s, verify=%t", name, c.user, c.site.url, verify)
	w.changing(func() {
		w.noteConfig(name, c, verify, w.write("config/"+name, map[string]any{
			"url": c.site.url, "user_api_token": c.token, "password_max_age": 0, "verify": verify,
			"request_timeout": c.timeout.String(), "max_retries": c.retries,
		}))
	})
}

// noteConfig takes note of what came of the write of a config.
func (w *world) noteConfig(name string, c configModel, verified bool, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteFailureLocked(a)
	before := w.configs[name]
	elsewhere := before == nil || before.site != c.site
	if before != nil && elsewhere && a.ok() {
		w.strandLocked(name, before.site)
	}
	if elsewhere && verified && !a.ok() { // no config has that url, at which a logout could be owed
		w.strandLocked(name, c.site)
	}
	if a.ok() {
		c.learntAt = before.learntOf(&c, verified)
		w.configs[name] = &c
		c.outTo = never
		if c.worksLocked() && c.site.faults == 0 {
			c.outTo = time.Now() // a write brings it back
		}
	}
	w.judgeStored(
		"config/"+name, a, verified && (c.site.suffers(a.began) || c.site.everEnds || !c.worksLocked()),
	)
}

// learntOf is since when the engine knows what the server of a config is like that is written in
// this one's place.
func (c *configModel) learntOf(next *configModel, verified bool) time.Time {
	at := never
	if c != nil && c.site == next.site {
		at = c.learntAt
	}
	if now := time.Now(); verified && at.After(now) {
		at = now
	}
	return at
}

func (w *world) noteFailureLocked(a answer) {
	if !a.ok() {
		w.noteLocked("  %d %s", a.status, a.text)
	}
}

// writeRole writes a role in full, by a patch where it is there already.
func (w *world) writeRole(name string, r roleModel) {
	w.note("write role %s: %s", name, r)
	w.changing(func() {
		data := map[string]any{
			"config": r.config, "lease": r.lease, "ttl": r.ttl.String(), "credential_type": "shared", "min_ttl": nil,
			"reread_interval": r.reread.String(),
		}
		if r.dedicated {
			data["credential_type"] = "dedicated"
		}
		r.fallbacks = w.possibleFallbacks(&r)
		data["fallback_configs"] = r.fallbacks
		operation := logical.Operation(opPatch)
		w.mu.Lock()
		unsure := w.unsure["roles/"+name]
		if w.roles[name] == nil || unsure {
			operation = opWrite
			delete(data, "min_ttl")
		}
		w.mu.Unlock()
		if unsure {
			r.minTTL = max(r.minTTL, 0) // nobody knows what stands there
		}
		if r.minTTL >= 0 {
			data["min_ttl"] = r.minTTL.String()
		}
		w.noteRole(name, r, w.request(context.Background(), w.active.Load(), operation, "roles/"+name, data))
	})
}

// possibleFallbacks returns those of the role's fallbacks that a write may name: configs that are
// there, of one server.
func (w *world) possibleFallbacks(r *roleModel) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.configs[r.config]
	for _, name := range r.fallbacks {
		c := w.configs[name]
		if own != nil && c != nil && name != r.config && c.site == own.site && !w.unsure["config/"+name] &&
			!w.unsure["config/"+r.config] {
			names = append(names, name)
		}
	}
	return names
}

// noteRole takes note of what came of the write of a role.
func (w *world) noteRole(name string, r roleModel, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteFailureLocked(a)
	if a.ok() {
		if before := w.roles[name]; before != nil && before.minTTL != r.minTTL {
			w.demanding[name] = time.Now() // by the min_ttl before, the token in hand may have been due
		}
		w.roles[name] = &r
		if life := cmp.Or(r.ttl, defaultLifetime); !r.dedicated && (w.shortest[name] == 0 || life < w.shortest[name]) {
			w.shortest[name] = life
		}
	}
	w.judgeStored("roles/"+name, a, false)
}

func (r roleModel) String() string {
	kind := "unleased"
	switch {
	case r.dedicated:
		kind = "dedicated"
	case r.lease:
		kind = "leased"
	}
	text := fmt.Sprintf("%s of %s, ttl %s, min_ttl %s", kind, strings.Join(r.configs(), ", then "), r.ttl, r.minTTL)
	if r.reread > 0 {
		text += fmt.Sprintf(", reread_interval %s", r.reread)
	}
	return text
}

func (w *world) deleteRole(name string) {
	w.note("delete role %s", name)
	w.endSessions(name, "roles/"+name, func(a answer) {
		if a.ok() {
			delete(w.roles, name)
		}
		w.judgeStored("roles/"+name, a, false)
	})
}

// endSessions deletes what ends the role's sessions, and notes what came of it under the witness's
// lock.
func (w *world) endSessions(role, path string, note func(answer)) {
	w.changing(func() {
		w.mayEnd(role)
		began := time.Now()
		a := w.delete(path)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.noteFailureLocked(a)
		if a.ok() {
			w.forgottenLocked(role, began)
		}
		note(a)
	})
}

// deleteConfig deletes a config that no role names, as any other is refused.
func (w *world) deleteConfig(name string) {
	if w.isNamed(name) {
		return
	}
	w.note("delete config %s", name)
	w.changing(func() {
		a := w.delete("config/" + name)
		w.mu.Lock()
		defer w.mu.Unlock()
		if a.ok() {
			w.strandLocked(name, w.configs[name].site)
			delete(w.configs, name)
		}
		w.judgeStored("config/"+name, a, false)
	})
}

// isNamed reports whether a role names the config, or may do so.
func (w *world) isNamed(config string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, r := range w.roles {
		if slices.Contains(r.configs(), config) || w.unsure["roles/"+name] {
			return true
		}
	}
	return false
}

func (w *world) deleteSessions(role string) {
	w.note("delete sessions %s", role)
	w.endSessions(role, "sessions/"+role, func(answer) {})
}

// check runs the check of a config beside what else goes on.
func (w *world) check(name string) {
	w.note("check %s", name)
	w.changing(func() {})
	w.checking.Store(true) // for good: the end of the node may wait for one
	c, _ := w.configOf(name)
	w.busy.Go(func() {
		a := w.write("config/"+name+"/check", nil)
		w.note("checked %s: %d %s", name, a.status, a.text)
		if limit := 6 * c.timeout; a.took() > limit {
			w.breaks(nobodyWaits, "the check of %s took %s", name, a.took())
		}
	})
}

// tune sets the mount's max_lease_ttl.
func (w *world) tune(maxLease time.Duration) {
	w.note("max_lease_ttl %s", maxLease)
	w.changing(func() {
		w.maxLease.Store(int64(maxLease))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tuned = append(w.tuned, tuning{time.Now(), maxLease})
	})
}

// The leases.

// lease is one that Vault keeps.
type lease struct {
	number   int
	role     string
	token    *tokenRecord
	internal []byte
	endsAt   time.Time
	timer    *time.Timer
	ended    bool
}

// keepLocked keeps the lease of an answer, as Vault does: until its end, within the mount's
// max_lease_ttl.
func (w *world) keepLocked(role string, token *tokenRecord, secret *logical.Secret) {
	internal, err := json.Marshal(secret.InternalData)
	if err != nil {
		panic(err)
	}
	ttl := min(secret.TTL, time.Duration(w.maxLease.Load()))
	l := &lease{number: len(w.leases) + 1, role: role, token: token, internal: internal, endsAt: time.Now().Add(ttl)}
	w.leases = append(w.leases, l)
	w.busy.Add(1)
	l.timer = time.AfterFunc(ttl, func() {
		defer w.busy.Done()
		w.revoke(l)
	})
}

// endLease revokes a lease now.
func (w *world) endLease(l *lease) {
	if l.timer.Stop() {
		defer w.busy.Done()
		w.revoke(l)
	}
}

// revoke ends a lease as Vault does, which gives it up for good after a handful of failures.
func (w *world) revoke(l *lease) {
	w.mu.Lock()
	l.endsAt = time.Now()
	l.token.mayEnd()
	w.mu.Unlock()
	var kept map[string]any
	if err := json.Unmarshal(l.internal, &kept); err != nil {
		panic(err)
	}
	wait := 10 * time.Second
	for range 6 {
		n := w.active.Load()
		if w.tryToRevoke(n, l, kept) {
			w.leaseEnded(l)
			return
		}
		select {
		case <-time.After(wait):
		case <-w.over:
			return
		}
		wait *= 2
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.token.lost = "Vault gave its lease up, for storage failed"
}

func (w *world) tryToRevoke(n *member, l *lease, kept map[string]any) bool {
	defer w.recovered("revoke")
	storage := w.storageFailures.Load()
	began := time.Now()
	_, err := n.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/" + l.role, Storage: n.reach,
		Secret: &logical.Secret{InternalData: kept, LeaseOptions: logical.LeaseOptions{IssueTime: l.token.IssuedAt}},
	})
	if took := time.Since(began); took > 3*requestTimeout {
		w.breaks(nobodyWaits, "the revocation of lease %d took %s", l.number, took)
	}
	if err != nil && w.storageIsWell(storage) && !n.reach.cut.Load() {
		w.breaks(dedicatedEnd, "the revocation of lease %d failed: %v", l.number, err)
	}
	return err == nil
}

// The readers.

// want is what a reader asks for.
type want struct {
	minTTL   time.Duration
	validate bool
	hangUp   time.Duration // when the reader hangs up; 0 for never
	standby  bool          // asks the standby
}

// reads begins a read by each of so many readers at once.
func (w *world) reads(role string, readers int, asks want) {
	for range readers {
		w.busy.Go(func() { w.read(role, asks) })
	}
}

func (w *world) read(role string, asks want) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if asks.hangUp > 0 {
		timer := time.AfterFunc(asks.hangUp, cancel)
		defer timer.Stop()
	}
	data := map[string]any{}
	if asks.minTTL > 0 {
		data["min_ttl"] = asks.minTTL.String()
	}
	if asks.validate {
		data["validate"] = true
	}
	r := w.beginRead(role, asks)
	a := answer{status: forwarded}
	if n := w.standby.Load(); asks.standby && n != nil {
		a = w.request(ctx, n, opRead, "creds/"+role, data)
		r.standby = a.status != forwarded
	}
	if a.status == forwarded {
		r.node = w.active.Load()
		a = w.request(ctx, r.node, opRead, "creds/"+role, data)
	}
	r.answer = a
	r.began = r.beganAt
	r.hungUp = ctx.Err() != nil
	w.endRead(r)
}

// What befalls the servers.

// suffer makes a site fail for some time. The faults that overlap end together.
func (w *world) suffer(
	s *site, endpoint simulator.Endpoint, count int, failure simulator.Failure, lasts time.Duration,
) {
	w.note("%s fails: %s %+v, %d times in %s", s.url, endpoint, failure, count, lasts)
	w.befall(s, lasts, effectOf(endpoint, failure), func() { s.FailNext(endpoint, count, failure) })
}

// goDown makes a site unreachable for some time.
func (w *world) goDown(s *site, lasts time.Duration) {
	w.note("%s is down for %s", s.url, lasts)
	w.befall(s, lasts, effect{loses: true, mutes: true}, func() { _ = s.SetDown(true) })
}

// effect is what a fault may lead to.
type effect struct {
	loses  bool // answers are lost whose work was done
	lies   bool // a logout is answered, or said to be impossible, that was not done
	denies bool // a token that lives is said to be dead
	doubts bool // live tokens become suspect
	mutes  bool // tokens cannot be asked after
	long   bool // the server may be left alone for minutes
	outs   bool // a config may be put out of service
	slow   bool // an answer may take long
	once   bool // a call that fails so is not repeated
}

func effectOf(endpoint simulator.Endpoint, failure simulator.Failure) effect {
	of := func(endpoints ...simulator.Endpoint) bool {
		return endpoint == simulator.AnyEndpoint || slices.Contains(endpoints, endpoint)
	}
	asks, logsOut := of(simulator.EndpointValidate, simulator.EndpointServiceOrgs), of(simulator.EndpointLogout)
	e := effect{mutes: asks, long: failure.RetryAfterSeconds > 0}
	switch failure.Kind {
	case simulator.FailureTruncated, simulator.FailureOversized, simulator.FailureLostAnswer, simulator.FailureHang,
		simulator.FailureExpiry,
		simulator.FailureSlow, simulator.FailureDrip, simulator.FailureGzipBomb:
		e.loses = true
	case simulator.FailureNoTokens, simulator.FailureLineFeedToken, simulator.FailureControlToken,
		simulator.FailureMessage:
		e.lies, e.once = logsOut, true
	case simulator.FailureHTML, simulator.FailureRedirect:
		e.once = failure.Status < 500
	case simulator.FailureStatus:
		e.lies = logsOut && slices.Contains([]int{401, 404, 405}, failure.Status)
		e.denies = asks && failure.Status == 401
		e.doubts = slices.Contains([]int{400, 401, 403, 409}, failure.Status)
		e.once = failure.Status < 500 && failure.Status != 429
	case simulator.FailureErrorMessage:
		e.doubts, e.once = true, true
	}
	e.long = e.long || e.doubts
	e.outs = e.doubts || of(simulator.EndpointServiceOrgs)
	e.slow = slices.Contains(
		[]simulator.FailureKind{
			simulator.FailureHang, simulator.FailureSlow, simulator.FailureDrip, simulator.FailureGzipBomb,
		},
		failure.Kind,
	)
	return e
}

func (w *world) befall(s *site, lasts time.Duration, e effect, begin func()) {
	w.changing(func() {
		w.mu.Lock()
		s.faults++
		now := time.Now()
		trouble := span{from: now, attempts: attemptsOfACall, slow: e.slow}
		if e.once {
			trouble.attempts = 1
		}
		s.troubles = append(s.troubles, trouble)
		if e.denies {
			s.deniesAt = append(s.deniesAt, span{from: now})
		}
		if e.loses {
			s.losesAt = append(s.losesAt, span{from: now})
		}
		if e.lies {
			s.liesAt = append(s.liesAt, span{from: now})
		}
		s.doubt = s.doubt || e.doubts
		s.mute = s.mute || e.mutes
		w.noteOutLocked(func(c *configModel) bool { return c.site == s && (e.outs || c.outTo.After(now)) })
		patience := usualPatience
		if e.long {
			patience = longestPatience
		}
		s.patience = max(s.patience, patience)
		s.patientTo = later(s.patientTo, now.Add(lasts+patience))
		w.mu.Unlock()
		begin()
	})
	w.after(lasts, func() {
		w.mu.Lock()
		s.faults--
		last := s.faults == 0
		w.mu.Unlock()
		if last {
			w.heal(s)
		}
	})
}

// heal ends all that a site suffers.
func (w *world) heal(s *site) {
	s.ClearFailures()
	_ = s.SetDown(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	s.healedAt, s.mute = now, false
	s.patientTo = later(s.patientTo, now.Add(s.patience)) // a fault lasts longer where another does
	s.patience = 0
	w.noteLateTriesLocked()
	for _, spans := range [][]span{s.losesAt, s.liesAt, s.deniesAt, s.troubles} {
		for i := range spans {
			if spans[i].to.IsZero() {
				spans[i].to = now.Add(3 * requestTimeout)
			}
		}
	}
}

// suffers reports whether something failed at that time, or may have, for what began before.
func (s *site) suffers(at time.Time) bool {
	return s.faults > 0 || slices.ContainsFunc(s.troubles, func(t span) bool { return t.has(at) })
}

// lies reports whether a token that was issued at that time may have lived on after a logout that
// was answered.
func (s *site) lies(issued time.Time) bool {
	return slices.ContainsFunc(s.liesAt, func(l span) bool { return l.to.IsZero() || !issued.After(l.to) })
}

// isSlow reports whether calls may take long at that time.
func (s *site) isSlow(at time.Time) bool {
	return slices.ContainsFunc(s.troubles, func(t span) bool { return t.slow && t.has(at) })
}

// reboot ends every session of a site, and changes what an upgrade may change.
func (w *world) reboot(s *site, upgrade func(*simulator.Knobs)) {
	w.note("%s reboots", s.url)
	w.changing(func() {
		time.Sleep(time.Second) // no server is up again at once, and its start time tells of it
		w.mu.Lock()
		defer w.mu.Unlock()
		if upgrade != nil {
			s.Change(upgrade)
			s.noteKnobs()
		}
		s.Reboot()
		for user := range s.users {
			s.noteUser(user)
		}
		for _, c := range w.configs {
			if c.site == s {
				c.learntAt = never
			}
		}
	})
}

// regenerate gives a user a new User-API token, of which the engine knows nothing yet.
func (w *world) regenerate(s *site, user string) {
	w.note("%s: the User-API token of %s is regenerated", s.url, user)
	w.changing(func() {
		token, err := s.RegenerateUserAPIToken(user)
		if err != nil {
			panic(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		u := s.users[user]
		u.useless = append(u.useless, useless{s.tokens[user], time.Now()})
		s.tokens[user] = token
		if len(u.diedOf) > 0 {
			u.useless = append(u.useless, useless{token, time.Now()})
		}
		s.doubt = true
		w.noteOutLocked(func(c *configModel) bool { return c.site == s && c.user == user })
	})
}

// foreignSession opens a session as another client of the same user does.
func (w *world) foreignSession(s *site, user string) {
	w.note("%s: another client of %s opens a session", s.url, user)
	w.changing(func() {
		request := httptest.NewRequest(http.MethodPost, s.url+"/api/auth/authenticate", http.NoBody)
		request.Header.Set("Authorization", "Bearer "+w.tokenOf(s, user))
		defer func() { _ = recover() }() // a failure that resets the connection
		recorder := httptest.NewRecorder()
		s.Handler().ServeHTTP(recorder, request)
		w.notOurs(s, recorder.Body.String())
	})
}

// storageFails makes storage refuse reads or writes for some time.
func (w *world) storageFails(refuses *atomic.Int32, lasts time.Duration) {
	w.note("storage fails for %s", lasts)
	w.changing(func() {
		w.storageFailures.Add(1)
		w.storageFailing.Add(1)
		refuses.Add(1)
		w.mu.Lock()
		w.unstored = append(w.unstored, span{from: time.Now(), to: time.Now().Add(lasts)})
		w.mu.Unlock()
	})
	w.after(lasts, func() {
		w.storageFailures.Add(1)
		w.storageFailing.Add(-1)
		refuses.Add(-1)
		w.triesBeginAnew()
	})
}

// after runs what ends something later, or when the life ends.
func (w *world) after(wait time.Duration, do func()) {
	timer := time.NewTimer(wait)
	w.busy.Go(func() {
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-w.over:
		}
		do()
	})
}

// pass lets time pass, and looks at what was handed out.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	w.settle()
}

// settle lets all that can go on without time go on, and looks at what was handed out.
func (w *world) settle() {
	synctest.Wait()
	w.lookAtTokens()
}

// haveStandby has a standby beside the active node from now on.
func (w *world) haveStandby() {
	if w.standby.Load() == nil {
		w.standby.Store(w.newNode(true))
	}
}

// burst has so many readers read a role at once, and holds what that costs against promise 2.
func (w *world) burst(role string, readers int) {
	w.settle()
	r, there := w.roleOf(role)
	storage, changes, ticks := w.storageFailures.Load(), w.changes.Load(), w.tickCount()
	before := w.issuedCount()
	var done sync.WaitGroup
	for range readers {
		done.Go(func() { w.read(role, want{}) })
	}
	done.Wait()
	c, configured := w.configOf(r.config)
	if !there || r.dedicated || !configured || !w.storageIsWell(storage) || changes != w.changes.Load() ||
		ticks != w.tickCount() || len(r.fallbacks) > 0 && !c.outTo.Before(time.Now()) {
		return
	}
	allowed := 1
	if c.learntAt == never {
		allowed += sessionsOfLearning
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.site.suffers(time.Now()) || c.site.everEnds || c.site.Knobs().Latency > 0 {
		return
	}
	if issued := w.issuedCount() - before; issued > allowed {
		w.breaksLocked(oneFlight, "%d readers of %s at once opened %d sessions", readers, role, issued)
	}
}

// sessionsOfLearning is what finding out what a server is like may open.
const sessionsOfLearning = 3

func (w *world) issuedCount() int {
	count := 0
	for _, s := range w.sites {
		count += len(s.Issued())
	}
	return count
}

// storm has readers come back to a role as fast as they can, four times a second, for some time.
func (w *world) storm(role string, asks want, lasts time.Duration) {
	readers, every := 3, 250*time.Millisecond
	if r, _ := w.roleOf(role); r.dedicated && !w.anySuffers() {
		readers, every = 1, time.Second // each opens a session
	}
	for until := time.Now().Add(lasts); time.Now().Before(until) && !w.isBroken(); {
		w.reads(role, readers, asks)
		time.Sleep(every)
	}
}

func (w *world) anySuffers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.sites, func(s *site) bool { return s.faults > 0 })
}

// damage spoils the so-manieth entry below a prefix, as a faulty disk does, and lets the nodes see
// it.
func (w *world) damage(prefix string, number int) {
	keys := w.ground.keysBelow(prefix)
	if len(keys) == 0 {
		return
	}
	key := keys[number%len(keys)]
	w.note("damage %s", key)
	w.changing(func() {
		w.mu.Lock()
		w.damaged++
		w.unsettledAt = time.Now()
		for _, c := range w.configs {
			if prefix == "learnt/" { // what cannot be read is unknown
				c.learntAt = never
			}
		}
		w.learnTokens()
		if entry, err := w.ground.Get(context.Background(), key); err == nil && entry != nil {
			for _, t := range w.tokens {
				if strings.Contains(string(entry.Value), t.Access) {
					t.lost = "the entry that held it was damaged"
					delete(w.inHand, t.role)
				}
			}
		}
		w.mu.Unlock()
		_ = w.ground.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(`{"damaged`)})
		w.active.Load().InvalidateKey(context.Background(), key)
		w.tellStandby(key)
	})
}

// leaseFromEnd returns the lease that is so many before the newest, or none.
func (w *world) leaseFromEnd(number int) *lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := len(w.leases) - 1 - number; at >= 0 {
		return w.leases[at]
	}
	return nil
}

// waysToFail are all the ways in which a simulator's call can fail, save two: answers of many
// megabytes are dear and belong to the client's own tests, and a server that answers one session
// twice keeps no promise of its own.
func waysToFail() []simulator.Failure {
	var all []simulator.Failure
	for _, code := range []int{400, 401, 403, 404, 405, 409, 429, 500, 501, 502, 503, 504} {
		all = append(all, status(code))
	}
	for _, code := range []int{429, 503} {
		all = append(all, simulator.Failure{Kind: simulator.FailureStatus, Status: code, RetryAfterSeconds: 40})
	}
	for _, code := range []int{200, 401, 403, 503} {
		all = append(all, simulator.Failure{Kind: simulator.FailureHTML, Status: code})
	}
	for _, kind := range []simulator.FailureKind{
		simulator.FailureHang, simulator.FailureReset, simulator.FailureRedirect, simulator.FailureNoTokens,
		simulator.FailureLineFeedToken,
		simulator.FailureControlToken, simulator.FailureErrorMessage, simulator.FailureTruncated,
		simulator.FailureOversized, simulator.FailureLostAnswer,
	} {
		all = append(all, simulator.Failure{Kind: kind})
	}
	for _, seconds := range []json.Number{"0", "-3600", "1", "2.5", "1e300", "100"} {
		all = append(all, simulator.Failure{Kind: simulator.FailureExpiry, ExpirySeconds: seconds})
	}
	return append(all,
		simulator.Failure{Kind: simulator.FailureMessage, Message: "The token is invalid."},
		simulator.Failure{Kind: simulator.FailureSlow, Delay: simulator.Delay(7 * time.Second)},
		simulator.Failure{Kind: simulator.FailureSlow, Delay: simulator.Delay(15 * time.Second)},
		simulator.Failure{Kind: simulator.FailureDrip, Delay: simulator.Delay(100 * time.Millisecond)},
	)
}

// callsOfTheEngine are the endpoints at which calls can be made to fail.
func callsOfTheEngine() []simulator.Endpoint {
	return []simulator.Endpoint{
		simulator.EndpointAuthenticate, simulator.EndpointRefresh, simulator.EndpointValidate, simulator.EndpointLogout,
		simulator.EndpointServiceOrgs,
		simulator.EndpointUser, simulator.EndpointServerInfo, simulator.EndpointLinks, simulator.EndpointHealth,
		simulator.AnyEndpoint,
	}
}

// raceDetected reports whether the race detector runs, under which everything takes several times
// as long.
var raceDetected = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(
		info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" },
	)
}()
