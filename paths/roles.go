// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	fieldConfig          = "config"
	fieldCredentialType  = "credential_type"
	fieldLease           = "lease"
	fieldFallbackConfigs = "fallback_configs"
	fieldRereadInterval  = "reread_interval"
	fieldServingConfig   = "serving_config"

	defaultConfig = "default"
)

func (a *API) rolesPath() *framework.Path {
	return &framework.Path{
		Pattern: "roles/" + framework.GenericNameWithAtRegex("name"),
		Fields: together(roleFields(),
			map[string]*framework.FieldSchema{"name": nameField("The role's name, of" + whatNamesHold)}),
		ExistenceCheck: a.roleExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: a.roleWriting(),
			logical.UpdateOperation: a.roleWriting(),
			logical.PatchOperation: writing(framework.PathOperation{
				Callback: a.telling(events.RoleWritten, a.writeRole),
				Summary:  "Change the given fields of a role; null resets a field to its default.",
				Description: "A field that is not given keeps its value. Everything else is as in a POST. If there " +
					"is no role of that name, the answer is a 404.",
				Examples:     example(map[string]any{fieldTTL: "20m"}),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "patch"},
			}),
			logical.DeleteOperation: writing(framework.PathOperation{
				Callback: a.deleteRole,
				Summary:  "Delete a role and end its sessions.",
				Description: "Its sessions are logged out at N-central. Warnings name what could not be ended, and " +
					"until when it lives.",
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "delete"},
			}),
			logical.ReadOperation: &framework.PathOperation{
				Callback:     a.readRole,
				Summary:      "Read a role.",
				Description:  "The answer has all fields. Those that were never written have their defaults.",
				Responses:    answers("The role.", alwaysAnswered(roleFields())),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read"},
			},
		},
		DisplayAttrs:    display("", "role"),
		HelpSynopsis:    "Define which config tokens come from, how long they live, and how they are handed out.",
		HelpDescription: roleHelp,
	}
}

const roleHelp = `
A role hands out access tokens of one config at creds/NAME:

    vault write ncentral/roles/monitoring config=default ttl=30m

A role controls who may read a token, how long it lives and how it is handed
out. A role never limits what the token may do: a token can do all that its
N-central user can do. For least privilege, make one N-central user, and one
config, for each use.

All readers of a shared role hold the same token: a client that logs out at
N-central ends it for all of them. Give such a client a role of its own, with
credential_type=dedicated.

A password that expires, a User-API token that is replaced or a user that is
locked ends every token of that user. A role that names a second config, with
another N-central user of the same server, goes on with that user's tokens:

    vault write ncentral/roles/monitoring fallback_configs=second

Both users need the same rights in N-central. The first config gives the tokens
again, from the next rotation on, when N-central accepts its user again. The
engine tries that every ten minutes. A check that passes, or a write of the
config, brings it back at once.

A reader that holds a dead token gets a new one when it reads again. With
reread_interval, readers come back at least that often:

    vault write ncentral/roles/monitoring reread_interval=5m

A change of config, credential_type or ttl retires the role's sessions: their
tokens are no longer handed out, and live on until they expire. Deleting a role
logs its sessions out.

Writing a role that exists changes only the fields that are given. So does a
PATCH, in which null resets a field to its default:

    echo '{"min_ttl": null}' | vault patch ncentral/roles/monitoring -
`

// roleWriting returns the operation that creates a role and updates one. In the API these are one
// operation.
func (a *API) roleWriting() *framework.PathOperation {
	return writing(framework.PathOperation{
		Callback: a.telling(events.RoleWritten, a.writeRole),
		Summary:  "Create a role, or change the given fields of one that exists.",
		Description: "In a new role, a field that is not given has its default. In one that exists, it keeps its " +
			"value. The configs that it names must exist, and have the same url. Whoever may write the role needs no " +
			"right on them.",
		Examples:     example(map[string]any{fieldConfig: defaultConfig, fieldTTL: "30m", fieldLease: false}),
		DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "write"},
	})
}

