// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The N-central users of the model and the matrix: they die and come back, under roles with and
// without fallback_configs. What their witness holds against the promises.

package backend

import (
	"slices"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

const (
	oneUserIsEnough = "two users: a role is served while one of its users works"
	deadUserIsLeft  = "two users: no token of a user that died 70 s ago is handed out while another user works"
	inTheirOrder    = "two users: a new token comes from the first config that is in service"
	deadAreLeft     = "two users: a dead user is tried eight times an hour at most"
	comeBackInTime  = "reread_interval: readers are told to come back in time"
)

const (
	// outAtMost is how long a config may be out of service after its user was set right: it is
	// tried once in ten minutes, at a tick, for which half a minute may pass.
	outAtMost = 10*time.Minute + 90*time.Second
	// mostTriesAnHour are eight: one in ten minutes, and more at first.
	mostTriesAnHour = 8
)

// death is a way in which a user ceases to work.
type death struct {
	what string
	kill func(s *site, user string, dead bool) error
}

func (d death) String() string { return d.what }

func (d death) GoString() string { return d.what }

func deaths() []death {
	return []death{
		{"password expires", func(s *site, user string, dead bool) error { return s.SetPasswordExpired(user, dead) }},
		{"is locked", func(s *site, user string, dead bool) error { return s.SetUserLocked(user, dead) }},
		{"is disabled", func(s *site, user string, dead bool) error { return s.SetUserDisabled(user, dead) }},
	}
}

// userModel is an N-central user, and what befell it.
type userModel struct {
	diedOf    []string  // what of deaths it has died of
	deadSince time.Time // since when its tokens are of no use; zero while they are, or may be
	shutSince time.Time // since when N-central says that they are dead; zero while it does not
	shutAt    []span    // when N-central said so
	patientTo time.Time // until when a refusal may be a reason not to try its User-API token
	useless   []useless // User-API tokens that bring nothing of use
}

// useless is a User-API token that brings nothing of use since some time.
type useless struct {
	token string
	since time.Time
}

func (u *userModel) has(diedOf string) bool { return slices.Contains(u.diedOf, diedOf) }

// isBarred reports whether the user gets no sessions.
func (s *site) isBarred(user string) bool {
	u, knobs := s.users[user], s.Knobs()
	return (u.has("is locked") || u.has("is disabled")) && !knobs.BarredUsersAuthenticate ||
		u.has("password expires") && knobs.ExpiredPasswordRefusesAuthenticate
}

// noteUser keeps since when the user's tokens are of no use, after any change of it or the site.
func (s *site) noteUser(user string) {
	u, now := s.users[user], time.Now()
	isShut := u.has("is disabled") && !s.Knobs().BarredUsersAuthenticate
	since := func(at *time.Time, is bool) {
		switch {
		case !is:
			*at = time.Time{}
		case at.IsZero():
			*at = now
		}
	}
	if isShut && u.shutSince.IsZero() {
		u.shutAt = append(u.shutAt, span{from: now})
	} else if !isShut && !u.shutSince.IsZero() {
		u.shutAt[len(u.shutAt)-1].to = now.Add(3 * requestTimeout)
	}
	since(&u.shutSince, isShut)
	since(&u.deadSince, isShut || u.has("password expires"))
}

// denied reports whether a token that the user was issued at that time may have been said to be
// dead since, though it lives.
func (s *site) denied(issued time.Time, user string) bool {
	has := func(d span) bool { return d.to.IsZero() || !issued.After(d.to) }
	return slices.ContainsFunc(s.deniesAt, has) ||
		s.users[user] != nil && slices.ContainsFunc(s.users[user].shutAt, has)
}

// couldNotLearn reports whether nobody could find out what a refresh ends at the token's server: that
// takes sessions, and its user got none, or N-central failed. A refresh is then the only way to serve readers on.
func (w *world) couldNotLearn(t *tokenRecord) bool {
	c := w.configs[t.config]
	lately := time.Now().Add(-time.Hour - usualPatience) // it is not tried again within an hour
	return c != nil && c.learntAt == never && (!c.worksLocked() || c.site.users[c.user].patientTo.After(lately) ||
		c.site.suffersSince(lately))
}

// dies has a user die, in one of the ways.
func (w *world) dies(s *site, user string, of death) {
	w.note("%s: %s: %s", s.url, user, of.what)
	w.changing(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		u := s.users[user]
		if err := of.kill(s, user, true); err != nil {
			panic(err)
		}
		if !u.has(of.what) {
			u.diedOf = append(u.diedOf, of.what)
			u.useless = append(u.useless, useless{s.tokens[user], time.Now()})
		}
		s.doubt = true
		s.noteUser(user)
		w.noteOutLocked(func(c *configModel) bool { return c.site == s && c.user == user })
	})
}

