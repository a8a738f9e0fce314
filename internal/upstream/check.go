// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Step is one step of a check.
type Step struct {
	Name     string
	OK       bool
	Duration time.Duration
	Message  string
}

// Report is what a check found.
type Report struct {
	Steps  []Step
	Failed *Step // the first step that failed; nil where all passed
	Traits store.ServerTraits
	// User is what N-central told of the API user; nil where it was not asked, or did not tell.
	User *ncentral.User
	// Warnings tell of what is well enough to pass and worth knowing all the same.
	Warnings []string
	// Left are the sessions that were opened and have not been ended.
	OpenSessions []Grant

	scope         scope
	authenticated bool
	userAsked     bool
	failure       *health.Failure // why the first failed step failed, where that is a call's or the user's
	// authenticateSent is when the last authenticate was sent.
	authenticateSent time.Time
}

type scope int

const (
	allSteps      scope = 1 << iota // is the credential alive, and what is this server like: every step
	rotationSteps                   // only what must be known before a token is rotated
	userSteps                       // only whether the API user works
)

// Check makes every step of check: links; authenticate, twice; validate; user; the data call;
// refresh; server info; logout of every session that it opened. No step is retried. The steps end
// within the config's FlightLimit, and the logouts have as much again. It is made in spite of a
// cool-down, and lifts it where it passes. What it learnt of the server is stored.
func (s *Server) Check(ctx context.Context) *Report {
	// A caller that hangs up would leave a session open that nobody knows of.
	report := s.runCheck(context.WithoutCancel(ctx), allSteps, true)
	s.Apply(ctx, report)
	return report
}

// TryUser makes the steps of check that tell whether the API user works: authenticate, user, data,
// and logout of the session. It is made in spite of a cool-down, and lifts it where it passes.
func (s *Server) TryUser(ctx context.Context) *Report {
	report := s.runCheck(context.WithoutCancel(ctx), userSteps, true)
	s.Apply(ctx, report)
	return report
}

// Failure is why the first step failed that did; nil where all passed, and where it was no call's
// failure nor the user's.
func (r *Report) Failure() *health.Failure { return r.failure }

// Verify is Check on a config that is not stored yet, the stored one of that name beside it, if
// any. It changes nothing of the stored one, save that tokens which the new sessions may have ended
// are suspect. Once the config is stored, its server is to Apply the report.
func (r *Registry) Verify(ctx context.Context, candidate, stored *store.Config) (*Report, error) {
	server, inForce, err := r.serverToVerify(candidate, stored)
	if err != nil {
		return nil, err
	}
	defer r.endVerification(server)
	if inForce != nil && inForce != server.credential {
		end := inForce.beginAuthenticate()
		defer end()
	}
	return server.runCheck(context.WithoutCancel(ctx), allSteps, inForce != nil), nil
}

// serverToVerify makes a server of the candidate alone, and returns the credential of the stored
// config beside it, whose sessions it may end; nil where there is none at that URL.
func (r *Registry) serverToVerify(candidate, stored *store.Config) (*Server, *credential, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := newConfigState(candidate.Name) // counted nowhere: the config may never come to be
	if stored != nil {
		state = r.state(candidate.Name).beside()
	}
	server, err := r.newServer(candidate, state)
	if err != nil || stored == nil || stored.URL != candidate.URL {
		return server, nil, err
	}
	return server, r.credentialOf(stored), nil
}

func (r *Registry) endVerification(server *Server) {
	server.client.CloseIdleConnections()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropUnused()
}

// Apply stores what a check taught. One that passed lifts cool-down and back-off; one whose
// User-API token was refused begins a cool-down where there is none, and leaves alone what
// there is.
func (s *Server) Apply(ctx context.Context, report *Report) {
	passed := report.Failed == nil && report.scope != rotationSteps
	s.learnFrom(ctx, report, passed && report.scope == allSteps)
	if report.authenticated && report.scope != userSteps {
		s.watch.traitsConfirmed(time.Now())
	}
	failure := report.failure
	if report.Failed == nil || failure != nil && !failure.IsOfUser() {
		s.record.NoteOutcome(s.generation, failure, time.Now())
	}
	if report.userAsked {
		s.record.NoteUser(s.generation, report.User)
	}
	if failure != nil && !failure.Down() && failure.Kind != ncentral.KindCanceled {
		s.endOutage()
	}
	if passed {
		s.notePassed(ctx)
	} else if failure != nil {
		s.noteFailed(ctx, report)
	}
}

