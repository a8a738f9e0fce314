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

// undescribedKinds are the failures that no description has: what stands before N-central answers so, or a network or a
// server out of its mind.
var undescribedKinds = []FailureKind{
	FailureHang, FailureReset, FailureHTML, FailureRedirect, FailureNoTokens, FailureLineFeedToken, FailureControlToken,
	FailureMessage, FailureEndlessHeaders, FailureTruncated, FailureOversized, FailureGzipBomb, FailureLostAnswer,
}

// isBeyond says whether no description has what the failure answers.
func isBeyond(failure Failure) bool {
	switch failure.Kind {
	case FailureStatus:
		return !slices.Contains(describedStatuses, failure.Status)
	case FailureExpiry:
		return failure.ExpirySeconds != "" && !isPlainLifetime(failure.ExpirySeconds.String())
	}
	return slices.Contains(undescribedKinds, failure.Kind)
}

// describedStatuses are those that every call may fail with.
var describedStatuses = []int{400, 401, 403, 404, 429, 500}

func isPlainLifetime(text string) bool {
	for _, character := range text {
		if character < '0' || character > '9' {
			return false
		}
	}
	return text != "0"
}

// setting is one or more knobs at another value than by default.
type setting struct {
	name   string
	change func(*Knobs)
}

// settings are each knob at each other value that it can have, or at one that stands for them. A knob that is missing fails
// the test.
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

// TestEveryAnswerIsDescribed leads a life with each setting, alone and beside those that give all answers another form. In it
// every call is made as well and as badly as clients make it. The client holds each answer against the description.
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
				l := newLived(t, knobs)
				defer l.server.Close()
				l.client.seen = func(request *http.Request, answered response) {
					seen[fmt.Sprintf("%s %d", routeOf(request.URL.Path).endpoint, answered.status)] = true
				}
				l.live()
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

// lived is a server and the client whose life is led on it.
type lived struct {
	t         *testing.T
	simulator *Simulator
	server    *Server
	client    *testClient
	token     string // User-API token
}

func newLived(t *testing.T, knobs Knobs) *lived {
	s := New(knobs)
	server := ListenInMemory(s)
	client := newTestClient(t, server, &http.Transport{DialContext: server.DialContext})
	return &lived{t: t, simulator: s, server: server, client: client, token: s.AddUser("some-user")}
}

func (l *lived) live() {
	s := l.simulator
	l.callAll("", nil)
	l.callAll("", header{"Authorization": "Basic abc"})
	l.callAll("unknown", nil)
	l.session()
	l.overrides()
	for _, befall := range []struct {
		set  func(string, bool) error
		name string
	}{
		{s.SetPasswordResetRequired, "reset required"},
		{s.SetPasswordExpired, "expired"},
		{s.SetUserLocked, "locked"},
		{s.SetUserDisabled, "disabled"},
		{l.twoFactor, "two-factor"},
	} {
		access := l.open()
		l.must(befall.set("some-user", true))
		l.session()
		l.callAll(access, nil)
		l.must(befall.set("some-user", false))
	}
	access := l.open()
	l.must(s.ChangePassword("some-user"))
	l.callAll(access, nil)
	access = l.open()
	_, err := s.RegenerateUserAPIToken("some-user")
	l.must(err)
	l.session() // with the old token
	l.callAll(access, nil)
	s.Reboot()
	l.callAll(access, nil)
	l.client.call(http.MethodGet, "/api//auth", nil, "")
	l.client.call(http.MethodDelete, linksPath, nil, "")
}

func (l *lived) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lived) twoFactor(name string, on bool) error {
	if on {
		return l.simulator.SetTwoFactorType(name, "TOTP")
	}
	return l.simulator.SetTwoFactorType(name, noTwoFactor)
}

// callAll calls every path but logout, with the access token and the headers; an empty token is none.
func (l *lived) callAll(access string, headers header) {
	if access != "" {
		headers = bearer(access)
	}
	for path, route := range routes {
		if path != logoutPath || access == "" || access == "unknown" {
			l.client.call(route.method, path, headers, "")
		}
	}
}

