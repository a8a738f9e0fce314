// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// learningPause is how long no other attempt is made to find out how to rotate, after one that
// taught nothing.
const learningPause = time.Hour

// learntTraits reads and changes the traits of one config's server, which the store keeps.
type learntTraits struct {
	config, url string
	changing    *sync.Mutex // configState.changingTraits
	entries     *store.Collection[store.ServerTraits]
	logger      hclog.Logger
}

// learntTraitsOf returns the learnt traits of the config. The registry is locked.
func (r *Registry) learntTraitsOf(config *store.Config, state *configState) *learntTraits {
	return &learntTraits{
		config: config.Name, url: config.URL, changing: state.changingTraits,
		entries: r.store.Traits, logger: r.logger.With("config", config.Name),
	}
}

// learntTraitsOfOther is learntTraitsOf for callers that have not locked the registry.
func (r *Registry) learntTraitsOfOther(config *store.Config) *learntTraits {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.learntTraitsOf(config, r.state(config.Name))
}

// read returns what is known. If that was learnt at another URL, only the epoch counts. Beside an
// error it returns traits of which nothing is known.
func (l *learntTraits) read(ctx context.Context) (store.ServerTraits, error) {
	stored, err := l.entries.Get(ctx, l.config)
	switch {
	case stored == nil:
		return store.ServerTraits{URL: l.url}, err
	case stored.URL != l.url:
		return store.ServerTraits{URL: l.url, Epoch: stored.Epoch}, nil
	}
	return *stored, nil
}

// change changes what is known, in storage and memory. If storage fails, it changes it in memory
// alone.
func (l *learntTraits) change(ctx context.Context, change func(*store.ServerTraits)) store.ServerTraits {
	l.changing.Lock()
	defer l.changing.Unlock()
	ctx = context.WithoutCancel(ctx) // what was found out counts even if the time for it is over
	traits, err := l.read(ctx)
	if err != nil {
		raiseEpoch(&traits) // the epoch that cannot be read may be higher
	}
	change(&traits)
	if err := l.entries.Put(ctx, l.config, &traits); err != nil {
		l.logger.Warn("what was learnt of the server could not be stored", "error", err)
		l.entries.Keep(l.config, &traits)
	}
	return traits
}

// Traits returns what is known of this server. If that was learnt at another URL, only the epoch is
// set.
func (s *Server) Traits(ctx context.Context) store.ServerTraits {
	traits, err := s.learnt.read(ctx)
	if err != nil {
		s.logger.Warn("what was learnt of the server cannot be read", "error", err)
	}
	return traits
}

// Suspect makes all tokens of the config that were obtained so far suspect, by raising its epoch,
// and returns the new epoch.
func (s *Server) Suspect(ctx context.Context) int64 {
	return s.learnt.change(ctx, raiseEpoch).Epoch
}

// suspectUser is Suspect for all configs with the same URL and User-API token: what ends sessions
// of this user ends those of all these configs. It returns the epoch of this config.
func (s *Server) suspectUser(ctx context.Context) int64 {
	s.suspectOthers(ctx)
	return s.Suspect(ctx)
}

// suspectOthers is suspectUser without this config.
func (s *Server) suspectOthers(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	configs, err := s.registry.store.Configs.All(ctx)
	if err != nil {
		s.logger.Warn("some configs could not be read: if they have the same User-API token, their tokens may have "+
			"ended", "error", err)
	}
	for _, other := range configs {
		if other.Name != s.config.Name && keyOf(other) == keyOf(s.config) {
			s.registry.learntTraitsOfOther(other).change(ctx, raiseEpoch)
		}
	}
}

// raiseEpoch raises the epoch above all that were there before, even if they are not known: the
// config may have been deleted and made anew, or what is stored may be unreadable.
func raiseEpoch(t *store.ServerTraits) { t.Epoch = max(t.Epoch+1, time.Now().UnixNano()) }

// ForgetTraits forgets what was learnt of the server, because it may have been upgraded, and makes
// all tokens of the config suspect. That the user worked is forgotten too: no token lives with which
// the tick could find out that it died.
func (s *Server) ForgetTraits(ctx context.Context) {
	s.record.ForgetUserWorks()
	s.learnt.change(ctx, forget)
}

