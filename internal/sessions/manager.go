// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package sessions decides which access token is handed out, and when it is reused, refreshed,
// replaced, validated or ended.
//
// The life of a shared token: Manager.Read (read.go) makes a snapshot of the role, and decide says
// what the read does next. If a new token is needed, join (flight.go) finds or starts the role's
// flight. The flight obtains a token (obtain.go), by refresh or authenticate, and keep stores it.
// Shortly before the rotation is due, serve starts another flight and does not wait for it; the
// tick (tick.go) does the same for tokens that were read. A suspect token is validated first
// (validate.go). The replaced token stays in the session until it expires, or until End (end.go)
// logs out all that the role has.
//
// Which configs a role names is in sources.go. If it has fallback_configs, an attempt (failover.go)
// goes through them, and a config may be put out of service and brought back. A dedicated role has
// no flight: each read opens a session (dedicated.go), and EndLease logs it out.
//
// roleState.mu guards the role's flight and every change of its stored session. A hot read does not
// wait for it. Manager.outMu guards which configs are out of service, and probesMu the hourly data
// calls. No lock is held during a call to N-central. The order of all locks is in docs/design.md.
//
// What is pure is tested beside the files: decide, and what is promised. All else is tested in
// backend, by subject: read_test.go, flight_test.go, life_test.go, refresh_test.go,
// suspicion_test.go, fallback_test.go, dedicated_test.go and others.
package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

var (
	// ErrUnknownRole says that there is no role of that name.
	ErrUnknownRole = errors.New("unknown role")
	// ErrUnknownConfig is the error if the role names a config that does not exist any more.
	ErrUnknownConfig = errors.New("unknown config")
	// ErrNeedsActiveNode is the error if a read with CacheOnly cannot be answered here: it needs
	// N-central or a lease, or the active node must see it to start the rotation.
	ErrNeedsActiveNode = errors.New("the active node must answer this read")
	// ErrDeadOnArrival is the error if a new token had expired when N-central's answer came.
	ErrDeadOnArrival = errors.New("the new token was of no use any more when N-central's answer came: give the role " +
		"a longer ttl, or try again")
	// ErrTimeOver says that a read took longer than it may.
	ErrTimeOver = errors.New("no token could be had within three times request_timeout: try again, or read in " +
		"status what is wrong with N-central")
	// ErrTooManyWaiting is the error if too many reads of a dedicated role wait for a session
	// already.
	ErrTooManyWaiting = errors.New("too many reads of this role are already waiting for a session of their own: try " +
		"again later, raise max_requests_in_flight, or use a shared role")
	// ErrMaxLeaseUnknown is the error if Vault did not say what the mount's max_lease_ttl is. No
	// token may be promised for longer than that.
	ErrMaxLeaseUnknown = errors.New("the mount's max_lease_ttl is not known, since Vault did not tell it, so no " +
		"token was asked for: try again")
	// ErrEnded says that the plugin is being stopped.
	ErrEnded = errors.New("the plugin is being stopped: try again")
	// ErrSuperseded is the error if the role's sessions were ended, or its role or config changed,
	// while a token was obtained, and again when that was tried anew.
	ErrSuperseded = errors.New("the role, its config or its sessions changed again and again while a token was " +
		"obtained: try again")
)

// UselessLifetimeError is the error if tokens of the role would live too short to be handed out.
type UselessLifetimeError struct{ Lifetime time.Duration }

func (e *UselessLifetimeError) Error() string {
	return fmt.Sprintf("a token of this role would live for %s, and one of %s or less is not handed out: give the "+
		"role a longer ttl, or the mount a longer max_lease_ttl", e.Lifetime, store.MinServable)
}

// LateError is the error if a new token came so late that it lives shorter than the reader asked
// for.
type LateError struct{ Asked, Left time.Duration }

