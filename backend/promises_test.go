// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The witness: it holds what a world has seen against the promises.

package backend

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The promises of docs/design.md as a witness holds a world to them, by their numbers there. The
// matrix and the model share them: neither expects anything else.
const (
	livesAsStated      = "1: a token handed out lives as long as its answer says"
	deadIsNotHandedOut = "1, 6, 7: a token that the server ended is handed out for 70 s at most, and not at all " +
		"where the engine must know"
	promisesNoMore       = "1: no more is promised than was asked, nor than max_lease_ttl"
	leaseIsWithinToken   = "1: a lease is longer than 0 and never outlives its token"
	oneFlight            = "2: concurrent readers of a shared role cause one obtaining"
	nobodyWaits          = "2: nobody waits longer than was promised"
	endedIsGone          = "2: what was ended, retired or forgotten is not handed out"
	predecessorsLive     = "3: readers keep the token that a rotation replaced"
	staleBeatsDown       = "4: a token that lives is handed out while N-central fails"
	nothingIsHammered    = "5: calls are bounded whatever readers do"
	workIsBounded        = "6: the work of a tick is bounded"
	nothingGoesElsewhere = "7: a token is sent nowhere but to the URL that it came from"
	goodTokensStay       = "7: a token that is good is served on, after a restart too"
	standbysCallNobody   = "8: a standby calls nobody"
	dedicatedEnd         = "9: a dedicated session is ended, owed or lapsed when its lease ends"
	nothingLeaks         = "9: what is open at N-central is written down"
	errorsAreTold        = "10: an error has the status of its cause, and no token"
	nothingPanics        = "10: nothing panics"
	wellIsServed         = "10: a reader is served where nothing is amiss"
	answersAgree         = "creds: two answers with one token differ in nothing but ttl"
)

const (
	graceOfTheDead   = 70 * time.Second
	deadBelow        = 2 * time.Second
	longestWindow    = 2 * time.Minute // before a token is due, within which it is rotated ahead of need
	defaultLifetime  = time.Hour
	tokensBegin      = "eyJ"
	attemptsOfACall  = 4 // with the most retries that these tests configure
	placesOfAConfig  = 8
	attemptsAMinute  = 9 // back-off of 1s, doubling to 15s
	validatesAMinute = 61
	replacedKept     = 50 // of a role
	enoughBroken     = 5  // of which a story tells
)

// witness knows what was handed out and what befell it, and holds that against the promises.
type witness struct {
	mu       sync.Mutex // never held while waiting
	began    time.Time
	trace    []string
	lastLine string
	repeated int
	broken   []string
	figures  figures

	tokens  map[string]*tokenRecord // all that were ever issued, by access token
	inUse   []*tokenRecord          // handed out, and promised beyond now
	inHand  map[string]*tokenRecord // by role: what was last handed out to a reader of a shared role
	leases  []*lease
	endings []ending
	tuned   []tuning

	changes         atomic.Int64 // of whatever may end that a token in hand is served at once
	changedAt       []time.Time
	storageFailures atomic.Int64 // how often storage began or ceased to fail
	storageFailing  atomic.Int64
	unstored        []span // when what was obtained may not have been stored
	checking        atomic.Bool
	damaged         int
	unsettledAt     time.Time // when an entry was last damaged
	ticks           int
	reading         int                      // reads under way
	begun           int                      // reads ever
	demanding       map[string]time.Time     // by role: the last read with a min_ttl of its own
	shortest        map[string]time.Duration // by role that was ever shared: the shortest lifetime of its tokens
	readAt          map[string][]time.Time   // by role: when it was read
	openedAt        []time.Time              // when sessions were opened for one reader each
}

// figures are what a run amounts to.
type figures struct{ reads, answers, uses, faults, ticks int }

func (f *figures) add(other figures) {
	f.reads += other.reads
	f.answers += other.answers
	f.uses += other.uses
	f.faults += other.faults
	f.ticks += other.ticks
}

func (f figures) String() string {
	return fmt.Sprintf(
		"%d reads, %d tokens answered, %d uses tried, %d changes and faults, %d ticks", f.reads, f.answers, f.uses,
		f.faults, f.ticks,
	)
}

// tokenRecord is what is known of a token that a server issued.
type tokenRecord struct {
	simulator.IssuedToken
	site   *site
	number int

	config       string // of the role that it was handed out to
	role         string // of the readers that it was handed out to; empty while it was not
	dedicated    bool
	definition   string // the fields of role and config that it was handed out for
	statedEnd    time.Time
	readAtActive bool
	facts        map[string]any

	ourEnd   time.Time // when the engine was told to end it
	reported bool
	lost     string // why it may stay open though nothing is written down
}

// ending is an order to end the sessions of a role.
type ending struct {
	role  string
	began time.Time
	ended time.Time // zero where it failed
}

type tuning struct {
	at       time.Time
	maxLease time.Duration
}

// endedAt is when the token was ended before its time: by N-central, or with its user for as long as
// that is disabled.
func (t *tokenRecord) endedAt() time.Time {
	if u := t.site.users[t.User]; t.EndedBy == "" && u != nil {
		return u.shutSince
	}
	return t.EndedAt
}

func (t *tokenRecord) String() string { return fmt.Sprintf("T%d", t.number) }

// mayEnd notes that the engine was told to end the token.
func (t *tokenRecord) mayEnd() {
	if t.ourEnd.IsZero() {
		t.ourEnd = time.Now()
	}
}

func (w *witness) begin() {
	w.began = time.Now()
	w.tokens = map[string]*tokenRecord{}
	w.inHand = map[string]*tokenRecord{}
	w.demanding = map[string]time.Time{}
	w.shortest = map[string]time.Duration{}
	w.readAt = map[string][]time.Time{}
}

// note writes a line of the story that is told where a promise was broken.
func (w *witness) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *witness) noteLocked(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if line == w.lastLine && len(w.trace) > 0 {
		w.repeated++
		return
	}
	if w.repeated > 0 {
		w.trace = append(w.trace, fmt.Sprintf("             the same %d times more", w.repeated))
	}
	w.lastLine, w.repeated = line, 0
	w.trace = append(w.trace, fmt.Sprintf("%s  %s", clock(time.Since(w.began)), line))
}

