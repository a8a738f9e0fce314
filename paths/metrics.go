// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// metricsFormat is the text format that every Prometheus reads.
var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

func (a *API) metricsPath() *framework.Path {
	return &framework.Path{
		Pattern: "metrics$",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: a.readMetrics,
				Summary:  "Read the mount's metrics in Prometheus's text form.",
				Description: "The metrics are those of the node that answers, since the plugin started on it: how " +
					"many tokens were read and where they came from, the calls to N-central, and the state of each " +
					"config. The answer is text, without Vault's envelope.",
				Responses: map[int][]framework.Response{http.StatusOK: {{
					Description: "The metrics, as text and not as JSON.", MediaType: "text/plain",
				}}},
			},
		},
		DisplayAttrs: display("read", "metrics"),
		HelpSynopsis: "Read the mount's metrics in Prometheus's text form.",
		HelpDescription: `
Returns the metrics of this mount in the form that Prometheus reads: how many
tokens were read and where they came from, the calls to N-central with their
outcomes and how long they took, and for each config its state, the seconds left
until the password and the User-API token expire, and the logouts owed.

The metrics are those of the node that answers, since the plugin started on it.
They hold no secret. Like every path, this one needs a Vault token: give the
scraper one whose policy allows it to read metrics and nothing else. The answer
is not JSON. On the command line, use

    vault read -format=raw ncentral/metrics
`,
	}
}

func (a *API) readMetrics(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	configs, unreadable := a.Store.Configs.All(ctx)
	damaged, err := leftOut(unreadable)
	if err != nil && len(configs) == 0 {
		return nil, err
	}
	if unreadable != nil {
		a.Logger.Warn("metrics leave out configs that cannot be read", "error", unreadable)
	}
	conditions, err := a.gaugesOfConditions(ctx, configs)
	if err != nil {
		return nil, err
	}
	conditions.add(unreadableConfigs, float64(len(damaged)))
	// The registry is made for each read, and only of what is stored now: a config may have been
	// deleted, perhaps by another node.
	registry := prometheus.NewRegistry()
	if err := registry.Register(conditions); err != nil {
		return nil, err
	}
	for _, config := range configs {
		if err := registry.Register(a.Upstream.Record(config.Name).Collector()); err != nil {
			return nil, err
		}
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, metricsFormat)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPRawBody:     text.Bytes(),
	}}, nil
}

// gauges are metrics with their values at one moment. They form one Collector.
type gauges []prometheus.Metric

// Describe implements prometheus.Collector. It sends nothing, since the metrics differ from moment
// to moment.
func (g gauges) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g gauges) Collect(metrics chan<- prometheus.Metric) {
	for _, gauge := range g {
		metrics <- gauge
	}
}

func (g *gauges) add(description *prometheus.Desc, value float64, labels ...string) {
	*g = append(*g, prometheus.MustNewConstMetric(description, prometheus.GaugeValue, value, labels...))
}

// addTime adds a Unix time in seconds, unless the time is zero.
func (g *gauges) addTime(description *prometheus.Desc, at time.Time, labels ...string) {
	if !at.IsZero() {
		g.add(description, float64(at.UnixMilli())/1000, labels...)
	}
}

// addRemaining adds the seconds from now until then, less than zero if that is past, unless the
// time is zero.
func (g *gauges) addRemaining(description *prometheus.Desc, until, now time.Time, labels ...string) {
	if !until.IsZero() {
		g.add(description, until.Sub(now).Seconds(), labels...)
	}
}

// addKnown adds 0 or 1, unless known is nil.
func (g *gauges) addKnown(description *prometheus.Desc, known *bool, labels ...string) {
	if known != nil {
		g.add(description, zeroOrOne(*known), labels...)
	}
}

func zeroOrOne(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(health.MetricNamespace, health.MetricSubsystem, name), help,
		labels, nil)
}

