// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Server is one N-central server, as one version of a config describes it.
type Server struct {
	config     *store.Config
	client     *ncentral.Client
	credential *credential
	registry   *Registry
	learnt     *learntTraits
	record     *health.Record
	watch      *Watch
	generation int // of the record
	events     *events.Sender
	logger     hclog.Logger

	learning singleflight.Group

	mu      sync.Mutex // guards what follows
	outage  pause      // after a call got no answer: no call is made
	backOff pause      // after a token could not be obtained, unless it was refused: none is asked for
	// learntNothingAt is when ProbeRotation last found nothing out.
	learntNothingAt time.Time
}

// newServer returns the server of that version of a config. The registry is locked.
func (r *Registry) newServer(config *store.Config, state *configState) (*Server, error) {
	transport, err := ncentral.NewTransport(ncentral.TransportOptions{
		CACert:        config.Authorities(),
		TLSServerName: config.TLSServerName,
		TLSSkipVerify: config.TLSSkipVerify,
		DialContext:   r.dial,
	})
	if err != nil {
		return nil, fmt.Errorf("config %q: %w", config.Name, err)
	}
	limited := newAttempts(transport, config.MaxRequestsInFlight, config.RequestTimeout, state.record.InFlight())
	return &Server{
		config: config,
		client: ncentral.New(ncentral.Options{
			BaseURL: config.URL, Transport: limited, UserAgent: r.userAgent,
			MaxRetries: config.MaxRetries, Trace: state.record.Trace(),
		}),
		credential: r.credentialOf(config),
		registry:   r,
		learnt:     r.learntTraitsOf(config, state),
		record:     state.record,
		watch:      state.watch,
		generation: state.record.Generation(),
		events:     r.events,
		logger:     r.logger.With("config", config.Name),
		outage:     newBackOff(),
		backOff:    newBackOff(),
	}, nil
}

// Verdict is what N-central said about an access token.
type Verdict struct {
	Valid bool
	// Unexplained is set if the token is dead and the engine knows no reason: it was not suspect,
	// and no authenticate of the engine that may have ended it was under way. The server must have
	// changed.
	Unexplained bool
	// Inconclusive is set beside an error if N-central answered, and the answer does not show
	// whether the token lives.
	Inconclusive bool
	// UserFailure is why the token's user does not work, or seems not to: the data call failed, and
	// the token is not known to be dead. It is nil if the user works, or was not asked about.
	UserFailure *health.Failure
}

// Validate asks N-central whether the token lives: by validate, and by the data call if the answer
// to validate is inconclusive. The error is a *health.Failure, if N-central could not be asked or
// its answers are inconclusive.
func (s *Server) Validate(ctx context.Context, token *store.Token) (Verdict, error) {
	return s.verdictOn(ctx, token, askWhetherAlive)
}

// ValidateByData is Validate by the data call first, which also shows whether the token's user
// works.
func (s *Server) ValidateByData(ctx context.Context, token *store.Token) (Verdict, error) {
	var userErr error
	asked := time.Now() // the user may have died while the answer was on its way
	verdict, err := s.verdictOn(ctx, token, func(validate, data func() error) (found aliveness, err error) {
		found, userErr, err = askByData(validate, data)
		return found, err
	})
	switch {
	case userErr != nil:
		errors.As(userErr, &verdict.UserFailure)
		verdict.UserFailure.User = s.askOfUser(ctx, token.AccessToken)
		s.NoteProbed(ctx, verdict.UserFailure)
	case verdict.Valid:
		s.announce(ctx, s.record.NoteUserWorks(s.generation, asked), nil)
	}
	return verdict, err
}

// verdictOn asks by isAlive whether the token lives, and notes what that shows about the server.
func (s *Server) verdictOn(
	ctx context.Context, token *store.Token, isAlive func(validate, data func() error) (aliveness, error),
) (Verdict, error) {
	traits := s.Traits(ctx)
	// A token from the future is suspect without a reason to be dead.
	explained := traits.Suspects(token) && !token.IsFromTheFuture()
	before := s.credential.authCallsSoFar()
	ask := func(step ncentral.Call, do func(context.Context, string) error) func() error {
		return func() error {
			return s.ask(ctx, step, func(ctx context.Context) error { return do(ctx, token.AccessToken) })
		}
	}
	validate := ask(ncentral.CallValidate, s.client.Validate)
	if traits.CanValidate != nil && !*traits.CanValidate {
		validate = func() error { return errNoValidate }
	}
	found, err := isAlive(validate, ask(ncentral.CallData, s.client.Data))
	switch found {
	case unanswered:
		return Verdict{}, err
	case inconclusive:
		failure := health.NewFailure(s.config, ncentral.CallValidate, err)
		s.record.NoteValidation(s.generation, failure)
		return Verdict{Inconclusive: true}, failure
	}
	s.record.NoteValidation(s.generation, nil)
	if found == alive {
		s.watch.tokenAccepted(token.GrantedUntil)
		return Verdict{Valid: true}, nil
	}
	overlapped := before.underWay > 0 || before.begun != s.credential.authCallsSoFar().begun
	return Verdict{Unexplained: !explained && !(overlapped && s.mayEndEarlier(ctx))}, nil
}

