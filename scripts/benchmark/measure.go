// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// measurement is what came of reading one path for a while.
type measurement struct {
	rate     float64 // reads a second, over all clients
	p50, p99 time.Duration
}

// reader reads with several clients at once.
type reader struct {
	http    *http.Client
	address string
	token   string
}

// mostIdle keeps the connection of every client.
const mostIdle = 1024

func newReader(b *bed) *reader {
	return &reader{
		http:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: mostIdle}},
		address: b.server.Address, token: b.server.RootToken,
	}
}

func (r *reader) close() { r.http.CloseIdleConnections() }

// measure reads the path with so many clients for so long. A read that fails is an error.
func (r *reader) measure(ctx context.Context, path string, clients int, duration time.Duration) (measurement, error) {
	began := time.Now()
	took := make([][]time.Duration, clients)
	group, ctx := errgroup.WithContext(ctx)
	for client := range took {
		group.Go(func() error {
			var mine []time.Duration
			defer func() { took[client] = mine }()
			for before := time.Now(); before.Sub(began) < duration; {
				if err := r.read(ctx, path); err != nil {
					return err
				}
				now := time.Now()
				mine = append(mine, now.Sub(before))
				before = now
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return measurement{}, err
	}
	return summarise(took, time.Since(began)), nil
}

// summarise sums up how long the reads of each client took.
func summarise(took [][]time.Duration, elapsed time.Duration) measurement {
	all := slices.Concat(took...)
	slices.Sort(all)
	return measurement{
		rate: float64(len(all)) / elapsed.Seconds(),
		p50:  all[len(all)/2],
		p99:  all[len(all)*99/100],
	}
}

func (r *reader) read(ctx context.Context, path string) error {
	return r.send(ctx, http.MethodGet, path, nil)
}

// send makes a request and reads its answer to the end. One that fails is an error.
func (r *reader) send(ctx context.Context, method, path string, body any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, r.address+"/v1/"+path, content)
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
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return nil
}