func (a *API) rolesListPath() *framework.Path {
	return &framework.Path{
		Pattern: "roles/?$",
		Fields:  listFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback:    a.listRoles,
				Summary:     "List the roles, each with its config, type, TTL and lease.",
				Description: "`after` and `limit` page through the names.",
				Responses: answers("The names, and the main facts about each.",
					listAnswerFields("roles", "config, serving_config, credential_type, ttl and lease")),
			},
		},
		DisplayAttrs: display("", "roles"),
		HelpSynopsis: "List the roles, each with its config, type, TTL and lease.",
		HelpDescription: `
Lists the names of the roles. key_info has the config, serving_config,
credential_type, ttl and lease of each; "vault list -detailed ncentral/roles"
shows them. serving_config is the config that gives the role's tokens now.
`,
	}
}

// roleInfoFields returns the fields of what a LIST says about a role.
func roleInfoFields() map[string]*framework.FieldSchema {
	fields := alwaysAnswered(roleFields())
	for _, field := range []string{fieldMinTTL, fieldFallbackConfigs, fieldRereadInterval} {
		delete(fields, field)
	}
	fields[fieldServingConfig] = servingField()
	return fields
}

// servingField returns the field that names the config from which a role's tokens come now.
func servingField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString,
		Description: "Config that the token in hand came from, or that gives the next one: the role's own, or one of " +
			"its fallback_configs.",
	}
}

const (
	groupSource   = "Source"
	groupHandOut  = "Handing out"
	groupLifetime = "Lifetime"
)

func roleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldConfig: {
			Type: framework.TypeString, Default: defaultConfig, DisplayAttrs: label("Config", groupSource),
			Description: "Name of the config that tokens come from. The default is the config called default. It " +
				"must exist.",
		},
		fieldFallbackConfigs: {
			Type: framework.TypeCommaStringSlice, DisplayAttrs: label("Fallback configs", groupSource),
			Description: "Names of configs, 8 at most, that give the role's tokens, in this order, while the ones " +
				"before them are out of service: N-central refuses their User-API token, or their user does not " +
				"work. They must exist, and have the same url. None by default.",
		},
		fieldCredentialType: {
			Type: framework.TypeString, Default: string(store.Shared),
			DisplayAttrs:  label("Credential type", groupHandOut),
			AllowedValues: []any{string(store.Shared), string(store.Dedicated)},
			Description: "shared, the default: one session for the role. Every reader gets its token, until the " +
				"token has less than min_ttl left and is replaced. A reader that logs the token out ends it for " +
				"all. dedicated: a session of its own for every read, logged out when its lease ends.",
		},
		fieldTTL: {
			Type: framework.TypeDurationSecond, Default: "0", DisplayAttrs: label("TTL", groupLifetime),
			Description: "Access-token lifetime to ask N-central for; 0, the default, leaves it to N-central. Two " +
				"limits apply: N-central's own, which is 1h unless its administrator set less, and the mount's " +
				"max_lease_ttl.",
		},
		fieldMinTTL: {
			Type: framework.TypeDurationSecond, DisplayAttrs: label("Minimum TTL", groupLifetime),
			Description: "Shared roles: least remaining lifetime of a token when it is handed out. The default is a " +
				"sixth of the token's life, but 5m at least, and half of the life at most. You can give half of ttl " +
				"at most (half of 1h if ttl is 0).",
		},
		fieldLease: {
			Type: framework.TypeBool, Default: true, DisplayAttrs: label("Lease", groupHandOut),
			Description: "Hand tokens out under a lease (true by default). With false, which is for shared tokens " +
				"only, there is no lease, and the answer has ttl, rotation_period and last_vault_rotation instead. " +
				"Revoking the lease of a shared token ends nothing at N-central, since other readers hold the same " +
				"token.",
		},
		fieldRereadInterval: {
			Type: framework.TypeDurationSecond, Default: "0", DisplayAttrs: label("Reread interval", groupHandOut),
			Description: "Shared roles: how often readers are to come back at least. It caps ttl, or the lease where " +
				"there is one. A reader that holds a dead token, as after a reboot of N-central or a change of the " +
				"serving config, then gets a new one in time. 0, the default, does not cap; else 10s at least.",
		},
	}
}

