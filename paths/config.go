// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

func (a *API) configPath() *framework.Path {
	return &framework.Path{
		Pattern: "config/" + framework.GenericNameWithAtRegex("name"),
		Fields: together(configFields(), configWriteFields(),
			map[string]*framework.FieldSchema{"name": nameField("The config's name, of" + whatNamesHold)}),
		ExistenceCheck: a.configExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: a.configWriting(),
			logical.UpdateOperation: a.configWriting(),
			logical.PatchOperation: writing(framework.PathOperation{
				Callback: a.telling(events.ConfigWritten, a.writeConfig),
				Summary:  "Change the given fields of a config; null resets a field to its default.",
				Description: "A field that is not given keeps its value. `url` and `user_api_token` have no " +
					"default and cannot be null. Everything else is as in a POST, including the verification. If " +
					"there is no config of that name, the answer is a 404.",
				Examples:     example(map[string]any{fieldMaxRetries: 5, fieldExpiryWarning: "30d"}),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "patch"},
			}),
			logical.DeleteOperation: writing(framework.PathOperation{
				Callback: a.deleteConfig,
				Summary:  "Delete a config that no role names.",
				Description: "If roles still name it, nothing is deleted, and the answer is a 400 with their " +
					"names. Warnings say what can no longer be logged out.",
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "delete"},
			}),
			logical.ReadOperation: &framework.PathOperation{
				Callback: a.readConfig,
				Summary:  "Read a config, without its User-API token.",
				Description: "Of the User-API token, the answer has the SHA-256, when it was set here, and when it " +
					"expires by its own claim. Warnings say that a password or token has expired or soon will.",
				Responses:    answers("The config.", configAnswerFields()),
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read"},
			},
		},
		DisplayAttrs:    display("", "config"),
		HelpSynopsis:    "Configure an N-central server and the credential for it.",
		HelpDescription: configHelp,
	}
}

const configHelp = `
A config names an N-central server and holds the User-API token of one of its
users. With this token the engine obtains access tokens. You generate it in
N-central's web UI: Administration, User Management, Users, the user, API
Access, Generate JSON Web Token. N-central shows it once, and the user's
earlier token stops working. An API-only user is best. The user must have
two-factor authentication and SSO switched off: otherwise N-central refuses
the token as if it were wrong. The user also needs a role and an access group:
otherwise N-central answers no data. A new config needs url and
user_api_token:

    vault write ncentral/config/default \
        url=https://ncentral.example.com user_api_token=@file-with-the-token

A write first tries the new values on the server, and changes nothing if they
fail. With verify=false it does not try them. A new url, user_api_token or TLS
trust retires the sessions of the config's roles: their tokens are no longer
handed out, and live on until they expire.

Writing a config that exists changes only the fields that are given. So does a
PATCH, in which null resets a field to its default:

    echo '{"max_retries": null}' | vault patch ncentral/config/default -

Reading returns every field but the User-API token. A config cannot be deleted
while roles name it. The sessions of a config can be logged out only while the
config exists and has the same url: revoke the leases of dedicated roles before
you delete it.

N-central lets the password of an API user expire, after 90 days by default.
Then no token of that user works. Give password_changed_at to be warned in
time. Roles that name a config of a second user in fallback_configs go on. Any
write of a config that is out of service for such roles brings it back.
`

// configWriting returns the operation that creates a config and updates one. In the API these are
// one operation.
func (a *API) configWriting() *framework.PathOperation {
	return writing(framework.PathOperation{
		Callback: a.telling(events.ConfigWritten, a.writeConfig),
		Summary:  "Create a config, or change the given fields of one that exists.",
		Description: "`url` and `user_api_token` are required for a new config. In one that exists, a field that is " +
			"not given keeps its value. Unless `verify` is false, the new values are first tried on the server: if " +
			"that fails, the answer is a 400 that names the step and the remedy, and nothing is changed.",
		Examples: example(map[string]any{
			fieldURL: "https://ncentral.example.com", fieldUserAPIToken: "the token that N-central showed",
			fieldPasswordChangedAt: "2026-11-03T00:00:00Z",
		}),
		DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "write"},
	})
}

