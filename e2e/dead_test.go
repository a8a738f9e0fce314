// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A token that N-central has ended is found dead and replaced.

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// tickPatience is how long a test waits for the engine's next tick, which comes once a minute.
const tickPatience = 80 * time.Second

func TestDeadTokenIsReplacedOnValidate(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	m.role("other", "0")
	first, second := m.read("monitoring"), m.read("other")
	m.Reboot()
	if replaced := m.read("monitoring", "validate", "true"); replaced.token == first.token {
		t.Error("the dead token was answered")
	}
	if replaced := m.read("other"); replaced.token == second.token {
		t.Error("the other role's dead token was answered, though one of the config was found dead")
	}
}

func TestValidationIsMadeOnceASecond(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	first := m.read("monitoring")
	began := time.Now()
	for range 20 {
		if m.read("monitoring", "validate", "true").token != first.token {
			t.Fatal("a live token was replaced")
		}
	}
	most := int(time.Since(began)/time.Second) + 2 // and one of the tick
	if got := m.Count(simulator.EndpointValidate, simulator.AnyOutcome); got == 0 || got > most {
		t.Errorf("%d validations for 20 reads, want 1 to %d", got, most)
	}
}

func TestTickReplacesADeadToken(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	m.role("other", "0")
	m.read("monitoring")
	m.read("other")
	m.Reboot()
	m.ResetCounts()
	eventually(t, tickPatience, func() error {
		if m.Count(simulator.EndpointAuthenticate, simulator.OutcomeOK) == 0 {
			return errors.New("no tick replaced a token")
		}
		return nil
	})
	m.read("monitoring")
	m.read("other")
}

func TestTickPaysLogoutsOwed(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "0")
	answer := m.read("monitoring")
	m.FailNext(simulator.EndpointLogout, -1, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
	if warnings := m.delete("sessions/monitoring"); !warns(warnings, "owed") {
		t.Errorf("no warning that the logout is owed: %q", warnings)
	}
	if owed := number(t, m.get("sessions/monitoring"), "logouts_owed"); owed != 1 {
		t.Errorf("%d logouts owed, want 1", owed)
	}
	if !m.AccessTokenLives(answer.token) {
		t.Error("the session ended in spite of the failures")
	}
	m.ClearFailures()
	eventually(t, tickPatience, func() error {
		if m.AccessTokenLives(answer.token) {
			return errors.New("the session is still open")
		}
		if owed := m.get("sessions/monitoring")["logouts_owed"]; owed != json.Number("0") {
			return fmt.Errorf("logouts owed: %v", owed)
		}
		return nil
	})
}

func TestNewSessionsThatEndEarlierOnesLeaveNoReaderWithADeadToken(t *testing.T) {
	t.Parallel()
	m := newMount(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true })
	m.role("one", "0")
	m.role("two", "0")
	for range 3 {
		m.read("one")
		m.read("two")
	}
	if warnings := m.write("config/default", m.config()); !warns(warnings, "of its own") {
		t.Errorf("no warning that every role needs a user of its own: %q", warnings)
	}
}