func (e *LateError) Error() string {
	return fmt.Sprintf("min_ttl: N-central took so long that the new token has %s left, less than the %s that were "+
		"asked for: try again, or ask for less",
		e.Left.Truncate(time.Second), e.Asked)
}

// LimitError is the error if a reader asks for more remaining life than tokens of the role can
// have.
type LimitError struct {
	Asked, Granted time.Duration
	Dedicated      bool
}

func (e *LimitError) Error() string {
	if e.Dedicated {
		return fmt.Sprintf("min_ttl: %s is more than the %s that a token of this role lives: ask for less",
			e.Asked, e.Granted)
	}
	return fmt.Sprintf("min_ttl: %s is more than half of the %s that a token of this role lives, which is the limit "+
		"when readers share it: ask for at most %s, or use a role with credential_type=dedicated",
		e.Asked, e.Granted, e.Granted/2)
}

// Manager manages the sessions of all roles of one mount.
type Manager struct {
	store       *store.Store
	upstream    *upstream.Registry
	maxLeaseTTL func() time.Duration
	events      *events.Sender
	logger      hclog.Logger

	// What outlives a request runs on this context and is waited for by Close.
	background context.Context
	stop       context.CancelFunc
	ending     sync.RWMutex // guards ended: begin holds it to read, Close to write
	ended      bool
	running    sync.WaitGroup
	// storing is the context for what must still be stored while the rest is broken off.
	storing context.Context

	proofs singleflight.Group // by config name

	states sync.Map // role name to *roleState

	probesMu sync.Mutex
	probes   map[string]probe // by config name

	started time.Time
	// outMu guards outTries, and the changes of which configs are out of service. It is never held
	// during a call to N-central.
	outMu    sync.Mutex
	outTries map[string]outTry // by config name
	// outStores are the writes of what outMu guards, by config name.
	outStores singleflight.Group
}

// probe is when the hourly data call was last made, and with which server and credential.
type probe struct {
	fingerprint string
	at          time.Time
}

// NewManager returns the manager of a mount. It makes no call. maxLeaseTTL returns the mount's
// max_lease_ttl, and is called once for each token obtained.
func NewManager(
	entries *store.Store, servers *upstream.Registry, maxLeaseTTL func() time.Duration, sender *events.Sender,
	logger hclog.Logger,
) *Manager {
	background, stop := context.WithCancel(context.Background())
	return &Manager{
		store:       entries,
		upstream:    servers,
		maxLeaseTTL: maxLeaseTTL,
		logger:      logger,
		background:  background,
		stop:        stop,
		storing:     context.Background(),
		probes:      map[string]probe{},
		started:     time.Now(),
		outTries:    map[string]outTry{},
		events:      sender,
	}
}

// Close breaks off what is under way, and waits until it has ended. Nothing begins after that.
func (m *Manager) Close() {
	m.ending.Lock()
	m.ended = true
	m.ending.Unlock()
	m.stop()
	m.running.Wait()
}

// outlasting returns a context that does not end when the caller hangs up, but when the manager is
// closed. If it is closed already, the error is ErrEnded.
func (m *Manager) outlasting(ctx context.Context) (outlasting context.Context, done func(), err error) {
	if !m.begin() {
		return nil, nil, ErrEnded
	}
	outlasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(m.background, cancel)
	return outlasting, func() { stop(); cancel(); m.running.Done() }, nil
}

// begin notes that something begins for which Close must wait, and returns true. After Close it
// returns false, and nothing may begin.
func (m *Manager) begin() bool {
	m.ending.RLock()
	defer m.ending.RUnlock()
	if m.ended {
		return false
	}
	m.running.Add(1)
	return true
}