func (a *API) configListPath() *framework.Path {
	return &framework.Path{
		Pattern: "config/?$",
		Fields:  listFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: a.listConfigs,
				Summary:  "List the configs, each with its URL and state.",
				Description: "The state is what the active node knows since the plugin started there. " +
					"`after` and `limit` page through the names.",
				Responses: answers("The names, and the main facts about each.",
					listAnswerFields("configs", "url and state")),
				ForwardPerformanceStandby: true, // the active node knows the states
			},
		},
		DisplayAttrs: display("", "configs"),
		HelpSynopsis: "List the configs, each with its URL and state.",
		HelpDescription: `
Lists the names of the configs. key_info has the url and state of each;
"vault list -detailed ncentral/config" shows them. The state is what the active
node knows since the plugin started there:

    unknown    no token was requested and no data call was made
    ok         the last request for a token or data call succeeded, and no call
               of the last five minutes found N-central down
    degraded   tokens are handed out, but somebody must act
    failing    no new tokens can be obtained with this config

ncentral/status has the reasons.
`,
	}
}

func configInfoFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldURL:   {Type: framework.TypeString, Required: true, Description: "Base URL of the N-central server."},
		fieldState: stateField(),
	}
}

func (a *API) writeConfig(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	if err := checkName(name); err != nil {
		return mistake(fmt.Errorf("name: %w", err))
	}
	stored, unreadable, err := toChange(ctx, a.Store.Configs, req, "config", name)
	if err != nil {
		return nil, err
	}
	candidate, err := changedConfig(name, stored, req, data)
	if err != nil {
		return mistakeOver(unreadable, err)
	}
	var stranded []string
	if stored != nil && stored.URL != candidate.URL {
		if stranded, err = a.stranded(ctx, name); err != nil {
			return nil, err
		}
	}
	put := func() error { return a.storeConfig(ctx, stored, candidate) }
	var report *upstream.Report
	if data.Raw[fieldVerify] == nil || data.Get(fieldVerify).(bool) { // null is the default
		report, err = a.Sessions.Verify(ctx, candidate, stored, put)
	} else {
		err = put()
	}
	switch {
	case err != nil:
		return failed(err)
	case report != nil && report.Failed != nil:
		return mistake(notStored(stored, candidate, report.Failed))
	}
	traits, err := a.adopt(ctx, candidate, report)
	if err != nil {
		return nil, err
	}
	return withWarnings(written(data), slices.Concat(overwritten(unreadable), stranded, configWarnings(candidate),
		traits)), nil
}

// notStored returns the error of a write whose verification failed, so that nothing was stored.
func notStored(stored, candidate *store.Config, failed *upstream.Step) error {
	why := fmt.Errorf("its verification failed at step %s: %s", failed.Name,
		strings.TrimPrefix(failed.Message, failed.Name+": "))
	if stored == nil {
		return fmt.Errorf("config %q was not stored, because %w", candidate.Name, why)
	}
	return fmt.Errorf("config %q was not changed, because %w", candidate.Name, why)
}

// adopt keeps what the verification learnt, if there was one, and returns warnings from it and
// about the server.
func (a *API) adopt(ctx context.Context, config *store.Config, report *upstream.Report) (warnings []string, err error) {
	if report != nil {
		warnings = report.Warnings
	}
	server, err := a.Upstream.Server(config)
	if errors.Is(err, upstream.ErrOutdated) { // this version was stored, and another one has been since
		return warnings, nil
	}
	if err != nil {
		return nil, err
	}
	if report != nil {
		server.Apply(ctx, report)
	}
	return append(warnings, learntWarnings(server.Traits(ctx))...), nil
}

// changedConfig returns the config as the request asks for it: the fields of the request, and for
// the others those of the stored config or the defaults.
func changedConfig(
	name string, stored *store.Config, req *logical.Request, data *framework.FieldData,
) (*store.Config, error) {
	settings := configSettings()
	candidate := withDefaults(settings)
	if stored != nil {
		*candidate = *stored
	}
	if err := apply(candidate, settings, req, data); err != nil {
		return nil, err
	}
	for _, required := range []struct{ field, value string }{
		{fieldURL, candidate.URL},
		{fieldUserAPIToken, candidate.UserAPIToken},
	} {
		if required.value == "" {
			return nil, fmt.Errorf("%s: a new config needs it", required.field)
		}
	}
	if data.Raw[fieldUserAPITokenSHA256] != nil {
		if err := checkSHA256(data.Get(fieldUserAPITokenSHA256).(string), candidate,
			data.Raw[fieldUserAPIToken] != nil); err != nil {
			return nil, fmt.Errorf("%s: %w", fieldUserAPITokenSHA256, err)
		}
	}
	if stored != nil && data.Raw[fieldUserAPIToken] == nil {
		if field := changedTrust(stored, candidate); field != "" {
			return nil, fmt.Errorf("%s: a change of it must bring %s along, so that nobody who may write a config "+
				"can have the stored token sent to a host of their choice",
				field, fieldUserAPIToken)
		}
	}
	now := time.Now().UTC()
	if stored == nil || stored.UserAPIToken != candidate.UserAPIToken {
		candidate.UserAPITokenSetAt = now
	}
	candidate.WrittenAt = now
	if stored != nil && !now.After(stored.WrittenAt) {
		candidate.WrittenAt = stored.WrittenAt.Add(1) // versions differ even if the clock did not go on
	}
	candidate.Name = name
	return candidate, nil
}

