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
	fieldConfigs         = "configs"
	fieldReasons         = "reasons"
	fieldLastSuccess     = "last_success"
	fieldLastFailure     = "last_failure"
	fieldLastFailureKind = "last_failure_kind"
	fieldNextAttempt     = "next_attempt"
)

func (a *API) statusPath() *framework.Path {
	return &framework.Path{
		Pattern: "status$",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:    a.readStatus,
				Summary:     "Read how the credentials of all configs fare.",
				Description: "A state for each config, the reasons for it in words, the last success and failure, the expiries, the N-central user, and what was learnt of the server, as the active node knows it since the plugin started there. It makes no call to N-central.",
				Responses: answers("How the configs fare.", map[string]*framework.FieldSchema{
					fieldConfigs: {Type: framework.TypeMap, Required: true, Description: "By name, how each config fares. What is not known is left out."},
				}),
				ForwardPerformanceStandby: true, // the active node knows
			},
		},
		DisplayAttrs: display("read", "status"),
		HelpSynopsis: "Read how the credentials of all configs fare.",
		HelpDescription: `
Answers for each config a state, the reasons for it in words, when N-central
last answered well and when it last failed and how, when it is next asked for
a token where it is being left alone, how many logouts are owed, when the
User-API token and the password expire, which N-central user it is and what
N-central tells of them, and what was learnt of the server.

The state is unknown where no token was asked for and no data call made since
the plugin started, ok where the last of these went well and no call of the last
five minutes found N-central down, degraded where tokens are handed out but
something needs a person, and failing where new tokens cannot be had. Logouts
that are owed could not be done yet and are tried once a minute until the token
expires: see that there are none before the mount is disabled, which drops them.
`,
	}
}

// statusFields are what status tells of a config.
func statusFields() map[string]*framework.FieldSchema {
	return together(learntFields(), map[string]*framework.FieldSchema{
		fieldState:                 stateField(),
		fieldReasons:               {Type: framework.TypeStringSlice, Required: true, Description: "What of it needs a person, in words, with the remedy."},
		fieldLastSuccess:           {Type: framework.TypeTime, Description: "When N-central last answered well."},
		fieldLastFailure:           {Type: framework.TypeTime, Description: "When it last failed."},
		fieldLastFailureKind:       {Type: framework.TypeString, Description: "How it last failed, in a word: unreachable, timeout, refused and the like."},
		fieldNextAttempt:           {Type: framework.TypeTime, Description: "When N-central is next asked for a token, where it is being left alone."},
		fieldLogoutsOwed:           {Type: framework.TypeInt, Required: true, Description: "How many logouts could not be done yet and are tried once a minute."},
		fieldUserAPITokenExpiresAt: {Type: framework.TypeTime, Description: "When the User-API token expires by its own claim, where it has one."},
		fieldPasswordExpiresAt:     {Type: framework.TypeTime, Description: "When the API user's password expires, where password_changed_at is given."},
		fieldUser:                  userField(),
	})
}

// stateField is how a config fares, in a word.
func stateField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString, Required: true,
		AllowedValues: []any{string(health.StateUnknown), string(health.StateOK), string(health.StateDegraded), string(health.StateFailing)},
		Description:   "unknown: no token was asked for and no data call made since the plugin started. ok: the last of these went well, and no call of the last five minutes found N-central down. degraded: tokens are handed out, but something needs a person. failing: new tokens cannot be had.",
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
	putTime(answer, fieldUserAPITokenExpiresAt, config.UserAPITokenExpiresAt())
	putTime(answer, fieldPasswordExpiresAt, config.PasswordExpiresAt())
	putUser(answer, status.User)
	putTraits(answer, status.Traits)
	return answer, nil
}
