// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// longestLifetime is longer than the life of any token of N-central. An answer with more is taken
// to be wrong.
const longestLifetime = 366 * 24 * time.Hour

// Grant is a session that N-central opened or refreshed.
type Grant struct {
	*ncentral.Session
	Access, Refresh time.Duration // the lifetimes granted, counted from SentAt
	Epoch           int64         // the new token's; see store.Token.Epoch
	Warnings        []string
}

// UnusableGrantError is the error if N-central opened or refreshed a session that cannot be used.
// The caller must end that session.
type UnusableGrantError struct {
	Grant   Grant
	Failure *health.Failure
}

// Error returns the text of the failure.
func (e *UnusableGrantError) Error() string { return e.Failure.Error() }

// Unwrap returns the failure.
func (e *UnusableGrantError) Unwrap() error { return e.Failure }

// Asked is what a caller asks for together with a token.
type Asked struct {
	ncentral.Overrides
	// TokenEnd is until when the caller's token in hand can be handed out; zero if there is none. A
	// pause that began before does not keep the caller from asking after that.
	TokenEnd time.Time
}

// Authenticate opens a session. The error is a *health.Failure or an *UnusableGrantError. During a
// cool-down or back-off no call is made, and the error is made from the failure that began it.
func (s *Server) Authenticate(ctx context.Context, asked Asked) (*Grant, error) {
	sent := time.Now()
	ctx, endTurn := withTurn(ctx, s.mayAuthenticate(asked.TokenEnd))
	endAuthenticate := s.credential.beginAuthenticate()
	lost := false // an attempt that was made again may have opened a session
	ctx = ncentral.WithTrace(ctx, &ncentral.Trace{Retrying: func(_ ncentral.Call, err error, _ time.Duration) {
		lost = lost || s.mayHaveOpened(ctx, err)
	}})
	grant, err := s.open(ctx, ncentral.CallAuthenticate, asked.Overrides,
		func(ctx context.Context, overrides ncentral.Overrides) (*ncentral.Session, error) {
			return s.client.Authenticate(ctx, s.config.UserAPIToken, overrides)
		})
	s.noteAuthenticated(ctx, sent, err)
	endTurn()
	switch {
	case err == nil:
		grant.Epoch = s.suspectEarlier(ctx)
		if !isForOneReader(ctx) { // the tick does not know tokens of one reader, so it cannot watch by them
			s.watch.tokenObtained(grant.SentAt.Add(grant.Access), time.Now())
		}
	case lost || s.mayHaveOpened(ctx, err):
		s.suspectUser(ctx)
	}
	if overlapped := endAuthenticate(); overlapped && err == nil && s.mayEndEarlier(ctx) {
		grant.Epoch = store.EpochBefore(grant.Epoch) // suspect at once: either may have ended the other's session
	}
	return grant, err
}

// mayHaveOpened reports whether an authenticate that failed may have opened a session all the same,
// and this has ended earlier ones. If it is not known whether this server ends earlier sessions, a
// call whose answer was lost is taken to have opened none. Otherwise tokens that live could not be
// handed out while N-central is down.
func (s *Server) mayHaveOpened(ctx context.Context, err error) bool {
	if !mayHaveArrived(err) {
		return false
	}
	if ncentral.KindOf(err) == ncentral.KindMalformed {
		return s.mayEndEarlier(ctx)
	}
	ends := s.Traits(ctx).AuthenticateEndsEarlierSessions
	return ends != nil && *ends
}

// mayHaveArrived reports whether N-central may have acted on a call that failed: it was sent, and
// no answer of N-central arrived.
func mayHaveArrived(err error) bool {
	var failure *health.Failure
	var callErr *ncentral.Error
	if !errors.As(err, &callErr) || callErr.NotSent || callErr.Fault == ncentral.FaultClientCertificate ||
		errors.As(err, &failure) && failure.NotMade {
		return false
	}
	switch callErr.Kind {
	case ncentral.KindTimeout, ncentral.KindUnreachable:
		return true
	case ncentral.KindMalformed: // with another status it is a page of something before N-central
		return callErr.Status == http.StatusOK
	}
	return callErr.Status == http.StatusGatewayTimeout // which a proxy answers, not N-central
}

