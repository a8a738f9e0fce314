// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Server is one N-central server as one version of a config describes it.
type Server struct {
	config *store.Config
	client *ncentral.Client
	record *Record
	life   int // of the record
	learnt *store.Collection[store.Learnt]
	events *events.Sender
	logger hclog.Logger

	learning singleflight.Group

	mu      sync.Mutex
	refused pause // after N-central refused the User-API token
	silent  pause // after N-central did not answer
	// learntNothingAt is when an attempt to learn how the server rotates last taught nothing.
	learntNothingAt time.Time
}

func (r *Registry) newServer(config *store.Config, record *Record) (*Server, error) {
	transport, err := ncentral.NewTransport(ncentral.TransportOptions{
		CACert:        config.CACert,
		TLSServerName: config.TLSServerName,
		TLSSkipVerify: config.TLSSkipVerify,
		DialContext:   r.dial,
	})
	if err != nil {
		return nil, fmt.Errorf("config %q: %w", config.Name, err)
	}
	limited := &attempts{
		next:    transport,
		places:  semaphore.NewWeighted(int64(config.MaxRequestsInFlight)),
		limit:   config.MaxRequestsInFlight,
		timeout: config.RequestTimeout,

		inFlight: record.counters.inFlight,
	}
	return &Server{
		config: config,
		client: ncentral.New(ncentral.Options{
			BaseURL: config.URL, Transport: limited, UserAgent: r.userAgent,
			MaxRetries: config.MaxRetries, Trace: record.counters.trace(),
		}),
		record:  record,
		life:    record.currentLife(),
		learnt:  r.store.Learnt,
		events:  r.events,
		logger:  r.logger.With("config", config.Name),
		refused: pause{first: firstCoolDown, longest: longestCoolDown},
		silent:  pause{first: firstBackOff, longest: longestBackOff},
	}, nil
}

// Verdict is what N-central said of an access token.
type Verdict struct {
	Lives bool
	// Unexplained is set for a token that died though nothing had cast suspicion on it and no authenticate of the engine's
	// own was under way: the server has changed.
	Unexplained bool
}

// Validate asks whether the token lives. The error is a *Failure where N-central could not be asked.
func (s *Server) Validate(ctx context.Context, token *store.Token) (Verdict, error) {
	suspect := token.Suspicion < s.Learnt(ctx).Suspicion
	before := s.openingsSoFar()
	err := s.call(ncentral.CallValidate, func() error { return s.client.Validate(ctx, token.AccessToken) })
	if ncentral.KindOf(err) == ncentral.KindRefused {
		return Verdict{Unexplained: !suspect && before.underWay == 0 && before.begun == s.openingsSoFar().begun}, nil
	}
	return Verdict{Lives: err == nil}, err
}

// Probe makes the data call that a working user is needed for, and notes whether the user works. A 403 is well: the user
// may merely not be allowed to see service organisations. A dead token and a server that is down tell nothing of the user:
// then it answers false.
func (s *Server) Probe(ctx context.Context, accessToken string) (told bool) {
	err := s.call(ncentral.CallData, func() error { return s.client.Data(ctx, accessToken) })
	switch kind := ncentral.KindOf(err); {
	case kind == "", kind == ncentral.KindForbidden:
		s.noteProbed(ctx, nil)
		return true
	case tellsOfUser(kind):
		var failure *Failure
		errors.As(err, &failure)
		s.logger.Warn("a data call failed though the token is valid", "error", err)
		s.noteProbed(ctx, failure)
		return true
	}
	return false
}

// tellsOfUser says whether a data call that fails so tells that the user does not work.
func tellsOfUser(kind ncentral.Kind) bool {
	return kind == ncentral.KindServerError || kind == ncentral.KindHiddenError
}

// noteProbed records how a data call went.
func (s *Server) noteProbed(ctx context.Context, failure *Failure) {
	before, after := s.record.probed(s.life, failure)
	s.tellOfTurn(ctx, before, after, failure)
}

// noteObtaining records how an attempt to obtain a token went.
func (s *Server) noteObtaining(ctx context.Context, failure *Failure) {
	before, after := s.record.obtained(s.life, failure)
	if after > before && !failure.Refused() { // each refusal has a line of its own
		s.logger.Warn("new tokens cannot be had", "reason", failure.Explanation())
	}
	s.tellOfTurn(ctx, before, after, failure)
}