// roleState is what memory holds for one role beside its stored session.
type roleState struct {
	role string

	// mu guards the fields up to the blank line, and every change of the role's stored session. It
	// is never held during a call to N-central.
	mu                   sync.Mutex
	flight               *flight
	ended                uint64 // counts how often the role's sessions were ended
	rejectedRefreshToken string // the refresh token that N-central last refused: it is not tried again
	lostRefreshToken     string // the refresh token of which the answer was lost last: it may be used up
	// underWay counts the flights and ends of sessions that have not finished. While there is one,
	// this state is not dropped. retired is set when it has been dropped from the manager.
	underWay int
	retired  bool

	latest      atomic.Pointer[snapshot]
	granted     atomic.Pointer[lastGrant]
	lastRead    atomic.Int64 // Unix nanoseconds
	validated   atomic.Pointer[validation]
	validations singleflight.Group
	opening     atomic.Int64 // reads of a dedicated role that wait for their session
	turns       atomic.Pointer[turns]
	serving     atomic.Pointer[string] // the config of the last token; nil until this process obtained one
}

// lastGrant is for how long the role's last token was promised. checkLimit needs it once that token
// is gone.
type lastGrant struct {
	configFingerprint, roleFingerprint string
	lifetime                           time.Duration
}

// state returns the state of the role, and makes it if there is none.
func (m *Manager) state(role string) *roleState {
	if known, ok := m.states.Load(role); ok {
		return known.(*roleState)
	}
	known, _ := m.states.LoadOrStore(role, &roleState{role: role})
	return known.(*roleState)
}

// enter returns the state of the role, and keeps it from being dropped until leave. If it was
// dropped already, it returns a new one.
func (m *Manager) enter(role string) *roleState {
	for {
		state := m.state(role)
		state.mu.Lock()
		if !state.retired {
			state.underWay++
			state.mu.Unlock()
			return state
		}
		state.mu.Unlock()
	}
}

// leave ends what enter began.
func (s *roleState) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underWay--
}

// retire drops the state of a role that does not exist any more, unless something is under way.
func (m *Manager) retire(ctx context.Context, state *roleState) {
	role, err := m.store.Roles.Get(ctx, state.role)
	if err != nil || role != nil {
		return
	}
	state.mu.Lock()
	defer state.mu.Unlock()
	if state.underWay == 0 && !state.retired {
		state.retired = true
		m.states.CompareAndDelete(state.role, state)
	}
}

// retireUnused is retire for all roles.
func (m *Manager) retireUnused(ctx context.Context) {
	m.states.Range(func(_, known any) bool {
		m.retire(ctx, known.(*roleState))
		return ctx.Err() == nil
	})
}

// storeOrKeep stores the role's session. If storage refuses it, memory keeps it, and the tick
// stores it. The error is only for the log.
func (m *Manager) storeOrKeep(ctx context.Context, role string, session *store.Session) error {
	err := m.store.Sessions.Put(ctx, role, session)
	if err != nil {
		m.store.Sessions.Keep(role, session)
	}
	return err
}

// readAt notes a read of the role's token.
func (s *roleState) readAt(now time.Time) { s.lastRead.Store(now.UnixNano()) }

// lastReadAt returns when the role was last read, as far as memory and storage know.
func (s *roleState) lastReadAt(session *store.Session) time.Time {
	var last time.Time
	if nanoseconds := s.lastRead.Load(); nanoseconds != 0 {
		last = time.Unix(0, nanoseconds).UTC()
	}
	if session != nil && session.LastReadAt.After(last) {
		last = session.LastReadAt
	}
	return last
}

// snapshot is a role with its config, session and token at one moment, and what a read needs,
// already computed.
type snapshot struct {
	state   *roleState
	role    *store.Role
	sources sources
	config  *store.Config // of the token; if there is none, that from which the next one is to come
	session *store.Session
	record  *health.Record
	watch   *upstream.Watch

	token     *store.Token // nil: there is none that may be handed out
	minTTL    time.Duration
	rotatesAt time.Time
	aheadFrom time.Time // from when a read starts the rotation without waiting for it
	shared    *sharedFields
	warnings  []string // that go with the token
	unstored  bool     // storage refused the session
}

