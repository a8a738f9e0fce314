// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"sync"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// ReadOptions is what a reader asks for.
type ReadOptions struct {
	// MinTTL is the least remaining lifetime for this read. The min_ttl of the role holds in any
	// case.
	MinTTL time.Duration
	// Validate asks for a validation of the token before it is handed out.
	Validate bool
	// CacheOnly is set if N-central must not be called. A read that needs it fails with
	// ErrNeedsActiveNode.
	CacheOnly bool
}

// sharedFields are what every answer that hands out one token of a role has in common.
type sharedFields struct {
	AccessToken      string
	TokenType        string
	URL              string
	ExpiresAt        string // RFC 3339, UTC
	ExpiresAtSeconds int64  // Unix time
	ObtainedAt       string // RFC 3339, UTC
	RotationPeriod   int64  // seconds from when the token was obtained until it is rotated, at least 1

	leased, unleased rendering
}

// rendering is what a caller makes of the fields once.
type rendering struct {
	once sync.Once
	data map[string]any
}

// Rendered returns what render makes of the fields for answers under a lease, or without one. It is
// made once for all answers with the token, and is not to be changed.
func (f *sharedFields) Rendered(leased bool, render func() map[string]any) map[string]any {
	r := &f.unleased
	if leased {
		r = &f.leased
	}
	r.once.Do(func() { r.data = render() })
	return r.data
}

// Answer hands out a token.
type Answer struct {
	*sharedFields
	// Config is the one that the token came from.
	Config *store.Config
	// Remaining is for how long the token is promised to live, more than 2 s.
	Remaining time.Duration
	// UntilRotation is how long it takes until this engine next replaces the token.
	UntilRotation time.Duration
	Warnings      []string
}

func newSharedFields(snap *snapshot) *sharedFields {
	token := snap.token
	return &sharedFields{
		AccessToken:      token.AccessToken,
		TokenType:        token.TokenType,
		URL:              token.URL,
		ExpiresAt:        token.ExpiresAt.UTC().Format(time.RFC3339),
		ExpiresAtSeconds: token.ExpiresAt.Unix(),
		ObtainedAt:       token.IssuedAt.UTC().Format(time.RFC3339),
		RotationPeriod:   max(int64(snap.rotatesAt.Sub(token.IssuedAt)/time.Second), 1),
	}
}

// handOut returns the snapshot's token to a reader, and notes that it was read.
func (snap *snapshot) handOut(from health.Source, now time.Time) *Answer {
	snap.state.readAt(now)
	snap.record.CountRead(from)
	return snap.answer(now)
}

func (snap *snapshot) answer(now time.Time) *Answer {
	warnings := snap.warnings // clipped, so that whoever adds to them gets an array of their own
	if snap.unstored {
		warnings = append(warnings, "this token could not be stored: it is forgotten when the plugin stops")
	}
	if warning := snap.record.UserWarning(snap.config.Name); warning != "" {
		warnings = append(warnings, health.ForReader(snap.config.Name, warning))
	}
	return &Answer{
		sharedFields:  snap.shared,
		Config:        snap.config,
		Remaining:     snap.remaining(now),
		UntilRotation: store.Remaining(snap.rotatesAt, now),
		Warnings:      warnings,
	}
}