// isSetRight has a user work again: the password is new, nothing bars it.
func (w *world) isSetRight(s *site, user string) {
	w.note("%s: %s is set right", s.url, user)
	w.changing(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		u := s.users[user]
		if len(u.diedOf) == 0 {
			return
		}
		for _, of := range deaths() {
			if err := of.kill(s, user, false); err != nil {
				panic(err)
			}
		}
		u.diedOf, u.patientTo = nil, time.Now().Add(longestPatience)
		u.useless = slices.DeleteFunc(u.useless, func(one useless) bool { return one.token == s.tokens[user] })
		s.noteUser(user)
		w.noteOutLocked(func(c *configModel) bool { return c.site == s && c.user == user })
	})
}

// worksLocked reports whether the config's User-API token brings tokens that are of use.
func (c *configModel) worksLocked() bool {
	return c.token == c.site.tokens[c.user] && len(c.site.users[c.user].diedOf) == 0
}

// noteOutLocked notes until when those configs may be out of service: something of what may put
// them out has begun or ended.
func (w *world) noteOutLocked(which func(*configModel) bool) {
	for _, c := range w.configs {
		switch {
		case !which(c):
		case c.worksLocked() && c.site.faults == 0:
			c.outTo = time.Now().Add(outAtMost)
		default:
			c.outTo = never
		}
	}
}

// noteLateTriesLocked notes that configs which may be out of service are tried later than was due.
func (w *world) noteLateTriesLocked() {
	w.noteOutLocked(func(c *configModel) bool { return c.outTo.After(time.Now()) })
}

// source is a config that a role takes its tokens from, as it was at one moment.
type source struct {
	configModel
	name       string
	definition string    // the fields whose change retires its tokens for the role
	works      bool      // its user gives sessions that are of use
	isBarred   bool      // its user gives none
	servesFrom time.Time // from when on it is in service for certain, while it works
	learntAt   time.Time // since when the engine knows whether sessions of the user end each other
}

// sourcesLocked returns the configs that the role takes its tokens from, in their order. Those of
// another server are passed over.
func (w *world) sourcesLocked(role string) (all []source) {
	r := w.roles[role]
	for _, name := range r.configs() {
		c := w.configs[name]
		if c == nil || c.site != w.configs[r.config].site {
			continue
		}
		one := source{
			configModel: *c, name: name, definition: w.definition(role, name), works: c.worksLocked(),
			isBarred:   c.token != c.site.tokens[c.user] || c.site.isBarred(c.user),
			servesFrom: c.site.users[c.user].patientTo, learntAt: w.learntAt(c.site, c.user),
		}
		if len(r.fallbacks) > 0 {
			one.servesFrom = c.outTo
		} else if !one.isBarred {
			one.works = true // as well as the only one can
		}
		if c.site.everEnds && w.isSharedLocked(c, role) { // sessions that are ended at once tell nothing
			one.servesFrom = never
		}
		all = append(all, one)
	}
	return all
}

// isSharedLocked reports whether other roles take tokens from the config's user too.
func (w *world) isSharedLocked(c *configModel, role string) bool {
	for name, r := range w.roles {
		if name != role && slices.ContainsFunc(r.configs(), func(config string) bool {
			other := w.configs[config]
			return other != nil && other.site == c.site && other.user == c.user
		}) {
			return true
		}
	}
	return false
}

// configs returns the names of the configs that the role may take its tokens from.
func (r *roleModel) configs() []string { return append([]string{r.config}, r.fallbacks...) }

// serves reports whether the source gives tokens for certain, and did since then.
func (s *source) serves(since time.Time) bool { return s.works && since.After(s.servesFrom) }

// isServed reports whether the role has a config that gives it tokens for certain.
func (r *reading) isServed() bool {
	return slices.ContainsFunc(r.sources, func(s source) bool { return s.serves(r.beganAt) })
}

// served is the promise that such a role is served.
func (r *reading) served() string {
	if len(r.of.fallbacks) > 0 {
		return oneUserIsEnough
	}
	return wellIsServed
}

// isFallbackLocked reports whether a role with fallback_configs takes tokens from the config.
func (w *world) isFallbackLocked(config string) bool {
	for _, r := range w.roles {
		if len(r.fallbacks) > 0 && slices.Contains(r.configs(), config) {
			return true
		}
	}
	return false
}

// isRefused reports whether none of the role's configs gives it tokens.
func (r *reading) isRefused() bool {
	return !slices.ContainsFunc(r.sources, func(s source) bool { return !s.isBarred })
}

// sourceOf returns the role's config of that name, nil where it has none.
func (r *reading) sourceOf(config string) *source {
	if at := slices.IndexFunc(r.sources, func(s source) bool { return s.name == config }); at >= 0 {
		return &r.sources[at]
	}
	return nil
}

