// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const (
	typeJSON = "application/json"
	typeHTML = "text/html; charset=utf-8"
)

func TestKindsOfAnswers(t *testing.T) {
	const notTheAPI = "; the URL is probably not that of N-central's API"
	const inItsPlace = "; a proxy, firewall or web filter probably answered in N-central's place"
	const problem = `{"status":401,"message":"[ID=ab12] UNAUTHORIZED: DmsLoginException: Login failed.",` +
		`"errors":[{"field":"x"}]}`
	const forbidden = `{"status":403,"message":"FORBIDDEN: AccessDeniedException"}`
	tests := map[string]struct {
		status            int
		contentType, body string
		kind              Kind
		detail            string
	}{
		"400": {400, typeJSON, `{"message":"BAD REQUEST: no"}`, KindBadRequest, "BAD REQUEST: no"},
		"401": {
			401, typeJSON, problem, KindUnauthorized,
			"UNAUTHORIZED: DmsLoginException: Login failed.",
		},
		"401, problem+json": {
			401, "application/problem+json", problem, KindUnauthorized,
			"UNAUTHORIZED: DmsLoginException: Login failed.",
		},
		"401, status as text":   {401, typeJSON, `{"status":"401","message":"no"}`, KindUnauthorized, "no"},
		"401, no errors, no ID": {401, typeJSON, `{"status":401,"message":""}`, KindUnauthorized, ""},
		"401, odd errors":       {401, typeJSON, `{"status":401,"message":"no","errors":5}`, KindUnauthorized, "no"},
		"401, HTML": {401, typeHTML, "<html>secret page</html>", KindMalformed, "an HTML page" +
			inItsPlace},
		"401, JSON as HTML":    {401, typeHTML, problem, KindMalformed, "an HTML page" + inItsPlace},
		"401, JSON of no type": {401, "", problem, KindMalformed, "a body without a content type" + inItsPlace},
		"401, no body":         {401, "", "", KindMalformed, "an empty body" + inItsPlace},
		"401, empty JSON":      {401, typeJSON, "", KindMalformed, "an empty body" + inItsPlace},
		"401, not the JSON": {
			401, typeJSON, `{"status":401,"message":["x"]}`, KindMalformed,
			"JSON of another form" + inItsPlace,
		},
		"401, a list": {401, typeJSON, "[" + problem + "]", KindMalformed, "JSON of another form" +
			inItsPlace},
		"401, broken JSON": {
			401, typeJSON, `{"status":401,"message":"x"`, KindMalformed,
			"a body that claims to be JSON and is not" + inItsPlace,
		},
		"401, too long": {
			401, typeJSON, problem + strings.Repeat(" ", 1<<20), KindMalformed,
			"the answer is over 1 MiB" + notTheAPI,
		},
		"403":       {403, typeJSON, forbidden, KindForbidden, "FORBIDDEN: AccessDeniedException"},
		"403, HTML": {403, typeHTML, "<html>blocked</html>", KindMalformed, "an HTML page" + inItsPlace},
		"403, a gateway's": {403, typeJSON, `{"message":"Forbidden"}`, KindMalformed, "JSON of another form" +
			inItsPlace},
		"403, a filter's": {
			403, typeJSON, `{"status":403,"error":"blocked"}`, KindMalformed,
			"JSON of another form" + inItsPlace,
		},
		"403, of another status": {403, typeJSON, problem, KindMalformed, "JSON of another form" + inItsPlace},
		"404":                    {404, "text/plain", "not found", KindNotFound, "a body that is not JSON"},
		"405":                    {405, "", "no", KindNotFound, "a body without a content type"},
		"409":                    {409, typeJSON, `{}`, KindBadRequest, ""},
		"415":                    {415, typeJSON, `{}`, KindBadRequest, ""},
		"429":                    {429, typeJSON, `{"message":"slow down"}`, KindRateLimited, "slow down"},
		"500": {
			500, typeJSON, `{"message":"INTERNAL SERVER ERROR: x"}`, KindServerError,
			"INTERNAL SERVER ERROR: x",
		},
		"501": {501, "", "", KindServerError, ""},
		"502": {502, typeHTML, "<html>", KindUnavailable, "an HTML page"},
		"503": {503, "application/xhtml+xml", "<html>", KindUnavailable, "an HTML page"},
		"504": {504, "", "", KindUnavailable, ""},
		"hidden error": {
			200, typeJSON, `{"Error Message":"[ID=1] core failed"}`, KindHiddenError,
			"core failed",
		},
		"hidden error, not text": {200, typeJSON, `{"Error Message":{"a":1}}`, KindHiddenError, ""},
		"hidden error, null":     {200, typeJSON, `{"data":[],"Error Message":null}`, KindHiddenError, ""},
		"hidden error, small": {
			200, typeJSON, `{"data":[],"error message":"core failed"}`, KindHiddenError,
			"core failed",
		},
		"hidden error, capitals": {
			200, typeJSON, `{"ERROR MESSAGE":"core failed","n":1e999}`, KindHiddenError,
			"core failed",
		},
		"301":                {301, typeHTML, "<html>", KindMalformed, "a redirect without a target that can be read"},
		"304":                {304, "", "", KindMalformed, "a redirect without a target that can be read"},
		"200, HTML":          {200, typeHTML, "<html>login</html>", KindMalformed, "an HTML page" + notTheAPI},
		"200, JSON as text":  {200, "text/plain", `{}`, KindMalformed, "a body that is not JSON" + notTheAPI},
		"200, no type":       {200, "", `{}`, KindMalformed, "a body without a content type" + notTheAPI},
		"200, empty":         {200, "", "", KindMalformed, "an empty body" + notTheAPI},
		"200, empty JSON":    {200, typeJSON, "", KindMalformed, "an empty body"},
		"200, cut JSON":      {200, typeJSON, `{"data":[`, KindMalformed, "a body that claims to be JSON and is not"},
		"200, JSON and more": {200, typeJSON, `{} {}`, KindMalformed, "a body that claims to be JSON and is not"},
		"200, too long": {
			200, typeJSON, `"` + strings.Repeat("x", 1<<20) + `"`, KindMalformed,
			"the answer is over 1 MiB" + notTheAPI,
		},
		"201": {201, typeJSON, `{}`, KindMalformed, "a status that the call does not have"},
		"204": {204, "", "", KindMalformed, "a status that the call does not have"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client := clientOf(reply(test.status, test.contentType, test.body))
			failure := failureOf(t, client.Data(t.Context(), newToken()))
			if failure.Kind != test.kind || failure.Detail != test.detail || failure.Status != test.status ||
				failure.Call != CallData {
				t.Errorf("got %s %q %d of %s, want %s %q %d", failure.Kind, failure.Detail, failure.Status,
					failure.Call, test.kind, test.detail, test.status)
			}
		})
	}
}

