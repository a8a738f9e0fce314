// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// userWorkStands is for how long a data call that succeeded tells that the user works. The tick makes
// one every minute for each config that a role with a fallback has a token of: as long as it does, and
// be it a little late, whoever obtains a token needs none of their own. Nor is a dead user's session
// opened for longer than that: the tick does not ask after users of whom it has no token.
const userWorkStands = 65 * time.Second

const (
	// retryOutAfter is how often a config that is out of service is tried.
	retryOutAfter = 10 * time.Minute
	// retryAllOutAfter is after which time one is tried first where a role gets nothing of use from its
	// other configs; each try that fails doubles it.
	retryAllOutAfter = time.Minute
)

// AllOutError says that no config of a role is in service.
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

// kind is the kind of failure that the first config is out for.
func (e *AllOutError) kind() string { return e.Out[0].Kind }

// allOut returns the error of a role of which no config is in service; nil where one is, and where the
// role has no fallback.
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

// candidate is a session that a config gave, for whoever asked for it to keep or end.
type candidate struct {
	config *store.Config
	token  *store.Token
}

// attempt is one way through a role's configs to a session.
type attempt struct {
	m    *Manager
	role string
	// turnTo notes which config is asked next.
	turnTo func(*store.Config)
	// from opens a session with the config.
	from func(context.Context, *store.Config) (*store.Token, error)
	// end ends a session that is not to be used.
	end func(*store.Token)

	out     []verdictOn // what is out of service for certain
	doubted []verdictOn // what may be, for a failure that a sick N-central would give everybody
	held    *candidate  // the first session of a user that seems not to work
}

// verdictOn is why a config gave no session of use.
type verdictOn struct {
	config    *store.Config
	failure   *health.Failure
	userFails bool // the token lives, and the user does not work
}

// obtain goes through the configs until one gives a session. What N-central says of a User-API token
// or user puts a config out of service at once. What it may say of everybody counts only where another
// config gives a session of a user that works. Where none does, the first session stands.
func (a *attempt) obtain(ctx context.Context, configs []*store.Config) (found *candidate, err error) {
	for _, config := range configs {
		a.turnTo(config)
		a.putOut(ctx, &a.out) // not before: who joins then is to find the next config being asked
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
	return nil, err
}

// try asks one config, and reports whether the next is to be asked.
func (a *attempt) try(ctx context.Context, config *store.Config) (found *candidate, goOn bool, err error) {
	token, err := a.from(ctx, config)
	if err != nil {
		return nil, a.isOfThisConfigAlone(config, err), err
	}
	// That a user worked a moment ago does not tell whether N-central is sick since.
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

// isOfThisConfigAlone reports whether the failure may be one of the config's User-API token, so that
// another config may give a session.
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

func (a *attempt) putOut(ctx context.Context, verdicts *[]verdictOn) {
	for _, one := range *verdicts {
		a.m.putOut(ctx, one.config, one.failure, one.userFails)
	}
	*verdicts = nil
}

// userFailure returns why the new token's user does not work, or seems not to; nil where a data call
// succeeds, or did a moment ago unless it is to be made anew, and where N-central does not answer it.
// The error is of a token that is of no use.
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
	// Its readers wait: they need the token more than the answer.
	ctx, cancel := context.WithTimeout(ctx, config.RequestTimeout)
	defer cancel()
	verdict, err := server.ValidateByData(ctx, token)
	if verdict.UserFailure == nil && err == nil && !verdict.Valid { // another session of the same user ended it
		return nil, ErrSuperseded
	}
	return verdict.UserFailure, nil
}

// putOut notes that the config is out of service. Where its user does not work, the tokens in hand are
// of no use either, and those with readers are replaced at once.
func (m *Manager) putOut(ctx context.Context, config *store.Config, failure *health.Failure, userFails bool) {
	ctx = context.WithoutCancel(ctx)
	m.outMu.Lock()
	defer m.outMu.Unlock()
	known := m.outOfService(ctx, config)
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
	if err := m.store.OutOfService.Put(ctx, config.Name, out); err != nil {
		m.store.OutOfService.Keep(config.Name, out)
		m.logger.Warn("that a config is out of service could not be stored", "config", config.Name, "error", err)
	}
	m.logger.Warn("a config is out of service: roles with fallback_configs take their tokens from the next", "config",
		config.Name, "reason", out.Reason)
	if userFails {
		m.replaceTokensOf(config.Name)
	}
}

// bringBack notes that the config is in service. The roles take it at their next rotation.
func (m *Manager) bringBack(ctx context.Context, config *store.Config) {
	ctx = context.WithoutCancel(ctx)
	m.outMu.Lock()
	defer m.outMu.Unlock()
	if m.outOfService(ctx, config) == nil {
		return
	}
	if !m.forgetOutLocked(ctx, config.Name) { // what memory has of another version counts, until storage strikes it
		another := config.WrittenAt.Add(-time.Nanosecond)
		m.store.OutOfService.Keep(config.Name, &store.OutOfService{ConfigWrittenAt: another})
	}
	m.logger.Info("a config is in service again", "config", config.Name)
}

// forgetOut removes what is stored of a config that is out of service no more, or no more.
func (m *Manager) forgetOut(ctx context.Context, config string) {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	m.forgetOutLocked(ctx, config)
}

// forgetOutLocked is forgetOut for whoever holds the lock, and reports whether storage agreed.
func (m *Manager) forgetOutLocked(ctx context.Context, config string) bool {
	delete(m.outTries, config)
	err := m.store.OutOfService.Delete(ctx, config)
	if err != nil {
		m.logger.Warn("that a config is in service again could not be stored", "config", config, "error", err)
	}
	return err == nil
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

// isDisplaced reports whether the role's token has readers and is of a config whose user does not work,
// while another is in service.
func (snap *snapshot) isDisplaced() bool {
	if snap.token != nil || snap.session == nil || snap.session.Current == nil || !snap.sources.hasFallback() {
		return false
	}
	inHand := snap.session.Current
	one := snap.sources.named(inHand.Config)
	return one != nil && one.out != nil && one.out.UserFails && len(snap.sources.inService()) > 0 &&
		!snap.lastReadAt().Before(inHand.IssuedAt)
}

// outTry is what memory holds of a config that is out of service, or was asked for another's sake.
type outTry struct {
	at    time.Time // when it was last tried; zero: not yet
	times int
	// role is one with a fallback that named the config when it was last tried.
	role string
	// helplessAt is when a reader last met a role that names the config and gets nothing of use from the
	// others.
	helplessAt time.Time
}

// wait is how long the config is left alone where somebody waits for it.
func (t *outTry) wait() time.Duration { return min(retryAllOutAfter<<min(t.times, 4), retryOutAfter) }

// noteHelpless notes, for each of the role's configs that is out of service by now, that a reader gets
// nothing of use from the others. It returns the error of a role of which no config is in service.
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

// tryConfigsOut tries the configs that are out of service and due, and forgets those that are so no
// more.
func (m *Manager) tryConfigsOut(ctx context.Context) error {
	names, err := m.store.OutOfService.Names(ctx)
	if err != nil {
		return err
	}
	var out, due []*store.Config
	for _, name := range names {
		config, err := m.store.Configs.Get(ctx, name)
		switch {
		case err != nil: // it is looked at again at the next tick
		case config == nil || m.outOfService(ctx, config) == nil:
			m.forgetOut(ctx, name)
		default:
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
			m.forgetOut(ctx, config.Name)
			continue
		}
		if sameUser := m.takeOutTry(ctx, config, role, out); sameUser != nil {
			tries.Go(func() error { m.tryConfigOut(ctx, config, sameUser); return nil })
		}
	}
	return tries.Wait()
}

// takeOutTry notes that the config is tried, and with it those of the configs out of service that are of
// the same user, which it returns: one try tells of them all. It returns nothing where the config was
// tried so, a moment ago.
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

// rolesWithFallback returns, for each of the configs that such roles name, one of them. It looks first at
// the one that it found before: there may be very many roles.
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
		if role, err := m.store.Roles.Get(ctx, m.outTry(config.Name).role); err == nil && !note(role) {
			return named, nil
		}
	}
	err := m.store.Roles.Each(ctx, note)
	if _, ok := errors.AsType[*store.UnreadableError](err); ok {
		err = nil // of the others is known what there is to know
	}
	return named, err
}

