// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Step is one step of an examination.
type Step struct {
	Name     string
	OK       bool
	Duration time.Duration
	Message  string
}

// Report is what an examination found.
type Report struct {
	Steps  []Step
	Failed *Step // the first step that failed; nil where all passed
	Learnt store.Learnt
	// Left are the sessions that were opened and could not be ended.
	Left []Grant

	purpose       purpose
	authenticated bool
	failure       *Failure // why the first failed step failed, where that is a call's
	// authenticateSent is when the last authenticate was sent.
	authenticateSent time.Time
}

type purpose int

const (
	toCheck  purpose = iota // is the credential alive, and what is this server like: every step
	toRotate                // only what must be known before a token is rotated
)

// Check makes every step of check: links; authenticate, twice; validate; the data call; refresh; server info; logout of
// every session that it opened. No step is retried, and the whole ends within the config's FlightLimit. It is made in
// spite of a cool-down, and lifts it where it passes. What it learnt of the server is stored.
func (s *Server) Check(ctx context.Context) *Report {
	report := s.examine(ctx, toCheck, s)
	s.Adopt(ctx, report)
	return report
}

// Verify is Check on a config that is not stored yet, the stored one of that name beside it, if any. It changes nothing of
// the stored one, save that tokens which the new sessions may have ended are suspect. Once the config is stored, its
// server is to Adopt the report.
func (r *Registry) Verify(ctx context.Context, candidate, stored *store.Config) (*Report, error) {
	record := newRecord(candidate.Name) // counted nowhere: the config may never come to be
	if stored != nil {
		record = r.Record(candidate.Name).apart()
	}
	server, err := r.newServer(candidate, record)
	if err != nil {
		return nil, err
	}
	defer server.client.CloseIdleConnections()
	var inForce *Server
	if stored != nil && stored.URL == candidate.URL {
		if inForce, err = r.Server(stored); err != nil {
			return nil, err
		}
	}
	return server.examine(ctx, toCheck, inForce), nil
}

// Adopt stores what an examination taught. One that passed lifts cool-down and back-off; one whose User-API token was
// refused begins a cool-down.
func (s *Server) Adopt(ctx context.Context, report *Report) {
	ctx = context.WithoutCancel(ctx)
	passed := report.Failed == nil && report.purpose == toCheck
	s.teach(ctx, func(l *store.Learnt) {
		mergeLearnt(l, report.Learnt)
		if passed {
			// The administrator may have raised the limits since: ask again.
			l.AccessOverrideRefused, l.RefreshOverrideRefused = 0, 0
		}
	})
	if report.Failed == nil || report.failure != nil {
		s.record.answered(s.life, report.failure, time.Now())
	}
	if failure := report.failure; failure != nil && !failure.Down() && failure.Kind != ncentral.KindCanceled {
		s.answered()
	}
	switch {
	case report.failure != nil && report.failure.Step == ncentral.CallData:
		if tellsOfUser(report.failure.Kind) {
			s.noteProbed(ctx, report.failure)
		}
	case report.failure != nil && !report.authenticated && (report.failure.Step == ncentral.CallAuthenticate || report.failure.Down()):
		s.noteObtained(ctx, report.authenticateSent, report.failure)
	case passed:
		s.mu.Lock()
		s.refused.lift()
		s.silent.lift()
		s.mu.Unlock()
		s.noteObtaining(ctx, nil)
		s.noteProbed(ctx, nil)
	}
}

// examine makes the steps that serve the purpose. inForce is the server whose tokens the examination's sessions may end, nil
// where there is none.
func (s *Server) examine(ctx context.Context, purpose purpose, inForce *Server) *Report {
	// A caller that hangs up would leave a session open that nobody knows of.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.FlightLimit())
	defer cancel()
	e := &examination{server: s, inForce: inForce, client: s.client.WithoutRetries()}
	e.report.purpose = purpose
	if inForce != nil {
		endOpening := inForce.beginOpening()
		defer endOpening()
	}
	e.run(ctx)
	return &e.report
}

