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

// Step is one step of a check, and how it went.
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
	// User is what N-central said about the API user; nil if it was not asked, or said nothing.
	User *ncentral.User
	// Warnings are about what lets the check pass and is still worth knowing.
	Warnings []string
	// OpenSessions are the sessions that were opened and not ended. The caller must end them.
	OpenSessions []Grant

	scope         scope
	authenticated bool
	userAsked     bool
	failure       *health.Failure // of the step that failed, if a call failed or the user does not work
	// authenticateSent is when the last authenticate was sent.
	authenticateSent time.Time
}

// scope is the set of steps that a check makes.
type scope int

const (
	allSteps      scope = 1 << iota // every step: does the credential work, and how does the server behave?
	rotationSteps                   // only what ProbeRotation needs
	userSteps                       // only whether the API user works
)

// Check makes every step of check: links; authenticate, twice; validate; user; the data call;
// refresh; server info; logout of every session that it opened. No step is retried. The steps take
// at most the config's FlightLimit, and the logouts as long again. A cool-down does not stop it,
// and ends if the check passes. What it learnt of the server is stored.
func (s *Server) Check(ctx context.Context) *Report {
	// The check goes on if its caller hangs up: otherwise a session could be left open that nobody
	// knows of.
	report := s.runCheck(context.WithoutCancel(ctx), allSteps, true)
	s.Apply(ctx, report)
	return report
}

// TryUser makes the steps of check that show whether the API user works: authenticate, user, data
// and logout. A cool-down does not stop it, and ends if the steps pass.
func (s *Server) TryUser(ctx context.Context) *Report {
	report := s.runCheck(context.WithoutCancel(ctx), userSteps, true)
	s.Apply(ctx, report)
	return report
}

// Failure returns why the first failed step failed. It is nil if all steps passed, or if neither a
// call failed nor the user does not work.
func (r *Report) Failure() *health.Failure { return r.failure }

// Verify is Check on a candidate: a config that is not stored yet. stored is the stored config of
// that name, or nil. Nothing about the stored config changes, except that tokens which the new
// sessions may have ended become suspect. Once the candidate is stored, the caller must Apply the
// report to its server.
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

// serverToVerify returns a server for the candidate, which the registry does not keep. It also
// returns the credential of the stored config, whose sessions the verification may end; that is nil
// if there is no stored config with the same URL.
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

// Apply stores what a check learnt, and notes its result. A check that passed ends cool-down and
// back-off. If N-central refused the User-API token, Apply begins a cool-down, unless there is one
// already.
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

// noteFailed notes the failure of a check, if it says something about the config or its server.
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

// notePassed ends cool-down, outage and back-off, and notes that tokens can be obtained.
func (s *Server) notePassed(ctx context.Context) {
	s.credential.noteAccepted()
	s.mu.Lock()
	s.outage.lift()
	s.backOff.lift()
	s.mu.Unlock()
	s.reportObtaining(ctx, nil)
	s.NoteProbed(ctx, health.NewUserFailure(s.config, s.record.LastUser(s.generation)))
}

// learnFrom stores what a check found out about the server.
func (s *Server) learnFrom(ctx context.Context, report *Report, passed bool) {
	var rebooted bool
	s.learnt.change(ctx, func(t *store.ServerTraits) {
		rebooted = t.StartTime != "" && report.Traits.StartTime != "" && t.StartTime != report.Traits.StartTime
		if rebooted {
			forget(t)
		}
		mergeTraits(t, report.Traits)
		if passed {
			// The administrator may have raised the limits since, so everything is asked for again.
			t.AccessOverrideCeiling, t.RefreshOverrideCeiling = 0, 0
		}
	})
	if rebooted {
		s.logger.Warn("N-central was restarted: tokens from before are validated before they are handed out again")
	}
}

// runCheck makes the steps of the scope. hasTokens is set if readers may hold tokens of the config,
// which the sessions of the check may end.
func (s *Server) runCheck(ctx context.Context, scope scope, hasTokens bool) *Report {
	c := &checkRun{server: s, hasTokens: hasTokens, client: s.client.WithoutRetries()}
	c.report.scope = scope
	end := s.credential.beginAuthenticate()
	defer end()
	c.run(ctx)
	return &c.report
}