// A fault names the party that can put things right, so only an answer that can come from that
// party has it. A call that does not send its token in the Authorization header cannot lose that
// header.
func TestFaultsOfAnswers(t *testing.T) {
	stating := func(status int, message string) string {
		return fmt.Sprintf(`{"status":%d,"message":%q}`, status, message)
	}
	const (
		missing   = "Required request header 'Authorization' for method parameter type String is not present"
		none      = "UNAUTHORIZED: Missing Authorization header"
		malformed = "Authentication header is malformed or unsupported"
		page      = "<html>blocked</html>"
	)
	for name, test := range map[string]struct {
		call              Call
		status            int
		contentType, body string
		kind              Kind
		fault             Fault
	}{
		"missing at authenticate": {
			CallAuthenticate, 400, typeJSON, stating(400, missing), KindBadRequest,
			FaultAuthorizationLost,
		},
		"missing at another call": {
			CallData, 401, typeJSON, stating(401, none), KindBadRequest,
			FaultAuthorizationLost,
		},
		"changed on the way": {
			CallAuthenticate, 500, typeJSON, stating(500, malformed), KindBadRequest,
			FaultAuthorizationLost,
		},
		"none to be lost": {CallRefresh, 401, typeJSON, stating(401, none), KindUnauthorized, ""},
		"missing, a gateway says": {
			CallData, 401, typeJSON, `{"message":"Missing Authorization header"}`,
			KindMalformed, FaultIntercepted,
		},
		"missing, a gateway's 400":    {CallAuthenticate, 400, typeJSON, stating(401, none), KindBadRequest, ""},
		"a refusal":                   {CallAuthenticate, 401, typeJSON, stating(401, "no"), KindUnauthorized, ""},
		"a firewall's page":           {CallAuthenticate, 403, typeHTML, page, KindMalformed, FaultIntercepted},
		"a web server's page":         {CallAuthenticate, 500, typeHTML, page, KindServerError, FaultWebPage},
		"a page in place of a 404":    {CallData, 404, typeHTML, page, KindNotFound, FaultWebPage},
		"a text that is no page":      {CallData, 404, "text/plain", "not found", KindNotFound, ""},
		"a page with what was wanted": {CallData, 200, typeHTML, page, KindMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(reply(test.status, test.contentType, test.body))
			var err error
			switch test.call {
			case CallAuthenticate:
				_, err = client.Authenticate(t.Context(), newToken(), Overrides{})
			case CallRefresh:
				_, err = client.Refresh(t.Context(), newToken(), Overrides{})
			default:
				err = client.Data(t.Context(), newToken())
			}
			failure := failureOf(t, err)
			if failure.Kind != test.kind || failure.Fault != test.fault || failure.Status != test.status {
				t.Errorf("got %s %q %d, want %s %q", failure.Kind, failure.Fault, failure.Status, test.kind, test.fault)
			}
		})
	}
}