// snapshot returns the role's snapshot of now. If nothing has changed, that is the same one as
// before.
func (m *Manager) snapshot(ctx context.Context, name string) (*snapshot, error) {
	role, err := m.store.Roles.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, fmt.Errorf("%w %q", ErrUnknownRole, name)
	}
	session, err := m.store.Sessions.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	state := m.state(name)
	if snap := state.latest.Load(); snap != nil && snap.role == role && snap.session == session {
		if same, err := m.stillNames(ctx, role, snap.sources); err == nil && same {
			return snap, nil
		}
	}
	found, err := m.sourcesOf(ctx, role)
	if err != nil {
		return nil, err
	}
	snap := m.newSnapshot(state, role, found, session)
	snap.unstored = m.store.Sessions.IsUnstored(name)
	state.latest.Store(snap)
	return snap, nil
}

// server returns the server of that version of the config. If a newer version has followed it, the
// error is ErrSuperseded.
func (m *Manager) server(config *store.Config) (*upstream.Server, error) {
	server, err := m.upstream.Server(config)
	if errors.Is(err, upstream.ErrOutdated) {
		err = ErrSuperseded
	}
	return server, err
}

// longestAhead is how long before a rotation is due a read may start it, at most.
const longestAhead = 2 * time.Minute

func (m *Manager) newSnapshot(
	state *roleState, role *store.Role, found sources, session *store.Session,
) *snapshot {
	snap := &snapshot{state: state, role: role, sources: found, session: session}
	snap.token, snap.config = found.inHand(role, session)
	snap.record, snap.watch = m.upstream.Record(snap.config.Name), m.upstream.Watch(snap.config.Name)
	if snap.token == nil {
		return snap
	}
	lifetime := snap.token.Lifetime()
	snap.minTTL = role.MinTTLWithin(lifetime)
	snap.rotatesAt = snap.token.ExpiresAt.Add(-snap.minTTL)
	snap.aheadFrom = snap.rotatesAt.Add(-min(lifetime/10, longestAhead))
	snap.shared = newSharedFields(snap)
	snap.warnings = slices.Clip(slices.Concat(snap.token.Warnings, found.warnings(role, snap.config)))
	return snap
}

// lastReadAt returns when the role was last read, as far as memory and storage know.
func (snap *snapshot) lastReadAt() time.Time { return snap.state.lastReadAt(snap.session) }

// wasRead reports whether the token was read since it was obtained. The read for which it was
// obtained counts.
func (snap *snapshot) wasRead() bool { return !snap.lastReadAt().Before(snap.token.IssuedAt) }

// remaining returns how long the snapshot's token may still be used.
func (snap *snapshot) remaining(now time.Time) time.Duration {
	if snap.token == nil {
		return 0
	}
	return store.Remaining(snap.token.ExpiresAt, now)
}

// usable reports whether the token lives long enough to be handed out at all.
func (snap *snapshot) usable(now time.Time) bool { return snap.remaining(now) >= store.MinServable }

// goodEnough reports whether the token has the remaining life that the role and the reader ask for.
func (snap *snapshot) goodEnough(now time.Time, options ReadOptions) bool {
	return snap.usable(now) && snap.remaining(now) >= max(snap.minTTL, options.MinTTL)
}

// sameToken reports whether the snapshot's token is that one.
func (snap *snapshot) sameToken(token *store.Token) bool {
	return snap.token != nil && token != nil && snap.token.AccessToken == token.AccessToken
}

// dueAhead reports whether it is time to start the rotation ahead of need.
func (snap *snapshot) dueAhead(now time.Time) bool { return store.Remaining(snap.aheadFrom, now) <= 0 }

// suspect reports whether the snapshot's token must be validated before it is handed out.
func (m *Manager) suspect(ctx context.Context, snap *snapshot) (bool, error) {
	traits, err := m.store.Traits.Get(ctx, snap.config.Name)
	if err != nil {
		return false, err
	}
	return traits.Suspects(snap.token), nil
}
