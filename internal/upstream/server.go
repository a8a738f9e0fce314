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

// Server is one N-central server as one version of a config describes it.
type Server struct {
	config     *store.Config
	client     *ncentral.Client
	credential *credential
	registry   *Registry
	knowledge  *knowledge
	record     *health.Record
	watch      *Watch
	generation int // of the record
	events     *events.Sender
	logger     hclog.Logger

	learning singleflight.Group

	mu      sync.Mutex
	outage  backoff // after N-central did not answer: no call is made
	backOff backoff // after a token could not be obtained for another reason than a refusal: none is asked for
	// learntNothingAt is when an attempt to learn how the server rotates last taught nothing.
	learntNothingAt time.Time
}

// newServer makes the server of a config. The registry is locked.
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
		knowledge:  r.knowledgeOf(config, state),
		record:     state.record,
		watch:      state.watch,
		generation: state.record.Generation(),
		events:     r.events,
		logger:     r.logger.With("config", config.Name),
		outage:     newBackOff(),
		backOff:    newBackOff(),
	}, nil
}

// Verdict is what N-central said of an access token.
type Verdict struct {
	Valid bool
	// Unexplained is set for a token that died though nothing had cast suspicion on it and no
	// authenticate of the engine's own, if that may end tokens, was under way: the server has
	// changed.
	Unexplained bool
	// Untold is set beside an error where N-central answers, and that tells nothing of the token.
	Untold bool
	// UserFailure is why the token's user does not work, or seems not to: the data call failed though
	// the token lives, or nobody knows whether it does. It is nil where that was not asked.
	UserFailure *health.Failure
}

// Validate asks whether the token lives, by the data call where validate does not tell. The error is
// a *health.Failure where N-central could not be asked, and where what it answers tells nothing.
func (s *Server) Validate(ctx context.Context, token *store.Token) (Verdict, error) {
	return s.verdictOn(ctx, token, askWhetherAlive)
}

// ValidateByData is Validate by the data call, which tells beside whether the token's user works.
func (s *Server) ValidateByData(ctx context.Context, token *store.Token) (Verdict, error) {
	var userErr error
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
		s.announce(ctx, s.record.NoteUserWorks(s.generation, time.Now()), nil)
	}
	return verdict, err
}

func (s *Server) verdictOn(
	ctx context.Context, token *store.Token, isAlive func(validate, data func() error) (aliveness, error),
) (Verdict, error) {
	traits := s.Traits(ctx)
	explained := traits.Suspects(token) && !token.IsFromTheFuture() // which no event brought about
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
	case notAsked:
		return Verdict{}, err
	case untold:
		failure := health.NewFailure(s.config, ncentral.CallValidate, err)
		s.record.NoteValidation(s.generation, failure)
		return Verdict{Untold: true}, failure
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

// Probe makes the data call that a working user is needed for, and asks what N-central tells of the
// user. The failure is nil where the user works and needs no person: a 403 to the data call is
// well, for the user may merely not be allowed to see service organisations. It reports whether
// N-central answered.
func (s *Server) Probe(ctx context.Context, accessToken string) (failure *health.Failure, answered bool) {
	err := s.ask(ctx, ncentral.CallData, func(ctx context.Context) error { return s.client.Data(ctx, accessToken) })
	errors.As(err, &failure)
	if failure != nil && (isUnanswered(failure.Kind) || failure.Kind == ncentral.KindUnauthorized) {
		return failure, !isUnanswered(failure.Kind) // with a token that is dead there is nobody to ask after
	}
	user := s.askOfUser(ctx, accessToken)
	if failure == nil || failure.Kind == ncentral.KindForbidden {
		return health.NewUserFailure(s.config, s.record.LastUser(s.generation)), true
	}
	failure.User = user
	return failure, true
}

// askOfUser asks what N-central tells of the token's user, once, and notes it: nil where the server
// does not tell, or the user may not know. Whether the user works, the data call says in any case.
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

// NoteProbed records how a data call went, and what N-central tells of the user.
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

// reportObtaining records how an attempt to obtain a token went.
func (s *Server) reportObtaining(ctx context.Context, failure *health.Failure) {
	transition := s.record.NoteObtaining(s.generation, failure)
	if transition.Worsened() && !failure.CredentialRejected() { // each refusal has a line of its own
		s.logger.Warn("new tokens cannot be had", "reason", failure.Explanation())
	}
	s.announce(ctx, transition, failure)
}

// announce sends an event where the credential took a turn for the worse, or is well again.
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

// The ways a logout can go where N-central was asked.
const (
	LogoutDone        LogoutResult = iota // the session is no more
	LogoutUnsupported                     // this server has no logout: the session lapses with its token
	LogoutFailed                          // the logout failed and is worth another try
)

// Logout ends the session of the access token. The error says why for all but LogoutDone.
func (s *Server) Logout(ctx context.Context, accessToken string) (LogoutResult, error) {
	err := s.ask(forOneReader(ctx), ncentral.CallLogout,
		func(ctx context.Context) error { return s.client.Logout(ctx, accessToken) })
	switch ncentral.KindOf(err) {
	case "":
		s.learnOnce(ctx, canLogOut(true), func(l *store.ServerTraits) bool {
			return l.CanLogOut != nil &&
				*l.CanLogOut
		})
		return LogoutDone, nil
	case ncentral.KindUnauthorized:
		return LogoutDone, nil
	case ncentral.KindNotFound:
		s.learnOnce(ctx, canLogOut(false), func(l *store.ServerTraits) bool {
			return l.CanLogOut != nil &&
				!*l.CanLogOut
		})
		return LogoutUnsupported, err
	}
	return LogoutFailed, err
}

// FlightLimit is how long what is done for one request may take.
func (s *Server) FlightLimit() time.Duration { return s.config.FlightLimit() }

// NextAttempt is when the engine next asks this server for a new token; zero where it does so at
// the next request.
func (s *Server) NextAttempt(now time.Time) time.Time {
	var next time.Time
	if cause, until := s.credential.pausedAt(now, time.Time{}); cause != nil {
		next = until
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range []*backoff{&s.outage, &s.backOff} {
		if p.active(now, time.Time{}) != nil && p.until.After(next) {
			next = p.until
		}
	}
	return next
}

// outageStands is for how long a call that was not answered tells of the server: while there is
// anything to ask it, the tick does so once a minute.
const outageStands = 5 * time.Minute

// lastOutage is why the last call was not answered, nil where it was, or where there was nothing to
// ask since.
func (s *Server) lastOutage(now time.Time) *health.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.outage.begun) > outageStands {
		return nil
	}
	return s.outage.cause
}

