// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which metrics there are, and what they count.

package backend

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func labels(pairs []*dto.LabelPair) string {
	var shown []string
	for _, pair := range pairs {
		if pair.GetName() != "config" || pair.GetValue() != "default" {
			shown = append(shown, pair.GetName()+"="+pair.GetValue())
		}
	}
	if shown == nil {
		return ""
	}
	return "{" + strings.Join(shown, ",") + "}"
}

// counted fails the test unless the named metrics have grown by so much since they were before.
func (m *mount) counted(before, want map[string]float64) {
	m.t.Helper()
	after := m.metrics()
	for name, growth := range want {
		if after[name]-before[name] != growth {
			m.t.Errorf("%s grew by %v, want %v", name, after[name]-before[name], growth)
		}
	}
}

// families brings about every metric that the engine has and returns them by name.
func (m *mount) families() map[string]*dto.MetricFamily {
	m.t.Helper()
	m.token = m.AddUserExpiring("expiring", 1000*time.Hour)
	m.write("config/default", map[string]any{
		"user_api_token": m.token, "password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "1000h",
	})
	m.read(nil)
	m.FailNext(simulator.EndpointRefresh, 1, status(503))
	m.FailNext(simulator.EndpointLogout, 1, status(403))
	time.Sleep(56 * time.Minute)
	m.read(nil)
	m.delete("sessions/monitoring")
	m.server.Stop()
	m.fails(503, opRead, "creds/monitoring", nil)
	textParser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := textParser.TextToMetricFamilies(strings.NewReader(m.metricsText()))
	if err != nil {
		m.t.Fatal(err)
	}
	return families
}

func TestMetricsAreAsPrometheusWantsThem(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		families := m.families()
		text := m.metricsText()
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		if err != nil || len(problems) > 0 {
			t.Error(err, problems)
		}
		for name, family := range families {
			if family.GetHelp() == "" {
				t.Errorf("%s has no help", name)
			}
		}
	})
}

func TestTheAPIPageNamesEveryMetricAndNoneThatDoesNotExist(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		text, err := os.ReadFile("../docs/api.md")
		if err != nil {
			t.Fatal(err)
		}
		page, families := string(text), m.families()
		var ofNoConfig []string
		for _, name := range slices.Sorted(maps.Keys(families)) {
			labels, hasConfig := labelNames(families[name])
			if !hasConfig {
				ofNoConfig = append(ofNoConfig, "`"+name+"`")
			}
			row := strings.ToLower(families[name].GetType().String()) + " | "
			if len(labels) > 0 {
				row += "`" + strings.Join(labels, "`, `") + "` "
			}
			if row = "| `" + name + "` | " + row + "| "; !strings.Contains(page, "\n"+row) {
				t.Errorf("there is no row that begins with %s", row)
			}
		}
		sentence := "\nAll but " + strings.Join(ofNoConfig, " and ") + " have the label `config`"
		if !strings.Contains(page, sentence) {
			t.Errorf("the page does not say:%s", sentence)
		}
		for line := range strings.Lines(page) {
			name, inTable := strings.CutPrefix(line, "| `vault_ncentral_")
			if name, _, _ = strings.Cut(name, "`"); inTable && families["vault_ncentral_"+name] == nil {
				t.Errorf("vault_ncentral_%s does not exist", name)
			}
		}
	})
}

// labelNames returns the names of the family's labels but config, and reports whether it has that.
func labelNames(family *dto.MetricFamily) (names []string, hasConfig bool) {
	for _, pair := range family.Metric[0].Label {
		if pair.GetName() == "config" {
			hasConfig = true
			continue
		}
		names = append(names, pair.GetName())
	}
	return names, hasConfig
}

