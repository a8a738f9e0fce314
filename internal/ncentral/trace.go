// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"context"
	"time"
)

// Trace is a set of hooks that run for the calls of one Client, or for those made with a context
// from WithTrace. A hook may be nil.
type Trace struct {
	// Retrying runs before each wait for another attempt. The call failed with err, an *Error, and
	// is repeated after wait.
	Retrying func(call Call, err error, wait time.Duration)

	// Done runs when a call ends. err is nil or an *Error; took includes all attempts and the waits
	// between them.
	Done func(call Call, err error, took time.Duration)
}

func (t *Trace) retrying(call Call, err error, wait time.Duration) {
	if t.Retrying != nil {
		t.Retrying(call, err, wait)
	}
}

func (t *Trace) done(call Call, err error, took time.Duration) {
	if t.Done != nil {
		t.Done(call, err, took)
	}
}

type traceKey struct{}

// WithTrace returns a context whose calls run the hooks of trace, and then those of any trace
// already in ctx.
func WithTrace(ctx context.Context, trace *Trace) context.Context {
	earlier := traceOf(ctx)
	return context.WithValue(ctx, traceKey{}, &Trace{
		Retrying: func(call Call, err error, wait time.Duration) {
			trace.retrying(call, err, wait)
			earlier.retrying(call, err, wait)
		},
		Done: func(call Call, err error, took time.Duration) {
			trace.done(call, err, took)
			earlier.done(call, err, took)
		},
	})
}

// traceOf returns the context's hooks, or an empty Trace.
func traceOf(ctx context.Context) *Trace {
	if trace, ok := ctx.Value(traceKey{}).(*Trace); ok {
		return trace
	}
	return &Trace{}
}