func (m *Manager) outTry(config string) outTry {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	return m.outTries[config]
}

// isOutTryDue reports whether the config is to be tried: the sooner where readers get no token at all.
func (m *Manager) isOutTryDue(ctx context.Context, config *store.Config, now time.Time) bool {
	try := m.outTry(config.Name)
	last := try.at
	if out := m.outOfService(ctx, config); last.IsZero() && out != nil {
		if last = out.Since; last.Before(m.started) {
			last = m.started
		}
	}
	wait := retryOutAfter
	if now.Sub(try.helplessAt) < retryOutAfter {
		wait = try.wait()
	}
	return now.Sub(last) >= wait
}

func (m *Manager) noteOutTry(config, role string, now time.Time) {
	m.outMu.Lock()
	defer m.outMu.Unlock()
	try := m.outTries[config]
	if now.Sub(try.at) > time.Hour {
		try.times = 0 // which was of another occasion
	}
	try.at, try.times, try.role = now, try.times+1, role
	m.outTries[config] = try
}

// tryConfigOut opens a session of the engine's own, to see whether the user of these configs works again.
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

// tryUser opens a session of the engine's own with the config, and reports whether its user works. What
// certainly puts a config out of service does so.
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

// judgeByOthers puts the config, whose user seems not to work, out of service if another config of one
// of its roles has a user that works: else it is N-central that is sick. held are the tokens in hand.
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

// seesUserWork reports whether the user of a config in service works now. It asks with a token in hand
// where there is one: a new session may end those that the user has. One of the engine's own is opened
// no more often than for a config that is out of service.
func (m *Manager) seesUserWork(ctx context.Context, config *store.Config, role string, held tokensInHand) bool {
	if snap := m.oldest(ctx, held); snap != nil {
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

// noteServing tells of a role whose tokens come from another of its configs than before.
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
