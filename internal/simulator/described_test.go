// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// undescribedKinds are the failures that no description has. They come from what stands before
// N-central, or from a network or server that misbehaves badly.
var undescribedKinds = []FailureKind{
	FailureHang, FailureReset, FailureHTML, FailureRedirect, FailureNoTokens, FailureLineFeedToken, FailureControlToken,
	FailureMessage, FailureEndlessHeaders, FailureTruncated, FailureOversized, FailureGzipBomb, FailureLostAnswer,
}

// isUndescribed reports whether no description has the answer to this failure.
func isUndescribed(failure Failure) bool {
	switch failure.Kind {
	case FailureStatus:
		return !slices.Contains(describedStatuses, failure.Status)
	case FailureExpiry:
		return failure.ExpirySeconds != "" && !isPlainLifetime(failure.ExpirySeconds.String())
	}
	return slices.Contains(undescribedKinds, failure.Kind)
}

// describedStatuses are the error statuses that every call may have.
var describedStatuses = []int{400, 401, 403, 404, 429, 500}

func isPlainLifetime(text string) bool {
	for _, character := range text {
		if character < '0' || character > '9' {
			return false
		}
	}
	return text != "0"
}

// setting is one or more knobs that are not at their default values.
type setting struct {
	name   string
	change func(*Knobs)
}

// settings returns each knob at each other value that it can have, or at one that stands for them.
// The test fails if a knob is missing.
func settings(t *testing.T) []setting {
	others := map[string]func(*Knobs){
		"GrantLongerBy":     func(k *Knobs) { k.GrantLongerBy = 5 * time.Minute },
		"AccessLimit":       func(k *Knobs) { k.AccessLimit = 5 * time.Minute },
		"RefreshLimit":      func(k *Knobs) { k.RefreshLimit = time.Hour },
		"HiddenErrorKey":    func(k *Knobs) { k.HiddenErrorKey, k.HideCoreErrors = hiddenErrorKeys[1], true },
		"ServerVersion":     func(k *Knobs) { k.ServerVersion = "" },
		"MaxInFlight":       func(k *Knobs) { k.MaxInFlight = 1 },
		"RetryAfterSeconds": func(k *Knobs) { k.RetryAfterSeconds = 7 },
		"Latency":           func(k *Knobs) { k.Latency = time.Second },
		"ClockOffset":       func(k *Knobs) { k.ClockOffset = -time.Hour },
	}
	all := []setting{{"defaults", func(*Knobs) {}}}
	knobs := reflect.TypeFor[Knobs]()
	for i := range knobs.NumField() {
		field := knobs.Field(i)
		change := others[field.Name]
		if field.Type.Kind() == reflect.Bool {
			change = func(k *Knobs) {
				knob := reflect.ValueOf(k).Elem().Field(i)
				knob.SetBool(!knob.Bool())
			}
		}
		if change == nil {
			t.Fatalf("there is no other value for the knob %s", field.Name)
		}
		all = append(all, setting{field.Name, change})
	}
	return all
}

// TestEveryAnswerIsDescribed runs an exercise with each setting, alone and combined with those that
// change the form of every answer. The exercise makes every call as well and as badly as clients
// do. The client checks each answer against the description.
func TestEveryAnswerIsDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, setting := range settings(t) {
		for _, form := range []func(*Knobs){
			func(*Knobs) {},
			func(k *Knobs) { k.HideCoreErrors, k.LinksNested, k.OmitExpirySeconds = true, true, true },
		} {
			synctest.Test(t, func(t *testing.T) {
				knobs := DefaultKnobs()
				form(&knobs)
				setting.change(&knobs)
				e := newExercise(t, knobs)
				defer e.server.Close()
				e.client.seen = func(request *http.Request, answered response) {
					seen[fmt.Sprintf("%s %d", routeOf(request.URL.Path).endpoint, answered.status)] = true
				}
				e.run()
				if t.Failed() {
					t.Fatal("with ", setting.name)
				}
			})
		}
	}
	for _, want := range []string{
		"root 200", "links 200", "health 200",
		"authenticate 200", "authenticate 400", "authenticate 401", "authenticate 500",
		"refresh 200", "refresh 400", "refresh 401", "refresh 415",
		"validate 200", "validate 401", "validate 404", "logout 200", "logout 401", "logout 404", "sso 401",
		"server_info 200", "server_info 401", "server_time 200", "server_time 401",
		"user 200", "user 401", "user 403", "user 404", "user 500",
		"service_orgs 200", "service_orgs 401", "service_orgs 403", "service_orgs 500",
		"other 404",
	} {
		if !seen[want] {
			t.Errorf("%s was never answered: the test looks at less than it should", want)
		}
	}
}

