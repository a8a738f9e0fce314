// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package deploy holds the alert rules and the dashboard against the metrics that docs/api.md
// lists, and has Prometheus evaluate them on the scrapes of a day with faults. Tests in backend hold
// that page and those scrapes against the engine.
//
// It is a module of its own, so that Prometheus, whose packages it needs, is no requirement of the
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
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
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

// readAlertRules returns the rules of the rule file, which Prometheus must find valid.
func readAlertRules(t *testing.T) (alerts []rulefmt.Rule) {
	t.Helper()
	file, errs := rulefmt.ParseFile(alertsFile, false, model.UTF8Validation, promQL)
	if errs != nil {
		t.Fatal(errs)
	}
	for _, group := range file.Groups {
		alerts = append(alerts, group.Rules...)
	}
	return alerts
}

func TestAlertRulesUseMetricsThatExist(t *testing.T) {
	series := seriesOf(listedMetrics(t))
	runbook := read(t, "../docs/operations.md")
	for _, rule := range readAlertRules(t) {
		if len(asksForWhatExists(t, rule.Expr, series)) == 0 {
			t.Errorf("%s asks for nothing", rule.Alert)
		}
		if !strings.Contains(runbook, "`"+rule.Alert+"`") {
			t.Errorf("the runbook does not say what to do about %s", rule.Alert)
		}
		_, anchor, _ := strings.Cut(rule.Annotations["runbook"], "docs/operations.md#")
		if !slices.Contains(anchors(runbook), anchor) {
			t.Errorf("%s: the runbook has no section %q", rule.Alert, rule.Annotations["runbook"])
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" ||
			rule.Annotations["description"] == "" {
			t.Errorf("%s lacks severity, summary or description", rule.Alert)
		}
	}
}

var heading = regexp.MustCompile("(?m)^#+ (.*)$")

// anchors returns what links to the page's sections end with.
func anchors(page string) (anchors []string) {
	for _, title := range headings(page) {
		anchors = append(anchors, strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(
			strings.ToLower(title), ""), " ", "-"))
	}
	return anchors
}

func headings(page string) (titles []string) {
	for _, match := range heading.FindAllStringSubmatch(page, -1) {
		titles = append(titles, match[1])
	}
	return titles
}

func TestPanelsNameSectionsOfTheRunbook(t *testing.T) {
	titles, named := headings(read(t, "../docs/operations.md")), 0
	for _, panel := range readDashboard(t).Panels {
		_, section, names := strings.Cut(panel.Description, "Runbook: ")
		if names {
			named++
		}
		if section = strings.TrimSuffix(section, "."); names && !slices.Contains(titles, section) {
			t.Errorf("panel %q: the runbook has no section %q", panel.Title, section)
		}
	}
	if named == 0 {
		t.Error("no panel names one")
	}
}

// dashboard is what the tests read of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		Title       string
		Description string
		Targets     []struct{ Expr, Interval, LegendFormat string }
	}
	Templating struct {
		List []struct {
			Name  string
			Type  string
			Query json.RawMessage
		}
	}
}

func readDashboard(t *testing.T) (board dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "grafana-dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	return board
}

// variables returns the selectors that the dashboard's variables take their values from, each with
// the label that has them.
func (d dashboard) variables(t *testing.T) map[string]string {
	t.Helper()
	selectors := map[string]string{}
	for _, variable := range d.Templating.List {
		if variable.Type != "query" {
			continue
		}
		var query struct{ Query string }
		if err := json.Unmarshal(variable.Query, &query); err != nil {
			t.Fatal(err)
		}
		selector, label, found := strings.Cut(strings.TrimPrefix(query.Query, "label_values("), ", ")
		if !found {
			t.Fatalf("variable %s asks for nothing", variable.Name)
		}
		selectors[selector] = strings.TrimSuffix(label, ")")
	}
	return selectors
}

func TestTheDashboardShowsEveryMetricAndNoneThatDoesNotExist(t *testing.T) {
	metrics := listedMetrics(t)
	series, board := seriesOf(metrics), readDashboard(t)
	shown := map[string]bool{}
	for _, panel := range board.Panels {
		if panel.Title == "" || panel.Description == "" || len(panel.Targets) == 0 {
			t.Errorf("panel %q lacks a title, a description or a query", panel.Title)
		}
		for _, target := range panel.Targets {
			for _, name := range asksForWhatExists(t, asked(t, target.Expr), series) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for selector := range board.variables(t) {
		asksForWhatExists(t, asked(t, selector), series)
	}
	for _, metric := range metrics {
		if !shown[metric.name] {
			t.Errorf("%s is not shown", metric.name)
		}
	}
}
