// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package ncentral is a client of the authentication API of N-able N-central ("API-Service"). It
// makes calls, repeats those that may succeed on another attempt, and returns typed errors that
// never hold a token. It knows nothing of Vault.
//
// Start with [NewTransport] and [New]. [Client.Authenticate] exchanges a User-API token for a
// [Session], [Client.Refresh] replaces a session's tokens, [Client.Validate] and [Client.Data] find
// out whether an access token works, and [Client.Logout] ends a session. The other calls describe
// the server and the user.
//
// Every call fails with an [*Error]. Its Kind says how the call failed, its Fault what is wrong
// where that is plain to see. [Error.NotSent] says that N-central cannot have acted on the call.
//
// Who owns what: a [Transport] owns the connections, and many Clients may share it. A Client holds
// no tokens and no state; the caller keeps the session, counts its lifetimes from [Session.SentAt]
// and decides when to refresh. Options.Transport limits each attempt, for example as a wrapper of
// the Transport; the caller's context limits the whole call.
//
// The tests are beside each file. The end-to-end view of the protocol is in example_test.go, and
// internal/simulator tests the client against the description of N-central.
//
// Where a comment states what N-central does, a tag names the source: [D] N-able's documentation,
// [S] the OpenAPI document that N-central serves, [O] observed in public clients and issues, [?]
// not publicly known.
package ncentral

import (
	"context"
	"net/http"
	"time"
)

// Call names one of the calls to N-central in errors, counters and logs.
type Call string

// The calls that a Client makes.
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

// Calls returns every Call.
func Calls() []Call {
	return []Call{
		CallLinks, CallAuthenticate, CallRefresh, CallValidate, CallLogout, CallHealth, CallServerInfo, CallUser,
		CallData,
	}
}

// Options configure a Client.
type Options struct {
	// BaseURL is the server's address as ParseBaseURL returned it.
	BaseURL string

	// Transport carries every attempt and sets its timeout: the Client sets none. Where it returns
	// an *Error, the call fails with that error and is not repeated. A request counts as sent once
	// httptrace's GetConn runs, or from the start where the transport does not run it.
	Transport http.RoundTripper

	// UserAgent names the caller in N-central's logs, which have nothing else to distinguish
	// integrations by. Empty means Go's own name.
	UserAgent string

	// MaxRetries is the number of attempts that a call may make after the first.
	MaxRetries int

	// Trace has hooks that run for every call of the Client.
	Trace Trace
}

// Client calls one N-central server. Several goroutines may use it at once.
type Client struct {
	baseURL    string
	transport  http.RoundTripper
	httpClient *http.Client
	userAgent  string
	maxRetries int
	trace      Trace
}

// New returns a Client. It makes no call.
func New(options Options) *Client {
	return &Client{
		baseURL:    options.BaseURL,
		transport:  options.Transport,
		httpClient: &http.Client{Transport: withoutRedirects{options.Transport}},
		userAgent:  options.UserAgent,
		maxRetries: options.MaxRetries,
		trace:      options.Trace,
	}
}

// WithoutRetries returns a Client on the same transport whose calls make one attempt each.
func (c *Client) WithoutRetries() *Client {
	once := *c
	once.maxRetries = 0
	return &once
}

