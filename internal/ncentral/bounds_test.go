// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestATokenIsVisibleASCIIOfSixteenKiBAtMost(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "!": true, "~": true, "a b": false, "a\x7f": false, "a\n": false, "ä": false,
		strings.Repeat("a", 16<<10): true, strings.Repeat("a", 16<<10+1): false,
	} {
		if isToken(text) != want {
			t.Errorf("%.10q of %d: %t", text, len(text), !want)
		}
	}
}

// Beyond 2^53 a number with a decimal point may stand for another whole number.
func TestALifetimeIsAWholeNumber(t *testing.T) {
	for raw, want := range map[string]string{
		"5e15": "5000000000000000", "9007199254740992.0": "9007199254740992",
		"-9007199254740992.0": "-9007199254740992",
		"9007199254740994.0":  "", "1.5e16": "", "-1.5e16": "", "0.5": "", `"1.5"`: "", `"soon"`: "", "true": "",
	} {
		var got seconds
		err := decode(CallRefresh, []byte(`{"expirySeconds":`+raw+`}`), &struct {
			ExpirySeconds *seconds `json:"expirySeconds"`
		}{&got})
		if want == "" {
			if detail := failureOf(t, err).Detail; detail != "its field expirySeconds does not have the right type" {
				t.Errorf("%s: %s", raw, detail)
			}
		} else if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %d, %v", raw, got, err)
		}
	}
}

// The random part that is added to each wait hides which wait was scheduled.
func TestTheScheduleOfWaits(t *testing.T) {
	for kind, schedule := range map[Kind][]time.Duration{
		KindRateLimited: {2 * time.Second, 5 * time.Second, 10 * time.Second, 10 * time.Second},
		KindUnavailable: {
			500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
			8 * time.Second,
		},
	} {
		for i, want := range schedule {
			if got := scheduledBackoff(kind, i+1); got != want {
				t.Errorf("%s, after %d: %s, want %s", kind, i+1, got, want)
			}
		}
	}
}

// Half of the time until the deadline is kept for the attempt itself.
func TestAWaitLeavesTimeForTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct{ left, asked, least, most time.Duration }{
			{time.Hour, 8 * time.Second, 8 * time.Second, 10 * time.Second},
			{9 * time.Second, 8 * time.Second, 8 * time.Second, 8500 * time.Millisecond},
			{8*time.Second + 1, 8 * time.Second, 8 * time.Second, 8 * time.Second},
			{8 * time.Second, 8 * time.Second, 0, 0},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), test.left)
			shortest, longest := time.Duration(1<<62), time.Duration(0)
			for range 1000 {
				e := &exchange{failure: &Error{Kind: KindRateLimited, RetryAfter: test.asked}}
				wait, fits := e.backoff(ctx)
				if fits != (test.most > 0) {
					t.Fatalf("with %s left: fits %t", test.left, fits)
				}
				shortest, longest = min(shortest, wait), max(longest, wait)
			}
			cancel()
			if shortest < test.least || longest > test.most || longest-shortest < (test.most-test.least)*9/10 {
				t.Errorf("with %s left: %s to %s, want %s to %s", test.left, shortest, longest, test.least, test.most)
			}
		}
	})
}