// mayHaveLeft reports whether the token's config may have been out of service since the token was
// obtained: the role may have turned to another.
func (r *reading) mayHaveLeft(t *tokenRecord) bool {
	one := r.sourceOf(t.config)
	return len(r.of.fallbacks) > 0 && (one == nil || one.outTo.After(t.IssuedAt))
}

// judgeSource holds which config a token came from against what became of their users. Nothing
// changed meanwhile.
func (w *world) judgeSource(r *reading, t *tokenRecord) {
	config, _ := r.response.Data["config"].(string)
	one := r.sourceOf(config)
	if one == nil || one.user != t.User {
		w.breaksLocked(inTheirOrder, "%s of %s, a token of %s, is said to come from config %q; the role has %s", t,
			r.role, t.User, config, r.of)
		return
	}
	flight := t.IssuedAt.Add(-3 * requestTimeout) // when what obtained it may have begun
	for _, before := range r.sources {
		if before.name == config {
			break
		}
		if before.serves(flight) && w.isCalmSince(flight) && !t.site.suffersSince(flight) {
			w.breaksLocked(inTheirOrder, "%s of %s comes from config %q, though config %q works since %s", t, r.role,
				config, before.name, clock(before.servesFrom.Sub(w.began)))
		}
	}
	w.judgeDeath(r, t)
}

// suffersSince reports whether anything failed at the site since then.
func (s *site) suffersSince(then time.Time) bool {
	return s.faults > 0 || slices.ContainsFunc(s.troubles, func(t span) bool {
		return t.to.IsZero() || t.to.After(then)
	})
}

// judgeDeath holds for how long the tokens of a user that died are handed out.
func (w *world) judgeDeath(r *reading, t *tokenRecord) {
	died := t.site.users[t.User].deadSince
	if died.IsZero() || len(r.of.fallbacks) == 0 || r.suffered || !w.storageIsWell(r.storage) {
		return
	}
	since := later(later(died, t.site.healedAt), w.unsettledAt)
	for _, failing := range w.unstored {
		since = later(since, failing.to)
	}
	for _, other := range r.sources {
		if !other.works || other.user == t.User {
			continue
		}
		if late := r.beganAt.Sub(later(since, other.servesFrom)); late > graceOfTheDead {
			w.breaksLocked(deadUserIsLeft, "%s of %s is of %s, who died at %s, and config %q works since %s", t, r.role,
				t.User, clock(died.Sub(w.began)), other.name, clock(max(0, other.servesFrom.Sub(w.began))))
		}
	}
}

// judgeInterval holds when an answer tells its reader to come back.
func (w *world) judgeInterval(r *reading, told time.Duration, unchanged bool) {
	if unchanged && r.known && r.of.reread > 0 && told > r.of.reread {
		w.breaksLocked(comeBackInTime, "the read of %s is told to come back in %s, and reread_interval is %s", r.role,
			told, r.of.reread)
	}
}

// judgeTries holds how often User-API tokens of no use were tried since the last change. It is
// called before each change.
func (w *world) judgeTries() {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.began
	if len(w.changedAt) > 0 {
		from = w.changedAt[len(w.changedAt)-1]
	}
	from = from.Add(graceOfTheDead)
	for _, s := range w.sites {
		from := later(from, s.healedAt.Add(graceOfTheDead))
		if s.faults > 0 || time.Since(from) < time.Minute || w.storageFailing.Load() > 0 {
			continue
		}
		for user, u := range s.users {
			for _, one := range u.useless {
				if w.isLeftLocked(s, user, one.token) {
					w.judgeTriesOf(s, one.token, later(from, one.since.Add(graceOfTheDead)))
				}
			}
		}
	}
}

// isLeftLocked reports whether every role that names a config with the User-API token has another
// user that works.
func (w *world) isLeftLocked(s *site, user, token string) bool {
	for name, c := range w.configs {
		if c.site != s || c.token != token {
			continue
		}
		for role, r := range w.roles {
			if slices.Contains(r.configs(), name) && !slices.ContainsFunc(w.sourcesLocked(role), func(o source) bool {
				return o.user != user && len(r.fallbacks) > 0 && o.serves(time.Now())
			}) {
				return false
			}
		}
	}
	return true
}

func (w *world) judgeTriesOf(s *site, token string, from time.Time) {
	var tries []time.Time
	for _, request := range s.Requests() {
		if request.Endpoint == simulator.EndpointAuthenticate && request.Secret == token && request.Time.After(from) {
			tries = append(tries, request.Time)
		}
	}
	for i := mostTriesAnHour; i < len(tries); i++ {
		if took := tries[i].Sub(tries[i-mostTriesAnHour]); took < time.Hour {
			w.breaksLocked(deadAreLeft, "%s: a User-API token of no use was tried %d times in %s, from %s", s.url,
				mostTriesAnHour+1, took, clock(tries[i-mostTriesAnHour].Sub(w.began)))
			return
		}
	}
}
