// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// The first two parts of the names of all metrics of the engine, and the label that most of them
// have.
const (
	MetricNamespace = "vault"
	MetricSubsystem = "ncentral"
	ConfigLabel     = "config"
)

// Source says where the token of a read came from.
type Source string

// The sources of a token. In the first two cases the token was there already.
const (
	SourceMemory       Source = "memory"
	SourceStorage      Source = "storage"      // the first read here since the start, or of a token from another node
	SourceRefresh      Source = "refresh"      // the read waited for a refresh
	SourceAuthenticate Source = "authenticate" // the read waited for an authenticate
)

// The reasons why a read failed, beside the kinds of failure of a call.
const (
	ReasonReaderGone    = "reader_gone"
	ReasonSuperseded    = "overtaken"
	ReasonDeadOnArrival = "dead_on_arrival"
	ReasonStorage       = "storage"
)

// failureReasons returns all reasons for which a read can fail, as metrics name them.
func failureReasons() []string {
	reasons := []string{ReasonReaderGone, ReasonSuperseded, ReasonDeadOnArrival, ReasonStorage}
	for _, kind := range ncentral.Kinds() {
		if kind != ncentral.KindCanceled { // the reader is gone
			reasons = append(reasons, string(kind))
		}
	}
	return reasons
}

// succeeded is the outcome of a call without an error. The other outcomes are the kinds of failure.
const succeeded = "success"

// counters count what happened with one config since this process started. They form one Collector,
// so that a config's metrics appear and disappear together.
type counters struct {
	reads             map[Source]prometheus.Counter
	readsBySource     *prometheus.CounterVec
	staleReads        prometheus.Counter
	failedReads       *prometheus.CounterVec
	calls             *prometheus.CounterVec
	callSeconds       *prometheus.HistogramVec
	retries           *prometheus.CounterVec
	refreshFallbacks  prometheus.Counter
	overrideFallbacks prometheus.Counter
	deadTokens        prometheus.Counter
	inFlight          prometheus.Gauge
}

func newCounters(config string) *counters {
	options := func(name, help string) prometheus.Opts {
		return prometheus.Opts{
			Namespace: MetricNamespace, Subsystem: MetricSubsystem, Name: name, Help: help,
			ConstLabels: prometheus.Labels{ConfigLabel: config},
		}
	}
	c := &counters{
		reads: map[Source]prometheus.Counter{},
		readsBySource: prometheus.NewCounterVec(prometheus.CounterOpts(options("token_reads_total",
			"Tokens handed out, by where the read had it from: memory, storage, or the refresh or authenticate that "+
				"it waited for.")), []string{"source"}),
		staleReads: prometheus.NewCounter(prometheus.CounterOpts(options("stale_token_reads_total",
			"Tokens handed out although they were due for replacement, since no new one could be had."))),
		failedReads: prometheus.NewCounterVec(prometheus.CounterOpts(options("failed_token_reads_total",
			"Reads of a token that failed for another reason than the caller's mistake, by reason.")),
			[]string{"reason"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts(options("calls_total",
			"Calls to N-central, by outcome: success, or the kind of failure of the last attempt.")),
			[]string{"call", "outcome"}),
		callSeconds: prometheus.NewHistogramVec(histogram(options("call_duration_seconds",
			"How long calls to N-central took, their retries and the waits for a place among those in flight "+
				"included.")), []string{"call"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts(options("call_retries_total",
			"Attempts of calls to N-central that failed and were repeated, by the kind of failure.")),
			[]string{"call", "reason"}),
		refreshFallbacks: prometheus.NewCounter(prometheus.CounterOpts(options("refresh_fallbacks_total",
			"Rotations that authenticated because a refresh brought no token."))),
		overrideFallbacks: prometheus.NewCounter(prometheus.CounterOpts(options("override_fallbacks_total",
			"Calls repeated without a lifetime to ask for, because N-central refused to be asked for it."))),
		deadTokens: prometheus.NewCounter(prometheus.CounterOpts(options("dead_tokens_total",
			"Tokens that N-central had ended before their time for no reason that the engine knows, as after a "+
				"reboot: one for each time."))),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts(options("requests_in_flight",
			"HTTP requests to N-central that are under way."))),
	}
	for _, source := range []Source{SourceMemory, SourceStorage, SourceRefresh, SourceAuthenticate} {
		c.reads[source] = c.readsBySource.WithLabelValues(string(source))
	}
	// These series begin at 0 before anything is counted: Prometheus sees no increase in a series
	// whose first value is above 0. Alerts ask for their increase.
	for _, reason := range failureReasons() {
		c.failedReads.WithLabelValues(reason)
	}
	for _, call := range ncentral.Calls() {
		c.calls.WithLabelValues(string(call), string(ncentral.KindRateLimited))
		c.retries.WithLabelValues(string(call), string(ncentral.KindRateLimited))
	}
	return c
}

// histogram returns options with buckets from what a healthy call takes up to the longest flight,
// which is three times the longest request_timeout.
func histogram(options prometheus.Opts) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: options.Namespace, Subsystem: options.Subsystem, Name: options.Name, Help: options.Help,
		ConstLabels: options.ConstLabels,
		Buckets:     []float64{0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60},
	}
}

func (c *counters) all() []prometheus.Collector {
	return []prometheus.Collector{
		c.readsBySource, c.staleReads, c.failedReads, c.calls, c.callSeconds, c.retries, c.refreshFallbacks,
		c.overrideFallbacks,
		c.deadTokens, c.inFlight,
	}
}

// Describe implements prometheus.Collector.
func (c *counters) Describe(descriptions chan<- *prometheus.Desc) {
	for _, collector := range c.all() {
		collector.Describe(descriptions)
	}
}

// Collect implements prometheus.Collector.
func (c *counters) Collect(metrics chan<- prometheus.Metric) {
	for _, collector := range c.all() {
		collector.Collect(metrics)
	}
}

// trace counts the calls of a client.
func (c *counters) trace() ncentral.Trace {
	return ncentral.Trace{
		Retrying: func(call ncentral.Call, err error, _ time.Duration) {
			c.retries.WithLabelValues(string(call), string(ncentral.KindOf(err))).Inc()
		},
		Done: func(call ncentral.Call, err error, took time.Duration) {
			if _, ok := errors.AsType[*Failure](err); ok {
				return // this call was not made
			}
			outcome := succeeded
			if err != nil {
				outcome = string(ncentral.KindOf(err))
			}
			c.calls.WithLabelValues(string(call), outcome).Inc()
			c.callSeconds.WithLabelValues(string(call)).Observe(took.Seconds())
		},
	}
}
