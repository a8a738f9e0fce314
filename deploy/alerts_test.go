// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// When each alert fires: prometheus-alerts_test.yaml, as promtool runs it. promtool itself brings
// every service discovery of Prometheus, and is built for too long.

package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

// alertTests are what prometheus-alerts_test.yaml uses of the fields of promtool's files.
type alertTests struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	Tests              []alertTest
}

type alertTest struct {
	Name        string
	Interval    model.Duration
	InputSeries []struct{ Series, Values string } `yaml:"input_series"`
	Moments     []moment                          `yaml:"alert_rule_test"`
}

// moment says which alerts of a rule fire at a time.
type moment struct {
	At     model.Duration  `yaml:"eval_time"`
	Rule   string          `yaml:"alertname"`
	Alerts []expectedAlert `yaml:"exp_alerts"`
}

type expectedAlert struct {
	Labels      map[string]string `yaml:"exp_labels"`
	Annotations map[string]string `yaml:"exp_annotations"`
}

func readAlertTests(t *testing.T) (tests alertTests) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "prometheus-alerts_test.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&tests); err != nil {
		t.Fatal(err)
	}
	if time.Duration(tests.EvaluationInterval) != evaluationInterval ||
		!slices.Equal(tests.RuleFiles, []string{alertsFile}) {
		t.Fatal("the file is for other rules, or evaluates them at another interval")
	}
	return tests
}

// series returns the input series as Prometheus loads them.
func (a alertTest) series() string {
	var text strings.Builder
	fmt.Fprintf(&text, "load %s\n", a.Interval)
	for _, input := range a.InputSeries {
		fmt.Fprintf(&text, "  %s %s\n", input.Series, input.Values)
	}
	return text.String()
}

func TestAlertsFireAndAreSilentAsTheFileOfTheirTestsSays(t *testing.T) {
	for _, test := range readAlertTests(t).Tests {
		t.Run(test.Name, func(t *testing.T) {
			last := slices.MaxFunc(test.Moments, func(a, b moment) int { return int(a.At - b.At) })
			p := newPrometheus(t, test.series())
			p.alertsAt(time.Duration(last.At), func(at time.Duration, rule *rules.AlertingRule) {
				for _, moment := range test.Moments {
					if moment.Rule == rule.Name() && time.Duration(moment.At) == at {
						expectAlerts(t, moment, firing(rule))
					}
				}
			})
		})
	}
}

func expectAlerts(t *testing.T, want moment, fire []*rules.Alert) {
	t.Helper()
	var got []expectedAlert
	for _, alert := range fire {
		labels := alert.Labels.Map()
		delete(labels, "alertname")
		got = append(got, expectedAlert{Labels: labels, Annotations: alert.Annotations.Map()})
	}
	if len(want.Alerts) == 0 && len(got) == 0 {
		return
	}
	if diff := cmp.Diff(want.Alerts, got); diff != "" {
		t.Errorf("%s after %s: %s", want.Rule, want.At, diff)
	}
}

// A rule without a test of both would be tested by hope.
func TestEachAlertIsSeenToFireAndToBeSilent(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range readAlertTests(t).Tests {
		for _, moment := range test.Moments {
			if len(moment.Alerts) > 0 {
				fires[moment.Rule] = true
			} else {
				silent[moment.Rule] = true
			}
		}
	}
	var names []string
	for _, rule := range readAlertRules(t) {
		names = append(names, rule.Alert)
	}
	slices.Sort(names)
	for what, seen := range map[string]map[string]bool{"fire": fires, "be silent": silent} {
		if diff := cmp.Diff(names, slices.Sorted(maps.Keys(seen))); diff != "" {
			t.Errorf("seen to %s: %s", what, diff)
		}
	}
}

func TestAlertTestsUseSeriesThatExist(t *testing.T) {
	series := seriesOf(listedMetrics(t))
	for _, test := range readAlertTests(t).Tests {
		for _, input := range test.InputSeries {
			asksForWhatExists(t, input.Series, series)
		}
	}
}