// clock writes a time of the story as h:mm:ss.mmm.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d:%06.3f", int(d.Hours()), int(d.Minutes())%60, (d % time.Minute).Seconds())
}

// breaks notes that a promise was broken, and how.
func (w *witness) breaks(promise, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaksLocked(promise, format, args...)
}

func (w *witness) breaksLocked(promise, format string, args ...any) {
	broken := fmt.Sprintf("promise %s:\n  %s", promise, fmt.Sprintf(format, args...))
	if len(w.broken) < enoughBroken && !slices.Contains(w.broken, broken) {
		w.noteLocked("BROKEN: %s", broken)
		w.broken = append(w.broken, broken)
	}
}

func (w *witness) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.broken) > 0
}

// changing runs what may end that a good token is served at once: reads that overlap it are judged
// with leniency.
func (w *world) changing(change func()) {
	w.judgeTries()
	w.mu.Lock()
	w.changedAt = append(w.changedAt, time.Now())
	w.figures.faults++
	w.mu.Unlock()
	w.changes.Add(1)
	change()
	w.changes.Add(1)
}

func (w *witness) ticked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ticks++
	w.figures.ticks++
}

func (w *witness) isDamaged() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.damaged > 0
}

func (w *witness) tickCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ticks
}

// What servers issued, and what ended it.

// learnTokens takes note of what the servers issued since the last look.
func (w *world) learnTokens() {
	for _, s := range w.sites {
		issued := s.Issued()
		for _, token := range issued[s.known:] {
			w.tokens[token.Access] = &tokenRecord{IssuedToken: token, site: s, number: len(w.tokens) + 1}
		}
		s.known = len(issued)
	}
}

// notOurs notes that the session of an answer was opened by another client of the site.
func (w *world) notOurs(s *site, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.foreignAt = append(s.foreignAt, time.Now())
	w.learnTokens()
	for _, t := range w.tokens {
		if strings.Contains(body, t.Access) {
			t.lost = "another client's"
		}
	}
}

// mayEnd notes that the engine is being told to end the role's sessions.
func (w *world) mayEnd(role string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endings = append(w.endings, ending{role: role, began: time.Now()})
}

// forgottenLocked notes that it has done so.
func (w *world) forgottenLocked(role string, began time.Time) {
	delete(w.inHand, role)
	w.endings = append(w.endings, ending{role: role, began: began, ended: time.Now()})
}

// strandLocked notes that what a config opened at a site cannot be ended any more.
func (w *world) strandLocked(config string, s *site) {
	w.learnTokens()
	for _, t := range w.tokens {
		if t.site == s && (t.config == config || t.config == "") {
			t.lost = "its config was deleted or points elsewhere"
		}
	}
	s.losesAt = append(s.losesAt, span{from: time.Now(), to: time.Now().Add(3 * requestTimeout)}) // what is under way
}

// storageIsWell reports whether storage is well and was since that many of its changes.
func (w *witness) storageIsWell(since int64) bool {
	return w.storageFailures.Load() == since && w.storageFailing.Load() == 0
}

// lookAtTokens uses every token that was handed out and is promised beyond now.
func (w *world) lookAtTokens() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.inUse = slices.DeleteFunc(w.inUse, func(t *tokenRecord) bool { return t.reported || !now.Before(t.statedEnd) })
	for _, t := range w.inUse {
		w.figures.uses++
		w.judgeUse(t)
	}
}

func (w *world) judgeUse(t *tokenRecord) {
	if t.site.AccessTokenLives(t.Access) {
		return
	}
	t.reported = true
	if w.mayBeDead(t) || t.EndedBy == simulator.EndedByRefresh && w.couldNotLearn(t) {
		return
	}
	promise := livesAsStated
	if t.EndedBy == simulator.EndedByRefresh {
		promise = predecessorsLive
	}
	w.breaksLocked(
		promise, "%s of role %s was promised until %s, and %s", t, t.role, clock(t.statedEnd.Sub(w.began)), w.fate(t),
	)
}

// fate tells what became of a token.
func (w *world) fate(t *tokenRecord) string {
	t.IssuedToken, _ = t.site.IssuedWith(t.Access)
	switch {
	case t.EndedBy != "":
	case !t.endedAt().IsZero():
		return "is shut out with its user since " + clock(t.endedAt().Sub(w.began))
	default:
		return "lapsed at " + clock(t.ExpiresAt.Sub(w.began))
	}
	return fmt.Sprintf("was ended by %s at %s", t.EndedBy, clock(t.EndedAt.Sub(w.began)))
}

