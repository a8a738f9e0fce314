// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package deploy holds the alert rules and the dashboard against the metrics that docs/api.md
// lists. A test in backend holds that page against the engine.
//
// It is a module of its own, so that Prometheus, whose parser it needs, is no requirement of the
// plugin.
package deploy

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

var promQL = parser.NewParser(parser.Options{})

// labelsOfScrape are those that Prometheus adds, by itself or by prometheus-scrape.yaml.
var labelsOfScrape = []string{"job", "instance", "mount"}

// The API page has a row for each metric, with its name, type and labels. The label config is not
// among these: a sentence above the rows says which metrics lack it.
var (
	rowOfMetric   = regexp.MustCompile("(?m)^\\| `(vault_ncentral_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*)\\|")
	withoutConfig = regexp.MustCompile("(?m)^All but (`.*`) have the label `config`")
	quoted        = regexp.MustCompile("`([^`]+)`")
)

type metric struct {
	name, kind string
	labels     []string
}

// listedMetrics returns the metrics that the API page lists.
func listedMetrics(t *testing.T) (metrics []metric) {
	t.Helper()
	page := read(t, "../docs/api.md")
	rows, exceptions := rowOfMetric.FindAllStringSubmatch(page, -1), withoutConfig.FindStringSubmatch(page)
	if rows == nil || exceptions == nil {
		t.Fatal("the API page does not list the metrics in the form that this test reads")
	}
	for _, row := range rows {
		listed := metric{name: row[1], kind: row[2], labels: textsQuotedIn(row[3])}
		if !slices.Contains(textsQuotedIn(exceptions[1]), listed.name) {
			listed.labels = append(listed.labels, "config")
		}
		metrics = append(metrics, listed)
	}
	return metrics
}

// seriesOf returns what can be asked for of the metrics: the names of series, each with its labels.
func seriesOf(metrics []metric) map[string][]string {
	series := map[string][]string{}
	for _, metric := range metrics {
		labels := slices.Concat(metric.labels, labelsOfScrape)
		series[metric.name] = labels
		if metric.kind == "histogram" {
			series[metric.name+"_bucket"] = append(slices.Clone(labels), "le")
			series[metric.name+"_count"], series[metric.name+"_sum"] = labels, labels
		}
	}
	return series
}

func textsQuotedIn(text string) (found []string) {
	for _, match := range quoted.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// asksForWhatExists fails the test if the expression names a metric or label that does not exist,
// and returns the metrics that it names.
func asksForWhatExists(t *testing.T, expression string, series map[string][]string) (named []string) {
	t.Helper()
	parsed, err := promQL.ParseExpr(expression)
	if err != nil {
		t.Errorf("%s: %v", expression, err)
		return nil
	}
	for _, selector := range parser.ExtractSelectors(parsed) {
		name := ""
		for _, matcher := range selector {
			if matcher.Name == model.MetricNameLabel {
				name = matcher.Value
			}
		}
		if name == "up" { // Prometheus's own
			continue
		}
		known, exists := series[name]
		if !exists {
			t.Errorf("%s: there is no metric %q", expression, name)
			continue
		}
		named = append(named, name)
		for _, matcher := range selector {
			if matcher.Name != model.MetricNameLabel && !slices.Contains(known, matcher.Name) {
				t.Errorf("%s: %s has no label %q", expression, name, matcher.Name)
			}
		}
	}
	return named
}

// alertRules are the fields of a Prometheus rule file that the engine's uses.
type alertRules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert       string
			Expr        string
			For         model.Duration
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func TestAlertRulesAreValidAndUseMetricsThatExist(t *testing.T) {
	series := seriesOf(listedMetrics(t))
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "prometheus-alerts.yaml")))
	decoder.KnownFields(true)
	var rules alertRules
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	runbook := read(t, "../docs/operations.md")
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if len(asksForWhatExists(t, rule.Expr, series)) == 0 {
				t.Errorf("%s asks for nothing", rule.Alert)
			}
			if !strings.Contains(runbook, "`"+rule.Alert+"`") {
				t.Errorf("the runbook does not say what to do about %s", rule.Alert)
			}
			if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" ||
				rule.Annotations["description"] == "" {
				t.Errorf("%s lacks severity, summary or description", rule.Alert)
			}
		}
	}
}

// dashboard is what the test reads of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		Title       string
		Description string
		Targets     []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name  string
			Type  string
			Query json.RawMessage
		}
	}
}

func TestTheDashboardShowsEveryMetricAndNoneThatDoesNotExist(t *testing.T) {
	metrics := listedMetrics(t)
	series := seriesOf(metrics)
	var board dashboard
	if err := json.Unmarshal([]byte(read(t, "grafana-dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	asGrafanaWouldAsk := strings.NewReplacer("$__rate_interval", "5m", "$config", ".*", "$mount", ".*")
	shown := map[string]bool{}
	for _, panel := range board.Panels {
		if panel.Title == "" || panel.Description == "" || len(panel.Targets) == 0 {
			t.Errorf("panel %q lacks a title, a description or a query", panel.Title)
		}
		for _, target := range panel.Targets {
			for _, name := range asksForWhatExists(t, asGrafanaWouldAsk.Replace(target.Expr), series) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for _, variable := range board.Templating.List {
		if variable.Type != "query" {
			continue
		}
		var query struct{ Query string }
		if err := json.Unmarshal(variable.Query, &query); err != nil {
			t.Fatal(err)
		}
		selector, _, found := strings.Cut(strings.TrimPrefix(query.Query, "label_values("), ", ")
		if !found || len(asksForWhatExists(t, asGrafanaWouldAsk.Replace(selector), series)) != 1 {
			t.Errorf("variable %s asks for nothing", variable.Name)
		}
	}
	for _, metric := range metrics {
		if !shown[metric.name] {
			t.Errorf("%s is not shown", metric.name)
		}
	}
}
