// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package deploy

import (
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
)

const (
	scrapeFile = "prometheus-scrape.yaml"
	alertsFile = "prometheus-alerts.yaml"
	dayFile    = "testdata/day.promqltest"
)

// evaluationInterval is for how long Prometheus waits between two evaluations of the rules, unless
// it is told otherwise.
const evaluationInterval = time.Minute

// prometheus is the engine of Prometheus on stored series, which begin with Unix time.
type prometheus struct {
	t       *testing.T
	storage *teststorage.TestStorage
	engine  *promql.Engine
}

// newPrometheus loads series, in the form of Prometheus's own tests.
func newPrometheus(t *testing.T, series string) *prometheus {
	t.Helper()
	return &prometheus{
		t: t, storage: promqltest.LoadedStorage(t, series),
		engine: promqltest.NewTestEngine(t, false, 5*time.Minute, 1_000_000),
	}
}

// ask returns what the query yields in each minute.
func (p *prometheus) ask(expression string, until time.Duration) promql.Matrix {
	p.t.Helper()
	query, err := p.engine.NewRangeQuery(p.t.Context(), p.storage, nil, expression,
		time.Unix(0, 0), time.Unix(0, 0).Add(until), evaluationInterval)
	if err != nil {
		p.t.Fatal(err)
	}
	defer query.Close()
	answer, err := query.Exec(p.t.Context()).Matrix()
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return answer
}

// alertsAt has Prometheus evaluate the alert rules up to that time, and calls after with each rule
// after each evaluation.
func (p *prometheus) alertsAt(until time.Duration, after func(at time.Duration, rule *rules.AlertingRule)) {
	p.t.Helper()
	query := rules.EngineQueryFunc(p.engine, p.storage)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: query, Context: p.t.Context(), Logger: promslog.NewNopLogger(), Parser: promQL,
	})
	groups, errs := manager.LoadGroups(evaluationInterval, labels.EmptyLabels(), "", nil, false, alertsFile)
	if errs != nil {
		p.t.Fatal(errs)
	}
	for at := time.Duration(0); at <= until; at += evaluationInterval {
		for _, group := range groups {
			for _, rule := range group.AlertingRules() {
				if _, err := rule.Eval(p.t.Context(), 0, time.Unix(0, 0).Add(at), query, nil, 0); err != nil {
					p.t.Fatal(rule.Name(), err)
				}
				after(at, rule)
			}
		}
	}
}

// firing returns those alerts of the rule that fire.
func firing(rule *rules.AlertingRule) (alerts []*rules.Alert) {
	for _, alert := range rule.ActiveAlerts() {
		if alert.State == rules.StateFiring {
			alerts = append(alerts, alert)
		}
	}
	return alerts
}

// scrapeJob returns the job of the scrape configuration.
func scrapeJob(t *testing.T) *config.ScrapeConfig {
	t.Helper()
	loaded, err := config.Load(read(t, scrapeFile), promslog.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.ScrapeConfigs) != 1 {
		t.Fatal("there is not one job")
	}
	return loaded.ScrapeConfigs[0]
}