func forget(t *store.ServerTraits) {
	raiseEpoch(t)
	*t = store.ServerTraits{URL: t.URL, Epoch: t.Epoch}
}

// mayEndEarlier reports whether an authenticate may end the user's earlier sessions on this server.
// It is true if that is not known.
func (s *Server) mayEndEarlier(ctx context.Context) bool {
	ends := s.Traits(ctx).AuthenticateEndsEarlierSessions
	return ends == nil || *ends
}

// suspectEarlier makes those tokens suspect that an authenticate may have ended, and returns the
// epoch for the new token.
func (s *Server) suspectEarlier(ctx context.Context) int64 {
	if !s.mayEndEarlier(ctx) {
		return s.Traits(ctx).Epoch
	}
	return s.suspectUser(ctx)
}

// learnOnce makes the change unless known reports that it would change nothing.
func (s *Server) learnOnce(
	ctx context.Context, change func(*store.ServerTraits), known func(*store.ServerTraits) bool,
) {
	if traits := s.Traits(ctx); !known(&traits) {
		s.learnt.change(ctx, change)
	}
}

func canLogOut(can bool) func(*store.ServerTraits) {
	return func(t *store.ServerTraits) { t.CanLogOut = &can }
}

// ProbeRotation finds out whether a refresh on this server ends the access token before it, and
// whether an authenticate ends earlier sessions. It uses sessions of its own. It does so if that is
// not known, or if it was learnt before a time in which a reboot would not have been noticed. Then
// it first uses the given token to ask when the server was started. Concurrent callers share one
// attempt. What could not be found out stays unknown. The caller must end the returned sessions.
// Only one of concurrent callers gets them.
func (s *Server) ProbeRotation(ctx context.Context, accessToken string) (left []Grant) {
	now := time.Now()
	if !s.NextAttempt(now).IsZero() {
		return nil
	}
	_, _, _ = s.learning.Do("", func() (any, error) {
		ctx, cancel := s.leavingTime(ctx)
		defer cancel()
		if s.watch.hadGap() && s.knowsHowToRotate(ctx) {
			s.compareStart(ctx, accessToken)
		}
		if s.knowsHowToRotate(ctx) || s.learningIsPaused(now) {
			return nil, nil
		}
		report := s.runCheck(ctx, rotationSteps, true)
		s.Apply(ctx, report)
		left = report.OpenSessions
		wasOvertaken := report.failure != nil && report.failure.Kind == ncentral.KindCanceled
		if !s.knowsHowToRotate(ctx) && !wasOvertaken {
			s.mu.Lock()
			s.learntNothingAt = time.Now()
			s.mu.Unlock()
		}
		return nil, nil
	})
	return left
}

// leavingTime returns a context that ends one request_timeout earlier, so that time is left for the
// next call.
func (s *Server) leavingTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, limited := ctx.Deadline(); limited {
		return context.WithDeadline(ctx, deadline.Add(-s.config.RequestTimeout))
	}
	return context.WithCancel(ctx)
}

// compareStart asks for the server's start time. If it is another than before, or the server does
// not say, what was learnt is forgotten: an upgrade reboots the server.
func (s *Server) compareStart(ctx context.Context, accessToken string) {
	var info ncentral.ServerInfo
	err := s.ask(ctx, ncentral.CallServerInfo, func(ctx context.Context) (err error) {
		info, err = s.client.ServerInfo(ctx, accessToken)
		return err
	})
	// if the token is dead, others find out why
	if kind := ncentral.KindOf(err); isUnanswered(kind) || kind == ncentral.KindUnauthorized {
		return
	}
	s.watch.traitsConfirmed(time.Now())
	if err != nil || info.StartTime == "" || info.StartTime != s.Traits(ctx).StartTime {
		s.learnt.change(ctx, func(t *store.ServerTraits) { *t = store.ServerTraits{URL: t.URL, Epoch: t.Epoch} })
	}
}

// knowsHowToRotate reports whether both questions of ProbeRotation are answered.
func (s *Server) knowsHowToRotate(ctx context.Context) bool {
	traits := s.Traits(ctx)
	return (traits.RefreshEndsPredecessor != nil || traits.RefreshRejected) &&
		traits.AuthenticateEndsEarlierSessions != nil
}

func (s *Server) learningIsPaused(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.learntNothingAt) < learningPause
}