// errNoValidate stands for the answer of a server that is known to have no validate.
var errNoValidate = &ncentral.Error{
	Call: ncentral.CallValidate, Kind: ncentral.KindNotFound,
	Detail: "this server has no validate, and a data call does not show whether the token lives",
}

// Probe makes the data call, for which the user must work, and asks what N-central says about the
// user. The failure is nil if the user works and nothing about the user needs a person. A 403 to
// the data call is no failure: perhaps the user is just not allowed to see service organisations.
// answered reports whether N-central answered.
func (s *Server) Probe(ctx context.Context, accessToken string) (failure *health.Failure, answered bool) {
	err := s.ask(ctx, ncentral.CallData, func(ctx context.Context) error { return s.client.Data(ctx, accessToken) })
	errors.As(err, &failure)
	if failure != nil && (isUnanswered(failure.Kind) || failure.Kind == ncentral.KindUnauthorized) {
		return failure, !isUnanswered(failure.Kind) // with a dead token, nothing can be asked about the user
	}
	user := s.askOfUser(ctx, accessToken)
	if failure == nil || failure.Kind == ncentral.KindForbidden {
		return health.NewUserFailure(s.config, s.record.LastUser(s.generation)), true
	}
	failure.User = user
	return failure, true
}

// askOfUser asks what N-central says about the token's user, without a retry, and notes it. It
// returns nil if the server does not say, or the user may not know. Whether the user works, the
// data call shows in any case.
func (s *Server) askOfUser(ctx context.Context, accessToken string) *ncentral.User {
	var user ncentral.User
	err := s.ask(ctx, ncentral.CallUser, func(ctx context.Context) (err error) {
		user, err = s.client.WithoutRetries().User(ctx, accessToken)
		return err
	})
	var told *ncentral.User
	if err == nil {
		told = &user
	}
	if !isUnanswered(ncentral.KindOf(err)) {
		s.record.NoteUser(s.generation, told)
	}
	return told
}

// NoteProbed records how a data call went, or what N-central said about the user. A nil failure is
// a success.
func (s *Server) NoteProbed(ctx context.Context, failure *health.Failure) {
	switch {
	case failure == nil:
	case failure.IsOfUser():
		s.logger.Warn("the API user needs a person", "reason", failure)
	default:
		s.logger.Warn("a data call failed though the token is valid", "error", failure)
	}
	s.announce(ctx, s.record.NoteProbe(s.generation, failure), failure)
}

// reportObtaining records how an attempt to obtain a token went. A nil failure is a success.
func (s *Server) reportObtaining(ctx context.Context, failure *health.Failure) {
	transition := s.record.NoteObtaining(s.generation, failure)
	if transition.Worsened() && !failure.CredentialRejected() { // noteRefused writes a line for each refusal
		s.logger.Warn("new tokens cannot be had", "reason", failure.Explanation())
	}
	s.announce(ctx, transition, failure)
}

// announce sends an event if the credential fares worse than before, or is well again.
func (s *Server) announce(ctx context.Context, transition health.Transition, failure *health.Failure) {
	switch {
	case transition.Worsened():
		s.events.Send(ctx, events.CredentialDegraded, events.CredentialMetadata(s.config.Name, events.Reason,
			failure.Explanation()))
	case transition.Recovered():
		s.logger.Info("new tokens can be had again, and data calls succeed")
		s.events.Send(ctx, events.CredentialRecovered, events.CredentialMetadata(s.config.Name))
	}
}

// LogoutResult is how a logout went.
type LogoutResult int

// The ways a logout can go.
const (
	LogoutDone        LogoutResult = iota // the session has ended
	LogoutUnsupported                     // this server has no logout: the session lives until its token expires
	LogoutFailed                          // the logout failed and is worth another try
)

// Logout ends the session of the access token. The error says why, unless the result is LogoutDone.
func (s *Server) Logout(ctx context.Context, accessToken string) (LogoutResult, error) {
	err := s.ask(forOneReader(ctx), ncentral.CallLogout,
		func(ctx context.Context) error { return s.client.Logout(ctx, accessToken) })
	switch ncentral.KindOf(err) {
	case "":
		s.learnOnce(ctx, canLogOut(true), func(t *store.ServerTraits) bool {
			return t.CanLogOut != nil && *t.CanLogOut
		})
		return LogoutDone, nil
	case ncentral.KindUnauthorized:
		return LogoutDone, nil
	case ncentral.KindNotFound:
		s.learnOnce(ctx, canLogOut(false), func(t *store.ServerTraits) bool {
			return t.CanLogOut != nil && !*t.CanLogOut
		})
		return LogoutUnsupported, err
	}
	return LogoutFailed, err
}