func TestMetricsCountReadsBySource(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		before := m.metrics()
		if _, there := before["token_reads_total{source=refresh}"]; !there {
			t.Error("a counter is absent until it first counts")
		}
		m.read(nil)
		m.read(nil)
		m.read(map[string]any{"validate": true})
		m.counted(before, map[string]float64{
			"token_reads_total{source=authenticate}": 1, "token_reads_total{source=memory}": 2,
		})

		m.start()
		before = m.metrics()
		m.read(nil)
		m.read(nil)
		m.counted(before, map[string]float64{
			"token_reads_total{source=storage}": 1, "token_reads_total{source=memory}": 1,
		})

		before = m.metrics()
		time.Sleep(56 * time.Minute)
		m.read(nil)
		m.counted(before, map[string]float64{
			"token_reads_total{source=refresh}": 1, "calls_total{call=refresh,outcome=success}": 1,
			"call_duration_seconds{call=refresh}": 1,
		})

		m.write("roles/own", map[string]any{"credential_type": "dedicated"})
		before = m.metrics()
		m.readRole("own")
		m.counted(before, map[string]float64{
			"token_reads_total{source=authenticate}": 1, "calls_total{call=authenticate,outcome=success}": 1,
		})
	})
}

func TestMetricsCountWhatGoesWrong(t *testing.T) {
	answers := func(m *mount, endpoint simulator.Endpoint, code, times int) {
		m.FailNext(endpoint, times, status(code))
	}
	tests := map[string]struct {
		knobs func(*simulator.Knobs)
		spoil func(m *mount)
		want  map[string]float64
	}{
		"a retry": {nil, func(m *mount) {
			answers(m, simulator.EndpointAuthenticate, 503, 1)
			m.read(nil)
		}, map[string]float64{
			"call_retries_total{call=authenticate,reason=unavailable}": 1,
			"calls_total{call=authenticate,outcome=success}":           1,
			"failed_token_reads_total{reason=unavailable}":             0,
		}},
		"429": {nil, func(m *mount) {
			answers(m, simulator.EndpointAuthenticate, 429, 4)
			m.fails(503, opRead, "creds/monitoring", nil)
		}, map[string]float64{
			"call_retries_total{call=authenticate,reason=rate_limited}": 3,
			"calls_total{call=authenticate,outcome=rate_limited}":       1,
			"failed_token_reads_total{reason=rate_limited}":             1,
		}},
		"refresh refused": {nil, func(m *mount) {
			m.read(nil)
			answers(m, simulator.EndpointRefresh, 401, 1)
			time.Sleep(56 * time.Minute)
			m.read(nil)
		}, map[string]float64{
			"refresh_fallbacks_total": 1, "calls_total{call=refresh,outcome=refused}": 1,
			"token_reads_total{source=authenticate}": 2,
		}},
		"no refresh, for N-central is down": {nil, func(m *mount) {
			m.read(nil)
			m.FailNext(simulator.AnyEndpoint, -1, status(503))
			time.Sleep(56 * time.Minute)
			m.read(nil)
			time.Sleep(time.Minute)
			m.read(nil)
		}, map[string]float64{"refresh_fallbacks_total": 0, "token_reads_total{source=memory}": 2}},
		"override refused": {func(k *simulator.Knobs) { k.RefuseLongOverrides = true }, func(m *mount) {
			m.write("roles/monitoring", map[string]any{"ttl": "3h"})
			m.read(nil)
		}, map[string]float64{"override_fallbacks_total": 1, "calls_total{call=authenticate,outcome=bad_request}": 1}},
		"no tokens in the answer": {nil, func(m *mount) {
			m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureNoTokens})
			m.fails(502, opRead, "creds/monitoring", nil)
		}, map[string]float64{
			"calls_total{call=authenticate,outcome=malformed}": 1, "failed_token_reads_total{reason=malformed}": 1,
		}},
		"User-API token refused": {nil, func(m *mount) {
			m.regenerate()
			m.fails(400, opRead, "creds/monitoring", nil)
			m.fails(400, opRead, "creds/monitoring", nil)
		}, map[string]float64{
			"calls_total{call=authenticate,outcome=refused}": 1, "failed_token_reads_total{reason=refused}": 2,
		}},
		"reboot": {nil, func(m *mount) {
			m.read(nil)
			m.Reboot()
			m.read(map[string]any{"validate": true})
		}, map[string]float64{"dead_tokens_total": 1, "calls_total{call=validate,outcome=refused}": 1}},
		"stale": {nil, func(m *mount) {
			m.read(nil)
			time.Sleep(56 * time.Minute)
			m.server.Stop()
			m.read(nil)
			m.read(nil)
		}, map[string]float64{"stale_token_reads_total": 2, "token_reads_total{source=memory}": 2}},
		"logout": {nil, func(m *mount) {
			m.read(nil)
			m.delete("sessions/monitoring")
		}, map[string]float64{"calls_total{call=logout,outcome=success}": 1}},
		"the caller's mistake": {nil, func(m *mount) {
			m.read(nil)
			m.fails(400, opRead, "creds/monitoring", map[string]any{"min_ttl": "59m"})
		}, map[string]float64{"failed_token_reads_total{reason=storage}": 0}},
		"a token that comes too late": {nil, func(m *mount) {
			m.write("roles/monitoring", map[string]any{"ttl": "16s", "min_ttl": "8s"})
			m.Change(func(k *simulator.Knobs) { k.Latency = 9 * time.Second })
			m.fails(503, opRead, "creds/monitoring", map[string]any{"min_ttl": "8s"})
			m.Change(func(k *simulator.Knobs) { k.Latency = 0 })
		}, map[string]float64{"failed_token_reads_total{reason=dead_on_arrival}": 1}},
		"a ttl of no use": {nil, func(m *mount) {
			m.write("roles/monitoring", map[string]any{"ttl": "2s", "min_ttl": 0})
			m.fails(400, opRead, "creds/monitoring", nil)
		}, map[string]float64{"failed_token_reads_total{reason=storage}": 0}},
		"what the active node is to answer": {nil, func(m *mount) {
			m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
			time.Sleep(2 * time.Second)
			m.fails(500, opRead, "creds/monitoring", nil)
		}, map[string]float64{"failed_token_reads_total{reason=storage}": 0}},
		"storage": {nil, func(m *mount) {
			m.storage.refusesReads.Store(new("session/"))
			m.fails(500, opRead, "creds/monitoring", nil)
		}, map[string]float64{"failed_token_reads_total{reason=storage}": 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.knobs, func(m *mount) {
				before := m.metrics()
				test.spoil(m)
				m.counted(before, test.want)
			})
		})
	}
}