// mergeLearnt takes over what was found and keeps the rest.
func mergeLearnt(into *store.Learnt, found store.Learnt) {
	if found.ServerVersion != "" {
		into.ServerVersion = found.ServerVersion
	}
	if found.ClockOffset != nil {
		into.ClockOffset = found.ClockOffset
	}
	if found.CanLogOut != nil {
		into.CanLogOut = found.CanLogOut
	}
	if found.RefreshEndsPredecessor != nil {
		into.RefreshEndsPredecessor, into.RefreshRefused = found.RefreshEndsPredecessor, false
	}
	if found.RefreshRefused {
		into.RefreshRefused = true
	}
	if found.AuthenticateEndsEarlierSessions != nil {
		into.AuthenticateEndsEarlierSessions = found.AuthenticateEndsEarlierSessions
	}
}

// examination is one run of the steps.
type examination struct {
	server  *Server
	inForce *Server
	client  *ncentral.Client
	report  Report
	open    []Grant // the sessions to end, the newest last
}

func (e *examination) run(ctx context.Context) {
	defer e.logOut(ctx)
	passed := e.report.purpose == toRotate || e.step("links", func() (string, error) { return e.links(ctx) })
	passed = passed && e.step("authenticate", func() (string, error) { return e.authenticate(ctx) })
	passed = passed && e.step("authenticate_again", func() (string, error) { return e.authenticateAgain(ctx) })
	passed = passed && e.step("validate", func() (string, error) { return e.validate(ctx) })
	if e.report.purpose == toCheck {
		passed = passed && e.step("data", func() (string, error) { return e.data(ctx) })
	}
	passed = passed && e.step("refresh", func() (string, error) { return e.refresh(ctx) })
	if e.report.purpose == toCheck && passed {
		e.step("server_info", func() (string, error) { return e.serverInfo(ctx) })
	}
}

// step makes one step and writes it down; the error is told with its remedy.
func (e *examination) step(name string, do func() (string, error)) bool {
	began := time.Now()
	message, err := do()
	step := Step{Name: name, OK: err == nil, Duration: time.Since(began), Message: message}
	var failure *Failure
	switch {
	case errors.As(err, &failure):
		step.Message = failure.Explanation()
	case err != nil:
		step.Message = err.Error()
	}
	e.report.Steps = append(e.report.Steps, step)
	if err != nil && e.report.Failed == nil {
		e.report.Failed, e.report.failure = &step, failure
	}
	return err == nil
}

func (e *examination) links(ctx context.Context) (string, error) {
	links, err := e.client.Links(ctx)
	if err != nil {
		return "", e.failure(ncentral.CallLinks, err)
	}
	return fmt.Sprintf("authenticate %s, refresh %s, validate %s", links.Authenticate, links.Refresh, links.Validate), nil
}

func (e *examination) authenticate(ctx context.Context) (string, error) {
	e.report.authenticateSent = time.Now()
	session, err := e.client.Authenticate(ctx, e.server.config.UserAPIToken, ncentral.Overrides{})
	if e.inForce != nil && (err == nil || e.inForce.mayHaveOpened(ctx, err)) && e.inForce.mayEndEarlier(ctx) {
		e.inForce.Suspect(context.WithoutCancel(ctx))
	}
	if err != nil {
		return "", e.failure(ncentral.CallAuthenticate, err)
	}
	e.report.authenticated = true
	grant, err := e.server.judge(ncentral.CallAuthenticate, session, ncentral.Overrides{})
	e.open = append(e.open, *grant)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a token for %s, a refresh token for %s", grant.Access, grant.Refresh), nil
}

func (e *examination) authenticateAgain(ctx context.Context) (string, error) {
	if _, err := e.authenticate(ctx); err != nil {
		return "", err
	}
	lives, err := e.lives(ctx, 0)
	if err != nil {
		return "", err
	}
	e.report.Learnt.AuthenticateEndsEarlierSessions = new(!lives)
	if lives {
		return "the session before it lives on", nil
	}
	e.open = e.open[1:]
	return "a new session ends the earlier ones of this user", nil
}