// The cause decides who can put it right.
func TestEachCauseOfNoConnectionIsToldApart(t *testing.T) {
	some := &x509.Certificate{}
	expired := x509.CertificateInvalidError{Cert: some, Reason: x509.Expired}
	mayNotSign := x509.CertificateInvalidError{Cert: some, Reason: x509.NotAuthorizedToSign}
	otherwise := x509.CertificateInvalidError{Cert: some, Reason: x509.TooManyIntermediates}
	alert := func(number uint8) error { return &net.OpError{Op: "remote error", Err: tls.AlertError(number)} }
	for name, test := range map[string]struct {
		cause error
		want  string // a part of the detail
		fault Fault
	}{
		"unknown authority": {
			x509.UnknownAuthorityError{Cert: &x509.Certificate{RawIssuer: []byte("x")}},
			"unknown authority", FaultUnknownAuthority,
		},
		"signs itself": {x509.UnknownAuthorityError{Cert: some}, "signs itself", FaultSelfSigned},
		"another host": {
			x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"x"}}},
			"another name", FaultWrongName,
		},
		"no host":           {x509.HostnameError{Certificate: some}, "no subject alternative name", FaultNoName},
		"expired":           {expired, "has expired", FaultExpired},
		"may not sign":      {mayNotSign, "may not sign", FaultIssuerNotCA},
		"otherwise invalid": {otherwise, "cannot be verified: too many intermediates", FaultCertificate},
		"unverified": {
			&tls.CertificateVerificationError{Err: errors.New("no")}, "cannot be verified: no",
			FaultCertificate,
		},
		"unverified: expired": {&tls.CertificateVerificationError{Err: expired}, "has expired", FaultExpired},
		"unreadable": {errors.New("tls: failed to parse certificate from server: x509: negative " +
			"serial number"), "cannot be read: x509: negative serial number", FaultCertificate},
		"odd TLS": {
			errors.New("tls: server selected unsupported group"),
			"handshake failed: server selected", FaultHandshake,
		},
		"cipher not offered": {
			errors.New("tls: server chose an unconfigured cipher suite"), "no cipher suite is accepted",
			FaultNoCipher,
		},
		"proxy": {
			&net.OpError{Op: "proxyconnect", Err: &net.DNSError{}},
			"the proxy that the environment names", FaultNoDNS,
		},
		"name": {
			&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, "cannot be resolved",
			FaultNameUnknown,
		},
		"refused":           {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "connection refused", FaultRefused},
		"no TLS":            {tls.RecordHeaderError{}, "does not speak TLS", FaultNotTLS},
		"no HTTPS":          {http.ErrSchemeMismatch, "does not speak TLS", FaultNotTLS},
		"reset":             {syscall.ECONNRESET, "closed before an answer came", FaultClosed},
		"closed":            {io.EOF, "closed before an answer came", FaultClosed},
		"cut short":         {io.ErrUnexpectedEOF, "closed before an answer came", FaultClosed},
		"another":           {errors.New("no"), "the connection failed", ""},
		"another, by proxy": {&attemptError{error: errors.New("no"), byProxy: true}, "the connection failed", ""},
		"no HTTP": {
			errors.New(`net/http: HTTP/1.x transport connection broken: malformed HTTP response "x"`),
			"does not speak HTTP", FaultNotHTTP,
		},
		"no HTTP, by proxy": {
			&attemptError{error: errors.New(`malformed HTTP response "x"`), byProxy: true},
			"does not speak HTTP", FaultNotHTTP,
		},
		"cut off": {&attemptError{error: io.EOF}, "cut off while it was made", FaultCutOff},
		"cut off, by proxy": {
			&attemptError{error: io.EOF, byProxy: true},
			"the proxy that the environment names or behind it", FaultCutOff,
		},
		"no route":  {syscall.ENETUNREACH, "no route to the host", FaultNoRoute},
		"forbidden": {syscall.EPERM, "this machine forbids", FaultForbidden},
		"no files":  {syscall.EMFILE, "no file or port left", FaultNoResources},
		"alert 40":  {alert(40), "no cipher suite is accepted", FaultNoCipher},
		"alert 70":  {alert(70), "neither TLS 1.2 nor 1.3", FaultTLSVersion},
		"alert 71":  {alert(71), "no cipher suite is accepted", FaultNoCipher},
		"alert 80":  {alert(80), "ended the TLS handshake: internal error", FaultHandshake},
		"alert 112": {alert(112), "no certificate under the name", FaultUnrecognizedName},
		"alert 116": {alert(116), "demands a client certificate", FaultClientCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			failure := connectionError(t.Context(), CallLogout, fmt.Errorf("wrapped: %w", test.cause))
			if !strings.Contains(failure.Detail, test.want) || failure.Fault != test.fault ||
				failure.Kind != KindUnreachable || failure.Call != CallLogout {
				t.Errorf("%+v", failure)
			}
		})
	}
}

func TestAnInterruptionNamesItsCall(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithTimeout(t.Context(), -1)
	defer cancelLate()
	for name, test := range map[string]struct {
		ctx   context.Context
		cause error
		want  Error
	}{
		"given up": {canceled, context.Canceled, Error{Call: CallLogout, Kind: KindCanceled}},
		"the call took too long": {
			late, context.DeadlineExceeded,
			Error{Call: CallLogout, Kind: KindTimeout, Detail: "the time for the whole call is over"},
		},
		"an attempt took too long": {t.Context(), context.DeadlineExceeded, Error{Call: CallLogout, Kind: KindTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			got := interruption(test.ctx, CallLogout, test.cause)
			if got == nil || got.Call != test.want.Call || got.Kind != test.want.Kind ||
				got.Detail != test.want.Detail || !errors.Is(got, test.cause) {
				t.Errorf("%+v", got)
			}
		})
	}
	if got := interruption(t.Context(), CallLogout, io.EOF); got != nil {
		t.Errorf("a connection that was closed is one: %+v", got)
	}
}