// open opens a session; "" where the server lets nobody in.
func (l *lived) open() (access string) {
	access, _ = l.pair(l.client.call(http.MethodPost, authenticatePath, bearer(l.token), ""))
	return access
}

func (l *lived) pair(answered response) (access, refresh string) {
	var body tokensBody
	if answered.status != http.StatusOK {
		return "", ""
	}
	l.must(decodeJSON(answered.body, &body)) // an error that hides in a 200 has no tokens
	return body.Tokens.Access.Token, body.Tokens.Refresh.Token
}

// session opens a session, refreshes it, twice with the same token, calls all with it and ends it, twice.
func (l *lived) session() {
	access, refresh := l.pair(l.client.call(http.MethodPost, authenticatePath, bearer(l.token), ""))
	if access == "" {
		return
	}
	l.callAll(access, nil)
	l.client.refreshCall(refresh)
	access, refresh = l.pair(l.client.refreshCall(refresh))
	l.client.call(http.MethodPost, refreshPath, header{"Content-Type": "application/json"}, refresh)
	l.client.refreshCall("")
	if access != "" {
		l.client.get("/api/service-orgs?pageSize=1", access)
		for range 2 {
			l.client.call(http.MethodPost, logoutPath, bearer(access), "")
		}
	}
	l.client.refreshCall(refresh)
}

func (l *lived) overrides() {
	for _, override := range []string{"90s", "2h", "26h", "x"} {
		for _, name := range []string{accessOverrideHeader, refreshOverrideHeader} {
			headers := bearer(l.token).with(name, override)
			_, refresh := l.pair(l.client.call(http.MethodPost, authenticatePath, headers, ""))
			if refresh != "" {
				plain := header{"Content-Type": "text/plain"}
				l.client.call(http.MethodPost, refreshPath, plain.with(name, override), refresh)
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

// TestFailuresAreDescribedOrBeyond holds that the failures which are not beyond the description are in it, whichever call
// they befall.
func TestFailuresAreDescribedOrBeyond(t *testing.T) {
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
			inBubble(t, func(t *testing.T, s *Simulator, client *testClient) {
				tokens := client.authenticate(s.AddUser("some-user")).Tokens
				headers, body := bearer(tokens.Access.Token), ""
				switch route.endpoint {
				case EndpointAuthenticate:
					headers = bearer(s.AddUser("some-user"))
				case EndpointRefresh:
					headers, body = header{"Content-Type": "text/plain"}, tokens.Refresh.Token
				}
				s.FailNext(route.endpoint, 1, failure)
				// No description has a logout answer a body, in which an error could hide.
				client.beyond = isBeyond(failure) || failure.Kind == FailureErrorMessage && route.endpoint == EndpointLogout
				client.call(route.method, path, headers, body)
			})
		}
	}
}

// holding is a transport that holds what it carries against the description, and notes the calls.
type holding struct {
	t      *testing.T
	below  http.RoundTripper
	called map[string]bool // by operation
}

func (h *holding) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := described().holdRequest(request); err != nil {
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
	if err := described().holdAnswer(request, response{answered.StatusCode, answered.Header, string(body)}); err != nil {
		h.t.Errorf("the answer is not as described: %v", err)
	}
	h.called[string(routeOf(request.URL.Path).endpoint)] = true
	return answered, nil
}

// TestEveryRequestOfTheClientIsDescribed makes each call that the engine's client can make. The client shares no code with
// the simulator: here the two meet.
func TestEveryRequestOfTheClientIsDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(DefaultKnobs())
		server := ListenInMemory(s)
		defer server.Close()
		below := &http.Transport{DialContext: server.DialContext}
		defer below.CloseIdleConnections()
		carried := &holding{t: t, below: below, called: map[string]bool{}}
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
		for _, overrides := range []ncentral.Overrides{{}, {Access: time.Minute}, {Access: 90 * time.Minute, Refresh: 1500 * time.Millisecond}} {
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