// changedTrust returns the first field whose change may send the User-API token somewhere else. It
// is empty if no such field changed.
func changedTrust(before, after *store.Config) string {
	switch {
	case before.URL != after.URL:
		return fieldURL
	case before.Authorities() != after.Authorities():
		return fieldCACert
	case before.TLSServerName != after.TLSServerName:
		return fieldTLSServerName
	case before.TLSSkipVerify != after.TLSSkipVerify:
		return fieldTLSSkipVerify
	}
	return ""
}

// storeConfig stores the candidate, unless the config has been changed since the candidate was made
// from it.
func (a *API) storeConfig(ctx context.Context, madeFrom, candidate *store.Config) error {
	a.Store.Definitions.Lock()
	defer a.Store.Definitions.Unlock()
	stored, _, err := orUnreadable(a.Store.Configs.Get(ctx, candidate.Name))
	if err != nil {
		return err
	}
	if (stored == nil) != (madeFrom == nil) || stored != nil && !stored.IsVersion(madeFrom) {
		return logical.CodedError(http.StatusConflict,
			fmt.Sprintf("config %q was changed by another request while this one was verified: nothing of this one "+
				"was stored, try again", candidate.Name))
	}
	return a.Store.Configs.Put(ctx, candidate.Name, candidate)
}

func (a *API) readConfig(
	ctx context.Context, _ *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	config, err := a.Store.Configs.Get(ctx, data.Get("name").(string))
	if err != nil || config == nil {
		return nil, err
	}
	answer := map[string]any{
		fieldURL:                 config.URL,
		fieldCACert:              config.CACert,
		fieldTLSServerName:       config.TLSServerName,
		fieldTLSSkipVerify:       config.TLSSkipVerify,
		fieldRequestTimeout:      seconds(config.RequestTimeout),
		fieldMaxRetries:          config.MaxRetries,
		fieldMaxRequestsInFlight: config.MaxRequestsInFlight,
		fieldRefreshTokenTTL:     seconds(config.RefreshTokenTTL),
		fieldPasswordMaxAge:      seconds(config.PasswordMaxAge),
		fieldExpiryWarning:       seconds(config.ExpiryWarning),
		fieldUserAPITokenSHA256:  config.UserAPITokenSHA256(),
	}
	putTime(answer, fieldPasswordChangedAt, config.PasswordChangedAt)
	putTime(answer, fieldPasswordExpiresAt, config.PasswordExpiresAt())
	putTime(answer, fieldUserAPITokenSetAt, config.UserAPITokenSetAt)
	putTime(answer, fieldUserAPITokenExpiresAt, config.UserAPITokenExpiresAt())
	return withWarnings(&logical.Response{Data: answer}, configWarnings(config)), nil
}

// configWarnings returns what a reader of the config should know about it.
func configWarnings(config *store.Config) []string {
	warnings := health.ExpiryWarnings(config, time.Now())
	if config.TLSSkipVerify {
		warnings = append(warnings, "tls_skip_verify: the server's certificate is not verified, so anyone on the way "+
			"to the server can take the User-API token: give ca_cert instead")
	}
	if config.PasswordChangedAt.IsZero() && config.PasswordMaxAge > 0 {
		warnings = append(warnings, "password_changed_at is not given, so nobody is warned before the API user's "+
			"password expires, and every token of the user with it: give the day on which it was last set")
	}
	return warnings
}

// reportWarnings returns what a check found that is worth knowing even if it passed.
func reportWarnings(report *upstream.Report) []string {
	return append(report.Warnings, learntWarnings(report.Traits)...)
}