// mayBeDead reports whether a dead token was ended before its time by what may end it: the server
// and its other clients, or the engine where it was told to.
func (w *world) mayBeDead(t *tokenRecord) bool {
	t.IssuedToken, _ = t.site.IssuedWith(t.Access)
	switch t.EndedBy {
	case "":
		return !t.endedAt().IsZero()
	case simulator.EndedByReboot, simulator.EndedByRegeneration, simulator.EndedByAuthenticate:
		return true
	case simulator.EndedByLogout:
		return !t.ourEnd.IsZero() || !t.dedicated && slices.ContainsFunc(w.endings, func(e ending) bool {
			return e.role == t.role && !t.IssuedAt.After(later(e.began, e.ended))
		})
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// What readers get.

// reading is one read, with what was known when it began.
type reading struct {
	answer
	role    string
	asks    want
	node    *member
	standby bool // answered by the standby
	hungUp  bool
	beganAt time.Time

	known      bool // whether the role was there
	of         roleModel
	by         configModel // the role's own
	sources    []source    // from which its tokens may come
	changes    int64
	storage    int64
	inHand     *tokenRecord
	inHandGood bool // whether the token in hand lived and had life enough when the read began
	alone      bool
	begun      int
	suffered   bool
	muted      bool // whether tokens could not be asked after
}

// definition returns the fields whose change retires a role's tokens of a config.
func (w *world) definition(role, config string) string {
	r, c := w.roles[role], w.configs[config]
	return fmt.Sprintf(
		"%s %s %t %s %s %.3x", r.config, config, r.dedicated, r.ttl, c.site.url, sha256.Sum256([]byte(c.token)),
	)
}

func (w *world) beginRead(role string, asks want) *reading {
	r := &reading{
		role: role, asks: asks, beganAt: time.Now(), changes: w.changes.Load(), storage: w.storageFailures.Load(),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.figures.reads++
	w.reading++
	w.begun++
	w.readAt[role] = append(w.readAt[role], r.beganAt)
	r.begun, r.alone = w.begun, w.reading == 1
	if w.isKnownLocked(role) {
		model := w.roles[role]
		r.known, r.of, r.by, r.sources = true, *model, *w.configs[model.config], w.sourcesLocked(role)
		r.suffered, r.muted = r.by.site.suffers(r.beganAt), r.by.site.mute
	}
	t := w.inHand[role]
	if t != nil && r.known && r.isOf(t) && t.site.AccessTokenLives(t.Access) && !t.site.denied(t.IssuedAt, t.User) {
		r.inHand = t
		r.inHandGood = t.statedEnd.Sub(r.beganAt) > max(minTTLOf(r.of, t), asks.minTTL)+windowOf(t)
	}
	if asks.minTTL > 0 {
		w.demanding[role] = r.beganAt
	}
	return r
}

// isKnownLocked reports whether storage holds the role and its configs as they were last written.
func (w *world) isKnownLocked(role string) bool {
	model := w.roles[role]
	return model != nil && !w.unsure["roles/"+role] && !slices.ContainsFunc(model.configs(), func(config string) bool {
		return w.configs[config] == nil || w.unsure["config/"+config]
	})
}

// isOf reports whether the token was handed out for the role and one of its configs as they are.
func (r *reading) isOf(t *tokenRecord) bool {
	one := r.sourceOf(t.config)
	return one != nil && one.definition == t.definition
}

// never is when what is not known will be.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// learntAt is since when every config of the user knows what its server is like.
func (w *world) learntAt(s *site, user string) (at time.Time) {
	for _, c := range w.configs {
		if c.site == s && c.user == user {
			at = later(at, c.learntAt)
		}
	}
	return at
}

// wasLearnt reports whether the engine knew so all the time since the token was obtained: else it
// asks after the token when other sessions of the user were opened.
func (r *reading) wasLearnt(t *tokenRecord) bool {
	one := r.sourceOf(t.config)
	return one != nil && !one.learntAt.After(t.IssuedAt)
}

// minTTLOf returns the role's min_ttl for a token, which is never more than half of its life.
func minTTLOf(r roleModel, t *tokenRecord) time.Duration {
	life := t.statedEnd.Sub(t.IssuedAt) + time.Second
	if r.minTTL >= 0 {
		return min(r.minTTL, life/2)
	}
	return min(max(life/6, 5*time.Minute), life/2)
}

func windowOf(t *tokenRecord) time.Duration {
	return min(t.statedEnd.Sub(t.IssuedAt)/10, longestWindow) + 2*time.Second
}

func (w *world) endRead(r *reading) {
	unchanged := r.changes == w.changes.Load() && r.changes%2 == 0
	stored := w.storageIsWell(r.storage)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading--
	alone := r.alone && r.begun == w.begun
	if r.known {
		r.suffered, r.muted = r.suffered || r.by.site.suffers(r.ended), r.muted || r.by.site.mute
	}
	w.judgeWait(r)
	if r.mayHaveOpened() {
		w.openedAt = append(w.openedAt, r.ended)
	}
	switch {
	case r.ok():
		w.figures.answers++
		w.judgeAnswer(r, unchanged, stored)
	case r.hungUp, r.status == http.StatusInternalServerError:
	case r.known && unchanged && stored && r.node != nil && !r.node.reach.cut.Load():
		w.judgeRefusal(r, alone)
	}
	if !r.ok() && len(w.broken) < enoughBroken {
		w.noteLocked("read %s%s: %d %s", r.role, r.asks, r.status, r.text)
	}
}

func (a want) String() string {
	text := ""
	if a.minTTL > 0 {
		text += fmt.Sprintf(" min_ttl=%s", a.minTTL)
	}
	if a.validate {
		text += " validate"
	}
	if a.hangUp > 0 {
		text += fmt.Sprintf(" for %s", a.hangUp)
	}
	if a.standby {
		text += " at the standby"
	}
	return text
}

// mayHaveOpened reports whether a session may have been opened for this reader alone, whatever came
// of it.
func (r *reading) mayHaveOpened() bool {
	return !r.known || r.hungUp || r.of.dedicated && (r.ok() || r.asks.minTTL > 0)
}

// judgeWait holds how long a reader waited against promise 2.
func (w *world) judgeWait(r *reading) {
	if r.known && r.took() > 3*r.by.timeout && !r.hungUp {
		w.breaksLocked(
			nobodyWaits, "the read of %s took %s: more than three times request_timeout (%s)", r.role, r.took(),
			r.by.timeout,
		)
	}
}

// judgeRefusal holds a read that got no token against promises 4 and 10. Nothing changed meanwhile.
func (w *world) judgeRefusal(r *reading, alone bool) {
	s := r.by.site
	plain := r.asks.minTTL == 0 && !r.asks.validate
	if t := r.inHand; t != nil && plain && t.statedEnd.Sub(r.beganAt) > 3*requestTimeout+deadBelow &&
		!(r.muted && s.doubt) && !s.everEnds &&
		r.wasLearnt(t) && !w.mayNotBeStored(t) && !r.mayHaveLeft(t) {
		w.breaksLocked(
			staleBeatsDown, "the read of %s failed, while %s, which is in hand, lives until %s: %d %s", r.role, t,
			clock(t.statedEnd.Sub(w.began)), r.status, r.text,
		)
		return
	}
	switch {
	case r.suffered || r.beganAt.Before(s.patientTo) || s.scarce:
	case s.everEnds && !alone, r.of.dedicated && !alone:
	case r.asks.minTTL > w.surelyGranted(r)/2:
	case r.isServed():
		w.breaksLocked(r.served(), "the read of %s%s failed: %d %s", r.role, r.asks, r.status, r.text)
	case r.isRefused() && r.status != http.StatusBadRequest && !s.everHides:
		w.breaksLocked(
			errorsAreTold, "the read of %s, whose User-API token is refused, is a %d: %s", r.role, r.status, r.text,
		)
	}
}

// surelyGranted is the least lifetime that a read's token may be expected to have.
func (w *world) surelyGranted(r *reading) time.Duration {
	granted := min(defaultLifetime, r.by.site.Knobs().AccessLimit)
	if r.of.ttl > 0 {
		granted = min(granted, r.of.ttl)
	}
	for _, tuned := range w.tuned {
		granted = min(granted, tuned.maxLease)
	}
	return granted
}

// judgeAnswer holds a token that a reader got against the promises.
func (w *world) judgeAnswer(r *reading, unchanged, stored bool) {
	w.learnTokens()
	access, _ := r.response.Data["access_token"].(string)
	t := w.tokens[access]
	if t == nil {
		w.breaksLocked(livesAsStated, "the read of %s was answered a token that no server issued", r.role)
		return
	}
	end := w.judgeEnd(r, t, unchanged)
	w.judgeIdentity(r, t, unchanged)
	w.judgeLife(r, t)
	first := t.role == ""
	t.statedEnd = later(t.statedEnd, end)
	if unchanged && r.known {
		w.judgeSource(r, t)
	}
	if unchanged && stored && r.known {
		w.judgeChoice(r, t)
	}
	t.readAtActive = t.readAtActive || !r.standby
	switch {
	case r.of.dedicated && r.took() == 0:
		w.noteLocked("read %s%s: a session of its own", r.role, r.asks) // many of them are one line
	case first || r.took() > 0:
		w.noteLocked("read %s%s: %s until %v, after %s", r.role, r.asks, t, clock(t.ExpiresAt.Sub(w.began)), r.took())
	}
	t.role = r.role
	if unchanged && r.known {
		t.config, _ = r.response.Data["config"].(string)
		t.dedicated = r.of.dedicated
		if one := r.sourceOf(t.config); one != nil {
			t.definition = one.definition
		}
	}
	if first {
		w.inUse = append(w.inUse, t)
	}
	if r.known && !r.of.dedicated && unchanged &&
		(w.inHand[r.role] == nil || !w.inHand[r.role].IssuedAt.After(t.IssuedAt)) {
		w.inHand[r.role] = t
	}
	if secret := r.response.Secret; secret != nil {
		w.keepLocked(r.role, t, secret)
	}
}

// judgeEnd holds what an answer says of its token's end against the end itself, and returns it.
func (w *world) judgeEnd(r *reading, t *tokenRecord, unchanged bool) time.Time {
	data := r.response.Data
	seconds, _ := data["expires_at_seconds"].(int64)
	end := time.Unix(seconds, 0)
	// Where a server states no lifetime, the engine goes by N-central's default.
	told := !t.site.everOmits || t.site.Knobs().AccessLimit >= defaultLifetime
	if told && end.After(t.ExpiresAt) {
		w.breaksLocked(
			livesAsStated, "%s of %s is said to live until %s and dies at %s", t, r.role, clock(end.Sub(w.began)),
			clock(t.ExpiresAt.Sub(w.began)),
		)
	}
	if secret := r.response.Secret; secret != nil {
		leaseEnd := r.ended.Add(secret.TTL)
		if secret.TTL <= 0 || secret.Renewable || told && leaseEnd.After(t.ExpiresAt) || secret.MaxTTL > secret.TTL {
			w.breaksLocked(
				leaseIsWithinToken, "the lease of %s of %s: %+v, though the token has %s", t, r.role,
				secret.LeaseOptions, t.ExpiresAt.Sub(r.ended),
			)
		}
		w.judgeInterval(r, secret.TTL, unchanged)
		end = later(end, leaseEnd)
	} else {
		ttl, _ := data["ttl"].(int64)
		left := end.Sub(r.ended)
		if ttl < 1 || time.Duration(ttl)*time.Second > left+2*time.Second {
			w.breaksLocked(livesAsStated, "%s of %s is answered with ttl %d, and has %s left", t, r.role, ttl, left)
		}
		w.judgeInterval(r, time.Duration(ttl)*time.Second, unchanged)
	}
	if left := end.Sub(r.ended); left < r.asks.minTTL-time.Second {
		w.breaksLocked(livesAsStated, "%s of %s has %s left, though %s were asked for", t, r.role, left, r.asks.minTTL)
	}
	if !told {
		end = t.ExpiresAt
	}
	promised := end.Sub(t.IssuedAt)
	if unchanged && r.of.ttl > 0 && promised > r.of.ttl {
		w.breaksLocked(
			promisesNoMore, "%s of %s is promised for %s, and %s were asked for", t, r.role, promised, r.of.ttl,
		)
	}
	if limit := w.longestLease(t.IssuedAt); promised > limit {
		w.breaksLocked(
			promisesNoMore, "%s of %s is promised for %s, and max_lease_ttl was %s at most", t, r.role, promised, limit,
		)
	}
	return end
}

// longestLease is the longest max_lease_ttl that was in force when a token was obtained.
func (w *world) longestLease(obtained time.Time) time.Duration {
	inForce := 768 * time.Hour
	longest := time.Duration(0)
	for _, tuned := range w.tuned {
		if tuned.at.After(obtained.Add(-3 * requestTimeout)) {
			longest = max(longest, inForce)
		}
		if tuned.at.After(obtained) {
			return longest
		}
		inForce = tuned.maxLease
	}
	return max(longest, inForce)
}

// judgeIdentity holds whose token it is, and what is said of it, against who got it before.
func (w *world) judgeIdentity(r *reading, t *tokenRecord, unchanged bool) {
	data := r.response.Data
	if data["url"] != t.site.url {
		w.breaksLocked(nothingGoesElsewhere, "%s came from %s and is answered with url %v", t, t.site.url, data["url"])
	}
	if t.role != "" && (t.role != r.role || t.dedicated) {
		w.breaksLocked(endedIsGone, "%s, which was handed out to role %s, is handed out to %s", t, t.role, r.role)
	}
	if t.definition != "" && r.known && unchanged && !r.isOf(t) {
		w.breaksLocked(
			endedIsGone, "%s of %s was obtained for %q and is handed out for %s", t, r.role, t.definition, r.of,
		)
	}
	for _, e := range w.endings {
		if e.role == r.role && !e.ended.IsZero() && t.IssuedAt.Before(e.began) && !r.beganAt.Before(e.ended) &&
			!t.dedicated {
			w.breaksLocked(
				endedIsGone, "%s of %s is handed out, though the role's sessions were ended at %s", t, r.role,
				clock(e.ended.Sub(w.began)),
			)
		}
	}
	if r.known && unchanged {
		facts := maps.Clone(data)
		delete(facts, "ttl")
		facts["role"] = fmt.Sprint(r.of.lease, r.of.minTTL) // whose change may change the answer
		if t.facts != nil && t.facts["role"] == facts["role"] && !maps.Equal(facts, t.facts) {
			w.breaksLocked(
				answersAgree, "%s of %s: %v, and before %v", t, r.role, secretless(facts), secretless(t.facts),
			)
		}
		t.facts = facts
	}
}

func secretless(data map[string]any) map[string]any {
	data = maps.Clone(data)
	delete(data, "access_token")
	return data
}

// judgeLife holds a token that is dead when it is handed out against what the engine could know.
func (w *world) judgeLife(r *reading, t *tokenRecord) {
	switch {
	case t.site.AccessTokenLives(t.Access):
	case !w.mayBeDead(t) && (t.EndedBy != simulator.EndedByLogout || t.role != ""):
		w.breaksLocked(livesAsStated, "%s of %s is handed out dead: it %s", t, r.role, w.fate(t))
	case !r.beganAt.After(t.endedAt()):
	case t.EndedBy == simulator.EndedByLogout:
		w.breaksLocked(endedIsGone, "%s of %s is handed out after it %s", t, r.role, w.fate(t))
	case !r.suffered && !t.site.suffers(r.beganAt):
		w.judgeGrace(r, t)
	}
}

// judgeGrace holds for how long a token that the server ended is handed out to what the tick, or a
// node that starts, must find out, and to what the engine knows of its own sessions.
func (w *world) judgeGrace(r *reading, t *tokenRecord) {
	s := t.site
	if !w.storageIsWell(r.storage) {
		return
	}
	switch {
	case r.node != nil && r.node.began.After(t.endedAt()) && s.healedAt.Before(r.node.began) &&
		!w.issuedBetween(s, t.endedAt(), r.node.began):
		w.breaksLocked(
			deadIsNotHandedOut, "%s of %s %s, before the node started, and is handed out unasked", t, r.role, w.fate(t),
		)
	case t.EndedBy == simulator.EndedByAuthenticate && r.wasLearnt(t) && !slices.Contains(s.foreignAt, t.endedAt()):
		w.breaksLocked(
			deadIsNotHandedOut, "%s of %s %s, which the engine knows to end it, and is handed out", t, r.role,
			w.fate(t),
		)
	}
	if t.EndedBy == simulator.EndedByAuthenticate && t.endedAt().Sub(t.IssuedAt) <= s.Knobs().Latency {
		return // by one that was opened at the same time: nobody can tell which of them is older
	}
	since := later(t.endedAt(), s.healedAt)
	for _, failing := range w.unstored {
		since = later(since, failing.to)
	}
	if late := r.beganAt.Sub(since); late > graceOfTheDead {
		w.breaksLocked(deadIsNotHandedOut, "%s of %s %s, and is handed out %s later", t, r.role, w.fate(t), late)
	}
}

func (w *world) issuedBetween(s *site, from, to time.Time) bool {
	for _, t := range w.tokens {
		if t.site == s && !t.IssuedAt.Before(from) && !t.IssuedAt.After(to) {
			return true
		}
	}
	return false
}

// judgeChoice holds which token was answered, and when, against the one in hand. Nothing changed
// meanwhile.
func (w *world) judgeChoice(r *reading, t *tokenRecord) {
	s := r.by.site
	if !r.suffered && !r.beganAt.Before(s.patientTo) && r.isServed() && !r.of.dedicated {
		w.judgeLeft(r, t)
	}
	before := r.inHand
	if before == nil || s.everEnds || w.demanding[r.role].After(before.IssuedAt) || w.mayNotBeStored(before) ||
		r.mayHaveLeft(before) {
		return
	}
	if t != before && r.inHandGood && !r.suffered {
		w.breaksLocked(
			goodTokensStay, "the read of %s%s was answered %s, though %s lives until %s", r.role, r.asks, t, before,
			clock(before.statedEnd.Sub(w.began)),
		)
	}
	if r.asks != (want{standby: r.asks.standby}) || !r.wasLearnt(before) {
		return
	}
	if t == before && !s.doubt && r.took() > w.firstAttempt(r, t) {
		w.breaksLocked(
			staleBeatsDown, "the read of %s was answered %s, which was in hand, after %s", r.role, t, r.took(),
		)
	}
	if s.Knobs().OmitStartTime { // nobody can tell then whether a config without tokens missed a reboot
		return
	}
	if r.took() > 0 && !r.suffered && w.isCalmSince(before.IssuedAt) && (r.inHandGood || w.isRotatedAhead(before)) {
		w.breaksLocked(nobodyWaits, "the read of %s waited %s, though %s was in hand", r.role, r.took(), before)
	}
}

// judgeLeft holds what a token has left against the role's min_ttl.
func (w *world) judgeLeft(r *reading, t *tokenRecord) {
	life := min(t.ExpiresAt.Sub(t.IssuedAt), t.statedEnd.Sub(t.IssuedAt)+time.Second) // a grant may be longer
	if r.of.ttl > 0 {
		life = min(life, r.of.ttl)
	}
	least := min(max(life/6, 5*time.Minute), life/2) // of the default
	if r.of.minTTL >= 0 {
		least = min(r.of.minTTL, life/2)
	}
	if left := t.statedEnd.Sub(r.ended); left < min(least, w.surelyGranted(r)/2)-time.Second {
		w.breaksLocked(
			livesAsStated, "the read of %s was answered %s, which has %s left; min_ttl is %s", r.role, t, left, least,
		)
	}
}

// firstAttempt is how long a reader may wait who is then answered the token in hand: for the first
// attempt at a new one, and where the token came from storage for the question whether it lives.
func (w *world) firstAttempt(r *reading, t *tokenRecord) time.Duration {
	attempt := time.Second + 3*t.site.Knobs().Latency
	if t.site.isSlow(r.beganAt) {
		attempt = r.by.timeout + time.Second
	}
	if r.node == nil || !r.node.began.Before(t.IssuedAt) {
		return r.by.timeout + attempt
	}
	return attempt
}

// isRotatedAhead reports whether a tick finds that the token will be due before it is: it was read,
// and there is a minute for it.
func (w *world) isRotatedAhead(t *tokenRecord) bool {
	return windowOf(t) > time.Minute+2*requestTimeout && t.readAtActive
}

func (w *world) mayNotBeStored(t *tokenRecord) bool {
	return slices.ContainsFunc(
		w.unstored, func(s span) bool { return s.has(t.IssuedAt) || s.from.After(t.IssuedAt) },
	) || w.damaged > 0
}

// isCalmSince reports whether nothing changed since then.
func (w *world) isCalmSince(then time.Time) bool {
	return len(w.changedAt) == 0 || w.changedAt[len(w.changedAt)-1].Before(then)
}

// judgeFailure holds the status and text of every answer against promise 10.
func (w *world) judgeFailure(n *member, operation logical.Operation, path string, a answer) {
	what := string(operation) + " " + path
	texts := []string{a.text}
	if a.response != nil {
		texts = append(texts, a.response.Warnings...)
	}
	for _, text := range texts {
		if strings.Contains(text, tokensBegin) {
			w.breaks(errorsAreTold, "%s tells a token", what)
		}
	}
	switch a.status {
	case http.StatusOK, http.StatusBadRequest, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusNotFound, http.StatusConflict:
	case forwarded:
		if !n.standby {
			w.breaks(errorsAreTold, "%s: the active node hands it to another", what)
		}
	default:
		w.breaks(errorsAreTold, "%s is a %d: %s", what, a.status, a.text)
	}
}

// judgeStored holds that a definition is stored or deleted where nothing is amiss. Where that
// failed, nobody knows what is stored now.
func (w *world) judgeStored(path string, a answer, mayFail bool) {
	if a.ok() {
		delete(w.unsure, path)
		return
	}
	if a.status != http.StatusBadRequest {
		w.unsure[path] = true
	}
	if !mayFail && w.storageIsWell(w.storageFailures.Load()) && !w.sites[0].scarce {
		w.breaksLocked(wellIsServed, "%s was not stored or deleted: %d %s", path, a.status, a.text)
	}
}

// What is left.

// leaseEnded holds the end of a dedicated session's lease against promise 9.
func (w *world) leaseEnded(l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.ended = true
	t := l.token
	if !t.dedicated || !t.site.AccessTokenLives(t.Access) || t.lost != "" || t.site.Knobs().LogoutAbsent ||
		t.site.lies(t.IssuedAt) || t.site.denied(t.IssuedAt, t.User) {
		return
	}
	if !strings.Contains(w.written("owed/"), t.Access) {
		w.breaksLocked(
			dedicatedEnd, "the lease of %s of %s ended, and the session lives on: no logout is owed", t, l.role,
		)
	}
}

// written returns what is stored below a prefix, as one text.
func (w *world) written(prefix string) string {
	var all strings.Builder
	for _, key := range w.ground.keysBelow(prefix) {
		if entry, err := w.ground.Get(context.Background(), key); err == nil && entry != nil {
			all.Write(entry.Value)
		}
	}
	return all.String()
}

// judgeOpen holds what is open at the servers against what is written down. It is for a world in
// which nothing is under way.
func (w *world) judgeOpen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.learnTokens()
	kept := w.written("session/") + w.written("owed/")
	leased := map[*tokenRecord]bool{}
	for _, l := range w.leases {
		leased[l.token] = leased[l.token] || !l.ended
	}
	for _, t := range w.sortedTokens() {
		t.IssuedToken, _ = t.site.IssuedWith(t.Access)
		switch {
		case !t.site.AccessTokenLives(t.Access) || t.lost != "" || t.Lost || leased[t] ||
			strings.Contains(kept, t.Access):
		case t.site.lies(t.IssuedAt) || t.site.denied(t.IssuedAt, t.User) || w.mayNotBeStored(t) ||
			slices.ContainsFunc(t.site.losesAt, func(s span) bool { return s.has(t.IssuedAt) }):
		case t.site.everAbsent || w.youngerThan(t) >= replacedKept:
		default:
			w.breaksLocked(
				nothingLeaks, "%s, issued at %s by %s, lives and is written down nowhere (handed out to %q)", t,
				clock(t.IssuedAt.Sub(w.began)), t.Endpoint, t.role,
			)
		}
	}
}

// youngerThan counts what the token's user was issued after it.
func (w *world) youngerThan(t *tokenRecord) (count int) {
	for _, other := range w.tokens {
		if other.site == t.site && other.User == t.User && other.IssuedAt.After(t.IssuedAt) {
			count++
		}
	}
	return count
}

func (w *world) sortedTokens() []*tokenRecord {
	return slices.SortedFunc(maps.Values(w.tokens), func(a, b *tokenRecord) int { return a.number - b.number })
}

// judgeDebts holds that all logouts owed were paid. It is for a world that was well for a while.
func (w *world) judgeDebts() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if owed := w.ground.keysBelow("owed/"); len(owed) > 0 {
		w.breaksLocked(dedicatedEnd, "%d logouts are still owed, though the servers were well for long", len(owed))
	}
}

// judgeLogouts holds that a logout was sent for every dedicated session whose lease ended.
func (w *world) judgeLogouts() {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := map[string]bool{}
	for _, s := range w.sites {
		for _, request := range s.Requests() {
			if request.Endpoint == simulator.EndpointLogout {
				sent[request.Secret] = true
			}
		}
	}
	for _, l := range w.leases {
		t := l.token
		t.IssuedToken, _ = t.site.IssuedWith(t.Access)
		// Then it is owed until it lapses.
		amiss := t.site.suffers(l.endsAt) || slices.ContainsFunc(
			w.unstored, func(s span) bool { return s.has(l.endsAt) },
		) || t.ExpiresAt.Sub(l.endsAt) < time.Minute && t.site.wasBusy(l.endsAt)
		if t.dedicated && l.ended && t.lost == "" && t.EndedBy == "" && !amiss && !sent[t.Access] {
			w.breaksLocked(
				dedicatedEnd, "the lease of %s of %s ended at %s, and no logout was sent", t, l.role,
				clock(l.endsAt.Sub(w.began)),
			)
		}
	}
}

// wasBusy reports whether the server answered 429 a moment before. It is then left alone, and the next
// tick pays what is owed.
func (s *site) wasBusy(at time.Time) bool {
	return slices.ContainsFunc(s.Requests(), func(r simulator.RequestRecord) bool {
		ago := at.Sub(r.Time)
		return r.Outcome == simulator.OutcomeRateLimited && ago >= 0 && ago < 15*time.Second
	})
}

// judgeSecrets holds that no token went to another server than its own, and none into the log.
func (w *world) judgeSecrets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.sortedTokens() {
		for _, s := range w.sites {
			if s != t.site && (s.Received(t.Access) || s.Received(t.Refresh)) {
				w.breaksLocked(nothingGoesElsewhere, "%s of %s was sent to %s", t, t.site.url, s.url)
			}
		}
	}
	if strings.Contains(w.log.String(), tokensBegin) {
		w.breaksLocked(errorsAreTold, "the log holds a token")
	}
}