// CloseIdleConnections closes the connections that no call is using, if the transport has a method
// of that name.
func (c *Client) CloseIdleConnections() {
	if closer, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// Overrides ask for lifetimes other than N-central's own. They are sent in whole seconds, rounded
// down; a lifetime under one second is not sent. Whether N-central rejects, shortens or ignores a
// lifetime beyond its system-wide setting is not known [?].
type Overrides struct {
	Access  time.Duration
	Refresh time.Duration
}

// The headers that carry the overrides, as Error.Fields names them.
const (
	AccessOverride  = "X-ACCESS-EXPIRY-OVERRIDE"
	RefreshOverride = "X-REFRESH-EXPIRY-OVERRIDE"
)

// Authenticate opens a session with a User-API token. A token that is unknown, or that a newer one
// has replaced, is KindUnauthorized [O]. On most servers Authenticate succeeds even where the API
// user's password has expired [D,O]; Data then fails.
func (c *Client) Authenticate(ctx context.Context, userAPIToken string, overrides Overrides) (*Session, error) {
	return c.openSession(ctx, request{
		call:       CallAuthenticate,
		method:     http.MethodPost,
		path:       "/api/auth/authenticate",
		placement:  inHeader,
		credential: userAPIToken,
		overrides:  overrides,
	})
}

// Refresh opens a session with the refresh token of an earlier one. A 500 is not retried, because
// authenticating is the better next step after any bad answer. An expired or used refresh token is
// KindUnauthorized [S].
func (c *Client) Refresh(ctx context.Context, refreshToken string, overrides Overrides) (*Session, error) {
	return c.openSession(ctx, request{
		call:       CallRefresh,
		method:     http.MethodPost,
		path:       "/api/auth/refresh",
		placement:  inBody,
		credential: refreshToken,
		overrides:  overrides,
	})
}

// Validate asks whether an access token is valid. It returns nil where the token is valid, and an
// error of KindUnauthorized where it is not [D]. Any other error leaves the question open; Data may
// answer it.
func (c *Client) Validate(ctx context.Context, accessToken string) error {
	r := bearerRequest(CallValidate, http.MethodGet, "/api/auth/validate", accessToken)
	_, err := do(ctx, c, r, func(received answer) (struct{}, error) {
		return struct{}{}, checkValid(received, accessToken)
	})
	return err
}

// Logout ends the session that an access token belongs to, including its refresh token [S].
// KindUnauthorized means that the session had ended before. KindNotFound means that this server has
// no logout (2025.3.1.1 and older [S]).
func (c *Client) Logout(ctx context.Context, accessToken string) error {
	_, err := do(ctx, c, bearerRequest(CallLogout, http.MethodPost, "/api/auth/logout", accessToken), discard)
	return err
}

// Links reads the list of the authentication calls. It needs no token.
func (c *Client) Links(ctx context.Context) (Links, error) {
	return do(ctx, c, request{call: CallLinks, method: http.MethodGet, path: "/api/auth"}, parseLinks)
}

// ServerInfo reads the server's versions.
func (c *Client) ServerInfo(ctx context.Context, accessToken string) (ServerInfo, error) {
	r := bearerRequest(CallServerInfo, http.MethodGet, "/api/server-info", accessToken)
	return do(ctx, c, r, func(received answer) (ServerInfo, error) { return parseServerInfo(received, accessToken) })
}

// User reads the user that the access token belongs to. KindForbidden means that the user lacks the
// permission USERS_VIEW. KindNotFound means that this server does not have the call (before 2026)
// [S]. Whether a user whose password has expired gets an answer or a KindServerError is not known
// [?].
func (c *Client) User(ctx context.Context, accessToken string) (User, error) {
	r := bearerRequest(CallUser, http.MethodGet, "/api/users/me", accessToken)
	return do(ctx, c, r, func(received answer) (User, error) { return parseUser(received, accessToken) })
}

// Health reads the server's clock. It needs no token.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return do(ctx, c, request{call: CallHealth, method: http.MethodGet, path: "/api/health"}, parseHealth)
}

// Data makes a call that needs a working user, and discards the data. KindServerError (500) where
// authenticating succeeds means that the API user's password has most likely expired [D,O].
// KindForbidden means that the user may not see service organisations [S].
func (c *Client) Data(ctx context.Context, accessToken string) error {
	r := bearerRequest(CallData, http.MethodGet, "/api/service-orgs?pageSize=1", accessToken)
	_, err := do(ctx, c, r, func(received answer) (struct{}, error) { return struct{}{}, checkData(received) })
	return err
}

func (c *Client) openSession(ctx context.Context, r request) (*Session, error) {
	return do(ctx, c, r, func(received answer) (*Session, error) { return parseSession(r.call, received) })
}
