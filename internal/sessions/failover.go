// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// userWorkStands is how long a data call that succeeded shows that the user works. The tick makes
// one each minute for each config of which a role with a fallback has a token. While that goes on,
// even if a tick is a little late, nobody who obtains a token needs to make one. It is no longer
// than that because the tick does not ask about users of whom it has no token: sessions of a user
// that fails may be opened for that long.
const userWorkStands = 65 * time.Second

const (
	// retryOutAfter is how often a config that is out of service is tried.
	retryOutAfter = 10 * time.Minute
	// retryAllOutAfter is used instead while a role gets nothing of use from its other configs.
	// Each failed try doubles it, up to retryOutAfter.
	retryAllOutAfter = time.Minute
)

// AllOutError is the error if no config of a role is in service.
type AllOutError struct {
	Role string
	Out  []ConfigOut
}

// ConfigOut is a config that is out of service, since when and why.
type ConfigOut struct {
	Config string
	*store.OutOfService
}

// Error names each config with its reason.
func (e *AllOutError) Error() string {
	var reasons []string
	for _, out := range e.Out {
		reasons = append(reasons, fmt.Sprintf("config %q since %s: %s",
			out.Config, out.Since.UTC().Format(time.RFC3339), out.Reason))
	}
	return fmt.Sprintf("role %q: none of its configs is in service: %s; they are tried again every few minutes, "+
		"and by check", e.Role, strings.Join(reasons, "; "))
}

// kind returns the kind of failure for which the first config is out.
func (e *AllOutError) kind() string { return e.Out[0].Kind }

// allOut returns an *AllOutError if no config of the role is in service. It returns nil if one is,
// or if the role has no fallback.
func (s sources) allOut(role string) *AllOutError {
	if !s.hasFallback() || len(s.inService()) > 0 {
		return nil
	}
	failure := &AllOutError{Role: role}
	for _, one := range s {
		if one.config != nil && one.out != nil {
			failure.Out = append(failure.Out, ConfigOut{one.config.Name, one.out})
		}
	}
	return failure
}

// candidate is a session that a config gave. It may be handed out, or must be ended.
type candidate struct {
	config *store.Config
	token  *store.Token
}

// attempt goes through a role's configs until one gives a session. It is used once.
type attempt struct {
	m    *Manager
	role string
	// turnTo is called before a config is asked.
	turnTo func(*store.Config)
	// from opens a session with the config.
	from func(context.Context, *store.Config) (*store.Token, error)
	// end ends a session that will not be used.
	end func(*store.Token)

	out     []verdictOn // configs that are certainly out of service
	doubted []verdictOn // configs that are, unless N-central fails in this way for everybody
	held    *candidate  // the first session of a user that seems not to work
}

// verdictOn is why a config gave no session that can be used.
type verdictOn struct {
	config    *store.Config
	failure   *health.Failure
	userFails bool // the token lives, and the user does not work
}

// obtain goes through the configs until one gives a session. If N-central clearly refuses a
// User-API token or a user, the config is out of service at once. A failure that N-central may give
// to everybody counts only if another config gives a session of a user that works. If none does,
// the first session is used all the same.
func (a *attempt) obtain(ctx context.Context, configs []*store.Config) (found *candidate, err error) {
	for _, config := range configs {
		if !containsVersion(a.m.inServiceNow(ctx, a.role), config) {
			continue
		}
		a.turnTo(config)
		a.putOut(ctx, &a.out) // after turnTo: readers who lose their token by this must find the flight
		var goOn bool
		if found, goOn, err = a.try(ctx, config); !goOn {
			break
		}
	}
	a.putOut(ctx, &a.out)
	if found != nil {
		a.putOut(ctx, &a.doubted)
		if a.held != nil {
			a.end(a.held.token)
		}
		return found, nil
	}
	if failure := a.m.noteHelpless(ctx, a.role); failure != nil {
		err = failure
	}
	if a.held != nil {
		a.turnTo(a.held.config)
		return a.held, nil
	}
	if err == nil { // there was none to ask, and one is in service by now
		err = ErrSuperseded
	}
	return nil, err
}

// inServiceNow returns the configs that the role's tokens may come from now. It returns none if
// that cannot be read.
func (m *Manager) inServiceNow(ctx context.Context, role string) []*store.Config {
	_, found, err := m.definition(ctx, role)
	if err != nil {
		return nil
	}
	return found.inService()
}