func TestMetricsTellWhatStatusTells(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		if diff := cmp.Diff(map[string]float64{
			"config_state{state=unknown}": 0, "config_state{state=ok}": 1, "config_state{state=degraded}": 0,
			"config_state{state=failing}": 0,
			"password_changed_at_missing": 0, "password_expired": 0, "logouts_owed": 0, "config_out_of_service": 0,
			"last_success_timestamp_seconds": float64(time.Now().Unix()), "requests_in_flight": 0,
			"server_can_log_out": 1, "server_can_validate": 1, "server_refresh_ends_predecessor": 0,
			"server_authenticate_ends_earlier_sessions": 0,
			"build_info{version=" + Version() + "}":     1, "unreadable_configs": 0,
		}, m.gauges()); diff != "" {
			t.Error(diff)
		}
		m.token = m.AddUserExpiring("expiring", 200*time.Hour)
		m.write("config/default", map[string]any{
			"user_api_token": m.token, "password_changed_at": time.Now().Format(time.RFC3339),
			"password_max_age": "100h",
		})
		m.read(nil)
		m.FailNext(simulator.EndpointLogout, 1, status(403))
		m.delete("sessions/monitoring")
		m.server.Stop()
		time.Sleep(150 * time.Hour)
		m.fails(503, opRead, "creds/monitoring", nil)
		now := m.gauges()
		for name, want := range map[string]float64{
			"config_state{state=ok}": 0, "config_state{state=failing}": 1, "logouts_owed": 1,
			"password_remaining_seconds": -50 * 3600, "user_api_token_remaining_seconds": 50 * 3600,
		} {
			if got := now[name]; got < want-60 || got > want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if now["next_attempt_timestamp_seconds"] <= now["last_failure_timestamp_seconds"] {
			t.Error("the next attempt is not after the last failure")
		}
	})
}

// gauges are the metrics that do not count.
func (m *mount) gauges() map[string]float64 {
	values := m.metrics()
	for name := range values {
		if strings.Contains(name, "_total") || strings.Contains(name, "call_duration") {
			delete(values, name)
		}
	}
	return values
}

