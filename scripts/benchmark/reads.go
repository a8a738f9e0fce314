// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"slices"
	"time"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// kind is one kind of read.
type kind struct {
	name string
	path string
	// floor is the kind of the constant plugin's answers that it is compared with; empty for those.
	floor string
}

const (
	constantUnleased = "constant, unleased"
	constantLeased   = "constant, leased"
)

// kinds are in the order of their turns: what is compared is measured one after the other.
var kinds = []kind{
	{constantUnleased, constantPlugin + "/creds/unleased", ""},
	{"shared, unleased", testbed.PluginName + "/creds/unleased", constantUnleased},
	{"kv v1", kvMount + "/constant", constantUnleased},
	{constantLeased, constantPlugin + "/creds/leased", ""},
	{"shared, leased", testbed.PluginName + "/creds/leased", constantLeased},
	{"dedicated", testbed.PluginName + "/creds/dedicated", constantLeased},
}

// measured are the measurements of each kind, one of each round.
type measured map[string][]measurement

const warmUp = 200 * time.Millisecond

// measureReads measures all kinds in turns, in every other round backwards: leases accumulate in the
// server.
func (r *reader) measureReads(ctx context.Context, clients int, s settings) (measured, error) {
	for _, kind := range kinds {
		if _, err := r.measure(ctx, kind.path, clients, warmUp); err != nil {
			return nil, err
		}
	}
	found := measured{}
	turns := slices.Clone(kinds)
	for range s.rounds {
		for _, kind := range turns {
			one, err := r.measure(ctx, kind.path, clients, s.duration)
			if err != nil {
				return nil, err
			}
			found[kind.name] = append(found[kind.name], one)
		}
		slices.Reverse(turns)
	}
	return found, nil
}