// mergeTraits copies what was found, and leaves the rest as it was.
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

// checkRun is one run of the steps of a check.
type checkRun struct {
	server        *Server
	hasTokens     bool
	client        *ncentral.Client
	report        Report
	open          []Grant // the sessions to end, the newest last
	takenForEnded []Grant // those that seemed to be ended by the next session
}

func (c *checkRun) run(ctx context.Context) {
	defer c.logOut(ctx)
	ctx, cancel := context.WithTimeout(ctx, c.server.FlightLimit())
	defer cancel()
	steps := []struct {
		name   string
		do     func(context.Context) (string, error)
		in     scope // the scopes that it is a part of
		merely bool  // only finds out how the server behaves: it passes if there was no time for it
	}{
		{name: "links", do: c.links, in: allSteps},
		{name: "authenticate", do: c.authenticate, in: allSteps | rotationSteps | userSteps},
		{name: "authenticate_again", do: c.authenticateAgain, in: allSteps | rotationSteps, merely: true},
		{name: "validate", do: c.validate, in: allSteps | rotationSteps},
		{name: "user", do: c.user, in: allSteps | userSteps},
		{name: "data", do: c.data, in: allSteps | userSteps},
		{name: "refresh", do: c.refresh, in: allSteps | rotationSteps, merely: true},
		{name: "server_info", do: c.serverInfo, in: allSteps | rotationSteps},
	}
	for _, step := range steps {
		if step.in&c.report.scope == 0 {
			continue
		}
		if c.report.scope == rotationSteps && c.mayBeCutOff(ctx) {
			return
		}
		err := c.timed(step.name, func() (string, error) {
			message, err := step.do(ctx)
			if err != nil && step.merely && ctx.Err() != nil {
				//nolint:nilerr // the message says it
				return fmt.Sprintf("not found out: the steps took longer than three times request_timeout (%s)",
					withoutRemedy(err)), nil
			}
			return message, err
		})
		if err != nil {
			failed := c.report.Steps[len(c.report.Steps)-1]
			c.report.Failed = &failed
			errors.As(err, &c.report.failure)
			return
		}
	}
}

// mayBeCutOff reports whether a call that began now might be broken off before its answer. A
// session that it opened would be lost.
func (c *checkRun) mayBeCutOff(ctx context.Context) bool {
	deadline, _ := ctx.Deadline() // run has set one
	return time.Until(deadline) < c.server.config.RequestTimeout
}

// timed makes one step and adds it to the report. An error is a *health.Failure, and the report has
// its remedy.
func (c *checkRun) timed(name string, do func() (string, error)) error {
	began := time.Now()
	message, err := do()
	if failure, ok := errors.AsType[*health.Failure](err); ok {
		message = failure.Explanation()
	}
	c.report.Steps = append(c.report.Steps, Step{
		Name: name, OK: err == nil, Duration: time.Since(began),
		Message: message,
	})
	return err
}

