// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// figures are the reads per second of one kind of role, with one measurement per round. Those with
// the same index were taken directly one after the other.
type figures struct {
	kind     string
	constant []float64
	engine   []float64
}

const warmUp = time.Second

// measureAll measures the constant plugin and the engine in turns. The order changes from round to
// round, because leases accumulate in the server.
func measureAll(ctx context.Context, b *bed, s settings) ([]*figures, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: s.clients}
	defer transport.CloseIdleConnections()
	reader := reader{
		http: &http.Client{Transport: transport}, address: b.server.Address, token: b.server.RootToken,
		clients: s.clients,
	}
	all := []*figures{{kind: "unleased"}, {kind: "leased"}}
	for _, kind := range all {
		for _, plugin := range []string{constantPlugin, testbed.PluginName} {
			if _, err := reader.rate(ctx, plugin+"/creds/"+kind.kind, warmUp); err != nil {
				return nil, err
			}
		}
	}
	for round := range s.rounds {
		for _, kind := range all {
			if err := reader.measurePair(ctx, kind, round%2 == 0, s.duration); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// reader reads with several clients at once.
type reader struct {
	http    *http.Client
	address string
	token   string
	clients int
}

func (r reader) measurePair(ctx context.Context, kind *figures, constantFirst bool, duration time.Duration) error {
	order := []string{constantPlugin, testbed.PluginName}
	if !constantFirst {
		order[0], order[1] = order[1], order[0]
	}
	for _, plugin := range order {
		rate, err := r.rate(ctx, plugin+"/creds/"+kind.kind, duration)
		if err != nil {
			return err
		}
		if plugin == constantPlugin {
			kind.constant = append(kind.constant, rate)
		} else {
			kind.engine = append(kind.engine, rate)
		}
	}
	return nil
}

// rate returns how many reads of the path succeed in a second, over all clients. A read that fails
// is an error.
func (r reader) rate(ctx context.Context, path string, duration time.Duration) (float64, error) {
	began := time.Now()
	counts := make([]int, r.clients)
	group, ctx := errgroup.WithContext(ctx)
	for client := range counts {
		group.Go(func() error {
			count := 0
			defer func() { counts[client] = count }()
			for time.Since(began) < duration {
				if err := r.read(ctx, path); err != nil {
					return err
				}
				count++
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	elapsed := time.Since(began)
	total := 0
	for _, count := range counts {
		total += count
	}
	return float64(total) / elapsed.Seconds(), nil
}

func (r reader) read(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.address+"/v1/"+path, http.NoBody)
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", r.token)
	response, err := r.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reading %s: %s", path, response.Status)
	}
	return nil
}