// What the servers were asked.

// judgeTraffic holds the calls that each server got in any minute against what the promises
// explain.
func (w *world) judgeTraffic() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sites {
		refused := map[string][]time.Time{}
		calls := map[simulator.Endpoint]map[string][]time.Time{}
		for _, request := range s.Requests()[s.settled:] {
			if calls[request.Endpoint] == nil {
				calls[request.Endpoint] = map[string][]time.Time{}
			}
			calls[request.Endpoint][request.Secret] = append(calls[request.Endpoint][request.Secret], request.Time)
			if request.Endpoint == simulator.EndpointAuthenticate && request.Status == http.StatusUnauthorized {
				refused[request.Secret] = append(refused[request.Secret], request.Time)
			}
		}
		w.judgeStreams(s, "authenticate", calls[simulator.EndpointAuthenticate], w.obtainingsExplained)
		w.judgeStreams(s, "refused authenticate", refused, func(_ *site, from, to time.Time) int {
			return 2 + placesOfAConfig*len(w.configs) + 3*w.changesIn(from, to)
		})
		w.judgeStreams(s, "refresh", calls[simulator.EndpointRefresh], func(s *site, from, to time.Time) int {
			return 2 + s.failuresExplained(from, to, 1) + w.changesIn(from, to)
		})
		for _, endpoint := range []simulator.Endpoint{simulator.EndpointValidate, simulator.EndpointServiceOrgs} {
			w.judgeStreams(s, string(endpoint), calls[endpoint], func(s *site, from, to time.Time) int {
				return validatesAMinute * (1 + s.failuresExplained(from, to, 1)/attemptsAMinute)
			})
		}
		w.judgeStreams(
			s, "logout", calls[simulator.EndpointLogout],
			func(*site, time.Time, time.Time) int { return 3 * attemptsOfACall },
		)
	}
}