// exercise is a server, and the client that makes calls to it.
type exercise struct {
	t         *testing.T
	simulator *Simulator
	server    *Server
	client    *testClient
	token     string // User-API token
}

func newExercise(t *testing.T, knobs Knobs) *exercise {
	s := New(knobs)
	server := ListenInMemory(s)
	client := newTestClient(t, server, &http.Transport{DialContext: server.DialContext})
	return &exercise{t: t, simulator: s, server: server, client: client, token: s.AddUser("some-user")}
}

func (e *exercise) run() {
	s := e.simulator
	e.callAll("", nil)
	e.callAll("", header{"Authorization": "Basic abc"})
	e.callAll("unknown", nil)
	e.session()
	e.overrides()
	for _, befall := range []struct {
		set  func(string, bool) error
		name string
	}{
		{s.SetPasswordResetRequired, "reset required"},
		{s.SetPasswordExpired, "expired"},
		{s.SetUserLocked, "locked"},
		{s.SetUserDisabled, "disabled"},
		{e.twoFactor, "two-factor"},
	} {
		access := e.open()
		e.must(befall.set("some-user", true))
		e.session()
		e.callAll(access, nil)
		e.must(befall.set("some-user", false))
	}
	access := e.open()
	e.must(s.ChangePassword("some-user"))
	e.callAll(access, nil)
	access = e.open()
	_, err := s.RegenerateUserAPIToken("some-user")
	e.must(err)
	e.session() // with the old token
	e.callAll(access, nil)
	s.Reboot()
	e.callAll(access, nil)
	e.client.call(http.MethodGet, "/api//auth", nil, "")
	e.client.call(http.MethodDelete, linksPath, nil, "")
}

func (e *exercise) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *exercise) twoFactor(name string, on bool) error {
	if on {
		return e.simulator.SetTwoFactorType(name, "TOTP")
	}
	return e.simulator.SetTwoFactorType(name, noTwoFactor)
}

// callAll calls every path except logout, with the access token and the headers. An empty token is
// left out.
func (e *exercise) callAll(access string, headers header) {
	if access != "" {
		headers = bearer(access)
	}
	for path, route := range routes {
		if path != logoutPath || access == "" || access == "unknown" {
			e.client.call(route.method, path, headers, "")
		}
	}
}

// open opens a session. It returns "" where the server accepts no login.
func (e *exercise) open() (access string) {
	access, _ = e.pair(e.client.call(http.MethodPost, authenticatePath, bearer(e.token), ""))
	return access
}

func (e *exercise) pair(answered response) (access, refresh string) {
	var body tokensBody
	if answered.status != http.StatusOK {
		return "", ""
	}
	e.must(decodeJSON(answered.body, &body)) // an error that is hidden in a 200 has no tokens
	return body.Tokens.Access.Token, body.Tokens.Refresh.Token
}

// session opens a session, refreshes it twice with the same token, makes all calls with it, and
// ends it twice.
func (e *exercise) session() {
	access, refresh := e.pair(e.client.call(http.MethodPost, authenticatePath, bearer(e.token), ""))
	if access == "" {
		return
	}
	e.callAll(access, nil)
	e.client.refreshCall(refresh)
	access, refresh = e.pair(e.client.refreshCall(refresh))
	e.client.call(http.MethodPost, refreshPath, header{"Content-Type": "application/json"}, refresh)
	e.client.refreshCall("")
	if access != "" {
		e.client.get("/api/service-orgs?pageSize=1", access)
		for range 2 {
			e.client.call(http.MethodPost, logoutPath, bearer(access), "")
		}
	}
	e.client.refreshCall(refresh)
}

func (e *exercise) overrides() {
	for _, override := range []string{"90s", "2h", "26h", "x"} {
		for _, name := range []string{accessOverrideHeader, refreshOverrideHeader} {
			headers := bearer(e.token).with(name, override)
			_, refresh := e.pair(e.client.call(http.MethodPost, authenticatePath, headers, ""))
			if refresh != "" {
				plain := header{"Content-Type": "text/plain"}
				e.client.call(http.MethodPost, refreshPath, plain.with(name, override), refresh)
			}
		}
	}
}