// roleSettings returns how a write changes each field of a role. writeRole does what depends on
// several fields, or on what is stored.
func roleSettings() []setting[store.Role] {
	return []setting[store.Role]{
		{
			field: fieldConfig,
			set: func(role *store.Role, data *framework.FieldData) error {
				role.Config = data.Get(fieldConfig).(string)
				return checkName(role.Config)
			},
			reset: func(role *store.Role) { role.Config = defaultConfig },
		},
		{
			field: fieldFallbackConfigs,
			set: func(role *store.Role, data *framework.FieldData) error {
				role.FallbackConfigs = data.Get(fieldFallbackConfigs).([]string)
				return checkFallbackNames(role.FallbackConfigs)
			},
			reset: func(role *store.Role) { role.FallbackConfigs = nil },
		},
		{
			field: fieldCredentialType,
			set: func(role *store.Role, data *framework.FieldData) error {
				role.CredentialType = store.CredentialType(data.Get(fieldCredentialType).(string))
				switch role.CredentialType {
				case store.Shared, store.Dedicated:
					return nil
				}
				return fmt.Errorf("no such type: give %s or %s", store.Shared, store.Dedicated)
			},
			reset: func(role *store.Role) { role.CredentialType = store.Shared },
		},
		durationSetting(fieldTTL, 0, zeroOrAtLeast(time.Second),
			func(role *store.Role) *time.Duration { return &role.TTL }),
		{
			field: fieldMinTTL,
			set: func(role *store.Role, data *framework.FieldData) error {
				minTTL, err := wholeSeconds(data.Raw[fieldMinTTL])
				role.MinTTL = &minTTL
				return err
			},
			reset: func(role *store.Role) { role.MinTTL = nil },
		},
		boolSetting(fieldLease, true, func(role *store.Role) *bool { return &role.Lease }),
		durationSetting(fieldRereadInterval, 0, zeroOrAtLeast(leastRereadInterval),
			func(role *store.Role) *time.Duration { return &role.RereadInterval }),
	}
}

func (a *API) writeRole(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	if err := checkName(name); err != nil {
		return mistake(fmt.Errorf("name: %w", err))
	}
	a.Store.Definitions.Lock()
	defer a.Store.Definitions.Unlock()
	stored, unreadable, err := toChange(ctx, a.Store.Roles, req, "role", name)
	if err != nil {
		return nil, err
	}
	if unreadable != nil && data.Raw[fieldConfig] == nil {
		return mistakeOver(unreadable, fmt.Errorf("%s: give it, since the one that the role had cannot be read",
			fieldConfig))
	}
	role, err := changedRole(stored, req, data)
	if err != nil {
		return mistake(err)
	}
	configWarnings, refusal, err := a.checkConfigs(ctx, role, stored == nil || namesConfigs(data))
	if err != nil {
		return nil, err
	}
	if refusal != nil {
		return mistake(refusal)
	}
	if err := a.Store.Roles.Put(ctx, name, role); err != nil {
		return nil, err
	}
	warnings := slices.Concat(overwritten(unreadable), roleWarnings(role), configWarnings)
	if leavesLeases(stored, role) {
		warnings = append(warnings, leasesGoOn(req, name))
	}
	return withWarnings(written(data), warnings), nil
}

// namesConfigs reports whether the request says from which configs the role's tokens come.
func namesConfigs(data *framework.FieldData) bool {
	_, config := data.Raw[fieldConfig]
	_, fallbacks := data.Raw[fieldFallbackConfigs]
	return config || fallbacks
}

