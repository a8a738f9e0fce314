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

// learningPause is how long after an attempt to learn that taught nothing the next one is made.
const learningPause = time.Hour

// knowledge is what is known of one config's server, in storage and memory.
type knowledge struct {
	config, url string
	changing    *sync.Mutex // held while it is changed, so that no change is lost
	entries     *store.Collection[store.ServerTraits]
	logger      hclog.Logger
}

func (r *Registry) knowledgeOf(config *store.Config, state *configState) *knowledge {
	return &knowledge{
		config: config.Name, url: config.URL, changing: state.changingTraits,
		entries: r.store.Traits, logger: r.logger.With("config", config.Name),
	}
}

func (r *Registry) knowledgeOfOther(config *store.Config) *knowledge {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.knowledgeOf(config, r.state(config.Name))
}

func (k *knowledge) read(ctx context.Context) (store.ServerTraits, error) {
	stored, err := k.entries.Get(ctx, k.config)
	switch {
	case stored == nil:
		return store.ServerTraits{URL: k.url}, err
	case stored.URL != k.url:
		return store.ServerTraits{URL: k.url, Epoch: stored.Epoch}, nil
	}
	return *stored, nil
}

// change changes what is known, in storage and memory; in memory alone where storage fails.
func (k *knowledge) change(ctx context.Context, change func(*store.ServerTraits)) store.ServerTraits {
	k.changing.Lock()
	defer k.changing.Unlock()
	ctx = context.WithoutCancel(ctx) // what was found out counts also where the time for finding it is over
	traits, err := k.read(ctx)
	if err != nil {
		raiseEpoch(&traits) // what cannot be read may have held one
	}
	change(&traits)
	if err := k.entries.Put(ctx, k.config, &traits); err != nil {
		k.logger.Warn("what was learnt of the server could not be stored", "error", err)
		k.entries.Keep(k.config, &traits)
	}
	return traits
}

// Traits returns what is known of this server: empty but for the epoch where what is stored was
// learnt at another URL.
func (s *Server) Traits(ctx context.Context) store.ServerTraits {
	traits, err := s.knowledge.read(ctx)
	if err != nil {
		s.logger.Warn("what was learnt of the server cannot be read", "error", err)
	}
	return traits
}

// Suspect makes every token of the config that was obtained so far suspect, and returns the new
// epoch.
func (s *Server) Suspect(ctx context.Context) int64 {
	return s.knowledge.change(ctx, raiseEpoch).Epoch
}

// suspectUser is Suspect for every config with the same URL and User-API token: what ends the
// sessions of one ends those of all.
func (s *Server) suspectUser(ctx context.Context) int64 {
	s.suspectOthers(ctx)
	return s.Suspect(ctx)
}

// suspectOthers is suspectUser for the other configs alone.
func (s *Server) suspectOthers(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	configs, err := s.registry.store.Configs.All(ctx)
	if err != nil {
		s.logger.Warn("some configs could not be read: if they have the same User-API token, their tokens may have "+
			"ended", "error", err)
	}
	for _, other := range configs {
		if other.Name != s.config.Name && keyOf(other) == keyOf(s.config) {
			s.registry.knowledgeOfOther(other).change(ctx, raiseEpoch)
		}
	}
}

// raiseEpoch is above every count before it, also where that is not known: a config was deleted and
// made anew, or what is stored cannot be read.
func raiseEpoch(l *store.ServerTraits) { l.Epoch = max(l.Epoch+1, time.Now().UnixNano()) }

// ForgetTraits forgets what was learnt of the server, which has changed since, and makes every
// token of the config suspect.
func (s *Server) ForgetTraits(ctx context.Context) {
	s.knowledge.change(ctx, forget)
}

func forget(l *store.ServerTraits) {
	raiseEpoch(l)
	*l = store.ServerTraits{URL: l.URL, Epoch: l.Epoch}
}

// mayEndEarlier reports whether, for all that is known, this server's authenticate ends the user's
// earlier sessions.
func (s *Server) mayEndEarlier(ctx context.Context) bool {
	ends := s.Traits(ctx).AuthenticateEndsEarlierSessions
	return ends == nil || *ends
}

// suspectEarlier makes the tokens suspect that an authenticate may have ended, and returns the
// epoch of the new token.
func (s *Server) suspectEarlier(ctx context.Context) int64 {
	if !s.mayEndEarlier(ctx) {
		return s.Traits(ctx).Epoch
	}
	return s.suspectUser(ctx)
}

// learnOnce changes what is known where known does not say that the change would bring nothing new.
func (s *Server) learnOnce(
	ctx context.Context, change func(*store.ServerTraits), known func(*store.ServerTraits) bool,
) {
	if traits := s.Traits(ctx); !known(&traits) {
		s.knowledge.change(ctx, change)
	}
}

func canLogOut(can bool) func(*store.ServerTraits) {
	return func(l *store.ServerTraits) { l.CanLogOut = &can }
}

// ProbeRotation finds out whether this server's refresh ends the access token before it and whether
// authenticate ends earlier sessions, on sessions of its own making, where that is not known, or
// was learnt before a time in which no token would have told of a reboot. Any number of concurrent
// callers cause one such attempt. What could not be learnt stays unknown. The sessions that it
// opened are the caller's to end: of concurrent callers, one gets them.
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

// leavingTime returns a context that ends so much earlier that the call which is then to bring a
// token has its time.
func (s *Server) leavingTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, limited := ctx.Deadline(); limited {
		return context.WithDeadline(ctx, deadline.Add(-s.config.RequestTimeout))
	}
	return context.WithCancel(ctx)
}

// compareStart asks for the server's start time, and forgets what was learnt of it where that is
// another than before, or is not told: an upgrade reboots the server.
func (s *Server) compareStart(ctx context.Context, accessToken string) {
	var info ncentral.ServerInfo
	err := s.ask(ctx, ncentral.CallServerInfo, func(ctx context.Context) (err error) {
		info, err = s.client.ServerInfo(ctx, accessToken)
		return err
	})
	// what ended the token, others find out
	if kind := ncentral.KindOf(err); isUnanswered(kind) || kind == ncentral.KindUnauthorized {
		return
	}
	s.watch.traitsConfirmed(time.Now())
	if err != nil || info.StartTime == "" || info.StartTime != s.Traits(ctx).StartTime {
		s.knowledge.change(ctx, func(l *store.ServerTraits) { *l = store.ServerTraits{URL: l.URL, Epoch: l.Epoch} })
	}
}

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
