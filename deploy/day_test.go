// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What an operator sees of a day with faults. Its scrapes are the engine's own: a test in backend
// wrote them, and holds them against the engine of today.

package deploy

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
)

// theDay loads the day as Prometheus stores it with the scrape configuration, and returns when it
// ends.
func theDay(t *testing.T) (p *prometheus, end time.Duration) {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(read(t, dayFile)) {
		series, values, indented := strings.Cut(strings.TrimPrefix(line, "  "), " ")
		if !strings.HasPrefix(line, "  ") || !indented {
			text.WriteString(line)
			continue
		}
		name, own, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		all := strings.Trim(own+","+labelsOfTarget(t), ",")
		fmt.Fprintf(&text, "  %s{%s} %s", name, all, values)
	}
	p = newPrometheus(t, text.String())
	for _, series := range p.ask("up", 48*time.Hour) {
		end = time.Duration(series.Floats[len(series.Floats)-1].T) * time.Millisecond
	}
	return p, end
}

// labelsOfTarget returns the labels that Prometheus adds to what it scrapes of the target of the
// scrape configuration.
func labelsOfTarget(t *testing.T) string {
	t.Helper()
	job := scrapeJob(t)
	targets, static := job.ServiceDiscoveryConfigs[0].(discovery.StaticConfig)
	if !static || len(targets) != 1 || len(targets[0].Targets) != 1 {
		t.Fatal("there is not one target")
	}
	added := targets[0].Labels.Clone()
	added[model.JobLabel] = model.LabelValue(job.JobName)
	added[model.InstanceLabel] = targets[0].Targets[0][model.AddressLabel]
	return strings.Trim(added.String(), "{}")
}

// asked returns what Grafana makes of a query of the dashboard, where all mounts and configs are
// chosen and a point is shown for each minute.
func asked(t *testing.T, expression string) string {
	t.Helper()
	// At least four times the interval, says Grafana.
	window := 4 * scrapeJob(t).ScrapeInterval
	return strings.NewReplacer("$__rate_interval", window.String(), "$config", ".*", "$mount", ".*").Replace(expression)
}

func TestEveryPanelHasDataOfADayWithFaults(t *testing.T) {
	p, end := theDay(t)
	interval := scrapeJob(t).ScrapeInterval.String()
	for _, panel := range readDashboard(t).Panels {
		legends := map[string]bool{}
		for _, target := range panel.Targets {
			shown := withNumbers(p.ask(asked(t, target.Expr), end))
			if len(shown) == 0 {
				t.Errorf("panel %q shows nothing of %s", panel.Title, target.Expr)
			}
			for _, series := range shown {
				legend := p.legend(target.LegendFormat, series)
				if legends[legend] {
					t.Errorf("panel %q: two series are called %q", panel.Title, legend)
				}
				legends[legend] = true
			}
			// Without it, Grafana reckons with the data source's interval, which may be 15s: too short for a rate.
			if strings.Contains(target.Expr, "$__rate_interval") && target.Interval != interval {
				t.Errorf("panel %q: the interval is %q, that of the scrapes %q", panel.Title, target.Interval, interval)
			}
		}
	}
}

// withNumbers returns the series that have one.
func withNumbers(matrix promql.Matrix) (kept promql.Matrix) {
	for _, series := range matrix {
		if slices.ContainsFunc(series.Floats, func(point promql.FPoint) bool { return !math.IsNaN(point.F) }) {
			kept = append(kept, series)
		}
	}
	return kept
}

var inLegend = regexp.MustCompile(`\{\{([a-z]+)\}\}`)

// legend returns what Grafana writes beside the series.
func (p *prometheus) legend(format string, series promql.Series) string {
	return inLegend.ReplaceAllStringFunc(format, func(label string) string {
		value := series.Metric.Get(strings.Trim(label, "{}"))
		if value == "" {
			p.t.Errorf("%q: %s has no such label", format, series.Metric)
		}
		return value
	})
}