var (
	buildInfo = describe("build_info", "Always 1; the label is the engine's version.", "version")

	unreadableConfigs = describe("unreadable_configs",
		"Stored configs that cannot be read, since they are damaged or of a newer version. No other metric includes "+
			"them.")

	configState = describe("config_state", "1 for the state that the config is in, 0 for the others: unknown, "+
		"ok, degraded, failing.", health.ConfigLabel, "state")
	lastSuccess = describe("last_success_timestamp_seconds",
		"When a call to N-central last succeeded, in Unix time.", health.ConfigLabel)
	lastFailure = describe("last_failure_timestamp_seconds",
		"When a call to N-central last failed, in Unix time.", health.ConfigLabel)
	nextAttempt = describe("next_attempt_timestamp_seconds",
		"While N-central is left alone: when it is next asked for a token, in Unix time.", health.ConfigLabel)
	logoutsOwed = describe("logouts_owed", "Logouts that could not be done yet and are tried once a minute.",
		health.ConfigLabel)
	passwordRemaining = describe("password_remaining_seconds",
		"Seconds until the API user's password expires, less than zero afterwards; absent if password_changed_at is "+
			"not given.", health.ConfigLabel)
	passwordExpired = describe("password_expired",
		"Whether the API user's password has expired, 0 or 1, as N-central last said; absent if it does not say.",
		health.ConfigLabel)
	outOfService = describe("config_out_of_service",
		"1 while roles with fallback_configs take their tokens from another config, because N-central refuses this "+
			"one's User-API token or its user does not work; else 0.", health.ConfigLabel)
	passwordUnknown = describe("password_changed_at_missing",
		"1 where password_changed_at is not given and password_max_age is not 0, so that nobody is warned before "+
			"the password expires; else 0.", health.ConfigLabel)
	tokenRemaining = describe("user_api_token_remaining_seconds",
		"Seconds until the User-API token expires by its own claim, less than zero afterwards; absent if it has no "+
			"such claim.", health.ConfigLabel)
	canValidate = describe("server_can_validate",
		"Whether the server says if a token lives, 0 or 1; if it does not, the engine makes a data call instead. "+
			"Absent if that is not known.", health.ConfigLabel)
	canLogOut = describe("server_can_log_out",
		"Whether the server has a logout, 0 or 1; absent if that is not known.", health.ConfigLabel)
	refreshEnds = describe("server_refresh_ends_predecessor",
		"Whether the server's refresh ends the access token before it, 0 or 1; absent if that is not known.",
		health.ConfigLabel)
	authenticateEnds = describe("server_authenticate_ends_earlier_sessions",
		"Whether a new session ends the user's earlier ones, 0 or 1; absent if that is not known.", health.ConfigLabel)
)

// gaugesOfConditions returns the metrics of how the configs fare now. status says the same in
// words.
func (a *API) gaugesOfConditions(ctx context.Context, configs []*store.Config) (gauges, error) {
	var all gauges
	all.add(buildInfo, 1, a.Version)
	for _, config := range configs {
		if err := a.addCondition(ctx, &all, config, time.Now()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (a *API) addCondition(ctx context.Context, all *gauges, config *store.Config, now time.Time) error {
	status, err := a.Upstream.Status(ctx, config, now)
	if err != nil {
		return err
	}
	for _, state := range health.States() {
		all.add(configState, zeroOrOne(state == status.State), config.Name, string(state))
	}
	all.add(outOfService, zeroOrOne(status.OutOfService != nil), config.Name)
	all.add(logoutsOwed, float64(status.LogoutsOwed), config.Name)
	all.addTime(lastSuccess, status.LastSuccess, config.Name)
	all.addTime(lastFailure, status.LastFailure, config.Name)
	all.addTime(nextAttempt, status.NextAttempt, config.Name)
	all.add(passwordUnknown, zeroOrOne(config.PasswordChangedAt.IsZero() && config.PasswordMaxAge > 0), config.Name)
	if status.User != nil {
		all.addKnown(passwordExpired, status.User.PasswordExpired, config.Name)
	}
	all.addRemaining(passwordRemaining, config.PasswordExpiresAt(), now, config.Name)
	all.addRemaining(tokenRemaining, config.UserAPITokenExpiresAt(), now, config.Name)
	all.addKnown(canValidate, status.Traits.CanValidate, config.Name)
	all.addKnown(canLogOut, status.Traits.CanLogOut, config.Name)
	all.addKnown(refreshEnds, status.Traits.RefreshEndsPredecessor, config.Name)
	all.addKnown(authenticateEnds, status.Traits.AuthenticateEndsEarlierSessions, config.Name)
	return nil
}