// unlessAnother returns the error with which the configs gave no token, if any: ErrSuperseded, if
// the role has another config in service by now, or another version of one of these. Its readers
// then start over.
func (m *Manager) unlessAnother(ctx context.Context, role string, configs []*store.Config, err error) error {
	if err == nil {
		return nil
	}
	for _, config := range m.inServiceNow(ctx, role) {
		if !containsVersion(configs, config) {
			return ErrSuperseded
		}
	}
	return err
}

func containsVersion(configs []*store.Config, config *store.Config) bool {
	return slices.ContainsFunc(configs, func(one *store.Config) bool { return one.IsVersion(config) })
}

// try asks one config for a session. goOn reports whether the next config must be asked.
func (a *attempt) try(ctx context.Context, config *store.Config) (found *candidate, goOn bool, err error) {
	token, err := a.from(ctx, config)
	if err != nil {
		return nil, a.isOfThisConfigAlone(config, err), err
	}
	// A user who worked a moment ago may fail by now, if it is N-central that is sick.
	failure, err := a.m.userFailure(ctx, config, token, len(a.doubted) > 0)
	switch {
	case err != nil:
		a.end(token)
		return nil, false, err
	case failure == nil:
		return &candidate{config, token}, false, nil
	case failure.UserIsBarred():
		a.out = append(a.out, verdictOn{config, failure, true})
		a.end(token)
	case a.held == nil:
		a.doubted = append(a.doubted, verdictOn{config, failure, true})
		a.held = &candidate{config, token}
	default:
		a.doubted = append(a.doubted, verdictOn{config, failure, true})
		a.end(token)
	}
	return nil, true, failure
}

// isOfThisConfigAlone reports whether the failure may be about the config's User-API token, so that
// another config may give a session. If so, it notes the config as out or doubted.
func (a *attempt) isOfThisConfigAlone(config *store.Config, err error) bool {
	var failure *health.Failure
	switch {
	case !errors.As(err, &failure):
		return false
	case failure.CredentialRejected():
		a.out = append(a.out, verdictOn{config, failure, false})
	case failure.MayBeRejection(),
		failure.Step == ncentral.CallAuthenticate && failure.Kind == ncentral.KindServerError:
		a.doubted = append(a.doubted, verdictOn{config, failure, false})
	default:
		return false
	}
	return true
}

// putOut puts the configs of the verdicts out of service, and empties the list.
func (a *attempt) putOut(ctx context.Context, verdicts *[]verdictOn) {
	for _, one := range *verdicts {
		a.m.putOut(ctx, one.config, one.failure, one.userFails)
	}
	*verdicts = nil
}

// userFailure returns why the new token's user does not work, or seems not to. It is nil if a data
// call succeeds, or if N-central does not answer it. Unless anew is set, a call that succeeded a
// moment ago is enough. The error is that of a token that cannot be used.
func (m *Manager) userFailure(
	ctx context.Context, config *store.Config, token *store.Token, anew bool,
) (*health.Failure, error) {
	if !anew && m.upstream.Record(config.Name).UserWorked(userWorkStands, time.Now()) {
		return nil, nil
	}
	server, err := m.server(config)
	if err != nil {
		return nil, err
	}
	// Readers are waiting, and the token matters more to them than the answer.
	ctx, cancel := context.WithTimeout(ctx, config.RequestTimeout)
	defer cancel()
	verdict, err := server.ValidateByData(ctx, token)
	if verdict.UserFailure == nil && err == nil && !verdict.Valid { // another session of the same user ended it
		return nil, ErrSuperseded
	}
	return verdict.UserFailure, nil
}