// noteFailed notes which step of a check failed, where that tells of the config.
func (s *Server) noteFailed(ctx context.Context, report *Report) {
	failure := report.failure
	switch {
	case failure.IsOfUser(), failure.Step == ncentral.CallData && !isUnanswered(failure.Kind):
		s.NoteProbed(ctx, failure)
	case failure.CredentialRejected() && s.credential.refusal() != nil:
	case !report.authenticated && (failure.Step == ncentral.CallAuthenticate || failure.Down()):
		s.noteAuthenticated(ctx, report.authenticateSent, failure)
	}
}

// notePassed takes back what kept calls from being made, and notes that tokens can be had.
func (s *Server) notePassed(ctx context.Context) {
	s.credential.works()
	s.mu.Lock()
	s.outage.lift()
	s.backOff.lift()
	s.mu.Unlock()
	s.reportObtaining(ctx, nil)
	s.NoteProbed(ctx, health.NewUserFailure(s.config, s.record.LastUser(s.generation)))
}

// learnFrom takes over what a check found.
func (s *Server) learnFrom(ctx context.Context, report *Report, passed bool) {
	var rebooted bool
	s.knowledge.change(ctx, func(l *store.ServerTraits) {
		rebooted = l.StartTime != "" && report.Traits.StartTime != "" && l.StartTime != report.Traits.StartTime
		if rebooted {
			forget(l)
		}
		mergeTraits(l, report.Traits)
		if passed {
			// The administrator may have raised the limits since: ask again.
			l.AccessOverrideCeiling, l.RefreshOverrideCeiling = 0, 0
		}
	})
	if rebooted {
		s.logger.Warn("N-central was restarted: tokens from before are validated before they are handed out again")
	}
}

// runCheck makes the steps that serve the purpose. hasTokens reports whether tokens of the config
// may be in hand, which the examination's sessions may end.
func (s *Server) runCheck(ctx context.Context, scope scope, hasTokens bool) *Report {
	e := &checkRun{server: s, hasTokens: hasTokens, client: s.client.WithoutRetries()}
	e.report.scope = scope
	end := s.credential.beginAuthenticate()
	defer end()
	e.run(ctx)
	return &e.report
}

// mergeTraits takes over what was found and keeps the rest.
func mergeTraits(into *store.ServerTraits, found store.ServerTraits) {
	if found.ServerVersion != "" {
		into.ServerVersion = found.ServerVersion
	}
	if found.ClockOffset != nil {
		into.ClockOffset = found.ClockOffset
	}
	if found.StartTime != "" {
		into.StartTime = found.StartTime
	}
	if found.CanLogOut != nil {
		into.CanLogOut = found.CanLogOut
	}
	if found.CanValidate != nil {
		into.CanValidate = found.CanValidate
	}
	if found.RefreshEndsPredecessor != nil {
		into.RefreshEndsPredecessor, into.RefreshRejected = found.RefreshEndsPredecessor, false
	}
	if found.RefreshRejected {
		into.RefreshRejected = true
	}
	if found.AuthenticateEndsEarlierSessions != nil {
		into.AuthenticateEndsEarlierSessions = found.AuthenticateEndsEarlierSessions
	}
}

// checkRun is one run of the steps.
type checkRun struct {
	server        *Server
	hasTokens     bool
	client        *ncentral.Client
	report        Report
	open          []Grant // the sessions to end, the newest last
	takenForEnded []Grant // of which N-central said that the next session ended them
}