func TestTooManyRequestsAreDescribed(t *testing.T) {
	for path, route := range routes {
		for _, retryAfter := range []int{0, 7} {
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				s.Change(func(k *Knobs) { k.MaxInFlight, k.RetryAfterSeconds = 1, retryAfter })
				s.FailNext(route.endpoint, 1, Failure{Kind: FailureHang})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = client.try(ctx, route.method, path, nil, "")
				}()
				synctest.Wait()
				wantEqual(t, path, client.call(route.method, path, nil, "").status, 429)
				cancel()
				<-ended
			})
		}
	}
}

// TestFailuresAreDescribedOrNot checks that every failure outside undescribedKinds is in the
// description, whichever call it affects.
func TestFailuresAreDescribedOrNot(t *testing.T) {
	failures := []Failure{
		{Kind: FailureErrorMessage},
		{Kind: FailureSlow, Delay: Delay(time.Second)},
		{Kind: FailureDrip, Delay: Delay(time.Millisecond)},
		{Kind: FailureSameTokens},
		{Kind: FailureExpiry, ExpirySeconds: "60"},
	}
	for _, status := range describedStatuses {
		failures = append(failures, Failure{Kind: FailureStatus, Status: status})
	}
	for path, route := range routes {
		for _, failure := range failures {
			inBubble(t, func(_ *testing.T, s *Simulator, client *testClient) {
				tokens := client.authenticate(s.AddUser("some-user")).Tokens
				headers, body := bearer(tokens.Access.Token), ""
				switch route.endpoint {
				case EndpointAuthenticate:
					headers = bearer(s.AddUser("some-user"))
				case EndpointRefresh:
					headers, body = header{"Content-Type": "text/plain"}, tokens.Refresh.Token
				}
				s.FailNext(route.endpoint, 1, failure)
				// In the description, the answer to logout has no body in which an error could
				// hide.
				client.undescribed = isUndescribed(failure) ||
					failure.Kind == FailureErrorMessage && route.endpoint == EndpointLogout
				client.call(route.method, path, headers, body)
			})
		}
	}
}

// checkingTransport checks what it carries against the description, and records the calls.
type checkingTransport struct {
	t      *testing.T
	below  http.RoundTripper
	called map[string]bool // by operation
}

func (h *checkingTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := described().checkRequest(request); err != nil {
		h.t.Errorf("the request is not as described: %v", err)
	}
	answered, err := h.below.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answered.Body)
	if err != nil {
		return nil, err
	}
	answered.Body = io.NopCloser(bytes.NewReader(body))
	if err := described().checkAnswer(request,
		response{answered.StatusCode, answered.Header, string(body)}); err != nil {
		h.t.Errorf("the answer is not as described: %v", err)
	}
	h.called[string(routeOf(request.URL.Path).endpoint)] = true
	return answered, nil
}

// TestEveryRequestOfTheClientIsDescribed makes each call that the engine's client can make. The
// client shares no code with the simulator; this test holds the two against each other.
func TestEveryRequestOfTheClientIsDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(DefaultKnobs())
		server := ListenInMemory(s)
		defer server.Close()
		below := &http.Transport{DialContext: server.DialContext}
		defer below.CloseIdleConnections()
		carried := &checkingTransport{t: t, below: below, called: map[string]bool{}}
		made := map[ncentral.Call]bool{}
		client := ncentral.New(ncentral.Options{
			BaseURL: server.URL, Transport: carried, UserAgent: "engine/1",
			Trace: ncentral.Trace{Done: func(call ncentral.Call, _ error, _ time.Duration) { made[call] = true }},
		})
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		ctx, token := t.Context(), s.AddUser("some-user")
		var session *ncentral.Session
		for _, overrides := range []ncentral.Overrides{
			{},
			{Access: time.Minute},
			{Access: 90 * time.Minute, Refresh: 1500 * time.Millisecond},
		} {
			opened, err := client.Authenticate(ctx, token, overrides)
			must(err)
			session, err = client.Refresh(ctx, opened.RefreshToken, overrides)
			must(err)
		}
		_, err := client.Links(ctx)
		must(err)
		_, err = client.Health(ctx)
		must(err)
		must(client.Validate(ctx, session.AccessToken))
		_, err = client.User(ctx, session.AccessToken)
		must(err)
		must(client.Data(ctx, session.AccessToken))
		_, err = client.ServerInfo(ctx, session.AccessToken)
		must(err)
		must(client.Logout(ctx, session.AccessToken))
		for _, call := range ncentral.Calls() {
			if !made[call] {
				t.Errorf("the call %s was not made", call)
			}
		}
		wantEqual(t, "operations", len(carried.called), len(ncentral.Calls()))
	})
}