// Refresh refreshes a session: N-central returns a new access token and a new refresh token. The
// errors are those of Authenticate, but a cool-down does not matter to it.
func (s *Server) Refresh(ctx context.Context, refreshToken string, asked Asked) (*Grant, error) {
	sent := time.Now()
	ctx, endTurn := withTurn(ctx, s.mayRefresh(asked.TokenEnd))
	defer endTurn()
	// An authenticate that begins after this may end the new token, so the epoch is that of now.
	epoch := s.Traits(ctx).Epoch
	lost := false
	ctx = ncentral.WithTrace(ctx, &ncentral.Trace{Retrying: func(_ ncentral.Call, err error, _ time.Duration) {
		lost = lost || mayHaveArrived(err)
	}})
	grant, err := s.open(ctx, ncentral.CallRefresh, asked.Overrides,
		func(ctx context.Context, overrides ncentral.Overrides) (*ncentral.Session, error) {
			return s.client.Refresh(ctx, refreshToken, overrides)
		})
	if failure, ok := errors.AsType[*health.Failure](err); ok {
		failure.Lost = lost || mayHaveArrived(err)
		if failure.Down() {
			s.noteNotObtained(ctx, sent, failure)
		}
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.backOff.lift()
	s.mu.Unlock()
	if s.credential.refusal() == nil { // a refresh does not show that the User-API token works again
		s.reportObtaining(ctx, nil)
	}
	grant.Epoch = epoch
	s.watch.tokenAccepted(grant.SentAt.Add(grant.Access))
	return grant, nil
}

// open makes the call that brings a session, and reads the grant. It asks for the lifetimes unless
// the server has refused to be asked for them.
func (s *Server) open(ctx context.Context, step ncentral.Call, asked ncentral.Overrides, send sender) (*Grant, error) {
	session, sent, err := s.openAskingForLess(ctx, step, asked, send)
	if err != nil {
		return nil, err
	}
	grant, err := s.judge(step, session, sent)
	if err != nil {
		return nil, err
	}
	switch {
	case sent.Access != asked.Access:
		grant.Warnings = append(grant.Warnings, fmt.Sprintf("N-central refuses to be asked for a lifetime of %s, "+
			"and granted %s", asked.Access, grant.Access))
	case grant.Access < asked.Access:
		grant.Warnings = append(grant.Warnings, fmt.Sprintf("N-central granted %s, not the %s that was asked for",
			grant.Access, asked.Access))
	}
	if sent.Refresh != asked.Refresh {
		grant.Warnings = append(grant.Warnings, fmt.Sprintf("N-central refuses to be asked for a refresh-token "+
			"lifetime of %s, and granted %s", asked.Refresh, grant.Refresh))
	}
	return grant, nil
}

// unstated returns the lifetime to assume if N-central states none: what was asked for, but at most
// its default. The default is also the limit, unless an administrator has changed that [D].
func unstated(asked, standard time.Duration) time.Duration {
	if asked > 0 {
		return min(asked, standard)
	}
	return standard
}

// judge returns the grant of a session, with its lifetimes. The error is an *UnusableGrantError.
func (s *Server) judge(step ncentral.Call, session *ncentral.Session, asked ncentral.Overrides) (*Grant, error) {
	grant := &Grant{Session: session, Access: session.AccessLifetime, Refresh: session.RefreshLifetime}
	if !session.AccessLifetimeStated {
		grant.Access = unstated(asked.Access, store.DefaultAccessLifetime)
	}
	if !session.RefreshLifetimeStated {
		grant.Refresh = unstated(asked.Refresh, store.DefaultRefreshLifetime)
	}
	if grant.Refresh <= 0 || grant.Refresh > longestLifetime {
		grant.RefreshToken, grant.Refresh = "", 0 // a refresh token with such a lifetime is not worth a try
	}
	if grant.Access <= store.MinServable || grant.Access > longestLifetime {
		stated := grant.Access
		grant.Access = store.DefaultAccessLifetime // it may live that long: its logout is tried until then
		return nil, &UnusableGrantError{Grant: *grant, Failure: health.NewFailure(s.config, step, &ncentral.Error{
			Kind: ncentral.KindMalformed, Status: http.StatusOK,
			Detail: fmt.Sprintf("an access token with a lifetime of %s, which is of no use", stated),
		})}
	}
	return grant, nil
}

// noteAuthenticated records how an authenticate went. It was sent at that time.
func (s *Server) noteAuthenticated(ctx context.Context, sent time.Time, err error) {
	var failure *health.Failure
	switch {
	case err == nil:
		s.credential.noteAccepted()
		s.mu.Lock()
		s.backOff.lift()
		s.mu.Unlock()
		s.reportObtaining(ctx, nil)
	case errors.As(err, &failure) && failure.CredentialRejected():
		s.noteRefused(ctx, sent, failure)
	case failure != nil:
		s.noteNotObtained(ctx, sent, failure)
	}
}

// noteRefused begins the cool-down. The first refusal makes live tokens suspect: perhaps a new
// User-API token was generated, and that has ended them.
func (s *Server) noteRefused(ctx context.Context, sent time.Time, failure *health.Failure) {
	if failure.NotMade {
		return
	}
	defer s.reportObtaining(ctx, failure)
	first := s.credential.beginCoolDown(sent, failure)
	s.logger.Warn("N-central refused the User-API token", "next_attempt", failure.Next.UTC().Format(time.RFC3339))
	if first {
		s.suspectUser(ctx)
	}
	if s.generation == s.record.Generation() {
		s.events.Send(ctx, events.AuthenticateRefused, events.CredentialMetadata(s.config.Name, events.Reason,
			failure.Explanation()))
	}
}

// noteNotObtained begins the back-off after an attempt to obtain a token that failed for another
// reason than a refusal. If the failure may be a refusal in another form, the first one makes live
// tokens suspect too.
func (s *Server) noteNotObtained(ctx context.Context, sent time.Time, failure *health.Failure) {
	if failure.NotMade || failure.Kind == ncentral.KindCanceled || failure.Kind == ncentral.KindQueued {
		return
	}
	s.mu.Lock()
	first := s.backOff.cause == nil || !s.backOff.cause.MayBeRejection()
	s.backOff.begin(sent, time.Now(), failure)
	s.mu.Unlock()
	if first && failure.MayBeRejection() {
		s.suspectUser(ctx)
	}
	s.reportObtaining(ctx, failure)
}