// judgeStreams holds the calls with one secret to a limit for each minute, and tells of the worst
// one.
func (w *world) judgeStreams(
	s *site, call string, streams map[string][]time.Time, limit func(s *site, from, to time.Time) int,
) {
	for secret, times := range streams {
		worst, told, first := 0, "", 0
		for last, at := range times {
			for at.Sub(times[first]) > time.Minute {
				first++
			}
			made := last - first + 1
			if made <= max(worst, 2) {
				continue
			}
			if explained := limit(s, times[first], at); made > explained {
				worst = made
				told = fmt.Sprintf(
					"%d calls of %s with %s in a minute, from %s, and %d are explained", made, call, w.nameOf(secret),
					clock(times[first].Sub(w.began)), explained,
				)
			}
		}
		if worst > 0 {
			w.breaksLocked(nothingIsHammered, "%s got %s", s.url, told)
		}
	}
}

func (w *world) nameOf(secret string) string {
	for _, t := range w.tokens {
		if t.Access == secret || t.Refresh == secret {
			return t.String()
		}
	}
	return "a User-API token"
}

// obtainingsExplained is how many authenticates with one User-API token a minute may bring: one for
// each time that a shared role's token is due, one for each read of a dedicated role, what changes
// and checks lead to, and the attempts that fail.
func (w *world) obtainingsExplained(s *site, from, to time.Time) int {
	explained := 2
	for _, life := range w.shortest {
		explained += 2 + int(2*time.Minute/min(life, s.Knobs().AccessLimit))
	}
	opened := countIn(w.openedAt, from.Add(-3*requestTimeout), to.Add(3*requestTimeout))
	if s.everRefuses {
		opened *= 2 // until the engine has learnt what not to ask for
	}
	explained += opened
	explained += (sessionsOfLearning + w.flightsOf(from, to)) * w.changesIn(from, to)
	if s.everEnds || s.denied(from, "") {
		for role := range w.readAt {
			explained += 2 * countIn(w.readAt[role], from.Add(-3*requestTimeout), to) // each may find its token dead
		}
	}
	return explained + s.failuresExplained(from, to, w.flightsOf(from, to))
}