// FlightLimit returns how long all that is done for one request may take.
func (s *Server) FlightLimit() time.Duration { return s.config.FlightLimit() }

// NextAttempt returns when this server may next be asked for a new token, or zero if it may be
// asked now.
func (s *Server) NextAttempt(now time.Time) time.Time {
	var next time.Time
	if cause, until := s.credential.pausedAt(now, time.Time{}); cause != nil {
		next = until
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range []*pause{&s.outage, &s.backOff} {
		if p.active(now, time.Time{}) != nil && p.until.After(next) {
			next = p.until
		}
	}
	return next
}

// outageStands is how long an unanswered call counts as an outage in status. As long as there is
// anything to ask, the tick asks the server once a minute.
const outageStands = 5 * time.Minute

// lastOutage returns why the last call got no answer. It is nil if the call got one, or if nothing
// was asked for a while.
func (s *Server) lastOutage(now time.Time) *health.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.outage.begun) > outageStands {
		return nil
	}
	return s.outage.cause
}

// gate is asked before each attempt. It returns why the attempt must not be made at that time, or
// nil if it may.
type gate func(now time.Time) *health.Failure

// noOutage is the gate of calls that obtain no token.
func (s *Server) noOutage(now time.Time) *health.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outage.active(now, time.Time{})
}

// mayRefresh returns the gate of a refresh. tokenEnd is until when the caller's token can be handed
// out.
func (s *Server) mayRefresh(tokenEnd time.Time) gate {
	return func(now time.Time) *health.Failure {
		s.mu.Lock()
		defer s.mu.Unlock()
		return cmp.Or(s.outage.active(now, tokenEnd), s.backOff.active(now, tokenEnd))
	}
}

// mayAuthenticate returns the gate of an authenticate: that of a refresh, and the cool-down of the
// User-API token.
func (s *Server) mayAuthenticate(tokenEnd time.Time) gate {
	return func(now time.Time) *health.Failure {
		refusal, _ := s.credential.pausedAt(now, tokenEnd)
		return cmp.Or(refusal, s.mayRefresh(tokenEnd)(now))
	}
}

// ask makes one call that obtains no token, in a turn of its own. An error is a *health.Failure.
func (s *Server) ask(ctx context.Context, step ncentral.Call, do func(context.Context) error) error {
	ctx, endTurn := withTurn(ctx, s.noOutage)
	defer endTurn()
	return s.call(ctx, step, do)
}

// call makes one call of the context's turn, unless its gate is shut, and notes whether N-central
// answered. Each attempt asks the gate again when it has its place. An error is a *health.Failure.
func (s *Server) call(ctx context.Context, step ncentral.Call, do func(context.Context) error) error {
	sent := time.Now()
	err := turnOf(ctx).checkGate()
	if err == nil {
		err = do(ctx)
	}
	if err == nil {
		s.endOutage()
		s.record.NoteOutcome(s.generation, nil, time.Now())
		return nil
	}
	if earlier, ok := errors.AsType[*health.Failure](err); ok {
		return earlier.NotMadeFor(s.config.Name, step)
	}
	failure := health.NewFailure(s.config, step, err)
	if ctx.Err() != nil && failure.Kind == ncentral.KindTimeout && turnOf(ctx).wasCutShort(s.config.RequestTimeout) {
		failure.Kind = ncentral.KindQueued // waiting for a place took the time that the call needed
	}
	if !isExpected(step, failure.Kind) {
		s.record.NoteOutcome(s.generation, failure, time.Now())
	}
	switch {
	case failure.Kind == ncentral.KindCanceled, failure.Kind == ncentral.KindQueued:
		// Neither says anything about the server.
	case step == ncentral.CallUser:
		// Nor does this call: tokens do not depend on it, and the data call before it was answered.
	case failure.Down():
		s.mu.Lock()
		s.outage.begin(sent, time.Now(), failure)
		s.mu.Unlock()
	default:
		s.endOutage()
	}
	return failure
}

// isExpected reports whether a call that failed with that kind is no sign of trouble: the caller
// gave up, the token or session has ended, the server has no logout, the user may not see service
// organisations, or N-central does not say anything about the user.
func isExpected(step ncentral.Call, kind ncentral.Kind) bool {
	switch kind {
	case ncentral.KindCanceled:
		return true
	case ncentral.KindUnauthorized:
		return step != ncentral.CallAuthenticate
	case ncentral.KindNotFound:
		return step == ncentral.CallLogout || step == ncentral.CallUser
	case ncentral.KindForbidden:
		return step == ncentral.CallData || step == ncentral.CallUser
	}
	return step == ncentral.CallUser && !health.IsDown(kind)
}

func (s *Server) endOutage() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage.lift()
}
