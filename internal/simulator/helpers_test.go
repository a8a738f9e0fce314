// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testClient calls a server, in memory or over TCP. It checks each answer against the description
// of N-central.
type testClient struct {
	t    *testing.T
	http *http.Client
	url  string
	// undescribed is set where a test asks for answers that no description has.
	undescribed bool
	seen        func(request *http.Request, answered response) // called with each answer, unless nil
}

func newTestClient(t *testing.T, server *Server, transport *http.Transport) *testClient {
	refuseRedirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(transport.CloseIdleConnections)
	return &testClient{t: t, http: &http.Client{Transport: transport, CheckRedirect: refuseRedirects}, url: server.URL}
}

// inBubble runs a test with a simulator in memory and a fake clock.
func inBubble(t *testing.T, test func(t *testing.T, s *Simulator, client *testClient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(DefaultKnobs())
		server := ListenInMemory(s)
		defer server.Close()
		client := newTestClient(t, server, &http.Transport{DialContext: server.DialContext})
		test(t, s, client)
	})
}

type response struct {
	status int
	header http.Header
	body   string
}

type header map[string]string

func bearer(token string) header { return header{"Authorization": "Bearer " + token} }

func (h header) with(name, value string) header {
	extended := header{name: value}
	maps.Copy(extended, h)
	return extended
}

func (c *testClient) try(ctx context.Context, method, path string, headers header, body string) (response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answered, err := c.http.Do(request)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = answered.Body.Close() }()
	read, err := io.ReadAll(answered.Body)
	whole := response{status: answered.StatusCode, header: answered.Header, body: string(read)}
	if err == nil && !c.undescribed {
		if err := described().checkAnswer(request, whole); err != nil {
			c.t.Errorf("the answer is not as described: %v", err)
		}
	}
	if c.seen != nil {
		c.seen(request, whole)
	}
	return whole, err
}

func decodeJSON(text string, into any) error { return json.Unmarshal([]byte(text), into) }

func (c *testClient) call(method, path string, headers header, body string) response {
	c.t.Helper()
	answered, err := c.try(context.Background(), method, path, headers, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answered
}

func (c *testClient) get(path, token string) response {
	c.t.Helper()
	return c.call(http.MethodGet, path, bearer(token), "")
}

func (c *testClient) data(token string) int {
	c.t.Helper()
	return c.get("/api/service-orgs?pageSize=1", token).status
}

func (c *testClient) authenticate(userAPIToken string) tokensBody {
	c.t.Helper()
	return c.tokens(c.call(http.MethodPost, authenticatePath, bearer(userAPIToken), ""))
}

func (c *testClient) refreshCall(refreshToken string) response {
	c.t.Helper()
	return c.call(http.MethodPost, refreshPath, header{"Content-Type": "text/plain"}, refreshToken)
}

func (c *testClient) refresh(refreshToken string) tokensBody {
	c.t.Helper()
	return c.tokens(c.refreshCall(refreshToken))
}

func (c *testClient) tokens(answered response) tokensBody {
	c.t.Helper()
	if answered.status != http.StatusOK {
		c.t.Fatalf("got status %d, want tokens", answered.status)
	}
	var body tokensBody
	if err := json.Unmarshal([]byte(answered.body), &body); err != nil {
		c.t.Fatal(err)
	}
	if body.Tokens.Access.Token == "" || body.Tokens.Refresh.Token == "" {
		c.t.Fatal("the answer lacks a token")
	}
	return body
}

// wantError checks the status and message of an error.
func (c *testClient) wantError(answered response, status int, message string) {
	c.t.Helper()
	var body struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(answered.body), &body); err != nil {
		c.t.Fatalf("status %d, body is no JSON: %v", answered.status, err)
	}
	if answered.status != status || body.Status != status {
		c.t.Errorf("got status %d, in the body %d, want %d", answered.status, body.Status, status)
	}
	_, told, ok := strings.Cut(body.Message, "] ")
	if !ok || !strings.HasPrefix(body.Message, "[ID=") || !strings.HasPrefix(told, message) {
		c.t.Errorf("got message %q, want one that begins with [ID=...] %s", body.Message, message)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// pass moves the fake clock on.
func pass(duration time.Duration) {
	time.Sleep(duration)
	synctest.Wait()
}
