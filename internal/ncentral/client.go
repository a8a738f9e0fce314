// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package ncentral is a client of N-able N-central's authentication API
// ("API-Service"). It makes calls, repeats those that may succeed on another
// attempt, and answers typed errors that never hold a token. It knows nothing of
// Vault.
//
// Where a comment states what N-central does, a tag names the source: [D] N-able's
// documentation, [S] the OpenAPI document that N-central serves, [O] observed in
// public clients and issues, [?] known to nobody public.
package ncentral

import (
	"context"
	"net/http"
	"time"
)

// Call names one of the calls to N-central, for errors, counters and logs.
type Call string

// The calls that a Client makes, and no other.
const (
	CallLinks        Call = "links"        // GET /api/auth [D]
	CallAuthenticate Call = "authenticate" // POST /api/auth/authenticate [D]
	CallRefresh      Call = "refresh"      // POST /api/auth/refresh [D]
	CallValidate     Call = "validate"     // GET /api/auth/validate [D]
	CallLogout       Call = "logout"       // POST /api/auth/logout, absent before N-central 2026 [S]
	CallHealth       Call = "health"       // GET /api/health [S]
	CallServerInfo   Call = "server_info"  // GET /api/server-info [S]
	CallUser         Call = "user"         // GET /api/users/me, absent before N-central 2026 [S]
	CallData         Call = "data"         // GET /api/service-orgs?pageSize=1 [S]
)

// Calls are all there are.
func Calls() []Call {
	return []Call{
		CallLinks, CallAuthenticate, CallRefresh, CallValidate, CallLogout, CallHealth, CallServerInfo, CallUser, CallData,
	}
}

// Options describe a Client.
type Options struct {
	// BaseURL is the server's address as ParseBaseURL answered it.
	BaseURL string

	// Transport is what every attempt goes through. It sets each attempt's timeout:
	// the Client sets none. An *Error that it returns is answered as it is, and the
	// call is not repeated. A request counts as sent from httptrace's GetConn on, or
	// from the start where the transport does not report that.
	Transport http.RoundTripper

	// UserAgent names the caller to N-central, whose logs have nothing else to tell
	// one integration from another; "": Go's own name.
	UserAgent string

	// MaxRetries is how many attempts a call may make beyond the first.
	MaxRetries int

	// Trace is told of every call that the Client makes.
	Trace Trace
}

// Client calls one N-central server. It may be used by many goroutines at once.
type Client struct {
	baseURL    string
	transport  http.RoundTripper
	httpClient *http.Client
	userAgent  string
	maxRetries int
	trace      Trace
}

// New makes a Client. It calls nothing.
func New(options Options) *Client {
	return &Client{
		baseURL:    options.BaseURL,
		transport:  options.Transport,
		httpClient: &http.Client{Transport: singleAnswer{options.Transport}},
		userAgent:  options.UserAgent,
		maxRetries: options.MaxRetries,
		trace:      options.Trace,
	}
}

// WithoutRetries returns a Client on the same transport whose calls make one
// attempt each.
func (c *Client) WithoutRetries() *Client {
	once := *c
	once.maxRetries = 0
	return &once
}