func TestAnswersThatAreRight(t *testing.T) {
	list := clientOf(reply(200, "application/hal+json", `[{"Error Message":"of one item"}]`))
	if err := list.Data(t.Context(), newToken()); err != nil {
		t.Errorf("data answered as a list: %v", err)
	}
	longest := clientOf(reply(200, typeJSON, `{"data":"`+strings.Repeat("x", 1<<20-11)+`"}`))
	if err := longest.Data(t.Context(), newToken()); err != nil {
		t.Errorf("an answer of exactly 1 MiB: %v", err)
	}
	for _, contentType := range []string{
		"application/json;charset=UTF-8", "Application/JSON ; charset",
		"application/json; charset=utf-8; charset=utf-8", "application/json;;",
	} {
		if err := clientOf(reply(200, contentType, `{"data":[]}`)).Data(t.Context(), newToken()); err != nil {
			t.Errorf("%s: %v", contentType, err)
		}
	}
}

// The data call judges users and tokens. An answer without data does not come from N-central.
func TestDataCallWithoutDataTellsNothing(t *testing.T) {
	for _, body := range []string{
		`{}`, `{"status":"UP"}`, `{"message":"ok","errors":[]}`, `null`, `true`, `5`,
		`"data"`,
	} {
		if err := clientOf(reply(200, typeJSON, body)).Data(t.Context(), newToken()); KindOf(err) != KindMalformed {
			t.Errorf("%s: got %v", body, err)
		}
	}
	for _, body := range []string{`{"data":[]}`, `{"data":null}`, `{"data":[{"soId":"50"}],"totalItems":1}`, `[]`} {
		if err := clientOf(reply(200, typeJSON, body)).Data(t.Context(), newToken()); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestLogoutAnswers(t *testing.T) {
	tests := map[string]struct {
		status            int
		contentType, body string
		kind              Kind
	}{
		"200":               {200, "", "", ""},
		"200, empty HTML":   {200, typeHTML, "", ""},
		"200, JSON":         {200, typeJSON, `{}`, ""},
		"204":               {204, "", "", ""},
		"200, a page":       {200, typeHTML, "<html>login</html>", KindMalformed},
		"200, hidden":       {200, typeJSON, `{"Error Message":"x"}`, KindHiddenError},
		"202":               {202, "", "", KindMalformed},
		"401":               {401, typeJSON, refusedBody, KindUnauthorized},
		"401, a page":       {401, typeHTML, "<html>", KindMalformed},
		"404, older server": {404, "", "", KindNotFound},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := clientOf(reply(test.status, test.contentType, test.body)).Logout(t.Context(), newToken())
			if KindOf(err) != test.kind || (err == nil) != (test.kind == "") {
				t.Errorf("got %v, want kind %q", err, test.kind)
			}
		})
	}
}

