// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// metricsOf returns what is told of a config: the value by name and labels, of which the config's
// is checked.
func metricsOf(t *testing.T, c *counters) (values map[string]float64, buckets []float64) {
	t.Helper()
	described := make(chan *prometheus.Desc, 100)
	if c.Describe(described); len(described) != 10 {
		t.Errorf("%d metrics are described, want 10", len(described))
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]float64{}
	for _, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", family.GetName())
		}
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				if label.GetName() != ConfigLabel {
					name += "," + label.GetValue()
				} else if label.GetValue() != "default" {
					t.Errorf("%s is of the config %q", name, label.GetValue())
				}
			}
			if !slices.ContainsFunc(metric.GetLabel(),
				func(l *dto.LabelPair) bool { return l.GetName() == ConfigLabel }) {
				t.Errorf("%s is of no config", name)
			}
			values[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() +
				float64(metric.GetHistogram().GetSampleCount())
			for _, bucket := range metric.GetHistogram().GetBucket() {
				buckets = append(buckets, bucket.GetUpperBound())
			}
		}
	}
	return values, buckets
}

// Prometheus sees no increase in a series that begins above 0: what alerts ask the increase of is
// there from the outset.
func TestWhatIsCountedIsThereBeforeItCounts(t *testing.T) {
	want := map[string]float64{
		"vault_ncentral_stale_token_reads_total": 0, "vault_ncentral_refresh_fallbacks_total": 0,
		"vault_ncentral_override_fallbacks_total": 0,
		"vault_ncentral_dead_tokens_total":        0, "vault_ncentral_requests_in_flight": 0,
	}
	for _, source := range []string{"memory", "storage", "refresh", "authenticate"} {
		want["vault_ncentral_token_reads_total,"+source] = 0
	}
	for _, reason := range []string{
		"reader_gone", "overtaken", "dead_on_arrival", "storage", "bad_request", "forbidden", "hidden_error",
		"malformed", "not_found", "queued", "rate_limited",
		"refused", "server_error", "timeout", "unavailable", "unreachable",
	} {
		want["vault_ncentral_failed_token_reads_total,"+reason] = 0
	}
	for _, call := range ncentral.Calls() {
		want[fmt.Sprintf("vault_ncentral_calls_total,%s,rate_limited", call)] = 0
		want[fmt.Sprintf("vault_ncentral_call_retries_total,%s,rate_limited", call)] = 0
	}
	got, _ := metricsOf(t, newCounters("default"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCallsAreCountedByTheirOutcomeUnlessTheyWereNotMade(t *testing.T) {
	c := newCounters("default")
	before, _ := metricsOf(t, c)
	trace, timeout := c.trace(), &ncentral.Error{Call: ncentral.CallData, Kind: ncentral.KindTimeout}
	trace.Retrying(ncentral.CallData, timeout, time.Second)
	trace.Done(ncentral.CallData, timeout, 3*time.Second)
	trace.Done(ncentral.CallData, nil, 20*time.Millisecond)
	trace.Done(ncentral.CallData, &ncentral.Error{Kind: ncentral.KindTimeout, Err: &Failure{Cause: timeout}},
		time.Second)
	got, buckets := metricsOf(t, c)
	for name, count := range before {
		if got[name] == count {
			delete(got, name)
		}
	}
	want := map[string]float64{
		"vault_ncentral_call_retries_total,data,timeout": 1, "vault_ncentral_calls_total,data,timeout": 1,
		"vault_ncentral_calls_total,data,success":   1,
		"vault_ncentral_call_duration_seconds,data": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60}, buckets); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
}

func TestWhatAReadCameToIsCounted(t *testing.T) {
	record := NewRecord("default")
	record.CountRead(SourceStorage)
	record.CountFailedRead(ReasonSuperseded)
	record.CountRefreshFallback()
	record.CountDeadToken()
	record.ServedStale(time.Now())
	got, _ := metricsOf(t, record.counters)
	for name, count := range got {
		if count == 0 {
			delete(got, name)
		}
	}
	want := map[string]float64{
		"vault_ncentral_token_reads_total,storage": 1, "vault_ncentral_failed_token_reads_total,overtaken": 1,
		"vault_ncentral_refresh_fallbacks_total": 1,
		"vault_ncentral_dead_tokens_total":       1, "vault_ncentral_stale_token_reads_total": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