func (c *checkRun) links(ctx context.Context) (string, error) {
	links, err := c.client.Links(ctx)
	if err != nil {
		return "", c.failure(ncentral.CallLinks, err)
	}
	if links.Logout != "" && c.server.Traits(ctx).CanLogOut == nil { // else a logout was tried, which shows more
		c.report.Traits.CanLogOut = new(true)
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

func (c *checkRun) authenticate(ctx context.Context) (string, error) {
	c.report.authenticateSent = time.Now()
	session, err := c.client.Authenticate(ctx, c.server.config.UserAPIToken, ncentral.Overrides{})
	if (err == nil || c.server.mayHaveOpened(ctx, err)) && c.server.mayEndEarlier(ctx) {
		c.suspectEarlier(ctx)
	}
	if err != nil {
		return "", c.failure(ncentral.CallAuthenticate, err)
	}
	c.report.authenticated = true
	grant, err := c.opened(ncentral.CallAuthenticate, session)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a token for %s, a refresh token for %s", grant.Access, grant.Refresh), nil
}

// opened notes a session that must be ended, even if it cannot be used.
func (c *checkRun) opened(step ncentral.Call, session *ncentral.Session) (*Grant, error) {
	grant, err := c.server.judge(step, session, ncentral.Overrides{})
	if unusable, ok := errors.AsType[*UnusableGrantError](err); ok {
		c.open = append(c.open, unusable.Grant)
		return nil, err
	}
	c.open = append(c.open, *grant)
	return grant, nil
}

// suspectEarlier makes those tokens suspect that the sessions of the check may have ended.
func (c *checkRun) suspectEarlier(ctx context.Context) {
	if c.hasTokens {
		c.server.suspectUser(ctx)
		return
	}
	c.server.suspectOthers(ctx)
}

func (c *checkRun) authenticateAgain(ctx context.Context) (string, error) {
	if _, err := c.authenticate(ctx); err != nil {
		return "", err
	}
	if c.open[0].AccessToken == c.open[1].AccessToken {
		c.open = c.open[1:]
		c.report.Warnings = append(c.report.Warnings,
			"this server answers one access token to several authenticate calls: the end of one lease of a "+
				"dedicated role would end the tokens of the others")
		return "the same access token as before", nil
	}
	switch found, err := c.askWhetherAlive(ctx, 0); found {
	case unanswered:
		return "", err
	case inconclusive:
		return fmt.Sprintf("whether the session before it lives on cannot be told (%s)", withoutRemedy(err)), nil
	case alive:
		c.report.Traits.AuthenticateEndsEarlierSessions = new(false)
		return "the session before it lives on", nil
	}
	c.report.Traits.AuthenticateEndsEarlierSessions = new(true)
	c.suspectEarlier(ctx) // even if this server was known not to end earlier ones
	c.takenForEnded, c.open = c.open[:1:1], c.open[1:]
	return "a new session ends the earlier ones of this user", nil
}

func (c *checkRun) validate(ctx context.Context) (string, error) {
	err := c.client.Validate(ctx, c.newest().AccessToken)
	c.report.Traits.CanValidate = new(ncentral.KindOf(err) != ncentral.KindNotFound)
	if *c.report.Traits.CanValidate {
		if ncentral.KindOf(err) == ncentral.KindUnauthorized { // even of the newest: a 401 shows nothing here
			c.report.Traits.AuthenticateEndsEarlierSessions = nil
			c.open = append(c.takenForEnded, c.open...)
		}
		return "", c.failure(ncentral.CallValidate, err)
	}
	return "this server has no validate: the data call answers for it", nil
}

// newest returns the session that was opened last.
func (c *checkRun) newest() Grant { return c.open[len(c.open)-1] }

// user asks what N-central says about the API user. If it does not say, the data call decides, so
// time is left for that.
func (c *checkRun) user(ctx context.Context) (string, error) {
	ctx, cancel := c.server.leavingTime(ctx)
	defer cancel()
	user, err := c.client.User(ctx, c.newest().AccessToken)
	c.report.userAsked = !isUnanswered(ncentral.KindOf(err))
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
			withoutRemedy(c.failure(ncentral.CallUser, err))), nil
	}
	c.report.User = &user
	troubles, bars := health.UserTroubles(&user)
	if bars {
		return "", health.NewUserFailure(c.server.config, &user)
	}
	c.report.Warnings = append(c.report.Warnings, troubles...)
	return user.Name, nil
}

func (c *checkRun) data(ctx context.Context) (string, error) {
	err := c.client.Data(ctx, c.newest().AccessToken)
	switch ncentral.KindOf(err) {
	case "":
		return "", nil
	case ncentral.KindForbidden:
		return "the user may not see service organisations, which is no fault if its work does not need them", nil
	}
	failure := health.NewFailure(c.server.config, ncentral.CallData, err)
	failure.User = c.report.User
	return "", failure
}

