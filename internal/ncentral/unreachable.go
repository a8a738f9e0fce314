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

// attemptError is the error of an attempt without an answer, with how far the attempt came.
type attemptError struct {
	error
	connected        bool // there was a connection to send the request on
	byProxy          bool // the way led through a proxy from the environment
	certificateAsked bool // the server has asked for a client certificate
}

func (e *attemptError) Unwrap() error { return e.error }

// Timeout implements net.Error, which url.Error looks for without unwrapping.
func (e *attemptError) Timeout() bool { return isTimeout(e.error) }

// Temporary implements net.Error.
func (e *attemptError) Temporary() bool { return false }

// proxyRefusal is the status of a proxy's answer to CONNECT.
type proxyRefusal int

func (p proxyRefusal) Error() string { return http.StatusText(int(p)) }

// diagnosis is what the cause of a failure reveals.
type diagnosis struct {
	fault  Fault
	detail string
}

// connectionError returns the error for an attempt without an answer.
func connectionError(ctx context.Context, call Call, cause error) *Error {
	var attempt *attemptError
	isKnown := errors.As(cause, &attempt)
	if !isKnown {
		attempt = &attemptError{connected: true} // as far as anyone can tell
	}
	failure := interruption(ctx, call, cause)
	var found diagnosis
	switch {
	case failure == nil:
		failure = &Error{Call: call, Kind: KindUnreachable, Err: cause}
		found = diagnoseUnreachable(cause, attempt)
	case failure.Kind == KindTimeout && failure.Detail == "" && isKnown:
		found = diagnoseTimeout(cause, attempt)
	case failure.Kind == KindTimeout && isKnown && attempt.connected:
		found = diagnosis{FaultTimeOver, failure.Detail}
	}
	failure.NotSent = !attempt.connected
	if found != (diagnosis{}) {
		failure.Fault, failure.Detail, failure.AtProxy = found.fault, found.detail, isAtProxy(cause)
	}
	return failure
}

// interruption returns an error where the context has ended or the time is up, and nil otherwise.
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

func diagnoseTimeout(cause error, attempt *attemptError) diagnosis {
	var lookup *net.DNSError
	switch {
	case isAtProxy(cause):
		return diagnosis{FaultNoRoute, "the proxy that the environment names did not answer"}
	case errors.As(cause, &lookup):
		return diagnosis{FaultNoDNS, "DNS did not answer"}
	case attempt.connected:
		return diagnosis{FaultNoAnswer, "the request was sent, and no answer came"}
	case attempt.byProxy:
		return diagnosis{
			FaultProxySilent,
			"no connection was made in time through the proxy that the environment names",
		}
	}
	return diagnosis{FaultNoRoute, "no connection was made in time"}
}

func diagnoseUnreachable(cause error, attempt *attemptError) diagnosis {
	var refused proxyRefusal
	switch {
	case errors.As(cause, &refused):
		return diagnoseProxyRefusal(int(refused))
	case isSOCKS(cause):
		return diagnoseSOCKS(filter(innermost(cause).Error()))
	}
	found := diagnoseCertificate(cause)
	if found == (diagnosis{}) {
		found = diagnoseHandshake(cause, attempt)
	}
	if found == (diagnosis{}) {
		found = diagnoseNetwork(cause, attempt)
	}
	if isAtProxy(cause) {
		found.detail = "the proxy that the environment names cannot be used: " + found.detail
	}
	return found
}

// isAtProxy reports whether the connection failed at the proxy itself.
func isAtProxy(cause error) bool {
	var operation *net.OpError
	return errors.As(cause, &operation) && operation.Op == "proxyconnect"
}

// isSOCKS reports whether a SOCKS proxy was reached and failed to connect.
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

func diagnoseProxyRefusal(status int) diagnosis {
	switch {
	case status == http.StatusProxyAuthRequired:
		return diagnosis{
			FaultProxyCredential,
			"the proxy that the environment names demands a user name and a password, and got none or wrong ones " +
				"(status 407)",
		}
	case status >= http.StatusInternalServerError:
		return diagnosis{
			FaultProxyFailed,
			fmt.Sprintf("the proxy that the environment names could not connect (status %d)", status),
		}
	}
	return diagnosis{
		FaultProxyForbids,
		fmt.Sprintf("the proxy that the environment names refuses the connection (status %d)", status),
	}
}

func diagnoseSOCKS(text string) diagnosis {
	found := diagnosis{FaultProxyFailed, "the proxy that the environment names did not connect: " + text}
	if strings.Contains(text, "username/password") || strings.Contains(text, "authentication method") {
		found.fault = FaultProxyCredential
	}
	return found
}

func diagnoseNetwork(cause error, attempt *attemptError) diagnosis {
	var lookup *net.DNSError
	isAny := func(numbers ...syscall.Errno) bool { return isErrno(cause, numbers...) }
	switch {
	case errors.As(cause, &lookup) && lookup.IsNotFound:
		return diagnosis{FaultNameUnknown, "the host name cannot be resolved"}
	case errors.As(cause, &lookup):
		return diagnosis{FaultNoDNS, "the host name cannot be looked up, because DNS fails"}
	case isAny(syscall.ECONNREFUSED):
		return diagnosis{FaultRefused, "connection refused"}
	case isAny(syscall.EHOSTUNREACH, syscall.ENETUNREACH):
		return diagnosis{FaultNoRoute, "there is no route to the host"}
	case isAny(syscall.EACCES, syscall.EPERM):
		return diagnosis{FaultForbidden, "this machine forbids the connection"}
	case isAny(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL):
		return diagnosis{FaultNoResources, "this machine has no file or port left for a connection"}
	case isEndOfConnection(cause):
		return diagnoseEnd(attempt)
	case strings.Contains(cause.Error(), "malformed HTTP"):
		return diagnosis{FaultNotHTTP, "the server at this address does not speak HTTP"}
	}
	return diagnosis{"", "the connection failed"}
}

// isEndOfConnection reports whether the other side, or something between, ended the connection.
func isEndOfConnection(cause error) bool {
	return errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) ||
		isErrno(cause, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE)
}

func isErrno(cause error, numbers ...syscall.Errno) bool {
	var number syscall.Errno
	return errors.As(cause, &number) && slices.Contains(numbers, number)
}

func diagnoseEnd(attempt *attemptError) diagnosis {
	switch {
	case attempt.connected:
		return diagnosis{FaultClosed, "the connection was closed before an answer came"}
	case attempt.byProxy:
		return diagnosis{
			FaultCutOff,
			"the connection was cut off while it was made, by the proxy that the environment names or behind it",
		}
	}
	return diagnosis{FaultCutOff, "the connection was cut off while it was made"}
}