func TestEverySelectorMatchesSomethingOfTheDay(t *testing.T) {
	p, end := theDay(t)
	board := readDashboard(t)
	var expressions []string
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			expressions = append(expressions, asked(t, target.Expr))
		}
	}
	for selector := range board.variables(t) {
		expressions = append(expressions, asked(t, selector))
	}
	for _, rule := range readAlertRules(t) {
		expressions = append(expressions, rule.Expr)
	}
	for _, expression := range expressions {
		parsed, err := promQL.ParseExpr(expression)
		if err != nil {
			t.Fatal(err)
		}
		for _, matchers := range parser.ExtractSelectors(parsed) {
			selector := &parser.VectorSelector{LabelMatchers: matchers}
			if len(p.ask(selector.String(), end)) == 0 {
				t.Errorf("%s: nothing is %s", expression, selector)
			}
		}
	}
}

func TestVariablesOfTheDashboardHaveValuesOfTheDay(t *testing.T) {
	p, end := theDay(t)
	for selector, label := range readDashboard(t).variables(t) {
		for _, series := range p.ask(asked(t, selector), end) {
			if series.Metric.Get(label) == "" {
				t.Errorf("%s has no label %s", series.Metric, label)
			}
		}
	}
}

// firings are the minutes in which alerts fire, by the alert's name and labels.
type firings map[string]map[string][]time.Duration

func (f firings) each(alert func(alert string, minutes []time.Duration)) {
	for name, byLabels := range f {
		for ofAlert, minutes := range byLabels {
			alert(name+ofAlert, minutes)
		}
	}
}

// alertsOfTheDay returns in which minutes each alert fires, by its name and labels. It fails the
// test for a text that does not render.
func alertsOfTheDay(t *testing.T) (alerts firings, end time.Duration) {
	t.Helper()
	p, end := theDay(t)
	alerts = firings{}
	p.alertsAt(end, func(at time.Duration, rule *rules.AlertingRule) {
		for _, alert := range firing(rule) {
			if alerts[rule.Name()] == nil {
				alerts[rule.Name()] = map[string][]time.Duration{}
			}
			key := alert.Labels.String()
			alerts[rule.Name()][key] = append(alerts[rule.Name()][key], at)
			alert.Annotations.Range(func(annotation labels.Label) {
				for _, sign := range []string{"<no value>", "<error", "{{", "}}", "  ", "config ,"} {
					if strings.Contains(annotation.Value, sign) {
						t.Errorf("%s: %s", rule.Name(), annotation.Value)
					}
				}
			})
		}
	})
	return alerts, end
}

func TestAlertsOfADayWithFaults(t *testing.T) {
	alerts, end := alertsOfTheDay(t)
	t.Run("every one fires", func(t *testing.T) {
		for _, rule := range readAlertRules(t) {
			if time.Duration(rule.For) < end && alerts[rule.Alert] == nil {
				t.Errorf("%s does not fire", rule.Alert)
			}
		}
	})
	t.Run("they are silent before the first fault", func(t *testing.T) {
		alerts.each(func(alert string, minutes []time.Duration) {
			// Config old needs somebody from the first minute.
			if minutes[0] < 20*time.Minute && !strings.Contains(alert, `config="old"`) {
				t.Errorf("%s fires after %s", alert, minutes[0])
			}
		})
	})
	// N-central is down for longer than tokens live. Meanwhile stale tokens are handed out now and then,
	// and some readers come every ten minutes.
	t.Run("a fault calls for help once", func(t *testing.T) {
		alerts.each(func(alert string, minutes []time.Duration) {
			for i, at := range minutes[1:] {
				if gap := at - minutes[i]; gap > evaluationInterval && gap < 15*time.Minute {
					t.Errorf("%s is silent after %s, and fires again after %s", alert, minutes[i], at)
				}
			}
		})
	})
}