// tellOfTurn sends an event where the credential took a turn for the worse, or is well again.
func (s *Server) tellOfTurn(ctx context.Context, before, after ailment, failure *Failure) {
	switch {
	case after > before:
		s.events.Send(ctx, events.CredentialDegraded, events.Found(s.config.Name, events.Reason, failure.Explanation()))
	case after == nothing && before > nothing:
		s.logger.Info("new tokens can be had again, and data calls succeed")
		s.events.Send(ctx, events.CredentialRecovered, events.Found(s.config.Name))
	}
}

// Ending is how a logout went.
type Ending int

// The ways a logout can go where N-central was asked.
const (
	Ended       Ending = iota // the session is no more
	CannotEnd                 // this server has no logout: the session lapses with its token
	NotEndedYet               // the logout failed and is worth another try
)

// Logout ends the session of the access token. The error says why for all but Ended.
func (s *Server) Logout(ctx context.Context, accessToken string) (Ending, error) {
	err := s.call(ncentral.CallLogout, func() error { return s.client.Logout(ctx, accessToken) })
	switch ncentral.KindOf(err) {
	case "":
		s.teachOnce(ctx, canLogOut(true), func(l *store.Learnt) bool { return l.CanLogOut != nil && *l.CanLogOut })
		return Ended, nil
	case ncentral.KindRefused:
		return Ended, nil
	case ncentral.KindNotFound:
		s.teachOnce(ctx, canLogOut(false), func(l *store.Learnt) bool { return l.CanLogOut != nil && !*l.CanLogOut })
		return CannotEnd, err
	}
	return NotEndedYet, err
}

// FlightLimit is how long what is done for one request may take.
func (s *Server) FlightLimit() time.Duration { return s.config.FlightLimit() }

// NextAttempt is when the engine next asks this server for a new token; zero where it does so at the next request.
func (s *Server) NextAttempt(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next time.Time
	for _, p := range []*pause{&s.refused, &s.silent} {
		if p.active(now) != nil && p.until.After(next) {
			next = p.until
		}
	}
	return next
}

// silenceStands is for how long a call that was not answered tells of the server: while there is anything to ask it, the
// tick does so once a minute.
const silenceStands = 5 * time.Minute

// silence is why the last call was not answered, nil where it was, or where there was nothing to ask since.
func (s *Server) silence(now time.Time) *Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.silent.begun) > silenceStands {
		return nil
	}
	return s.silent.cause
}

// call makes one call unless the server is being left alone, and notes whether it answered. An error is a *Failure.
func (s *Server) call(step ncentral.Call, do func() error) error {
	sent := time.Now()
	if failure := s.pausedAt(sent, &s.silent); failure != nil {
		return failure.ofCallNotMade(step)
	}
	err := do()
	if err == nil {
		s.answered()
		s.record.answered(s.life, nil, time.Now())
		return nil
	}
	failure := s.failure(step, err, time.Time{})
	if !isExpected(step, failure.Kind) {
		s.record.answered(s.life, failure, time.Now())
	}
	switch {
	case failure.Kind == ncentral.KindCanceled, failure.Kind == ncentral.KindQueued:
		// Neither says anything of the server.
	case failure.Down():
		s.mu.Lock()
		s.silent.begin(sent, time.Now(), failure)
		s.mu.Unlock()
	default:
		s.answered()
	}
	return failure
}

// isExpected says whether a call that ended so tells of nothing that fails: the caller gave it up, the token or session is
// no more, this server has no logout, or the user may not see service organisations.
func isExpected(step ncentral.Call, kind ncentral.Kind) bool {
	switch kind {
	case ncentral.KindCanceled:
		return true
	case ncentral.KindRefused:
		return step != ncentral.CallAuthenticate
	case ncentral.KindNotFound:
		return step == ncentral.CallLogout
	case ncentral.KindForbidden:
		return step == ncentral.CallData
	}
	return false
}

func (s *Server) pausedAt(now time.Time, p *pause) *Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.active(now)
}

func (s *Server) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent.lift()
}