// flightsOf is how many calls for tokens the readers of a stretch of time may have under way at a
// time.
func (w *world) flightsOf(from, to time.Time) int {
	flights := 0
	for role, at := range w.readAt {
		if countIn(at, from.Add(-3*requestTimeout), to) == 0 {
			continue
		}
		flights++
		if r := w.roles[role]; r == nil || r.dedicated {
			flights += placesOfAConfig - 1
		}
	}
	return max(flights, 1)
}

// changesIn counts the changes that may still have had effects in a stretch of time.
func (w *witness) changesIn(from, to time.Time) int {
	return countIn(w.changedAt, from.Add(-time.Minute-graceOfTheDead), to)
}

func countIn(times []time.Time, from, to time.Time) (count int) {
	for _, at := range times {
		if !at.Before(from) && !at.After(to) {
			count++
		}
	}
	return count
}

// failuresExplained is how many attempts at obtaining a token a minute may see fail, of so many
// flights at a time.
func (s *site) failuresExplained(from, to time.Time, flights int) int {
	attempts := 0
	if s.scarce {
		attempts = attemptsOfACall
	}
	for _, trouble := range s.troubles {
		if !trouble.from.After(to) && (trouble.to.IsZero() || trouble.to.After(from)) {
			attempts = max(attempts, trouble.attempts)
		}
	}
	return attemptsAMinute * attempts * flights
}