// Label values come from what is stored alone, so that nobody fills the scraper's memory with names
// of their invention.
func TestMetricsNameStoredConfigsAlone(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.fails(400, opWrite, "config/refused", map[string]any{"url": m.server.URL, "user_api_token": m.token + "x"})
		m.fails(400, opRead, "creds/invented", nil)
		m.write("config/deleted", map[string]any{"url": m.server.URL, "user_api_token": m.token})
		m.write("roles/deleted", map[string]any{"config": "deleted"})
		m.readRole("deleted")
		if !strings.Contains(m.metricsText(), `config="deleted"`) {
			t.Error("the config has no metrics while it is there")
		}
		m.delete("roles/deleted")
		m.delete("config/deleted")
		m.tick()
		for _, name := range []string{"refused", "invented", "deleted"} {
			if strings.Contains(m.metricsText(), `config="`+name+`"`) {
				t.Errorf("%s is named", name)
			}
		}
	})
}

func TestMetricsAreOfOneMount(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		other := *m
		other.backend, other.storage = nil, &countingStorage{}
		other.start()
		defer other.backend.Cleanup(context.Background())
		if families := strings.Count(other.metricsText(), "# HELP"); families != 2 {
			t.Errorf("another mount without a config tells %d metrics, want those without the label config", families)
		}
	})
}

func TestRequestsInFlightAreCounted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		done := make(chan struct{})
		go func() { defer close(done); m.read(nil) }()
		time.Sleep(time.Second)
		if got := m.gauges()["requests_in_flight"]; got != 1 {
			t.Errorf("%v requests in flight", got)
		}
		<-done
		if got := m.gauges()["requests_in_flight"]; got != 0 {
			t.Errorf("%v requests in flight after all ended", got)
		}
	})
}

// Prometheus sees no increase in a series that begins above 0.
func TestWhatAlertsAskTheIncreaseOfIsThereBeforeItCounts(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		metrics := m.metrics()
		for _, name := range []string{
			"failed_token_reads_total{reason=refused}", "failed_token_reads_total{reason=storage}", "dead_tokens_total",
			"call_retries_total{call=authenticate,reason=rate_limited}",
			"calls_total{call=authenticate,outcome=rate_limited}",
		} {
			if _, there := metrics[name]; !there {
				t.Errorf("%s is absent until it first counts", name)
			}
		}
	})
}

func TestAReaderWhoHangsUpIsNoFailureOfNCentral(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("config/default", map[string]any{"max_requests_in_flight": 1})
		m.write("roles/own", map[string]any{"credential_type": "dedicated"})
		m.FailNext(simulator.EndpointAuthenticate, 1, hang)
		before := m.metrics()
		go func() { _, _ = m.do(opRead, "creds/own", nil) }()
		time.Sleep(time.Second)
		reader, hangUp := context.WithTimeout(context.Background(), time.Second)
		defer hangUp()
		_, _ = m.backend.HandleRequest(reader, &logical.Request{
			Operation: opRead, Path: "creds/own", Storage: m.storage,
		})
		m.counted(before, map[string]float64{"failed_token_reads_total{reason=reader_gone}": 1})
		gone, leave := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, leave)
		_, _ = m.backend.HandleRequest(gone, &logical.Request{
			Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
		})
		m.counted(before, map[string]float64{"failed_token_reads_total{reason=reader_gone}": 2})
		m.ClearFailures()
		synctest.Wait()
	})
}

func TestMetricsForgetAConfigThatWasDeletedOnAnotherNode(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		time.Sleep(2 * time.Second)
		for _, key := range []string{"role/monitoring", "config/default", "session/monitoring", "learnt/default"} {
			if err := m.storage.Delete(context.Background(), key); err != nil {
				t.Fatal(err)
			}
			m.backend.InvalidateKey(context.Background(), key)
		}
		if strings.Contains(m.metricsText(), `config="default"`) {
			t.Error("there are metrics of a config that is no more")
		}
	})
}

// Where a session ends the user's earlier ones, roles of one config end each other's tokens: the
// engine knows.
func TestTokensThatTheEngineItselfEndedAreNotCountedAsDead(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.read(nil)
		before := m.metrics()
		m.readRole("other")
		m.read(nil)
		m.counted(before, map[string]float64{"dead_tokens_total": 0, "calls_total{call=validate,outcome=refused}": 1})
	})
}
