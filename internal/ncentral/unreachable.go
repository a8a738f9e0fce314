// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
)

// attemptError is why an attempt of a Transport brought no answer, and how far it came.
type attemptError struct {
	error
	connected        bool // there was a connection to send the request on
	byProxy          bool // by way of a proxy that the environment names
	certificateAsked bool // the server has asked for a client certificate
}

func (e *attemptError) Unwrap() error { return e.error }

// Timeout is net.Error's, which url.Error looks for without unwrapping.
func (e *attemptError) Timeout() bool { return isTimeout(e.error) }

// Temporary is net.Error's.
func (e *attemptError) Temporary() bool { return false }

// proxyRefusal is the status with which a proxy answered CONNECT.
type proxyRefusal int

func (p proxyRefusal) Error() string { return http.StatusText(int(p)) }

// finding is what the cause of a failure tells.
type finding struct {
	fault  Fault
	detail string
}

// connectionError tells why no answer came.
func connectionError(ctx context.Context, call Call, cause error) *Error {
	var way *attemptError
	isKnown := errors.As(cause, &way)
	if !isKnown {
		way = &attemptError{connected: true} // as far as anybody can tell
	}
	failure := interruption(ctx, call, cause)
	var found finding
	switch {
	case failure == nil:
		failure = &Error{Call: call, Kind: KindUnreachable, Err: cause}
		found = findWhyUnreachable(cause, way)
	case failure.Kind == KindTimeout && failure.Detail == "" && isKnown:
		found = findWhyLate(cause, way)
	case failure.Kind == KindTimeout && isKnown && way.connected:
		found = finding{FaultTimeOver, failure.Detail}
	}
	failure.NotSent = !way.connected
	if found != (finding{}) {
		failure.Fault, failure.Detail, failure.AtProxy = found.fault, found.detail, isAtProxy(cause)
	}
	return failure
}

// interruption tells whether cause is that ctx has ended or that time was up.
func interruption(ctx context.Context, call Call, cause error) *Error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &Error{Call: call, Kind: KindCanceled, Err: cause}
	case ctx.Err() != nil:
		return &Error{Call: call, Kind: KindTimeout, Detail: "the time for the whole call is over", Err: cause}
	case isTimeout(cause):
		return &Error{Call: call, Kind: KindTimeout, Err: cause}
	}
	return nil
}

func isTimeout(cause error) bool {
	var netError net.Error
	return errors.Is(cause, context.DeadlineExceeded) || errors.As(cause, &netError) && netError.Timeout()
}

func findWhyLate(cause error, way *attemptError) finding {
	var lookup *net.DNSError
	switch {
	case isAtProxy(cause):
		return finding{FaultNoRoute, "the proxy that the environment names did not answer"}
	case errors.As(cause, &lookup):
		return finding{FaultNoDNS, "DNS did not answer"}
	case way.connected:
		return finding{FaultNoAnswer, "the request was sent, and no answer came"}
	case way.byProxy:
		return finding{FaultProxySilent, "no connection came about by way of the proxy that the environment names"}
	}
	return finding{FaultNoRoute, "no connection came about"}
}

func findWhyUnreachable(cause error, way *attemptError) finding {
	var refused proxyRefusal
	switch {
	case errors.As(cause, &refused):
		return findInProxyRefusal(int(refused))
	case isSOCKS(cause):
		return findInSOCKS(filter(innermost(cause).Error()))
	}
	found := findInCertificate(cause)
	if found == (finding{}) {
		found = findInHandshake(cause, way)
	}
	if found == (finding{}) {
		found = findInNetwork(cause, way)
	}
	if isAtProxy(cause) {
		found.detail = "the proxy that the environment names cannot be used: " + found.detail
	}
	return found
}

// isAtProxy reports whether the way ended at the proxy itself.
func isAtProxy(cause error) bool {
	var operation *net.OpError
	return errors.As(cause, &operation) && operation.Op == "proxyconnect"
}

// isSOCKS reports whether a SOCKS proxy was reached and did not connect.
func isSOCKS(cause error) bool {
	var operation *net.OpError
	return errors.As(cause, &operation) && strings.HasPrefix(operation.Op, "socks")
}

func innermost(cause error) error {
	for inner := errors.Unwrap(cause); inner != nil; inner = errors.Unwrap(cause) {
		cause = inner
	}
	return cause
}

func findInProxyRefusal(status int) finding {
	switch {
	case status == http.StatusProxyAuthRequired:
		return finding{FaultProxyCredential, "the proxy that the environment names demands a user and password, or others than it was given (status 407)"}
	case status >= http.StatusInternalServerError:
		return finding{FaultProxyFailed, fmt.Sprintf("the proxy that the environment names could not connect (status %d)", status)}
	}
	return finding{FaultProxyForbids, fmt.Sprintf("the proxy that the environment names refuses the connection (status %d)", status)}
}

func findInSOCKS(text string) finding {
	found := finding{FaultProxyFailed, "the proxy that the environment names did not connect: " + text}
	if strings.Contains(text, "username/password") || strings.Contains(text, "authentication method") {
		found.fault = FaultProxyCredential
	}
	return found
}

func findInNetwork(cause error, way *attemptError) finding {
	var lookup *net.DNSError
	isAny := func(numbers ...syscall.Errno) bool {
		var number syscall.Errno
		return errors.As(cause, &number) && slices.Contains(numbers, number)
	}
	isEnd := errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) || isAny(syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE)
	switch {
	case errors.As(cause, &lookup) && lookup.IsNotFound:
		return finding{FaultNameUnknown, "the host name cannot be resolved"}
	case errors.As(cause, &lookup):
		return finding{FaultNoDNS, "the host name cannot be looked up, for DNS fails"}
	case isAny(syscall.ECONNREFUSED):
		return finding{FaultRefused, "connection refused"}
	case isAny(syscall.EHOSTUNREACH, syscall.ENETUNREACH):
		return finding{FaultNoRoute, "there is no route to the host"}
	case isAny(syscall.EACCES, syscall.EPERM):
		return finding{FaultForbidden, "this machine forbids the connection"}
	case isAny(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL):
		return finding{FaultNoResources, "this machine has no file or port left for a connection"}
	case isEnd && way.connected:
		return finding{FaultClosed, "the connection was closed before an answer came"}
	case isEnd && way.byProxy:
		return finding{FaultCutOff, "the connection was cut off while it was made, by the proxy that the environment names or behind it"}
	case isEnd:
		return finding{FaultCutOff, "the connection was cut off while it was made"}
	case strings.Contains(cause.Error(), "malformed HTTP"):
		return finding{FaultNotHTTP, "what answers does not speak HTTP"}
	}
	return finding{"", "the connection failed"}
}