// leavesLeases reports whether the stored role may have leases of dedicated sessions to which the
// changed role no longer belongs.
func leavesLeases(stored, changed *store.Role) bool {
	return stored != nil && stored.CredentialType == store.Dedicated &&
		(changed.CredentialType != store.Dedicated || changed.Config != stored.Config)
}

// changedRole returns the role as the request asks for it: the fields of the request, and for the
// others those of the stored role or the defaults.
func changedRole(stored *store.Role, req *logical.Request, data *framework.FieldData) (*store.Role, error) {
	settings := roleSettings()
	role := withDefaults(settings)
	if stored != nil {
		*role = *stored
	}
	if err := apply(role, settings, req, data); err != nil {
		return nil, err
	}
	if role.CredentialType == store.Dedicated && !role.Lease {
		return nil, fmt.Errorf("%s: a dedicated session ends with its lease, so it cannot be without one: give "+
			"true, or %s=%s", fieldLease, fieldCredentialType, store.Shared)
	}
	if role.CredentialType == store.Dedicated && role.RereadInterval > 0 {
		return nil, fmt.Errorf("%s: a dedicated session ends with its lease, so there is nothing to come back for: "+
			"give 0, or %s=%s", fieldRereadInterval, fieldCredentialType, store.Shared)
	}
	if slices.Contains(role.FallbackConfigs, role.Config) {
		return nil, fmt.Errorf("%s: %q is the role's own config, which is tried first: leave it out",
			fieldFallbackConfigs, role.Config)
	}
	return role, checkMinTTL(role)
}

// leastRereadInterval is long enough that many readers do not come back all the time.
const leastRereadInterval = 10 * time.Second

func checkFallbackNames(names []string) error {
	if len(names) > store.MostFallbackConfigs {
		return fmt.Errorf("%d configs are too many: %d are allowed", len(names), store.MostFallbackConfigs)
	}
	for i, name := range names {
		if err := checkName(name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%q is named twice: name it once", name)
		}
	}
	return nil
}

// checkConfigs returns a refusal if the role's own config does not exist, or if a fallback config does
// not fit. If the request names no configs, the latter is a warning, since the role had them before.
// It also returns a warning for each config that cannot be read. The error is storage's.
func (a *API) checkConfigs(
	ctx context.Context, role *store.Role, named bool,
) (warnings []string, refusal, err error) {
	own, unreadable, err := orUnreadable(a.Store.Configs.Get(ctx, role.Config))
	switch {
	case err != nil:
		return nil, nil, err
	case unreadable != nil:
		warnings = append(warnings, unreadable.Error())
	case own == nil:
		return nil, fmt.Errorf("%s: there is no config %q: write config/%s first, or name another", fieldConfig,
			role.Config, role.Config), nil
	}
	ofFallbacks, refusal, err := a.checkFallbacks(ctx, role, own)
	warnings = append(warnings, ofFallbacks...)
	if refusal != nil && !named {
		return append(warnings, refusal.Error()), nil, err
	}
	return warnings, refusal, err
}

// checkFallbacks returns a refusal if a fallback config does not exist, or has another url than the
// role's own config. own is nil if that config cannot be read. It returns a warning for each
// fallback config that cannot be read. The error is storage's.
func (a *API) checkFallbacks(
	ctx context.Context, role *store.Role, own *store.Config,
) (warnings []string, refusal, err error) {
	for _, name := range role.FallbackConfigs {
		config, unreadable, err := orUnreadable(a.Store.Configs.Get(ctx, name))
		switch {
		case err != nil:
			return nil, nil, err
		case unreadable != nil:
			warnings = append(warnings, unreadable.Error())
		case config == nil:
			return nil, fmt.Errorf("%s: there is no config %q: write config/%s first, or name another",
				fieldFallbackConfigs, name, name), nil
		case own != nil && config.URL != own.URL:
			return nil, fmt.Errorf("%s: config %q has another url than config %q: all configs of a role must be of "+
				"one server", fieldFallbackConfigs, name, own.Name), nil
		}
	}
	return warnings, nil, nil
}