func TestErrorNamesTheOverridesThatItsAnswerNames(t *testing.T) {
	access, refresh := []string{AccessOverride}, []string{RefreshOverride}
	both := []string{AccessOverride, RefreshOverride}
	tests := map[string]struct {
		errors string
		want   []string
	}{
		"the header":           {`[{"field":"X-ACCESS-EXPIRY-OVERRIDE","message":"no"}]`, access},
		"its other case":       {`[{"field":"x-refresh-expiry-override"}]`, refresh},
		"a variable":           {`[{"field":"accessExpiryOverride"}]`, access},
		"of a method":          {`[{"field":"refresh.accessExpiryOverride"}]`, access},
		"of a method, its own": {`[{"field":"authenticate.arg0.refreshTokenExpiration"}]`, refresh},
		"with underscores":     {`[{"field":"ACCESS_TOKEN_OVERRIDE"}]`, access},
		"both":                 {`[{"field":"refreshExpiry"},{"field":"accessExpiry"}]`, both},
		"one of them twice":    {`[{"field":"accessExpiry"},{"field":"accessExpiry"}]`, access},
		"one among others":     {`[{"field":5},{"field":"userId"},7,{},{"field":"accessExpiry"}]`, access},
		"neither": {
			`[{"field":"userId"},{"field":"expiry"},{"field":"accessToken"},{"field":"override"}]`, nil,
		},
		"one that may be either": {`[{"field":"refreshAccessExpiryOverride"}]`, nil},
		"a field that is empty":  {`[{"field":""}]`, nil},
		"a dot at the end":       {`[{"field":"accessExpiry."}]`, nil},
		"no list":                {`{"field":"accessExpiry"}`, nil},
		"none":                   {`[]`, nil},
		"null":                   {`null`, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			body := `{"status":400,"message":"BAD REQUEST: no","errors":` + test.errors + `}`
			_, err := clientOf(reply(400, typeJSON, body)).Authenticate(t.Context(), newToken(), Overrides{})
			if failure := failureOf(t, err); !slices.Equal(failure.Fields, test.want) ||
				failure.Kind != KindBadRequest {
				t.Errorf("got %s, %q, want %q", failure.Kind, failure.Fields, test.want)
			}
		})
	}
	const named = `{"errors":[{"field":"accessExpiry"}]}`
	for status, want := range map[int]int{400: 1, 404: 0, 500: 0} {
		failure := failureOf(t, clientOf(reply(status, typeJSON, named)).Data(t.Context(), newToken()))
		if len(failure.Fields) != want {
			t.Errorf("status %d, without status and message: %q", status, failure.Fields)
		}
	}
	page := failureOf(t, clientOf(reply(400, typeHTML, named)).Data(t.Context(), newToken()))
	if len(page.Fields) != 0 {
		t.Errorf("an HTML page: %q", page.Fields)
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("cause with something to hide")
	tests := map[string]*Error{
		"validate: N-central refused the credential (status 401): UNAUTHORIZED": {
			Call: CallValidate, Kind: KindUnauthorized, Status: 401, Detail: "UNAUTHORIZED", Err: cause,
		},
		"links: N-central did not answer in time": {Call: CallLinks, Kind: KindTimeout, Err: cause},
	}
	for want, failure := range tests {
		if failure.Error() != want {
			t.Errorf("got  %q\nwant %q", failure.Error(), want)
		}
		if !errors.Is(failure, cause) {
			t.Errorf("%q does not lead to its cause", want)
		}
	}
	for kind, phrase := range kindPhrases {
		if text := (&Error{Call: CallData, Kind: kind}).Error(); text != "data: "+phrase || phrase == "" {
			t.Errorf("text of kind %s is %q", kind, text)
		}
	}
}

