// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which events are sent, and that nothing waits for them.

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/simulator"
)

func TestChangesAskedForSendEvents(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.sent()
		changes := []struct {
			operation logical.Operation
			path      string
			data      map[string]any
			event     string
		}{
			{opWrite, "config/default", map[string]any{"max_retries": 1}, "ncentral/config-write"},
			{opPatch, "config/default", map[string]any{"max_retries": 2}, "ncentral/config-write"},
			{
				logical.CreateOperation, "config/other",
				map[string]any{"url": m.server.URL, "user_api_token": m.token},
				"ncentral/config-write",
			},
			{opDelete, "config/other", nil, "ncentral/config-delete"},
			{logical.CreateOperation, "roles/other", nil, "ncentral/role-write"},
			{opDelete, "roles/other", nil, "ncentral/role-delete"},
			{opDelete, "sessions/monitoring", nil, "ncentral/sessions-end"},
		}
		for _, change := range changes {
			m.must(change.operation, change.path, change.data)
			want := []map[string]string{{
				"type": change.event, "path": change.path, "data_path": change.path,
				"operation": string(change.operation), "modified": "true",
			}}
			if diff := cmp.Diff(want, m.sent()); diff != "" {
				t.Errorf("%s %s: %s", change.operation, change.path, diff)
			}
		}
	})
}

func TestWhatChangesNothingSendsNoEvent(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.sent()
		m.fails(400, opWrite, "config/default", map[string]any{"max_retries": 99})
		m.fails(400, opWrite, "roles/other", map[string]any{"config": "missing"})
		m.fails(400, opDelete, "config/default", nil)
		m.fails(404, opDelete, "sessions/missing", nil)
		m.delete("config/missing")
		m.delete("roles/missing")
		m.write("config/default/check", nil)
		m.read(nil)
		m.tick()
		if sent := m.sent(); sent != nil {
			t.Errorf("%v", sent)
		}
	})
}

func TestARefusedCredentialSendsEvents(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.sent()
		fresh, err := m.RegenerateUserAPIToken("api-user")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			m.fails(400, opRead, "creds/monitoring", nil)
		}
		sent := m.sent()
		diff := cmp.Diff([]string{"ncentral/authenticate-refuse", "ncentral/credential-degrade"}, typesOf(sent))
		if diff != "" {
			t.Fatal(diff)
		}
		for _, event := range sent {
			if event["path"] != "config/default" || event["config"] != "default" ||
				!strings.Contains(event["reason"], "write the token that the user has now") {
				t.Errorf("%v", event)
			}
		}
		time.Sleep(time.Minute)
		m.fails(400, opRead, "creds/monitoring", nil)
		if diff := cmp.Diff([]string{"ncentral/authenticate-refuse"}, typesOf(m.sent())); diff != "" {
			t.Errorf("after another attempt: %s", diff)
		}
		m.write("config/default", map[string]any{"user_api_token": fresh})
		m.read(nil)
		diff = cmp.Diff([]string{"ncentral/credential-recover", "ncentral/config-write"}, typesOf(m.sent()))
		if diff != "" {
			t.Errorf("after the new token: %s", diff)
		}
	})
}