func roleWarnings(role *store.Role) []string {
	var warnings []string
	if role.CredentialType == store.Dedicated && role.MinTTL != nil {
		warnings = append(warnings,
			fmt.Sprintf("%s has no effect on a dedicated role: its tokens are new at every read", fieldMinTTL))
	}
	if role.TTL > 0 && role.TTL <= store.MinServable {
		warnings = append(warnings, fmt.Sprintf("%s: a token that lives for %s or less is not handed out, so no "+
			"token of this role can be", fieldTTL, store.MinServable))
	}
	return warnings
}

// checkMinTTL returns an error if min_ttl is so long that a token would be due to be replaced for
// most of its life.
func checkMinTTL(role *store.Role) error {
	limit := role.ExpectedLifetime() / 2
	if role.MinTTL == nil || *role.MinTTL <= limit {
		return nil
	}
	if role.TTL == 0 {
		return fmt.Errorf("%s: %s is more than half of the 1h that N-central grants by default: give %s at most",
			fieldMinTTL, *role.MinTTL, limit)
	}
	return fmt.Errorf("%s: %s is more than half of the ttl of %s: give %s at most, or a longer ttl", fieldMinTTL,
		*role.MinTTL, role.TTL, limit)
}

func (a *API) readRole(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := a.Store.Roles.Get(ctx, data.Get("name").(string))
	if err != nil || role == nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		fieldConfig:          role.Config,
		fieldCredentialType:  string(role.CredentialType),
		fieldTTL:             seconds(role.TTL),
		fieldMinTTL:          seconds(role.MinTTLWithin(role.ExpectedLifetime())),
		fieldLease:           role.Lease,
		fieldFallbackConfigs: append([]string{}, role.FallbackConfigs...),
		fieldRereadInterval:  seconds(role.RereadInterval),
	}}, nil
}

// deleteRole deletes the role first, so that no session is opened for it any more, and then ends
// its sessions. If that fails once the role is gone, the tick ends them.
func (a *API) deleteRole(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	deleted, hadLeases, err := a.forgetRole(ctx, name)
	if err != nil {
		return nil, err
	}
	if deleted {
		a.tell(ctx, events.RoleDeleted, req)
	}
	warnings, err := a.Sessions.EndRole(ctx, name)
	if err != nil {
		return failed(err)
	}
	if hadLeases {
		warnings = append(warnings, leasesGoOn(req, name))
	}
	return withWarnings(nil, warnings), nil
}

// forgetRole deletes the role while no config or role is written: such a write could bring it back.
// deleted reports whether there was one. hadLeases reports whether it may have been a dedicated
// role. A role that cannot be read may have been one.
func (a *API) forgetRole(ctx context.Context, name string) (deleted, hadLeases bool, err error) {
	a.Store.Definitions.Lock()
	defer a.Store.Definitions.Unlock()
	stored, unreadable, err := orUnreadable(a.Store.Roles.Get(ctx, name))
	if err != nil {
		return false, false, err
	}
	hadLeases = unreadable != nil || stored != nil && stored.CredentialType == store.Dedicated
	return stored != nil || unreadable != nil, hadLeases, a.Store.Roles.Delete(ctx, name)
}

func (a *API) listRoles(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	names, err := a.Store.Roles.Names(ctx)
	if err != nil {
		return nil, err
	}
	return listed(names, data, func(name string) (map[string]any, error) {
		role, err := a.Store.Roles.Peek(ctx, name)
		if role == nil {
			return nil, err
		}
		serving, err := a.Sessions.ServingConfig(ctx, role)
		if err != nil {
			return nil, err
		}
		return map[string]any{
			fieldConfig:         role.Config,
			fieldServingConfig:  serving,
			fieldCredentialType: string(role.CredentialType),
			fieldTTL:            seconds(role.TTL),
			fieldLease:          role.Lease,
		}, nil
	})
}

func (a *API) roleExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	return exists(a.Store.Roles.Get(ctx, data.Get("name").(string)))
}