func (e *checkRun) run(ctx context.Context) {
	defer e.logOut(ctx)
	ctx, cancel := context.WithTimeout(ctx, e.server.FlightLimit())
	defer cancel()
	steps := []struct {
		name   string
		do     func(context.Context) (string, error)
		in     scope // what it is a part of
		merely bool  // finds out what the server is like: it passes where there is no time left for it
	}{
		{name: "links", do: e.links, in: allSteps},
		{name: "authenticate", do: e.authenticate, in: allSteps | rotationSteps | userSteps},
		{name: "authenticate_again", do: e.authenticateAgain, in: allSteps | rotationSteps, merely: true},
		{name: "validate", do: e.validate, in: allSteps | rotationSteps},
		{name: "user", do: e.user, in: allSteps | userSteps},
		{name: "data", do: e.data, in: allSteps | userSteps},
		{name: "refresh", do: e.refresh, in: allSteps | rotationSteps, merely: true},
		{name: "server_info", do: e.serverInfo, in: allSteps | rotationSteps},
	}
	for _, step := range steps {
		if step.in&e.report.scope == 0 {
			continue
		}
		if e.report.scope == rotationSteps && e.mayBeCutOff(ctx) {
			return
		}
		err := e.timed(step.name, func() (string, error) {
			message, err := step.do(ctx)
			if err != nil && step.merely && ctx.Err() != nil {
				//nolint:nilerr // the message tells of it
				return fmt.Sprintf("not found out: the steps took longer than three times request_timeout (%s)",
					withoutRemedy(err)), nil
			}
			return message, err
		})
		if err != nil {
			failed := e.report.Steps[len(e.report.Steps)-1]
			e.report.Failed = &failed
			errors.As(err, &e.report.failure)
			return
		}
	}
}

// mayBeCutOff reports whether a call made now might be given up before it is answered: what it
// opened would be lost.
func (e *checkRun) mayBeCutOff(ctx context.Context) bool {
	deadline, _ := ctx.Deadline() // which every examination has
	return time.Until(deadline) < e.server.config.RequestTimeout
}

// timed makes one step and writes it down; the error, a *Failure, is told with its remedy.
func (e *checkRun) timed(name string, do func() (string, error)) error {
	began := time.Now()
	message, err := do()
	if failure, ok := errors.AsType[*health.Failure](err); ok {
		message = failure.Explanation()
	}
	e.report.Steps = append(e.report.Steps, Step{
		Name: name, OK: err == nil, Duration: time.Since(began),
		Message: message,
	})
	return err
}

func (e *checkRun) links(ctx context.Context) (string, error) {
	links, err := e.client.Links(ctx)
	if err != nil {
		return "", e.failure(ncentral.CallLinks, err)
	}
	if links.Logout != "" && e.server.Traits(ctx).CanLogOut == nil { // else a logout was tried, which tells more
		e.report.Traits.CanLogOut = new(true)
	}
	var named []string
	for _, link := range [...][2]string{
		{"authenticate", links.Authenticate},
		{"refresh", links.Refresh},
		{"validate", links.Validate},
		{"logout", links.Logout},
		{"sso", links.SSO},
	} {
		if link[1] != "" {
			named = append(named, link[0]+" "+link[1])
		}
	}
	return strings.Join(named, ", "), nil
}

func (e *checkRun) authenticate(ctx context.Context) (string, error) {
	e.report.authenticateSent = time.Now()
	session, err := e.client.Authenticate(ctx, e.server.config.UserAPIToken, ncentral.Overrides{})
	if (err == nil || e.server.mayHaveOpened(ctx, err)) && e.server.mayEndEarlier(ctx) {
		e.suspectEarlier(ctx)
	}
	if err != nil {
		return "", e.failure(ncentral.CallAuthenticate, err)
	}
	e.report.authenticated = true
	grant, err := e.opened(ncentral.CallAuthenticate, session)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a token for %s, a refresh token for %s", grant.Access, grant.Refresh), nil
}

// opened notes a session that is to be ended, of use or not.
func (e *checkRun) opened(step ncentral.Call, session *ncentral.Session) (*Grant, error) {
	grant, err := e.server.judge(step, session, ncentral.Overrides{})
	if unusable, ok := errors.AsType[*UnusableGrantError](err); ok {
		e.open = append(e.open, unusable.Grant)
		return nil, err
	}
	e.open = append(e.open, *grant)
	return grant, nil
}

// suspectEarlier makes the tokens suspect that the check's sessions may have ended.
func (e *checkRun) suspectEarlier(ctx context.Context) {
	if e.hasTokens {
		e.server.suspectUser(ctx)
		return
	}
	e.server.suspectOthers(ctx)
}