// putOut puts the config out of service, unless it was written or deleted meanwhile. If its user
// does not work, the tokens in hand are of no use either, and those that have readers are replaced
// at once.
func (m *Manager) putOut(ctx context.Context, config *store.Config, failure *health.Failure, userFails bool) {
	ctx = context.WithoutCancel(ctx)
	m.outMu.Lock()
	defer m.outMu.Unlock()
	if latest, err := m.store.Configs.Get(ctx, config.Name); err == nil && !latest.IsVersion(config) {
		return
	}
	known := m.outOfService(ctx, config)
	// A refusal does not show that a user works who did not.
	userFails = userFails || known != nil && known.UserFails
	if known != nil && known.Kind == string(failure.Kind) && known.UserFails == userFails {
		return
	}
	out := &store.OutOfService{
		ConfigWrittenAt: config.WrittenAt, Since: time.Now().UTC(),
		Kind: string(failure.Kind), Reason: failure.Reason(), UserFails: userFails,
	}
	if known != nil {
		out.Since = known.Since
	}
	m.store.OutOfService.Keep(config.Name, out)
	m.storeOut(config.Name)
	m.logger.Warn("a config is out of service: roles with fallback_configs take their tokens from the next", "config",
		config.Name, "reason", out.Reason)
	if userFails {
		m.replaceTokensOf(config.Name)
	}
}

// storeOut has storage take what memory holds about the config, in the background: no reader waits
// for it. What storage refuses, the tick tries again.
func (m *Manager) storeOut(config string) {
	m.outStores.DoChan(config, func() (any, error) {
		if !m.begin() {
			return nil, ErrEnded
		}
		defer m.running.Done()
		for m.store.OutOfService.IsUnstored(config) { // it may change while storage takes it
			if err := m.store.OutOfService.Store(m.storing, config); err != nil {
				m.logger.Warn("whether a config is out of service could not be stored", "config", config, "error", err)
				return nil, err
			}
		}
		return nil, nil
	})
}

// bringBack puts the config into service again. Roles take it at their next rotation.
func (m *Manager) bringBack(ctx context.Context, config *store.Config) {
	ctx = context.WithoutCancel(ctx)
	m.outMu.Lock()
	defer m.outMu.Unlock()
	if m.outOfService(ctx, config) == nil {
		return
	}
	m.forgetOutLocked(config.Name)
	m.logger.Info("a config is in service again", "config", config.Name)
}

// forgetOut removes what is stored and remembered about a config that was out of service.
func (m *Manager) forgetOut(config string) {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	m.forgetOutLocked(config)
}

// forgetOutLocked is forgetOut for callers that have locked outMu.
func (m *Manager) forgetOutLocked(config string) {
	delete(m.outTries, config)
	m.store.OutOfService.Keep(config, nil)
	m.storeOut(config)
}

// replaceTokensOf replaces the tokens of the config that have readers, in the background.
func (m *Manager) replaceTokensOf(config string) {
	if !m.begin() {
		return
	}
	go func() {
		defer m.running.Done()
		names, err := m.store.Sessions.Names(m.background)
		if err != nil {
			m.logger.Warn("the tokens of a config that is out of service could not be listed: each is replaced when "+
				"it is read", "config", config, "error", err)
		}
		var replacements errgroup.Group
		replacements.SetLimit(workAtATime)
		for _, role := range names {
			snap, err := m.snapshot(m.background, role)
			if err != nil || !snap.isDisplaced() || snap.session.Current.Config != config {
				continue
			}
			replacements.Go(func() error { m.rotate(m.background, snap); return nil })
		}
		_ = replacements.Wait()
	}()
}

// isDisplaced reports whether the role's token must be replaced now: it has readers, its config's
// user does not work, and another config is in service.
func (snap *snapshot) isDisplaced() bool {
	if snap.token != nil || snap.session == nil || snap.session.Current == nil || !snap.sources.hasFallback() {
		return false
	}
	inHand := snap.session.Current
	one := snap.sources.named(inHand.Config)
	return one != nil && one.out != nil && one.out.UserFails && len(snap.sources.inService()) > 0 &&
		!snap.lastReadAt().Before(inHand.IssuedAt)
}

// outTry is what memory holds about the tries of a config: it is out of service, or was tried to
// judge another config.
type outTry struct {
	at    time.Time // when it was last tried; zero if it has not been
	times int
	// role is a role with a fallback that named the config when it was last tried.
	role string
	// helplessAt is when a read last found that a role which names the config gets nothing of use
	// from its other configs.
	helplessAt time.Time
}

// wait returns how long the config is not tried again while somebody waits for it.
func (t *outTry) wait() time.Duration { return min(retryAllOutAfter<<min(t.times, 4), retryOutAfter) }

