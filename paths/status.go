// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

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
				Callback: a.readStatus,
				Summary:  "Read how the credentials of all configs fare.",
				Responses: map[int][]framework.Response{http.StatusOK: {{
					Description: "How the configs fare.",
					Fields: map[string]*framework.FieldSchema{
						fieldConfigs: {Type: framework.TypeMap, Required: true, Description: "By name, each config's state (unknown, ok, degraded, failing), reasons, last_success, last_failure, last_failure_kind, next_attempt, logouts_owed, user_api_token_expires_at, password_expires_at, and what was learnt of its server. What is not known is left out."},
					},
				}}},
				ForwardPerformanceStandby: true, // the active node knows
			},
		},
		DisplayAttrs: display("read", "status"),
		HelpSynopsis: "Read how the credentials of all configs fare.",
		HelpDescription: `
Answers for each config a state, the reasons for it in words, when N-central
last answered well and when it last failed and how, when it is next asked for
a token where it is being left alone, how many logouts are owed, when the
User-API token and the password expire, and what was learnt of the server.

The state is unknown where N-central was not asked since the plugin started,
ok, degraded where tokens are handed out but something needs a person, and
failing where new tokens cannot be had. Logouts that are owed could not be done
yet and are tried once a minute until the token expires: see that there are
none before the mount is disabled, which drops them.
`,
	}
}

func (a *API) readStatus(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := a.Store.Configs.Names(ctx)
	if err != nil {
		return nil, err
	}
	configs := map[string]any{}
	for _, name := range names {
		config, err := a.Store.Configs.Get(ctx, name)
		if err != nil {
			return nil, err
		}
		if config == nil {
			continue // deleted in the meantime
		}
		if configs[name], err = a.statusOf(ctx, config); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{fieldConfigs: configs}}, nil
}

func (a *API) statusOf(ctx context.Context, config *store.Config) (map[string]any, error) {
	now := time.Now()
	condition, err := a.Upstream.Condition(ctx, config, now)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{
		fieldState:       string(condition.State),
		fieldReasons:     append([]string{}, condition.Reasons...),
		fieldLogoutsOwed: condition.LogoutsOwed,
	}
	putTime(answer, fieldLastSuccess, condition.LastSuccess)
	putTime(answer, fieldLastFailure, condition.LastFailure)
	if condition.LastFailureKind != "" {
		answer[fieldLastFailureKind] = string(condition.LastFailureKind)
	}
	putTime(answer, fieldNextAttempt, condition.NextAttempt)
	putTime(answer, fieldUserAPITokenExpiresAt, config.UserAPITokenExpiresAt())
	putTime(answer, fieldPasswordExpiresAt, config.PasswordExpiresAt())
	putLearnt(answer, condition.Learnt)
	return answer, nil
}
