// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The first read authenticates, and readers share its token.

package e2e

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestFirstReadAuthenticatesSecondCallsNothing(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/monitoring", map[string]any{})
	first := m.read("monitoring")
	m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	for range 5 {
		if second := m.read("monitoring"); second.token != first.token {
			t.Error("a later read answered another token")
		}
	}
	posted := m.must(request{operation: opWrite, path: "creds/monitoring"})
	if posted.Data["access_token"] != first.token {
		t.Error("a POST answered another token")
	}
	m.expectCalls(nil)
}

// TestAThousandColdReadersCauseOneAuthenticate runs alone, for it keeps the machine busy.
func TestAThousandColdReadersCauseOneAuthenticate(t *testing.T) {
	const readers = 1000
	m := newMount(t, nil)
	m.write("config/default", with(m.config(), "request_timeout", "20s"))
	m.role("monitoring", "0")
	m.ResetCounts()
	m.Change(func(k *simulator.Knobs) { k.Latency = time.Second })
	var group sync.WaitGroup
	answers := make([]string, readers)
	failures := make(chan error, readers)
	for i := range readers {
		group.Go(func() {
			answer, err := m.tryRead("monitoring")
			if err != nil {
				failures <- fmt.Errorf("reader %d: %w", i, err)
			}
			answers[i] = answer.token
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		t.Fatal(err)
	}
	slices.Sort(answers)
	if different := len(slices.Compact(answers)); different > 1 {
		t.Errorf("the readers got %d different tokens", different)
	}
	if !m.AccessTokenLives(answers[0]) {
		t.Error("the token is dead")
	}
	m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
}