// noteHelpless notes, for each of the role's configs that is out of service, that a read got
// nothing of use from the others. It returns the error to give if no config of the role is in
// service, else nil.
func (m *Manager) noteHelpless(ctx context.Context, role string) *AllOutError {
	_, found, err := m.definition(ctx, role)
	if err != nil {
		return nil
	}
	m.outMu.Lock()
	defer m.outMu.Unlock()
	for _, one := range found {
		if one.config != nil && one.out != nil {
			try := m.outTries[one.config.Name]
			try.helplessAt = time.Now()
			m.outTries[one.config.Name] = try
		}
	}
	return found.allOut(role)
}

// tryConfigsOut tries those configs that are out of service and due to be tried. It forgets those
// that are in service again, that no role with a fallback names, or that were deleted.
func (m *Manager) tryConfigsOut(ctx context.Context) error {
	names, err := m.store.OutOfService.Names(ctx)
	if err != nil {
		return err
	}
	var out, due []*store.Config
	for _, name := range names {
		config, err := m.store.Configs.Get(ctx, name)
		entry, unread := m.store.OutOfService.Get(ctx, name)
		switch {
		case err != nil, unread != nil: // it is looked at again at the next tick
		case config == nil || !entry.IsOf(config):
			m.forgetOut(name)
		default:
			if m.store.OutOfService.IsUnstored(name) { // storage refused it, or is slow
				m.storeOut(name)
			}
			out = append(out, config)
			if m.isOutTryDue(ctx, config, time.Now()) {
				due = append(due, config)
			}
		}
	}
	if len(due) == 0 {
		return nil
	}
	named, err := m.rolesWithFallback(ctx, due)
	if err != nil {
		return err
	}
	var tries errgroup.Group
	tries.SetLimit(workAtATime)
	for _, config := range due {
		role, isNamed := named[config.Name]
		if !isNamed {
			m.forgetOut(config.Name)
			continue
		}
		if sameUser := m.takeOutTry(ctx, config, role, out); sameUser != nil {
			tries.Go(func() error { m.tryConfigOut(ctx, config, sameUser); return nil })
		}
	}
	return tries.Wait()
}

// takeOutTry notes that the config is tried, together with those other configs out of service that
// have the same user: one try is enough for all of them. It returns all of these. It returns nil if
// the config was tried in this way a moment ago.
func (m *Manager) takeOutTry(
	ctx context.Context, config *store.Config, role string, out []*store.Config,
) (sameUser []*store.Config) {
	now := time.Now()
	if !m.isOutTryDue(ctx, config, now) {
		return nil
	}
	for _, other := range out {
		if other.URL == config.URL && other.UserAPIToken == config.UserAPIToken {
			sameUser = append(sameUser, other)
			m.noteOutTry(other.Name, role, now)
		}
	}
	return sameUser
}

// rolesWithFallback returns, for each of the configs, one role with a fallback that names it. It
// first looks at the role that it found last time, since there may be very many roles.
func (m *Manager) rolesWithFallback(ctx context.Context, configs []*store.Config) (map[string]string, error) {
	named := map[string]string{}
	note := func(role *store.Role) bool {
		if role != nil && len(role.FallbackConfigs) > 0 {
			for _, config := range configs {
				if role.Names(config.Name) {
					named[config.Name] = role.Name
				}
			}
		}
		return len(named) < len(configs)
	}
	for _, config := range configs {
		known := m.outTry(config.Name).role
		if known == "" {
			continue
		}
		if role, err := m.store.Roles.Get(ctx, known); err == nil && !note(role) {
			return named, nil
		}
	}
	err := m.store.Roles.Each(ctx, note)
	if _, ok := errors.AsType[*store.UnreadableError](err); ok {
		err = nil // the other roles could be read
	}
	return named, err
}

// outTry returns what memory holds about the config.
func (m *Manager) outTry(config string) outTry {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	return m.outTries[config]
}

// isOutTryDue reports whether the config must be tried now. The waits are shorter while readers of
// some role get no token at all.
func (m *Manager) isOutTryDue(ctx context.Context, config *store.Config, now time.Time) bool {
	try := m.outTry(config.Name)
	last := try.at
	if out := m.outOfService(ctx, config); last.IsZero() && out != nil {
		if last = out.Since; last.Before(m.started) || last.After(now) { // a clock may have been wrong
			last = m.started
		}
	}
	wait := retryOutAfter
	if now.Sub(try.helplessAt) < retryOutAfter {
		wait = try.wait()
	}
	return now.Sub(last) >= wait
}

