// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	meanwhileClients = 16
	meanwhileSpan    = time.Second
	manyRoles        = 10_000 // as the texts say

	nothing     = "nothing"
	configWrite = "a write of the config, with verification"
	check       = "check"
	list        = "a LIST of 10,000 roles"
	metrics     = "a read of metrics"
	rotation    = "a rotation, at a latency of 2 s"

	rotationLatency = 2 * time.Second
	// The token of the role rotating is replaced by the first read after rotatesAfter, two and a half
	// seconds before it must be.
	rotatingTTL, rotatingMinTTL = 25 * time.Second, 12 * time.Second
	rotatesAfter                = rotatingTTL - rotatingMinTTL - rotatingTTL/10
	rotationSpan                = rotationLatency + time.Second
)

// whiles are what reads are measured with, in the order of their turns.
var whiles = []string{nothing, configWrite, check, list, metrics, rotation}

// request is what somebody else asks of this engine.
type request struct {
	method, path string
	body         any
}

// requests are those that are made once each while a role is read.
func (b *bed) requests() map[string]request {
	return map[string]request{
		configWrite: {http.MethodPost, "config/default", b.config},
		check:       {http.MethodPost, "config/default/check", nil},
		list:        {"LIST", "roles", nil},
		metrics:     {http.MethodGet, "metrics", nil},
	}
}

// measureMeanwhile measures the reads of an unleased role while each of these happens once.
func measureMeanwhile(ctx context.Context, b *bed, r *reader, rounds int) (measured, error) {
	if err := b.writeManyRoles(ctx); err != nil {
		return nil, err
	}
	found := measured{}
	for range rounds {
		obtained, err := b.obtainRotating(ctx)
		if err != nil {
			return nil, err
		}
		for _, while := range whiles {
			one, err := r.measureWhile(ctx, b, while, obtained)
			if err != nil {
				return nil, fmt.Errorf("while there was %s: %w", while, err)
			}
			found[while] = append(found[while], one)
		}
	}
	return found, nil
}

func (r *reader) measureWhile(
	ctx context.Context, b *bed, while string, obtained time.Time,
) (one measurement, err error) {
	if while == rotation {
		return r.measureRotation(ctx, b, obtained)
	}
	group, ctx := errgroup.WithContext(ctx)
	if other, isMade := b.requests()[while]; isMade {
		group.Go(func() error { return r.send(ctx, other.method, testbed.PluginName+"/"+other.path, other.body) })
	}
	group.Go(func() (err error) {
		one, err = r.measure(ctx, testbed.PluginName+"/creds/unleased", meanwhileClients, meanwhileSpan)
		return err
	})
	err = group.Wait()
	return one, err
}

// measureRotation waits until the token is about to be replaced, and reads it while it is.
func (r *reader) measureRotation(ctx context.Context, b *bed, obtained time.Time) (measurement, error) {
	begin := obtained.Add(rotatesAfter - meanwhileSpan/2)
	if time.Now().After(begin) {
		return measurement{}, errors.New("the machine is too slow: the token is due already")
	}
	select {
	case <-time.After(time.Until(begin)):
	case <-ctx.Done():
		return measurement{}, ctx.Err()
	}
	b.simulator.Change(func(k *simulator.Knobs) { k.Latency = rotationLatency })
	defer b.simulator.Change(func(k *simulator.Knobs) { k.Latency = 0 })
	before := b.simulator.Count(simulator.EndpointRefresh, simulator.OutcomeOK)
	one, err := r.measure(ctx, testbed.PluginName+"/creds/rotating", meanwhileClients, rotationSpan)
	if err == nil && b.simulator.Count(simulator.EndpointRefresh, simulator.OutcomeOK) == before {
		err = errors.New("the token was not replaced while it was read")
	}
	return one, err
}
