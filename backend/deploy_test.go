// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

var promQL = parser.NewParser(parser.Options{})

// labelsOfScrape are those that Prometheus adds, by itself or by deploy/prometheus-scrape.yaml.
var labelsOfScrape = []string{"job", "instance", "mount"}

// families brings about every kind of metric that the engine has and answers them by name.
func (m *mount) families() map[string]*dto.MetricFamily {
	m.t.Helper()
	m.token = m.AddUserExpiring("expiring", 1000*time.Hour)
	m.must(logical.UpdateOperation, "config/default", map[string]any{
		"user_api_token": m.token, "password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "1000h",
	})
	m.read(nil)
	m.FailNext(simulator.EndpointRefresh, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 503})
	m.FailNext(simulator.EndpointLogout, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 403})
	time.Sleep(56 * time.Minute)
	m.read(nil)
	m.must(logical.DeleteOperation, "sessions/monitoring", nil)
	m.server.Stop()
	m.failure(logical.ReadOperation, "creds/monitoring", nil)
	textParser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := textParser.TextToMetricFamilies(strings.NewReader(m.metricsText()))
	if err != nil {
		m.t.Fatal(err)
	}
	return families
}

// seriesOf are the metrics that can be asked for, each with its labels.
func seriesOf(families map[string]*dto.MetricFamily) map[string][]string {
	series := map[string][]string{}
	for name, family := range families {
		var names []string
		for _, pair := range family.Metric[0].Label {
			names = append(names, pair.GetName())
		}
		names = append(names, labelsOfScrape...)
		series[name] = names
		if family.GetType() == dto.MetricType_HISTOGRAM {
			series[name+"_bucket"] = append(slices.Clone(names), "le")
			series[name+"_count"], series[name+"_sum"] = names, names
		}
	}
	return series
}

// asksForWhatExists fails the test where the expression names a metric or label that there is not, and answers the
// metrics that it names.
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
	inBubble(t, nil, func(m *mount) {
		series := seriesOf(m.families())
		file, err := os.Open("../deploy/prometheus-alerts.yaml")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		decoder := yaml.NewDecoder(file)
		decoder.KnownFields(true)
		var rules alertRules
		if err := decoder.Decode(&rules); err != nil {
			t.Fatal(err)
		}
		runbook, err := os.ReadFile("../docs/operations.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range rules.Groups {
			for _, rule := range group.Rules {
				if len(asksForWhatExists(t, rule.Expr, series)) == 0 {
					t.Errorf("%s asks for nothing", rule.Alert)
				}
				if !strings.Contains(string(runbook), "`"+rule.Alert+"`") {
					t.Errorf("the runbook does not say what to do about %s", rule.Alert)
				}
				if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
					t.Errorf("%s lacks severity, summary or description", rule.Alert)
				}
			}
		}
	})
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
	inBubble(t, nil, func(m *mount) {
		families := m.families()
		series := seriesOf(families)
		text, err := os.ReadFile("../deploy/grafana-dashboard.json")
		if err != nil {
			t.Fatal(err)
		}
		var board dashboard
		if err := json.Unmarshal(text, &board); err != nil {
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
		for name := range families {
			if !shown[name] {
				t.Errorf("%s is not shown", name)
			}
		}
	})
}

func TestTheAPIPageNamesEveryMetricAndNoneThatDoesNotExist(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		page, err := os.ReadFile("../docs/api.md")
		if err != nil {
			t.Fatal(err)
		}
		existing := slices.Sorted(maps.Keys(m.families()))
		for _, name := range existing {
			if !strings.Contains(string(page), "| `"+name+"` |") {
				t.Errorf("%s is not in the table", name)
			}
		}
		for line := range strings.Lines(string(page)) {
			name, inTable := strings.CutPrefix(line, "| `vault_ncentral_")
			if name, _, _ = strings.Cut(name, "`"); inTable && !slices.Contains(existing, "vault_ncentral_"+name) {
				t.Errorf("vault_ncentral_%s does not exist", name)
			}
		}
	})
}