// The hourly data call finds out that the password expired before the applications do.
func TestAnExpiredPasswordSendsAnEventOnceAndAnotherWhenItIsWellAgain(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.sent()
		m.setPasswordExpired("api-user", true)
		for range 2 {
			time.Sleep(time.Hour)
			m.read(nil)
			m.tick()
		}
		sent := m.sent()
		if diff := cmp.Diff([]string{"ncentral/credential-degrade"}, typesOf(sent)); diff != "" {
			t.Fatal(diff)
		}
		if !strings.Contains(sent[0]["reason"], "the API user's password has expired") {
			t.Error(sent[0])
		}
		m.setPasswordExpired("api-user", false)
		time.Sleep(time.Hour)
		m.read(nil)
		m.tick()
		if diff := cmp.Diff([]map[string]string{{
			"type": "ncentral/credential-recover", "path": "config/default", "data_path": "config/default",
			"config": "default",
		}}, m.sent()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestANearExpiryIsToldOnceADayAndWhenItIsThere(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		expires := time.Now().Add(400 * time.Hour)
		m.write("config/default", map[string]any{
			"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "400h",
			"expiry_warning": "340h",
		})
		m.sent()
		logged := func() int { return strings.Count(m.log.String(), "the API user's password expire") }
		ticks := func(duration time.Duration) (told int) {
			for range int(duration / time.Hour) {
				m.tick()
				for _, event := range m.sent() {
					told++
					if event["type"] != "ncentral/credential-expire" || event["config"] != "default" ||
						event["expires_at"] != expires.UTC().Format(time.RFC3339) ||
						!strings.Contains(event["reason"], "the API user's password expire") {
						t.Errorf("%v", event)
					}
				}
				time.Sleep(time.Hour)
			}
			return told
		}
		if told := ticks(60 * time.Hour); told != 0 || logged() != 0 {
			t.Errorf("told %d times before expiry_warning, %d in the log", told, logged())
		}
		if told := ticks(48 * time.Hour); told != 2 || logged() != 2 {
			t.Errorf("told %d times in two days, %d in the log", told, logged())
		}
		before := logged()
		if told := ticks(316 * time.Hour); told != 14 || logged()-before != 14 {
			t.Errorf(
				"told %d times until a day after the end, %d in the log, want 13 and one at the end", told,
				logged()-before,
			)
		}
		if !strings.Contains(m.log.String(), "the API user's password expired at") {
			t.Error("the end itself is not told of")
		}
	})
}

func TestTheUserAPITokensOwnExpiryIsToldOf(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		token := m.AddUserExpiring("short-lived", 100*time.Hour)
		m.write("config/default", map[string]any{"user_api_token": token})
		m.sent()
		m.tick()
		sent := m.sent()
		if diff := cmp.Diff([]string{"ncentral/credential-expire"}, typesOf(sent)); diff != "" {
			t.Fatal(diff)
		}
		if !strings.Contains(sent[0]["reason"], "the User-API token expires at") {
			t.Error(sent[0])
		}
	})
}

// failingSender is a server whose event system answers an error.
type failingSender struct{ err error }

func (s failingSender) SendEvent(context.Context, logical.EventType, *logical.EventData) error {
	return s.err
}

func TestWhereThereAreNoEventsTheEngineIsSilent(t *testing.T) {
	tests := map[string]struct {
		core   logical.EventSender
		logged bool
	}{
		"no sender":        {nil, false},
		"no events":        {failingSender{framework.ErrNoEvents}, false},
		"OpenBao":          {failingSender{grpcstatus.Error(codes.Unimplemented, "unknown service pb.Events")}, false},
		"another failure":  {failingSender{errors.New("the bus is full")}, true},
		"events are there": {logical.NewMockEventSender(), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			log := &logBuffer{}
			sender := events.NewSender(test.core, hclog.New(&hclog.LoggerOptions{Output: log}))
			sender.Send(t.Context(), events.ConfigWritten, events.ChangeMetadata(opWrite, "config/default"))
			if logged := log.String() != ""; logged != test.logged {
				t.Errorf("the log: %s", log)
			}
		})
	}
}

// A data call that fails after tokens could not be had is no turn for the worse, and is told of by
// status.
func TestOutagesAreToldOfOnce(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.sent()
		m.FailNext(simulator.EndpointAuthenticate, 20, status(503))
		for range 3 {
			m.fails(503, opRead, "creds/monitoring", nil)
			time.Sleep(time.Minute)
		}
		m.ClearFailures()
		m.read(nil)
		sent := typesOf(m.sent())
		if !slices.Equal(sent, []string{"ncentral/credential-degrade", "ncentral/credential-recover"}) {
			t.Error(sent)
		}
		if told := strings.Count(m.log.String(), "new tokens cannot be had"); told != 1 {
			t.Errorf("the log tells of it %d times", told)
		}
	})
}