// trackedBody records that it was closed.
type trackedBody struct {
	io.Reader
	closed bool
}

func (b *trackedBody) Close() error {
	b.closed = true
	return nil
}

// A body that stays open keeps other calls from using its connection.
func TestTheBodyOfEveryAnswerIsClosed(t *testing.T) {
	for _, status := range []int{101, 200, 204, 302, 401, 500} {
		body := &trackedBody{Reader: strings.NewReader("x")}
		client := clientOf(transportFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: body}, nil
		}))
		if _, err := client.Links(t.Context()); err == nil || !body.closed {
			t.Errorf("status %d: closed %t, %v", status, body.closed, err)
		}
	}
}

func TestWhatIsWrongWithAnAnswerIsTold(t *testing.T) {
	const notOfTheForm = "its JSON does not have the form of this call's answer"
	brokenOff := transportFunc(func(*http.Request) (*http.Response, error) {
		return newResponse(200, typeJSON, io.MultiReader(strings.NewReader("{"), errorReader{})), nil
	})
	data := func(c *Client) error { return c.Data(t.Context(), newToken()) }
	health := func(c *Client) error { _, err := c.Health(t.Context()); return err }
	for name, test := range map[string]struct {
		server transportFunc
		call   func(*Client) error
		want   string
	}{
		"a redirect without a place": {
			reply(300, typeJSON, "{}"), data,
			"a redirect without a target that can be read",
		},
		"an answer that broke off": {brokenOff, data, "the answer broke off in the middle"},
		"an error of one letter":   {reply(500, "", "x"), data, "a body without a content type"},
		"data that is a text":      {reply(200, typeJSON, `"text"`), data, notOfTheForm},
		"data that is lacking":     {reply(200, typeJSON, `{"items":[]}`), data, "no data in it"},
		"a time that is none":      {reply(200, typeJSON, `{"currentTime":"soon"}`), health, notOfTheForm},
		"a time that is lacking":   {reply(200, typeJSON, `{}`), health, "no currentTime in it"},
	} {
		t.Run(name, func(t *testing.T) {
			if detail := failureOf(t, test.call(clientOf(test.server))).Detail; detail != test.want {
				t.Errorf("%q, want %q", detail, test.want)
			}
		})
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAClientNamesItselfAndTellsItsTrace(t *testing.T) {
	var sent string
	var ended []Call
	client := New(Options{
		BaseURL:   testURL,
		UserAgent: "engine/1",
		Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			sent = r.Header.Get("User-Agent")
			return reply(200, typeJSON, validBody)(r)
		}),
		Trace: Trace{Done: func(call Call, _ error, _ time.Duration) { ended = append(ended, "client: "+call) }},
	})
	ctx := WithTrace(t.Context(),
		&Trace{Done: func(call Call, _ error, _ time.Duration) { ended = append(ended, "caller: "+call) }})
	if err := client.Validate(ctx, newToken()); err != nil || sent != "engine/1" ||
		!slices.Equal(ended, []Call{"client: validate", "caller: validate"}) {
		t.Errorf("%v: sent as %q, told of %v", err, sent, ended)
	}
	client.CloseIdleConnections() // this transport has no such method
	_ = clientOf(transportFunc(func(r *http.Request) (*http.Response, error) {
		if _, set := r.Header["User-Agent"]; set {
			t.Error("a client without a name hides Go's")
		}
		return reply(200, typeJSON, validBody)(r)
	})).Validate(t.Context(), newToken())
}