func (e *examination) validate(ctx context.Context) (string, error) {
	newest := e.open[len(e.open)-1]
	if err := e.client.Validate(ctx, newest.AccessToken); err != nil {
		return "", e.failure(ncentral.CallValidate, err)
	}
	return "", nil
}

func (e *examination) data(ctx context.Context) (string, error) {
	err := e.client.Data(ctx, e.open[len(e.open)-1].AccessToken)
	switch ncentral.KindOf(err) {
	case "":
		return "", nil
	case ncentral.KindForbidden:
		return "the user may not see service organisations, which is well if its work does not need them", nil
	}
	return "", e.failure(ncentral.CallData, err)
}

// refresh tries what rotations would like to do. A server that refuses it can be lived with: roles authenticate instead.
func (e *examination) refresh(ctx context.Context) (string, error) {
	predecessor := len(e.open) - 1
	if e.open[predecessor].RefreshToken == "" {
		e.report.Learnt.RefreshRefused = true
		return "N-central gave no refresh token of use: tokens are replaced by authenticating", nil
	}
	session, err := e.client.Refresh(ctx, e.open[predecessor].RefreshToken, ncentral.Overrides{})
	if err != nil && !callsForPatience(ncentral.KindOf(err)) {
		e.report.Learnt.RefreshRefused = true
		return fmt.Sprintf("not possible here (%s): tokens are replaced by authenticating", err), nil
	}
	if err != nil {
		return "", e.failure(ncentral.CallRefresh, err)
	}
	grant, err := e.server.judge(ncentral.CallRefresh, session, ncentral.Overrides{})
	e.open = append(e.open, *grant)
	if err != nil {
		return "", err
	}
	lives, err := e.lives(ctx, predecessor)
	if err != nil {
		return "", err
	}
	e.report.Learnt.RefreshEndsPredecessor = new(!lives)
	if lives {
		return "the access token before it lives on", nil
	}
	e.open = append(e.open[:predecessor], *grant)
	return "a refresh ends the access token before it", nil
}

// lives asks whether an earlier session of the examination is still there.
func (e *examination) lives(ctx context.Context, index int) (bool, error) {
	err := e.client.Validate(ctx, e.open[index].AccessToken)
	if err != nil && ncentral.KindOf(err) != ncentral.KindRefused {
		return false, e.failure(ncentral.CallValidate, err)
	}
	return err == nil, nil
}

// serverInfo is for the reader's knowledge: a server that does not tell is none the worse for it.
func (e *examination) serverInfo(ctx context.Context) (string, error) {
	var told []string
	if info, err := e.client.ServerInfo(ctx, e.open[len(e.open)-1].AccessToken); err != nil {
		told = append(told, fmt.Sprintf("no version (%s)", err))
	} else {
		e.report.Learnt.ServerVersion = info.NCentral
		told = append(told, "N-central "+info.NCentral+", API "+info.Version)
	}
	if health, err := e.client.Health(ctx); err != nil {
		told = append(told, fmt.Sprintf("no time of day (%s)", err))
	} else {
		e.report.Learnt.ClockOffset = &health.ClockOffset
	}
	return strings.Join(told, "; "), nil
}

// logOut ends the sessions that the examination opened; what stays open is reported.
func (e *examination) logOut(ctx context.Context) {
	if len(e.open) == 0 {
		return
	}
	e.step("logout", func() (string, error) {
		var failure error
		for _, grant := range e.open {
			err := e.client.Logout(ctx, grant.AccessToken)
			switch ncentral.KindOf(err) {
			case "":
				e.report.Learnt.CanLogOut = new(true)
			case ncentral.KindRefused:
				// The session is gone already.
			case ncentral.KindNotFound:
				e.report.Learnt.CanLogOut = new(false)
			default:
				failure = e.failure(ncentral.CallLogout, err)
				e.report.Left = append(e.report.Left, grant)
			}
		}
		if can := e.report.Learnt.CanLogOut; can != nil && !*can {
			return "this server has no logout: tokens live until they expire", failure
		}
		return "", failure
	})
}

func (e *examination) failure(step ncentral.Call, err error) error {
	return e.server.failure(step, err, time.Time{})
}