// The end of every life.

// finish lets all become well, and holds what is left then against the promises.
func (w *world) finish() {
	w.note("the end: all becomes well")
	w.becomeWell()
	for _, name := range w.roleNames() {
		w.read(name, want{})
	}
	w.passToQuiet()
	w.judgeOpen()
	w.endLeases()
	for _, name := range w.roleNames() {
		w.deleteSessions(name)
	}
	w.passToQuiet()
	w.judgeDebts()
	w.judgeOpen()
	w.judgeLogouts()
	w.judgeSecrets()
	w.judgeTries()
	w.judgeTraffic()
}

func (w *world) roleNames() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.roles))
}

// endLeases revokes every lease, the newest first.
func (w *world) endLeases() {
	for number := 0; ; number++ {
		l := w.leaseFromEnd(number)
		if l == nil {
			return
		}
		w.endLease(l)
	}
}

// passToQuiet lets two ticks pass, and all that they and others have under way.
func (w *world) passToQuiet() {
	sinceTick := time.Since(w.began) % time.Minute
	w.pass(2*time.Minute + 40*time.Second - sinceTick)
}

// becomeWell ends all faults, waits until nobody is patient any more, and gives every config the
// User-API token of its user.
func (w *world) becomeWell() {
	for _, s := range w.sites {
		w.heal(s)
		for user := range s.users {
			w.isSetRight(s, user)
		}
	}
	w.pass(3 * requestTimeout)
	for w.storageFailing.Load() > 0 {
		w.pass(requestTimeout)
	}
	w.makeSure()
	for {
		left := w.patienceLeft()
		if left <= 0 {
			break
		}
		w.pass(min(left, 5*time.Minute))
	}
	w.pass(2 * time.Minute)
}