// learntWarnings returns what is known of the server that matters to whoever sets up roles.
func learntWarnings(traits store.ServerTraits) []string {
	var warnings []string
	if ends := traits.AuthenticateEndsEarlierSessions; ends != nil && *ends {
		warnings = append(warnings, "on this server a new session ends the user's earlier ones: every role needs an "+
			"N-central user, so a config, of its own, and no other integration may use that user")
	}
	if can := traits.CanValidate; can != nil && !*can {
		warnings = append(warnings, "this server has no validate, or something before it blocks that call: the "+
			"engine makes a data call instead to find out whether a token lives")
	}
	if warning := health.ClockWarning(traits); warning != "" {
		warnings = append(warnings, warning)
	}
	return warnings
}

func (a *API) deleteConfig(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	deleted, users, warnings, err := a.deleteUnusedConfig(ctx, name)
	if deleted {
		a.tell(ctx, events.ConfigDeleted, req)
	}
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		return mistake(fmt.Errorf("config %q is named by roles: delete them or give them "+
			"another config first: %s", name, strings.Join(users, ", ")))
	}
	return withWarnings(nil, warnings), nil
}

// deleteUnusedConfig deletes the config, unless roles use it. Then it returns these roles. deleted
// reports whether there was a config and it has been deleted. The warnings name roles that cannot
// be read, so that it is not known whether they use the config.
func (a *API) deleteUnusedConfig(ctx context.Context, name string) (deleted bool, users, warnings []string, err error) {
	a.Store.Definitions.Lock()
	defer a.Store.Definitions.Unlock()
	if users, warnings, err = a.rolesOf(ctx, name); err != nil || len(users) > 0 {
		return false, users, nil, err
	}
	stored, unreadable, err := orUnreadable(a.Store.Configs.Get(ctx, name))
	if err != nil {
		return false, nil, nil, err
	}
	if stored == nil && unreadable == nil {
		return false, nil, warnings, nil
	}
	stranded, err := a.stranded(ctx, name)
	if err != nil {
		return false, nil, nil, err
	}
	if err := a.Store.Configs.Delete(ctx, name); err != nil {
		return false, nil, nil, err
	}
	a.Upstream.Evict(name)
	err = errors.Join(a.Store.Traits.Delete(ctx, name), a.Store.OutOfService.Delete(ctx, name))
	return true, nil, append(warnings, stranded...), err
}

// stranded returns warnings about sessions that can no longer be logged out once the config is
// deleted or has another url: a token is only ever sent to the url that it came from.
func (a *API) stranded(ctx context.Context, config string) (warnings []string, err error) {
	owed, err := a.Store.CountOwedOfConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	until, err := a.Store.OwedUntil(ctx, config)
	if err != nil {
		return nil, err
	}
	if owed > 0 {
		warnings = append(warnings, fmt.Sprintf("logouts owed to config %q, which are given up: %d; those tokens "+
			"live until %s at the latest",
			config, owed, until.Format(time.RFC3339)))
	}
	return append(warnings, fmt.Sprintf("what config %q opened at the url that it had can no longer be logged out, "+
		"including dedicated leases and retired tokens: it lives until it expires, unless a config of that name gets "+
		"that url again", config)), nil
}

// rolesOf returns the roles that name the config, and a warning for each role that cannot be read.
// There may be very many roles, so it stops once there are more than an answer names.
func (a *API) rolesOf(ctx context.Context, config string) (users, warnings []string, err error) {
	err = a.Store.Roles.Each(ctx, func(role *store.Role) bool {
		if role.Names(config) {
			users = append(users, role.Name)
		}
		return len(users) <= mostNamed
	})
	if len(users) > mostNamed {
		users[mostNamed] = "and others"
	}
	warnings, err = leftOut(err)
	return users, firstFew(warnings), err
}

func (a *API) listConfigs(
	ctx context.Context, _ *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	names, err := a.Store.Configs.Names(ctx)
	if err != nil {
		return nil, err
	}
	return listed(names, data, func(name string) (map[string]any, error) {
		config, err := a.Store.Configs.Get(ctx, name)
		if config == nil {
			return nil, err
		}
		status, err := a.Upstream.Status(ctx, config, time.Now())
		if err != nil {
			return nil, err
		}
		return map[string]any{fieldURL: config.URL, fieldState: string(status.State)}, nil
	})
}

func (a *API) configExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	return exists(a.Store.Configs.Get(ctx, data.Get("name").(string)))
}