// noteOutTry notes that the config is tried, and which role names it.
func (m *Manager) noteOutTry(config, role string, now time.Time) {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	try := m.outTries[config]
	if now.Sub(try.at) > time.Hour {
		try.times = 0 // those tries were for another outage
	}
	try.at, try.times, try.role = now, try.times+1, role
	m.outTries[config] = try
}

// tryConfigOut finds out whether the user of these configs works again, and brings them back if so.
func (m *Manager) tryConfigOut(ctx context.Context, config *store.Config, sameUser []*store.Config) {
	works, failure := m.tryUser(ctx, config)
	switch {
	case works:
		for _, one := range sameUser {
			m.bringBack(ctx, one)
		}
	case failure == nil || failure.Down():
		m.logger.Info("a config that is out of service could not be tried", "config", config.Name)
	}
}

// tryUser opens a session of the engine's own with the config, and reports whether its user works.
// If N-central clearly refuses the User-API token or the user, the config is put out of service.
func (m *Manager) tryUser(ctx context.Context, config *store.Config) (works bool, failure *health.Failure) {
	server, err := m.server(config)
	if err != nil {
		return false, nil //nolint:nilerr // the config has changed
	}
	report := server.TryUser(ctx)
	m.endOpen(config, report)
	switch failure = report.Failure(); {
	case failure == nil:
	case failure.CredentialRejected():
		m.putOut(ctx, config, failure, false)
	case failure.UserIsBarred():
		m.putOut(ctx, config, failure, true)
	}
	return report.Failed == nil, failure
}

// judgeByOthers decides about a config whose user seems not to work. If another config of one of
// its roles has a user that works, the config is put out of service. Otherwise N-central itself is
// taken to be sick. held are the tokens in hand.
func (m *Manager) judgeByOthers(
	ctx context.Context, roles []*snapshot, held map[string]tokensInHand, config *store.Config,
	failure *health.Failure,
) {
	asked := map[string]bool{config.Name: true}
	for _, role := range roles {
		for _, other := range role.sources.inService() {
			if asked[other.Name] {
				continue
			}
			asked[other.Name] = true
			if m.seesUserWork(ctx, other, role.role.Name, held[other.Name]) {
				m.putOut(ctx, config, failure, true)
				return
			}
		}
	}
}

// seesUserWork reports whether the user of a config in service works now. It asks with a token in
// hand if there is one, since a new session may end those that the user has. Otherwise it opens a
// session of the engine's own, but no more often than for a config that is out of service.
func (m *Manager) seesUserWork(ctx context.Context, config *store.Config, role string, held tokensInHand) bool {
	if snap := m.oldest(ctx, held, false); snap != nil {
		server, err := m.server(snap.config)
		if err != nil {
			return false
		}
		verdict, err := server.ValidateByData(ctx, snap.token)
		if verdict.UserFailure.UserIsBarred() {
			m.putOut(ctx, snap.config, verdict.UserFailure, true)
		}
		return err == nil && verdict.Valid && verdict.UserFailure == nil
	}
	now := time.Now()
	if try := m.outTry(config.Name); !try.at.IsZero() && now.Sub(try.at) < try.wait() {
		return false
	}
	m.noteOutTry(config.Name, role, now)
	works, _ := m.tryUser(ctx, config)
	return works
}

// noteServing writes to the log and sends an event if the role's tokens come from another config
// than before.
func (m *Manager) noteServing(
	ctx context.Context, state *roleState, role *store.Role, found sources, before, now string,
) {
	if known := state.serving.Swap(&now); known != nil {
		before = *known
	}
	was, is := found.rank(before), found.rank(now)
	if !found.hasFallback() || was == is || was == len(found) {
		return
	}
	event, reason := events.RoleFailedBack, "config "+now+" is in service"
	if is > was {
		event = events.RoleFailedOver
		if out := found[was].out; out != nil {
			reason = out.Reason
		}
	}
	m.logger.Info("a role's tokens come from another config", "role", role.Name, "config", now, "config_before", before)
	m.events.Send(ctx, event, events.RoleMetadata(role.Name,
		events.Config, now, events.Before, before, events.Reason, reason))
}