// A request that cannot be sent fails without a call.
func TestARequestThatCannotBeSentIsTheCallersMistake(t *testing.T) {
	client := New(Options{BaseURL: "http://[::1", Transport: transportFunc(func(*http.Request) (*http.Response, error) {
		t.Error("something was sent")
		return nil, io.EOF
	})})
	_, err := client.Links(t.Context())
	if got := failureOf(t, err); got.Call != CallLinks || got.Kind != KindBadRequest ||
		got.Detail != "the base URL cannot be used" || got.Err == nil {
		t.Errorf("%+v", got)
	}
	if got := failureOf(t, client.Logout(t.Context(), "a\nb")); got.Call != CallLogout || got.Kind != KindBadRequest ||
		!strings.HasSuffix(got.Detail, "was not sent") {
		t.Errorf("%+v", got)
	}
}

func TestTheShortestOverrideIsOneSecond(t *testing.T) {
	for lifetime, want := range map[time.Duration]string{
		0: "", time.Second - 1: "", time.Second: "1s",
		90 * time.Second: "90s",
	} {
		header := http.Header{}
		if setOverride(header, AccessOverride, lifetime); header.Get(AccessOverride) != want {
			t.Errorf("%s is sent as %q", lifetime, header.Get(AccessOverride))
		}
	}
}

func TestSecondsThatNoDurationHoldsAreTheLongest(t *testing.T) {
	const limit = math.MaxInt64 / int64(time.Second)
	for seconds, want := range map[int64]time.Duration{
		0: 0, -1: -time.Second, limit: time.Duration(limit) * time.Second, -limit: -time.Duration(limit) * time.Second,
		limit + 1: math.MaxInt64, -limit - 1: math.MinInt64, math.MaxInt64: math.MaxInt64, math.MinInt64: math.MinInt64,
	} {
		if got := saturatedSeconds(seconds); got != want {
			t.Errorf("%d: %d, want %d", seconds, got, want)
		}
	}
}

// No wait for a connection is longer than the default request_timeout, and no connection is kept
// that a firewall has dropped.
func TestAConnectionsTimes(t *testing.T) {
	const defaultRequestTimeout = 10 * time.Second
	transport, err := NewTransport(TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used, dialer := transport.current.Load(), newDialer()
	if dialer.Timeout != defaultRequestTimeout || used.TLSHandshakeTimeout != defaultRequestTimeout {
		t.Errorf("it is waited for %s, and %s for its TLS", dialer.Timeout, used.TLSHandshakeTimeout)
	}
	if silence, answer := used.HTTP2.SendPingTimeout, used.HTTP2.PingTimeout; silence != 3*time.Second ||
		answer != 3*time.Second {
		t.Errorf("it is pinged after %s, and given up after %s", silence, answer)
	}
	if k := dialer.KeepAliveConfig; !k.Enable || k.Idle != 3*time.Second ||
		k.Interval*time.Duration(k.Count) != 3*time.Second || k.Count != 3 {
		t.Errorf("%+v", k)
	}
	if used.IdleConnTimeout != 90*time.Second || used.MaxIdleConns != 50 || used.MaxIdleConnsPerHost != 50 ||
		used.MaxResponseHeaderBytes != 256<<10 {
		t.Errorf("up to %d and %d are idle for %s; headers may have %d bytes", used.MaxIdleConns,
			used.MaxIdleConnsPerHost, used.IdleConnTimeout, used.MaxResponseHeaderBytes)
	}
	if used.Proxy == nil || used.DialContext == nil || !used.ForceAttemptHTTP2 ||
		used.TLSClientConfig.MinVersion != tls.VersionTLS12 {
		t.Error("no proxy, no dialer, no HTTP/2 or no least version of TLS")
	}
}

func TestOfABundleTheCertificatesCountAndTheOneThatCannotBeReadIsNamed(t *testing.T) {
	_, whole := newCertificate(t, time.Hour)
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("no certificate")}))
	}
	if _, err := NewTransport(TransportOptions{CACert: block("PUBLIC KEY") + whole}); err != nil {
		t.Error("after another block:", err)
	}
	if _, err := NewTransport(TransportOptions{CACert: whole + block("CERTIFICATE")}); err == nil ||
		!strings.Contains(err.Error(), "certificate 2 of") {
		t.Error(err)
	}
}

func TestAPortIsOneOfTCPs(t *testing.T) {
	for port, want := range map[string]bool{
		"0": false, "1": true, "8443": true, "65535": true, "65536": false,
		"99999": false,
	} {
		if _, err := ParseBaseURL("https://ncentral.example.com:" + port); (err == nil) != want {
			t.Errorf("%s: %v", port, err)
		}
	}
}