func TestKindOf(t *testing.T) {
	wrapped := fmt.Errorf("config: %w", &Error{Kind: KindUnauthorized})
	if KindOf(wrapped) != KindUnauthorized {
		t.Errorf("kind of a wrapped error is %q", KindOf(wrapped))
	}
	if KindOf(nil) != "" || KindOf(io.EOF) != "" {
		t.Error("an error that is none of ours has a kind")
	}
}

func TestConnectionProblems(t *testing.T) {
	tests := map[string]struct {
		cause  error
		kind   Kind
		detail string
	}{
		"refused": {
			&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, KindUnreachable,
			"connection refused",
		},
		"reset": {
			&net.OpError{Op: "read", Err: syscall.ECONNRESET}, KindUnreachable,
			"the connection was closed before an answer came",
		},
		"no route": {
			&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, KindUnreachable,
			"there is no route to the host",
		},
		"forbidden": {
			&net.OpError{Op: "dial", Err: syscall.EPERM}, KindUnreachable,
			"this machine forbids the connection",
		},
		"no files": {
			&net.OpError{Op: "dial", Err: syscall.EMFILE}, KindUnreachable,
			"this machine has no file or port left for a connection",
		},
		"closed": {io.EOF, KindUnreachable, "the connection was closed before an answer came"},
		"lookup": {
			&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, KindUnreachable,
			"the host name cannot be resolved",
		},
		"proxy": {
			&net.OpError{Op: "proxyconnect", Err: &net.DNSError{}}, KindUnreachable,
			"the proxy that the environment names cannot be used: the host name cannot be looked up, because DNS fails",
		},
		"no TLS": {
			http.ErrSchemeMismatch, KindUnreachable,
			"the server does not speak TLS on this port",
		},
		"neither TLS nor HTTP": {
			tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
			KindUnreachable, "the server does not speak TLS on this port",
		},
		"other":                  {errors.New("a text that is not shown"), KindUnreachable, "the connection failed"},
		"timeout":                {fmt.Errorf("attempt: %w", context.DeadlineExceeded), KindTimeout, ""},
		"timeout of the network": {&net.DNSError{IsTimeout: true}, KindTimeout, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client := clientOf(transportFunc(func(*http.Request) (*http.Response, error) { return nil, test.cause }))
			failure := failureOf(t, client.Validate(t.Context(), newToken()))
			if failure.Kind != test.kind || failure.Detail != test.detail || failure.Status != 0 || failure.NotSent {
				t.Errorf("got %+v, want %s %q", failure, test.kind, test.detail)
			}
			if !errors.Is(failure, test.cause) {
				t.Error("the error does not lead to its cause")
			}
		})
	}
}

func TestContextThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := transportFunc(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		client := New(Options{BaseURL: testURL, Transport: hang, MaxRetries: 3})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		failure := failureOf(t, client.Validate(short, newToken()))
		if failure.Kind != KindTimeout || failure.Detail == "" || !errors.Is(failure, context.DeadlineExceeded) {
			t.Errorf("at the deadline: %+v", failure)
		}

		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		failure = failureOf(t, client.Validate(canceled, newToken()))
		if failure.Kind != KindCanceled || !errors.Is(failure, context.Canceled) {
			t.Errorf("when canceled: %+v", failure)
		}
		if failure := failureOf(t, client.Validate(canceled, newToken())); failure.Kind != KindCanceled {
			t.Errorf("when canceled before: %+v", failure)
		}
	})
}

