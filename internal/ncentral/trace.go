// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"time"
)

// Trace is a set of hooks that a caller hangs on a context with WithTrace. A hook
// may be nil.
type Trace struct {
	// Retrying runs before each wait for another attempt: call failed with err, an
	// *Error, and is repeated after wait.
	Retrying func(call Call, err error, wait time.Duration)
}

type traceKey struct{}

// WithTrace returns a context whose calls run the hooks of trace, and then those of
// an earlier one.
func WithTrace(ctx context.Context, trace *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, &Trace{Retrying: func(call Call, err error, wait time.Duration) {
		if trace.Retrying != nil {
			trace.Retrying(call, err, wait)
		}
		reportRetry(ctx, call, err, wait)
	}})
}

func reportRetry(ctx context.Context, call Call, err error, wait time.Duration) {
	trace, _ := ctx.Value(traceKey{}).(*Trace)
	if trace != nil && trace.Retrying != nil {
		trace.Retrying(call, err, wait)
	}
}