// gate returns why a call is not to be made at that time, or nil.
type gate func(now time.Time) *health.Failure

// noOutage is the gate of every call.
func (s *Server) noOutage(now time.Time) *health.Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outage.active(now, time.Time{})
}

// mayRefresh and mayAuthenticate are the gates of obtaining a token for a caller whose token ended
// at that time.
func (s *Server) mayRefresh(tokenEnd time.Time) gate {
	return func(now time.Time) *health.Failure {
		s.mu.Lock()
		defer s.mu.Unlock()
		return cmp.Or(s.outage.active(now, tokenEnd), s.backOff.active(now, tokenEnd))
	}
}

func (s *Server) mayAuthenticate(tokenEnd time.Time) gate {
	return func(now time.Time) *health.Failure {
		refusal, _ := s.credential.pausedAt(now, tokenEnd)
		return cmp.Or(refusal, s.mayRefresh(tokenEnd)(now))
	}
}

// ask makes one call that obtains no token. An error is a *Failure.
func (s *Server) ask(ctx context.Context, step ncentral.Call, do func(context.Context) error) error {
	ctx, endTurn := withTurn(ctx, s.noOutage)
	defer endTurn()
	return s.call(ctx, step, do)
}

// call makes one call of a turn unless its gate is shut, and notes whether it was answered. The
// gate is looked at again whenever an attempt's turn has come. An error is a *Failure.
func (s *Server) call(ctx context.Context, step ncentral.Call, do func(context.Context) error) error {
	sent := time.Now()
	err := turnOf(ctx).look()
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
		failure.Kind = ncentral.KindQueued // what came before took the time that it needed
	}
	if !isExpected(step, failure.Kind) {
		s.record.NoteOutcome(s.generation, failure, time.Now())
	}
	switch {
	case failure.Kind == ncentral.KindCanceled, failure.Kind == ncentral.KindQueued:
		// Neither says anything of the server.
	case step == ncentral.CallUser:
		// Nor does this: tokens do not depend on it, and the data call before it was answered.
	case failure.Down():
		s.mu.Lock()
		s.outage.begin(sent, time.Now(), failure)
		s.mu.Unlock()
	default:
		s.endOutage()
	}
	return failure
}

// isExpected reports whether a call that ended so tells of nothing that fails: the caller gave it
// up, the token or session is no more, this server has no logout, the user may not see service
// organisations, or what may be told of them is not.
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