// patienceLeft is how long a site, a user or a config may still be left alone.
func (w *world) patienceLeft() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	until := time.Time{}
	for _, s := range w.sites {
		until = later(until, s.patientTo)
		for _, u := range s.users {
			until = later(until, u.patientTo)
		}
	}
	for name, c := range w.configs {
		if w.isFallbackLocked(name) {
			until = later(until, c.outTo)
		}
	}
	return time.Until(until)
}

// makeSure writes every config whose User-API token is of yesterday, and every definition of which
// nobody knows what is stored.
func (w *world) makeSure() {
	w.mu.Lock()
	configs, roles := map[string]configModel{}, map[string]roleModel{}
	for name, c := range w.configs {
		if next := *c; c.token != c.site.tokens[c.user] || w.unsure["config/"+name] {
			next.token = c.site.tokens[c.user]
			configs[name] = next
		}
	}
	for name, r := range w.roles {
		if w.unsure["roles/"+name] {
			roles[name] = *r
		}
	}
	w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		w.writeConfig(name, configs[name], true)
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		w.writeRole(name, roles[name])
	}
}

// story tells what happened, for the one who has to mend it.
func (w *world) story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	text.WriteString(strings.Join(w.broken, "\n"))
	text.WriteString("\n\nwhat happened:\n  ")
	text.WriteString(strings.Join(lastOf(w.trace, 150), "\n  "))
	w.learnTokens()
	for _, s := range w.sites {
		requests := s.Requests()
		if len(requests) == 0 {
			continue
		}
		fmt.Fprintf(&text, "\n\nthe last calls at %s:", s.url)
		for _, line := range lastOf(w.callsOf(requests), 100) {
			text.WriteString("\n  " + line)
		}
	}
	return text.String()
}

// callsOf tells of requests, and of many that are alike in one line.
func (w *world) callsOf(requests []simulator.RequestRecord) (lines []string) {
	last, alike := "", 0
	for _, r := range requests {
		what := fmt.Sprintf("%-12s %-12s %d  %s", r.Endpoint, r.Outcome, r.Status, w.nameOf(r.Secret))
		at := clock(r.Time.Sub(w.began))
		if what != last {
			lines = append(lines, at+"  "+what)
			last, alike = what, 0
			continue
		}
		if alike++; alike > 1 {
			lines = lines[:len(lines)-1]
		}
		lines = append(lines, fmt.Sprintf("             the same %d times more, until %s", alike, at))
	}
	return lines
}

func lastOf[T any](all []T, count int) []T { return all[max(0, len(all)-count):] }
