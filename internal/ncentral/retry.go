// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 8 * time.Second

	maxRetryAfter = 24 * time.Hour
)

// N-able's recommendation for a 429 [D].
var rateLimitBackoffs = []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second}

// placement is the part of a request that holds its credential.
type placement int

const (
	nowhere  placement = iota
	inHeader           // Authorization: Bearer
	inBody             // as text/plain, which is how refresh tokens are sent [D]
)

// request is one call to make.
type request struct {
	call       Call
	method     string
	path       string
	placement  placement
	credential string
	overrides  Overrides
}

func bearerRequest(call Call, method, path, accessToken string) request {
	return request{call: call, method: method, path: path, placement: inHeader, credential: accessToken}
}

func (r request) build(ctx context.Context, c *Client) (*retryablehttp.Request, error) {
	var body any
	if r.placement == inBody {
		body = []byte(r.credential)
	}
	built, err := retryablehttp.NewRequestWithContext(ctx, r.method, c.baseURL+r.path, body)
	if err != nil {
		return nil, err
	}
	built.Header.Set("Accept", "application/json")
	if c.userAgent != "" {
		built.Header.Set("User-Agent", c.userAgent)
	}
	switch r.placement {
	case inHeader:
		built.Header.Set("Authorization", "Bearer "+r.credential)
	case inBody:
		built.Header.Set("Content-Type", "text/plain")
	}
	setOverride(built.Header, AccessOverride, r.overrides.Access)
	setOverride(built.Header, RefreshOverride, r.overrides.Refresh)
	return built, nil
}

func setOverride(header http.Header, name string, lifetime time.Duration) {
	if seconds := int64(lifetime / time.Second); seconds > 0 {
		header.Set(name, strconv.FormatInt(seconds, 10)+"s")
	}
}

// exchange is one call with all its attempts. Its fields describe the latest attempt.
type exchange struct {
	request request

	attempts     int
	serverErrors int
	sentAt       time.Time
	answer       answer
	failure      *Error
	wait         time.Duration
	waiting      bool
}

// do makes a call and returns what parse makes of the answer. The hooks of the Client's trace and
// of the context's run for it.
func do[T any](ctx context.Context, c *Client, r request, parse func(answer) (T, error)) (result T, err error) {
	began := time.Now()
	ctx = WithTrace(ctx, &c.trace)
	defer func() { traceOf(ctx).done(r.call, err, time.Since(began)) }()
	received, err := c.attempt(ctx, r)
	if err != nil {
		return result, err
	}
	return parse(received)
}

func discard(answer) (struct{}, error) { return struct{}{}, nil }

// attempt makes a call, with retries, and returns the answer to the last attempt.
func (c *Client) attempt(ctx context.Context, r request) (answer, error) {
	if r.placement != nowhere && !isToken(r.credential) {
		return answer{}, &Error{
			Call: r.call, Kind: KindBadRequest,
			Detail: "the token is empty, too long, or holds white space or other characters that no token has, and " +
				"was not sent",
		}
	}
	e := &exchange{request: r}
	// GetConn runs after any queueing in the transport: all that the request may still wait for is
	// a connection.
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { e.sentAt = time.Now() },
	})
	built, err := r.build(traced, c)
	if err != nil {
		return answer{}, &Error{Call: r.call, Kind: KindBadRequest, Detail: "the base URL cannot be used", Err: err}
	}
	retrying := retryablehttp.Client{
		HTTPClient:     c.httpClient,
		RetryMax:       c.maxRetries,
		RequestLogHook: func(retryablehttp.Logger, *http.Request, int) { e.sentAt = time.Now() },
		CheckRetry:     e.checkRetry,
		Backoff: func(_, _ time.Duration, _ int, _ *http.Response) time.Duration {
			traceOf(ctx).retrying(r.call, e.failure, e.wait)
			e.waiting = true
			return e.wait
		},
	}
	if _, err := retrying.Do(built); e.waiting { //nolint:bodyclose // checkRetry has read it and closed it
		// The caller gave up during the wait for the next attempt.
		return answer{}, connectionError(ctx, r.call, err)
	}
	if e.failure != nil {
		return answer{}, e.failure
	}
	return e.answer, nil
}

// checkRetry judges an attempt and reports whether to make another one. It never returns an error.
func (e *exchange) checkRetry(ctx context.Context, response *http.Response, cause error) (bool, error) {
	e.attempts++
	e.waiting = false
	if errors.As(cause, &e.failure) {
		return false, nil
	}
	if cause != nil {
		e.failure = connectionError(ctx, e.request.call, cause)
	} else {
		e.answer, e.failure = readAnswer(ctx, e.request, response)
		e.answer.sentAt = e.sentAt
	}
	if e.failure == nil || ctx.Err() != nil {
		return false, nil //nolint:nilerr // the failure holds what happened
	}
	if e.failure.Status == http.StatusInternalServerError {
		e.serverErrors++
	}
	if !e.isRetryable() {
		return false, nil
	}
	var fits bool
	e.wait, fits = e.backoff(ctx)
	return fits, nil
}

// isRetryable reports whether another attempt may not meet the same failure.
func (e *exchange) isRetryable() bool {
	switch e.failure.Kind {
	case KindUnreachable, KindTimeout:
		// Where there is a status, the answer broke off in the middle.
		return e.failure.Status == 0 && !e.failure.Fault.isPermanent()
	case KindRateLimited, KindUnavailable:
		return true
	case KindServerError:
		return e.failure.Status == http.StatusInternalServerError && e.serverErrors == 1 &&
			e.request.call != CallRefresh
	}
	return false
}

// backoff returns how long to wait before the next attempt. It reports whether that leaves time for
// the attempt before the context's deadline.
func (e *exchange) backoff(ctx context.Context) (wait time.Duration, fits bool) {
	wait = e.failure.RetryAfter
	if wait == 0 {
		wait = scheduledBackoff(e.failure.Kind, e.attempts)
	}
	jitter := wait / 4
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline) - wait
		if left <= 0 {
			return 0, false
		}
		jitter = min(jitter, left/2)
	}
	return wait + rand.N(jitter+1), true //nolint:gosec // it spreads attempts, and is no secret
}

// scheduledBackoff returns how long to wait after this number of attempts where the server did not
// say.
func scheduledBackoff(kind Kind, attempts int) time.Duration {
	if kind == KindRateLimited {
		return rateLimitBackoffs[min(attempts, len(rateLimitBackoffs))-1]
	}
	wait := firstBackoff
	for range attempts - 1 {
		wait = min(2*wait, maxBackoff)
	}
	return wait
}

// retryAfter reads the Retry-After header, in seconds or as a date. It returns at most a day, and 0
// where the header is missing, invalid or in the past.
func retryAfter(header http.Header) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return min(max(0, saturatedSeconds(seconds)), maxRetryAfter)
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(0, time.Until(date)), maxRetryAfter)
	}
	return 0
}

// saturatedSeconds converts seconds to a duration, limited to what a duration can hold.
func saturatedSeconds(seconds int64) time.Duration {
	const limit = math.MaxInt64 / int64(time.Second)
	switch {
	case seconds > limit:
		return math.MaxInt64
	case seconds < -limit:
		return math.MinInt64
	}
	return time.Duration(seconds) * time.Second
}
