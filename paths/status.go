// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	fieldConfigs           = "configs"
	fieldReasons           = "reasons"
	fieldLastSuccess       = "last_success"
	fieldLastFailure       = "last_failure"
	fieldLastFailureKind   = "last_failure_kind"
	fieldOutOfServiceSince = "out_of_service_since"
	fieldNextAttempt       = "next_attempt"
)

func (a *API) statusPath() *framework.Path {
	return &framework.Path{
		Pattern: "status$",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: a.readStatus,
				Summary:  "Read the state of the credentials of all configs.",
				Description: "For each config: its state, the reasons for it in words, the last success and " +
					"failure, the expiries, the N-central user, and what was learnt about the server. This is what " +
					"the active node knows since the plugin started there. No call is made to N-central.",
				Responses: answers("How the configs fare.", map[string]*framework.FieldSchema{
					fieldConfigs: {
						Type: framework.TypeMap, Required: true,
						Description: "By name, the state of each config and what belongs to it. What is not known " +
							"is left out.",
					},
				}),
				ForwardPerformanceStandby: true, // the active node knows
			},
		},
		DisplayAttrs: display("read", "status"),
		HelpSynopsis: "Read the state of the credentials of all configs.",
		HelpDescription: `
Returns for each config: its state, the reasons for it in words, when a call to
N-central last succeeded, when one last failed and how, when N-central is next
asked for a token if it is being left alone, how many logouts are owed, when the
User-API token and the password expire, what N-central says about its user, and
what was learnt about the server:

    vault read -field=configs -format=yaml ncentral/status

The state is one of these:

    unknown    no token was requested and no data call was made since the
               plugin started
    ok         the last request for a token or data call succeeded, and no call
               of the last five minutes found N-central down
    degraded   tokens are handed out, but somebody must act
    failing    no new tokens can be obtained with this config

If out_of_service_since is there, roles with fallback_configs take their tokens
from another config since then. The state is failing, and the reasons say why.
The config is tried every ten minutes. A check that passes, or a write of the
config, brings it back at once.

Logouts that are owed could not be done yet. They are tried once a minute until
the token expires. Disabling the mount drops them, so see first that there are
none.
`,
	}
}

// statusFields returns the fields of what status says about a config.
func statusFields() map[string]*framework.FieldSchema {
	return together(learntFields(), map[string]*framework.FieldSchema{
		fieldState: stateField(),
		fieldReasons: {
			Type: framework.TypeStringSlice, Required: true,
			Description: "What somebody must see to, in words, with the remedy.",
		},
		fieldLastSuccess: {Type: framework.TypeTime, Description: "When a call to N-central last succeeded."},
		fieldLastFailure: {Type: framework.TypeTime, Description: "When a call last failed."},
		fieldLastFailureKind: {
			Type:        framework.TypeString,
			Description: "How it failed, in one word: unreachable, timeout, refused and so on.",
		},
		fieldNextAttempt: {
			Type:        framework.TypeTime,
			Description: "When N-central is next asked for a token, if it is being left alone.",
		},
		fieldOutOfServiceSince: {
			Type: framework.TypeTime,
			Description: "Since when roles with fallback_configs take their tokens from another config; absent while " +
				"this one is in service. The reasons say why.",
		},
		fieldLogoutsOwed: {
			Type: framework.TypeInt, Required: true,
			Description: "How many logouts could not be done yet and are tried once a minute.",
		},
		fieldUserAPITokenExpiresAt: {
			Type:        framework.TypeTime,
			Description: "When the User-API token expires by its own claim, if it has one.",
		},
		fieldPasswordExpiresAt: {
			Type:        framework.TypeTime,
			Description: "When the API user's password expires, if password_changed_at is given.",
		},
		fieldUser: userField(),
	})
}

// stateField returns the field that says in a word how a config fares.
func stateField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString, Required: true,
		AllowedValues: []any{
			string(health.StateUnknown), string(health.StateOK), string(health.StateDegraded),
			string(health.StateFailing),
		},
		Description: "unknown: no token was requested and no data call was made since the plugin started. ok: the " +
			"last request for a token or data call succeeded, and no call of the last five minutes found N-central " +
			"down. degraded: tokens are handed out, but somebody must act. failing: no new tokens " +
			"can be obtained with this config.",
	}
}

func (a *API) readStatus(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	stored, err := a.Store.Configs.All(ctx)
	warnings, err := leftOut(err)
	if err != nil && len(stored) == 0 {
		return nil, err
	}
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	now := time.Now()
	configs := map[string]any{}
	for _, config := range stored {
		if configs[config.Name], err = a.statusOf(ctx, config, now); err != nil {
			return nil, err
		}
		warnings = append(warnings, health.ExpiryWarnings(config, now)...)
	}
	return withWarnings(&logical.Response{Data: map[string]any{fieldConfigs: configs}}, warnings), nil
}

func (a *API) statusOf(ctx context.Context, config *store.Config, now time.Time) (map[string]any, error) {
	status, err := a.Upstream.Status(ctx, config, now)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{
		fieldState:       string(status.State),
		fieldReasons:     append([]string{}, status.Reasons...),
		fieldLogoutsOwed: status.LogoutsOwed,
	}
	putTime(answer, fieldLastSuccess, status.LastSuccess)
	putTime(answer, fieldLastFailure, status.LastFailure)
	if status.LastFailureKind != "" {
		answer[fieldLastFailureKind] = string(status.LastFailureKind)
	}
	putTime(answer, fieldNextAttempt, status.NextAttempt)
	if status.OutOfService != nil {
		putTime(answer, fieldOutOfServiceSince, status.OutOfService.Since)
	}
	putTime(answer, fieldUserAPITokenExpiresAt, config.UserAPITokenExpiresAt())
	putTime(answer, fieldPasswordExpiresAt, config.PasswordExpiresAt())
	putUser(answer, status.User)
	putTraits(answer, status.Traits)
	return answer, nil
}
