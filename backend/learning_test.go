// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What is learnt of a server, when, and how long it is trusted.

package backend

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestWhatVerifyDidNotTeachIsLearntBeforeTheFirstRotation(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }, func(m *mount) {
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
		m.write("roles/monitoring", map[string]any{"lease": false})
		m.expectCalls(nil)
		first := m.expectLives(m.read(nil))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		if !m.AccessTokenLives(first) {
			t.Error("the token that readers still hold was ended before its stated expiry")
		}
		synctest.Wait()
		if m.OpenSessions() != 2 {
			t.Errorf("%d sessions are open, want the role's two: learning left some", m.OpenSessions())
		}
		m.expectCalls(calls{
			simulator.EndpointAuthenticate: 3, simulator.EndpointValidate: 3, simulator.EndpointRefresh: 1,
			simulator.EndpointServerInfo: 1, simulator.EndpointLogout: 2,
		})
	})
}

// What must be learnt before the first rotation leaves a slow server the time to give a token.
func TestLearningLeavesTimeForTheRotation(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{"url": m.server.URL, "user_api_token": m.token, "verify": false})
		m.write("roles/monitoring", map[string]any{"lease": false})
		first := m.expectLives(m.read(nil))
		m.Change(func(k *simulator.Knobs) { k.Latency = 4 * time.Second })
		time.Sleep(40 * time.Minute)
		if m.expectLives(m.read(map[string]any{"min_ttl": "30m"})) == first {
			t.Error("no new token was had")
		}
		time.Sleep(time.Minute)
		if open := m.OpenSessions(); open != 2 {
			t.Errorf("%d sessions are open, want the role's two", open)
		}
	})
}

// What must be learnt before the first rotation leaves a slow server the time to give a token for a
// min_ttl too.
func TestLearningLeavesTimeForAReadersMinTTL(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = 4 * time.Second }, func(m *mount) {
		m.unverified()
		first := m.expectLives(m.read(nil))
		time.Sleep(40 * time.Minute)
		if m.expectLives(m.read(map[string]any{"min_ttl": "30m"})) == first {
			t.Error("the token was not replaced")
		}
	})
}

// What a rotation that nobody wanted any more did not learn, the next one learns.
func TestLearningThatWasSupersededIsMadeAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.unverified()
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{
			Kind: simulator.FailureSlow, Delay: simulator.Delay(time.Second),
		})
		m.read(nil) // starts the rotation
		synctest.Wait()
		m.delete("sessions/monitoring")
		m.expectLives(m.read(nil))
		time.Sleep(54 * time.Minute)
		m.read(nil)
		synctest.Wait()
		if by := m.get("sessions/monitoring")["obtained_by"]; by != "refresh" {
			t.Errorf("the token was obtained by %v", by)
		}
	})
}

// What was learnt of the server at one url is not used at another.
func TestWhatWasLearntElsewhereIsNotUsed(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.Change(func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true }) // to the engine it is another server
		m.write("config/default", map[string]any{
			"url": "http://localhost:81", "user_api_token": m.token, "verify": false,
		})
		first := m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		if !m.AccessTokenLives(first) {
			t.Error("a rotation refreshed by what was learnt of another server, and ended the token that readers hold")
		}
	})
}

// A reboot into another version while no token of the config lives is noticed before what was
// learnt is used.
func TestWhatWasLearntIsNotTrustedBeyondATimeWithoutTokens(t *testing.T) {
	for _, told := range []bool{true, false} {
		inBubble(t, func(k *simulator.Knobs) { k.OmitStartTime = !told }, func(m *mount) {
			m.read(nil)
			time.Sleep(2 * time.Hour) // the token lapsed in the night
			m.tick()
			m.Reboot()
			m.Change(func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true })
			first := m.expectLives(m.read(nil))
			time.Sleep(56 * time.Minute)
			m.expectLives(m.read(nil))
			if !m.AccessTokenLives(first) {
				t.Error("a rotation ended the token that readers hold")
			}
		})
	}
	t.Run("a restart of the plugin forgets that time, not the doubt", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			time.Sleep(time.Hour)
			m.Reboot()
			m.Change(func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true })
			first := m.expectLives(m.read(nil))
			m.start()
			time.Sleep(56 * time.Minute)
			m.expectLives(m.read(nil))
			if !m.AccessTokenLives(first) {
				t.Error("a rotation ended the token that readers hold")
			}
		})
	})
	t.Run("and costs one call where nothing changed", func(t *testing.T) {
		inBubble(t, nil, func(m *mount) {
			m.read(nil)
			time.Sleep(2 * time.Hour)
			m.tick()
			m.read(nil)
			m.ResetCounts()
			for range 3 {
				time.Sleep(56 * time.Minute)
				m.expectLives(m.read(nil))
			}
			m.expectCalls(calls{simulator.EndpointRefresh: 3, simulator.EndpointServerInfo: 1})
		})
	})
}

// What was learnt of a server is kept as long as storage does not tell whether its config is no
// more, and Vault is told.
func TestTheTickForgetsNoServerOfWhichItCannotTell(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		storage.failToRead("config/default")
		o := m.begin(logical.RollbackOperation, "", nil)()
		if o.err == nil || !strings.Contains(o.err.Error(), "storage is not there") {
			t.Errorf("the tick answered %v", o.err)
		}
		learnt, err := m.storage.InmemStorage.Get(context.Background(), "learnt/default")
		if learnt == nil || err != nil {
			t.Errorf("what was learnt was forgotten: %v", err)
		}
	})
}

// What was learnt of a server whose config was deleted elsewhere is removed, and of no other.
func TestTheTickForgetsServersWithoutAConfig(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, name := range []string{"aaa", "zzz"} {
			m.write("config/"+name, map[string]any{"url": m.server.URL, "user_api_token": m.token})
			if err := m.storage.Delete(context.Background(), "config/"+name); err != nil {
				t.Fatal(err)
			}
			m.backend.InvalidateKey(context.Background(), "config/"+name)
		}
		m.tick()
		names, err := m.storage.List(context.Background(), "learnt/")
		if err != nil || len(names) != 1 || names[0] != "default" {
			t.Errorf("storage has what was learnt of %v: %v", names, err)
		}
	})
}