func (e *checkRun) authenticateAgain(ctx context.Context) (string, error) {
	if _, err := e.authenticate(ctx); err != nil {
		return "", err
	}
	if e.open[0].AccessToken == e.open[1].AccessToken {
		e.open = e.open[1:]
		e.report.Warnings = append(e.report.Warnings,
			"this server answers one access token to several authenticate calls: the end of one lease of a "+
				"dedicated role would end the tokens of the others")
		return "the same access token as before", nil
	}
	switch found, err := e.askWhetherAlive(ctx, 0); found {
	case notAsked:
		return "", err
	case untold:
		return fmt.Sprintf("whether the session before it lives on cannot be told (%s)", withoutRemedy(err)), nil
	case alive:
		e.report.Traits.AuthenticateEndsEarlierSessions = new(false)
		return "the session before it lives on", nil
	}
	e.report.Traits.AuthenticateEndsEarlierSessions = new(true)
	e.suspectEarlier(ctx) // also where this server was known not to
	e.takenForEnded, e.open = e.open[:1:1], e.open[1:]
	return "a new session ends the earlier ones of this user", nil
}

func (e *checkRun) validate(ctx context.Context) (string, error) {
	err := e.client.Validate(ctx, e.newest().AccessToken)
	e.report.Traits.CanValidate = new(ncentral.KindOf(err) != ncentral.KindNotFound)
	if *e.report.Traits.CanValidate {
		if ncentral.KindOf(err) == ncentral.KindUnauthorized { // the newest token too: a 401 tells nothing here
			e.report.Traits.AuthenticateEndsEarlierSessions = nil
			e.open = append(e.takenForEnded, e.open...)
		}
		return "", e.failure(ncentral.CallValidate, err)
	}
	return "this server has no validate: the data call answers for it", nil
}

func (e *checkRun) newest() Grant { return e.open[len(e.open)-1] }

// user asks what N-central tells of the API user. Where it does not tell, for whatever reason, the
// data call decides, for which it leaves time.
func (e *checkRun) user(ctx context.Context) (string, error) {
	ctx, cancel := e.server.leavingTime(ctx)
	defer cancel()
	user, err := e.client.User(ctx, e.newest().AccessToken)
	e.report.userAsked = !isUnanswered(ncentral.KindOf(err))
	switch ncentral.KindOf(err) {
	case "":
	case ncentral.KindForbidden:
		return "not known, since the API user's role lacks the permission USERS_VIEW, which is no fault: the data " +
			"call shows whether the user works", nil
	case ncentral.KindNotFound:
		return "this server says nothing about the API user, like all servers before 2026: the data call shows " +
			"whether the user works", nil
	default:
		return fmt.Sprintf("not told (%s): the data call shows whether the user works",
			withoutRemedy(e.failure(ncentral.CallUser, err))), nil
	}
	e.report.User = &user
	troubles, bars := health.UserTroubles(&user)
	if bars {
		return "", health.NewUserFailure(e.server.config, &user)
	}
	e.report.Warnings = append(e.report.Warnings, troubles...)
	return user.Name, nil
}

func (e *checkRun) data(ctx context.Context) (string, error) {
	err := e.client.Data(ctx, e.newest().AccessToken)
	switch ncentral.KindOf(err) {
	case "":
		return "", nil
	case ncentral.KindForbidden:
		return "the user may not see service organisations, which is no fault if its work does not need them", nil
	}
	failure := health.NewFailure(e.server.config, ncentral.CallData, err)
	failure.User = e.report.User
	return "", failure
}