// brokenBodyReader returns some JSON and then fails.
func brokenBodyReader(cause error) io.Reader {
	return io.MultiReader(strings.NewReader(`{"data":`), readerFunc(func([]byte) (int, error) { return 0, cause }))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestBodyThatBreaksOff(t *testing.T) {
	for _, test := range []struct {
		cause error
		kind  Kind
	}{
		{io.ErrUnexpectedEOF, KindMalformed},
		{syscall.ECONNRESET, KindMalformed},
		{context.DeadlineExceeded, KindTimeout},
	} {
		attempts := 0
		client := New(Options{
			BaseURL: testURL, MaxRetries: 3,
			Transport: transportFunc(func(*http.Request) (*http.Response, error) {
				attempts++
				return newResponse(200, typeJSON, brokenBodyReader(test.cause)), nil
			}),
		})
		failure := failureOf(t, client.Data(t.Context(), newToken()))
		if failure.Kind != test.kind || failure.Status != 200 || attempts != 1 || !errors.Is(failure, test.cause) {
			t.Errorf("%v: got %+v after %d attempts, want %s after one", test.cause, failure, attempts, test.kind)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{"/login", "https://example.invalid/login", "::bad::%zz"} {
			visits := 0
			client := serve(t, "", func(w http.ResponseWriter, _ *http.Request) {
				visits++
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			failure := failureOf(t, client.Data(t.Context(), newToken()))
			if failure.Kind != KindMalformed || failure.Status != status || visits != 1 {
				t.Errorf("%d to %s: %+v after %d visits", status, location, failure, visits)
			}
		}
	}
}

// The body of this answer is the connection itself, and has no end.
func TestSwitchingProtocolsDoesNotHang(t *testing.T) {
	client := serve(t, "", func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer connection.Close()
		io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		_, _ = bufio.NewReader(connection).ReadByte() // returns when the client hangs up
	})
	failure := failureOf(t, client.Data(t.Context(), newToken()))
	if failure.Kind != KindMalformed || failure.Status != 101 {
		t.Errorf("got %+v", failure)
	}
}

// A server may repeat what it was sent in any form: the error does not pass it on.
func TestErrorsHoldNoSecret(t *testing.T) {
	secret, other := newToken(), newToken()
	echoes := map[string]string{
		"whole":           "no such token: " + secret + ".",
		"beginning":       "no such token: " + secret[:20] + "…",
		"end":             "token ending in " + secret[len(secret)-12:],
		"middle":          "token like *" + secret[10:40] + "*",
		"over two lines":  secret[:25] + "\n" + secret[25:],
		"zero width":      secret[:6] + "\u200b" + secret[6:12] + "\u200b" + secret[12:],
		"another token":   "try " + other,
		"after long text": strings.Repeat("x ", 95) + secret,
	}
	calls := map[string]func(*Client) error{
		"authenticate": func(c *Client) error {
			_,
				err := c.Authenticate(t.Context(), secret, Overrides{})
			return err
		},
		"refresh":  func(c *Client) error { _, err := c.Refresh(t.Context(), secret, Overrides{}); return err },
		"validate": func(c *Client) error { return c.Validate(t.Context(), secret) },
	}
	for echo, text := range echoes {
		body := fmt.Sprintf(`{"message":%q,"Error Message":%q}`, text, text)
		for name, call := range calls {
			for _, transport := range []http.RoundTripper{
				reply(401, typeJSON, body), reply(200, typeJSON, body),
				reply(500, typeHTML, body),
			} {
				message := call(clientOf(transport)).Error()
				for start := range len(secret) - secretPartLength {
					if strings.Contains(message, secret[start:start+secretPartLength]) ||
						strings.Contains(message, other[start:start+secretPartLength]) {
						t.Fatalf("%s, %s: the error holds a part of the token", name, echo)
					}
				}
			}
		}
	}
}

func TestServerThatClosesTheConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request,
	) {
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	transport, err := NewTransport(TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	failure := failureOf(t, New(Options{BaseURL: server.URL, Transport: transport}).Data(t.Context(), newToken()))
	if failure.Kind != KindUnreachable || failure.Detail != "the connection was closed before an answer came" {
		t.Errorf("got %+v", failure)
	}
}
