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
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const fieldConfigs = "configs"

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
						fieldConfigs: {Type: framework.TypeMap, Required: true, Description: "By name, each config's state (unknown, ok, degraded, failing) and logouts_owed."},
					},
				}}},
				ForwardPerformanceStandby: true, // the active node knows
			},
		},
		DisplayAttrs: display("read", "status"),
		HelpSynopsis: "Read how the credentials of all configs fare.",
		HelpDescription: `
Answers for each config a state and the number of logouts owed. The state is
unknown where N-central was not asked since the plugin started, ok, degraded
where tokens are handed out but something needs a person, and failing where
new tokens cannot be had. Logouts that are owed could not be done yet and are
tried once a minute until the token expires: see that there are none before
the mount is disabled, which drops them.
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
		owed, err := a.Store.CountOwedOfConfig(ctx, name)
		if err != nil {
			return nil, err
		}
		configs[name] = map[string]any{
			fieldState:       string(a.stateOf(config, owed)),
			fieldLogoutsOwed: owed,
		}
	}
	return &logical.Response{Data: map[string]any{fieldConfigs: configs}}, nil
}

// stateOf is the config's state as its record has it, and degraded where all is well but for logouts owed.
func (a *API) stateOf(config *store.Config, owed int) upstream.State {
	state := a.Upstream.Record(config.Name).State(config, time.Now())
	if owed > 0 && state != upstream.Failing {
		return upstream.Degraded
	}
	return state
}