// CloseIdleConnections closes the connections that no call is using, if the
// transport offers a method of that name.
func (c *Client) CloseIdleConnections() {
	if closer, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// Overrides ask for other lifetimes than N-central's own. They are sent in whole
// seconds, a fraction dropped; under a second nothing is sent. N-central refuses,
// clamps or ignores what exceeds its system-wide setting [?].
type Overrides struct {
	Access  time.Duration
	Refresh time.Duration
}

// The headers that carry them, as Error.Fields names them.
const (
	AccessOverride  = "X-ACCESS-EXPIRY-OVERRIDE"
	RefreshOverride = "X-REFRESH-EXPIRY-OVERRIDE"
)

// Authenticate opens a session with a User-API token. A token that is unknown, or
// that a newer one replaced, is KindUnauthorized [O]. It succeeds on most servers even
// where the API user's password has expired [D,O]: Data tells.
func (c *Client) Authenticate(ctx context.Context, userAPIToken string, overrides Overrides) (*Session, error) {
	return c.openSession(ctx, request{
		call:       CallAuthenticate,
		method:     http.MethodPost,
		path:       "/api/auth/authenticate",
		carrier:    inHeader,
		credential: userAPIToken,
		overrides:  overrides,
	})
}

// Refresh opens a session with the refresh token of an earlier one. A 500 is not
// repeated: on any bad answer, authenticating is the better next step. An expired or
// used refresh token is KindUnauthorized [S].
func (c *Client) Refresh(ctx context.Context, refreshToken string, overrides Overrides) (*Session, error) {
	return c.openSession(ctx, request{
		call:       CallRefresh,
		method:     http.MethodPost,
		path:       "/api/auth/refresh",
		carrier:    inBody,
		credential: refreshToken,
		overrides:  overrides,
	})
}

// Validate asks whether an access token lives. Nil says that it does, an error of
// KindUnauthorized that it does not [D]; any other error leaves it open, and Data may tell.
func (c *Client) Validate(ctx context.Context, accessToken string) error {
	r := bearerRequest(CallValidate, http.MethodGet, "/api/auth/validate", accessToken)
	_, err := do(ctx, c, r, func(received answer) (struct{}, error) { return struct{}{}, checkValid(received, accessToken) })
	return err
}

// Logout ends the session that an access token belongs to, its refresh token
// included [S]. KindUnauthorized says that it had ended before, KindNotFound that this
// server cannot log out (2025.3.1.1 and older [S]).
func (c *Client) Logout(ctx context.Context, accessToken string) error {
	_, err := do(ctx, c, bearerRequest(CallLogout, http.MethodPost, "/api/auth/logout", accessToken), ignored)
	return err
}

// Links reads what the server says of its authentication API. It needs no token.
func (c *Client) Links(ctx context.Context) (Links, error) {
	return do(ctx, c, request{call: CallLinks, method: http.MethodGet, path: "/api/auth"}, parseLinks)
}

// ServerInfo reads the server's versions.
func (c *Client) ServerInfo(ctx context.Context, accessToken string) (ServerInfo, error) {
	r := bearerRequest(CallServerInfo, http.MethodGet, "/api/server-info", accessToken)
	return do(ctx, c, r, func(received answer) (ServerInfo, error) { return parseServerInfo(received, accessToken) })
}

// User reads what N-central tells the token's user of themselves. KindForbidden says
// that they lack the permission USERS_VIEW, KindNotFound that this server does not
// tell (before 2026) [S]. Whether one whose password has expired is told so, or gets
// a KindServerError here too, is not known [?].
func (c *Client) User(ctx context.Context, accessToken string) (User, error) {
	r := bearerRequest(CallUser, http.MethodGet, "/api/users/me", accessToken)
	return do(ctx, c, r, func(received answer) (User, error) { return parseUser(received, accessToken) })
}

// Health reads the server's clock. It needs no token.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return do(ctx, c, request{call: CallHealth, method: http.MethodGet, path: "/api/health"}, parseHealth)
}

// Data makes a call that needs a working user, and drops what it brings. KindServerError
// (500) where authenticating succeeds says that the API user's password has most
// likely expired [D,O]; KindForbidden that the user may not see service
// organisations [S].
func (c *Client) Data(ctx context.Context, accessToken string) error {
	r := bearerRequest(CallData, http.MethodGet, "/api/service-orgs?pageSize=1", accessToken)
	_, err := do(ctx, c, r, func(received answer) (struct{}, error) { return struct{}{}, checkData(received) })
	return err
}

func (c *Client) openSession(ctx context.Context, r request) (*Session, error) {
	return do(ctx, c, r, func(received answer) (*Session, error) { return parseSession(r.call, received) })
}