func TestARoleThatIsGoneIsToldOfThoughItsSessionsCouldNotBeEnded(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.storage.refusesReads.Store(new("session/"))
		m.sent()
		m.fails(500, opDelete, "roles/monitoring", nil)
		if sent := typesOf(m.sent()); !slices.Equal(sent, []string{"ncentral/role-delete"}) {
			t.Error(sent)
		}
	})
}

// What calls to the server or credential before this one come to is nothing to the config as it is
// now.
func TestALateFailureOfTheConfigBeforeIsNotLaidToTheNewOne(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		go func() { _, _ = m.do(opRead, "creds/monitoring", nil) }()
		time.Sleep(time.Second)
		m.regenerate()
		m.write("config/default", map[string]any{"user_api_token": m.AddUser("new-user")})
		m.read(nil)
		m.sent()
		m.ClearFailures() // now the call with the old token is refused
		time.Sleep(time.Minute)
		if status := m.status(); status["state"] != "ok" || status["last_failure"] != nil {
			t.Error(status)
		}
		if sent := m.sent(); sent != nil {
			t.Error(sent)
		}
	})
}

// slowSender is a server whose event system takes ten minutes.
type slowSender struct{}

func (slowSender) SendEvent(ctx context.Context, _ logical.EventType, _ *logical.EventData) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Minute):
		return nil
	}
}

func TestNobodyWaitsLongForTheEventSystem(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.core = slowSender{}
		m.start()
		m.regenerate()
		began := time.Now()
		m.fails(400, opRead, "creds/monitoring", nil)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a read took %s", took)
		}
	})
}

func TestTheTickWorksThoughTheEventSystemIsSlow(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.core = slowSender{}
		m.start()
		for i := range 100 {
			m.write(fmt.Sprintf("config/c%d", i), map[string]any{
				"url": m.server.URL, "user_api_token": m.token, "verify": false,
				"password_changed_at": time.Now().Add(-80 * 24 * time.Hour).Format(time.RFC3339),
			})
		}
		m.read(nil)
		m.ResetCounts()
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) // as Vault's rollback manager gives
		defer cancel()
		began := time.Now()
		_, _ = m.backend.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		if took := time.Since(began); took > time.Minute {
			t.Errorf("a tick took %s", took)
		}
		m.expectCalls(map[simulator.Endpoint]int{
			simulator.EndpointValidate: 1, simulator.EndpointServiceOrgs: 1, simulator.EndpointUser: 1,
		})
	})
}

func TestALateFailureOfADeletedConfigIsNotLaidToItsNamesake(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		go func() { _, _ = m.do(opRead, "creds/monitoring", nil) }()
		time.Sleep(time.Second)
		m.regenerate()
		m.delete("roles/monitoring")
		m.delete("config/default")
		m.write("config/default", map[string]any{
			"url": m.server.URL, "user_api_token": m.AddUser("new-user"), "password_max_age": 0,
		})
		m.sent()
		m.ClearFailures()
		time.Sleep(time.Minute)
		if sent := m.sent(); sent != nil {
			t.Error(sent)
		}
	})
}

// What ails another credential is news, though events told of an ailment of the one before.
func TestANewCredentialThatIsRefusedTooIsToldOf(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.regenerate()
		m.fails(400, opRead, "creds/monitoring", nil)
		m.write("config/default", map[string]any{"user_api_token": m.AddUser("other-user"), "verify": false})
		_, _ = m.RegenerateUserAPIToken("other-user")
		m.sent()
		m.fails(400, opRead, "creds/monitoring", nil)
		sent := typesOf(m.sent())
		if !slices.Equal(sent, []string{"ncentral/authenticate-refuse", "ncentral/credential-degrade"}) {
			t.Error(sent)
		}
	})
}
