// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What readers get while N-central fails.

package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// readStale reads the role until the answer comes with a warning, and fails the test if it is
// another token.
func (m *mount) readStale(role, token string, patience time.Duration) credentials {
	m.t.Helper()
	var answer credentials
	eventually(m.t, patience, func() error {
		answer = m.read(role)
		if answer.token != token {
			m.t.Fatal("another token was answered")
		}
		if !warns(answer.Warnings, "lives until "+answer.expiresAt.Format(time.RFC3339)) {
			return fmt.Errorf("no warning until when the token lives: %q", answer.Warnings)
		}
		return nil
	})
	return answer
}

// readUntilDead reads the role until the read fails. It must answer the token until then, and fail
// no earlier than 2 s before the token's end, when it counts as dead.
func (m *mount) readUntilDead(role string, last credentials) (failure error) {
	m.t.Helper()
	eventually(m.t, time.Until(last.expiresAt)+2*time.Second, func() error {
		asked := time.Now()
		answer, err := m.tryRead(role)
		if err == nil {
			m.expectLives(role, answer.token, answer.expiresAt)
			return errors.New("a token is still answered")
		}
		if left := last.expiresAt.Sub(asked); left > 3*time.Second {
			m.t.Errorf("the read failed %s before the token's end", left)
		}
		failure = err
		return nil
	})
	return failure
}

func TestWhileNCentralIsDownTheLiveTokenIsServed(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "10s")
	first := m.read("monitoring")
	if err := m.SetDown(true); err != nil {
		t.Fatal(err)
	}
	stale := m.readStale("monitoring", first.token, 8*time.Second)
	if ttl := number(t, stale.Data, "ttl"); ttl < 1 || ttl > 5 {
		t.Errorf("ttl is %d, which is past the token's end or no time at all", ttl)
	}
	m.fails(serviceUnavailable, credsRequest("monitoring", "validate", "true"), "default")

	failure := m.readUntilDead("monitoring", stale)
	if statusOf(failure) != serviceUnavailable {
		t.Errorf("with the token dead: %d, want 503: %v", statusOf(failure), failure)
	}
	if err := m.SetDown(false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error { _, err := m.tryRead("monitoring"); return err })
	m.read("monitoring")
}

func TestFailuresOfNCentralAreToldApart(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	status := func(status int) simulator.Failure {
		return simulator.Failure{Kind: simulator.FailureStatus, Status: status}
	}
	for name, test := range map[string]struct {
		failure simulator.Failure
		status  int
	}{
		"unavailable":   {status(503), serviceUnavailable},
		"bad-gateway":   {status(502), serviceUnavailable},
		"overloaded":    {status(429), serviceUnavailable},
		"hang":          {simulator.Failure{Kind: simulator.FailureHang}, serviceUnavailable},
		"reset":         {simulator.Failure{Kind: simulator.FailureReset}, serviceUnavailable},
		"broken":        {status(500), badGateway},
		"login-page":    {simulator.Failure{Kind: simulator.FailureHTML}, badGateway},
		"redirect":      {simulator.Failure{Kind: simulator.FailureRedirect}, badGateway},
		"hidden-error":  {simulator.Failure{Kind: simulator.FailureErrorMessage}, badGateway},
		"refused":       {status(401), badRequest},
		"forbidden":     {status(403), badRequest},
		"other-request": {status(400), badGateway},
	} {
		// A config of its own, so that no other's failure makes the engine leave this one's server
		// alone.
		m.write("config/"+name, m.config())
		m.write("roles/"+name, map[string]any{"config": name})
		m.FailNext(simulator.EndpointAuthenticate, -1, test.failure)
		m.fails(test.status, credsRequest(name), `config "`+name+`"`)
		m.ClearFailures()
	}
}

func TestRefusedUserAPITokenIsTriedOnce(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	if _, err := m.RegenerateUserAPIToken(userName); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 100 {
		readers.Go(
			func() { m.fails(badRequest, credsRequest("monitoring"), "user_api_token", "not tried again before") },
		)
	}
	readers.Wait()
	m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
}

func TestRefusedUserAPITokenLeavesTheLiveTokenInUse(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "12s")
	first := m.read("monitoring")
	m.ResetCounts()
	newToken, err := m.RegenerateUserAPIToken(userName)
	if err != nil {
		t.Fatal(err)
	}
	m.FailNext(simulator.EndpointRefresh, -1, refused)
	stale := m.readStale("monitoring", first.token, 10*time.Second)
	var readers sync.WaitGroup
	for range 100 {
		readers.Go(func() {
			if answer, err := m.tryRead("monitoring"); err != nil || answer.token != first.token {
				t.Errorf("another token, or none: %v", err)
			}
		})
	}
	readers.Wait()
	if failure := m.readUntilDead("monitoring", stale); statusOf(failure) != badRequest {
		t.Errorf("with the token dead: %d, want 400: %v", statusOf(failure), failure)
	}
	m.expectCalls(calls{
		simulator.EndpointServerInfo: 1, simulator.EndpointRefresh: 1, simulator.EndpointAuthenticate: 1,
		simulator.EndpointValidate: 1,
	})

	m.userAPIToken = newToken
	m.write("config/default", m.config())
	m.read("monitoring") // at once: a new User-API token ends the cool-down
}

func TestRegeneratedUserAPITokenThatEndsSessionsLeavesNoDeadToken(t *testing.T) {
	t.Parallel()
	m := newMount(t, func(k *simulator.Knobs) { k.RegenerateEndsSessions = true })
	m.role("first", "0")
	m.role("second", "0")
	m.read("first")
	if _, err := m.RegenerateUserAPIToken(userName); err != nil {
		t.Fatal(err)
	}
	m.fails(badRequest, credsRequest("second"), "user_api_token")
	m.fails(badRequest, credsRequest("first"), "user_api_token") // its token is suspect now, and dead
}