// refresh tries what rotations would like to do. If the server refuses it, the check still passes:
// roles authenticate instead.
func (c *checkRun) refresh(ctx context.Context) (string, error) {
	predecessor := len(c.open) - 1
	if c.open[predecessor].RefreshToken == "" {
		c.report.Traits.RefreshRejected = true
		return "N-central gave no refresh token that can be used: tokens are replaced by authenticating", nil
	}
	session, err := c.client.Refresh(ctx, c.open[predecessor].RefreshToken, ncentral.Overrides{})
	if err != nil && !health.IsDown(ncentral.KindOf(err)) {
		c.report.Traits.RefreshRejected = true
		return fmt.Sprintf("not possible here (%s): tokens are replaced by authenticating",
			withoutRemedy(c.failure(ncentral.CallRefresh, err))), nil
	}
	if err != nil {
		return "", c.failure(ncentral.CallRefresh, err)
	}
	grant, err := c.opened(ncentral.CallRefresh, session)
	if err != nil {
		return "", err
	}
	switch found, err := c.askWhetherAlive(ctx, predecessor); found {
	case unanswered:
		return "", err
	case inconclusive:
		return fmt.Sprintf("whether the access token before it lives on cannot be told (%s)", withoutRemedy(err)), nil
	case alive:
		c.report.Traits.RefreshEndsPredecessor = new(false)
		return "the access token before it lives on", nil
	}
	c.report.Traits.RefreshEndsPredecessor = new(true)
	c.open = append(c.open[:predecessor], *grant)
	return "a refresh ends the access token before it", nil
}

// askWhetherAlive asks whether a session that the check opened is still alive.
func (c *checkRun) askWhetherAlive(ctx context.Context, index int) (aliveness, error) {
	token := c.open[index].AccessToken
	return askWhetherAlive(
		func() error { return c.failure(ncentral.CallValidate, c.client.Validate(ctx, token)) },
		func() error { return c.failure(ncentral.CallData, c.client.Data(ctx, token)) },
	)
}

// serverInfo asks for the version, the start time and the time of day. The step passes even if the
// server does not say.
func (c *checkRun) serverInfo(ctx context.Context) (string, error) {
	var told []string
	if info, err := c.client.ServerInfo(ctx, c.newest().AccessToken); err != nil {
		told = append(told, fmt.Sprintf("no version (%s)", withoutRemedy(c.failure(ncentral.CallServerInfo, err))))
	} else {
		c.report.Traits.ServerVersion, c.report.Traits.StartTime = info.NCentral, info.StartTime
		told = append(told, "N-central "+info.NCentral+", API "+info.Version)
	}
	if c.report.scope == rotationSteps {
		return "", nil // the start time is all that is needed
	}
	if answer, err := c.client.Health(ctx); err != nil {
		told = append(told, fmt.Sprintf("no time of day (%s)", withoutRemedy(c.failure(ncentral.CallHealth, err))))
	} else {
		c.report.Traits.ClockOffset = &answer.ClockOffset
	}
	return strings.Join(told, "; "), nil
}

// logOut ends the sessions that the check opened. It never makes the check fail: what stays open is
// in the report. A rotation does not wait for the logouts, so it gets all sessions to end.
func (c *checkRun) logOut(ctx context.Context) {
	if len(c.open) == 0 {
		return
	}
	if c.report.scope == rotationSteps {
		c.report.OpenSessions = c.open
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.server.FlightLimit())
	defer cancel()
	_ = c.timed("logout", func() (string, error) {
		var failure error
		for _, grant := range c.open {
			err := c.client.Logout(ctx, grant.AccessToken)
			switch ncentral.KindOf(err) {
			case "":
				c.report.Traits.CanLogOut = new(true)
			case ncentral.KindUnauthorized:
				// The session has ended already.
			case ncentral.KindNotFound:
				c.report.Traits.CanLogOut = new(false)
			default:
				failure = c.failure(ncentral.CallLogout, err)
				c.report.OpenSessions = append(c.report.OpenSessions, grant)
			}
		}
		if failure != nil {
			c.report.Warnings = append(c.report.Warnings, fmt.Sprintf(
				"sessions that were opened to try the credential could not be logged out: %d; this is tried once a "+
					"minute until they expire (%s)",
				len(c.report.OpenSessions), failure))
		}
		if can := c.report.Traits.CanLogOut; can != nil && !*can {
			return "this server has no logout: tokens live until they expire", failure
		}
		return "", failure
	})
}

// failure returns nil if there is no error, else a *health.Failure.
func (c *checkRun) failure(step ncentral.Call, err error) error {
	if err == nil {
		return nil
	}
	return health.NewFailure(c.server.config, step, err)
}

// withoutRemedy returns what failed, without the remedy, for a step that passes all the same:
// nothing needs to be done.
func withoutRemedy(err error) string {
	var failure *health.Failure
	if errors.As(err, &failure) && failure.Cause != nil {
		err = failure.Cause
	}
	return strings.TrimRight(err.Error(), ".")
}