// refresh tries what rotations would like to do. A server that refuses it can be lived with: roles
// authenticate instead.
func (e *checkRun) refresh(ctx context.Context) (string, error) {
	predecessor := len(e.open) - 1
	if e.open[predecessor].RefreshToken == "" {
		e.report.Traits.RefreshRejected = true
		return "N-central gave no refresh token that can be used: tokens are replaced by authenticating", nil
	}
	session, err := e.client.Refresh(ctx, e.open[predecessor].RefreshToken, ncentral.Overrides{})
	if err != nil && !health.IsDown(ncentral.KindOf(err)) {
		e.report.Traits.RefreshRejected = true
		return fmt.Sprintf("not possible here (%s): tokens are replaced by authenticating",
			withoutRemedy(e.failure(ncentral.CallRefresh, err))), nil
	}
	if err != nil {
		return "", e.failure(ncentral.CallRefresh, err)
	}
	grant, err := e.opened(ncentral.CallRefresh, session)
	if err != nil {
		return "", err
	}
	switch found, err := e.askWhetherAlive(ctx, predecessor); found {
	case notAsked:
		return "", err
	case untold:
		return fmt.Sprintf("whether the access token before it lives on cannot be told (%s)", withoutRemedy(err)), nil
	case alive:
		e.report.Traits.RefreshEndsPredecessor = new(false)
		return "the access token before it lives on", nil
	}
	e.report.Traits.RefreshEndsPredecessor = new(true)
	e.open = append(e.open[:predecessor], *grant)
	return "a refresh ends the access token before it", nil
}

// askWhetherAlive asks whether an earlier session of the check is still there.
func (e *checkRun) askWhetherAlive(ctx context.Context, index int) (aliveness, error) {
	token := e.open[index].AccessToken
	return askWhetherAlive(
		func() error { return e.failure(ncentral.CallValidate, e.client.Validate(ctx, token)) },
		func() error { return e.failure(ncentral.CallData, e.client.Data(ctx, token)) },
	)
}

// serverInfo is for the reader's knowledge: a server that does not tell is none the worse for it.
func (e *checkRun) serverInfo(ctx context.Context) (string, error) {
	var told []string
	if info, err := e.client.ServerInfo(ctx, e.newest().AccessToken); err != nil {
		told = append(told, fmt.Sprintf("no version (%s)", withoutRemedy(e.failure(ncentral.CallServerInfo, err))))
	} else {
		e.report.Traits.ServerVersion, e.report.Traits.StartTime = info.NCentral, info.StartTime
		told = append(told, "N-central "+info.NCentral+", API "+info.Version)
	}
	if e.report.scope == rotationSteps {
		return "", nil // the start time is all that is needed
	}
	if answer, err := e.client.Health(ctx); err != nil {
		told = append(told, fmt.Sprintf("no time of day (%s)", withoutRemedy(e.failure(ncentral.CallHealth, err))))
	} else {
		e.report.Traits.ClockOffset = &answer.ClockOffset
	}
	return strings.Join(told, "; "), nil
}

// logOut ends the sessions that the check opened. What stays open is reported, and no reason to
// fail. A rotation does not wait for it.
func (e *checkRun) logOut(ctx context.Context) {
	if len(e.open) == 0 {
		return
	}
	if e.report.scope == rotationSteps {
		e.report.OpenSessions = e.open
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.server.FlightLimit())
	defer cancel()
	_ = e.timed("logout", func() (string, error) {
		var failure error
		for _, grant := range e.open {
			err := e.client.Logout(ctx, grant.AccessToken)
			switch ncentral.KindOf(err) {
			case "":
				e.report.Traits.CanLogOut = new(true)
			case ncentral.KindUnauthorized:
				// The session is gone already.
			case ncentral.KindNotFound:
				e.report.Traits.CanLogOut = new(false)
			default:
				failure = e.failure(ncentral.CallLogout, err)
				e.report.OpenSessions = append(e.report.OpenSessions, grant)
			}
		}
		if failure != nil {
			e.report.Warnings = append(e.report.Warnings, fmt.Sprintf(
				"sessions that were opened to try the credential could not be logged out: %d; this is tried once a "+
					"minute until they expire (%s)",
				len(e.report.OpenSessions), failure))
		}
		if can := e.report.Traits.CanLogOut; can != nil && !*can {
			return "this server has no logout: tokens live until they expire", failure
		}
		return "", failure
	})
}

// failure returns nil for no error, else a *Failure.
func (e *checkRun) failure(step ncentral.Call, err error) error {
	if err == nil {
		return nil
	}
	return health.NewFailure(e.server.config, step, err)
}

// withoutRemedy is what failed, for a step that passes all the same: there is nothing to be done
// about it.
func withoutRemedy(err error) string {
	var failure *health.Failure
	if errors.As(err, &failure) && failure.Cause != nil {
		err = failure.Cause
	}
	return strings.TrimRight(err.Error(), ".")
}
