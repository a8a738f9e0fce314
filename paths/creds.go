// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/sessions"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	fieldMinTTL           = "min_ttl"
	fieldValidate         = "validate"
	fieldAccessToken      = "access_token"
	fieldTokenType        = "token_type"
	fieldExpiresAt        = "expires_at"
	fieldExpiresAtSeconds = "expires_at_seconds"
	fieldTTL              = "ttl"
	fieldRotationPeriod   = "rotation_period"
	fieldLastRotation     = "last_vault_rotation"

	accessTokenType = "ncentral_access_token"
)

func (a *API) credsPath() *framework.Path {
	return &framework.Path{
		Pattern: "creds/" + framework.GenericNameWithAtRegex("name"),
		Fields: map[string]*framework.FieldSchema{
			"name": nameField("The role's name."),
			fieldMinTTL: {
				Type: framework.TypeDurationSecond, Query: true, DisplayAttrs: label("Minimum TTL", groupRead),
				Description: "Least remaining lifetime of the token, if the role's min_ttl is not enough for this " +
					"read. On a shared role, at most half of the lifetime that N-central grants; on a dedicated " +
					"role, at most all of it. More is an error.",
			},
			fieldValidate: {
				Type: framework.TypeBool, Query: true, Default: false, DisplayAttrs: label("Validate", groupRead),
				Description: "First ask N-central whether the token still lives, and replace it if not (false by " +
					"default). If N-central cannot be asked, the read fails. On a dedicated role this changes " +
					"nothing, since the token is new.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: a.readCreds,
				Summary:  "Read an N-central access token.",
				Description: "Send the token to the `url` beside it, as `Authorization: Bearer TOKEN`. All readers " +
					"of a shared role get the same token until it is replaced; each read of a dedicated role opens " +
					"a session of its own. Under a lease, `lease_duration` is the token's remaining life; without " +
					"one, `ttl` says when this engine replaces the token. The role's `reread_interval` caps both.",
				Responses: answers("A token.", credsAnswerFields()),
			},
			logical.UpdateOperation: &framework.PathOperation{
				Callback:     a.readCreds,
				Summary:      "Read an N-central access token, with the parameters in the body.",
				Description:  "The same as the GET, for clients that can only POST. Vault's policies call it `update`.",
				Examples:     example(map[string]any{fieldMinTTL: "10m", fieldValidate: true}),
				Responses:    answers("A token.", credsAnswerFields()),
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "credentials-with-parameters"},
			},
		},
		DisplayAttrs:    display("generate", "credentials"),
		HelpSynopsis:    "Read an N-central access token of a role.",
		HelpDescription: credsHelp,
	}
}

const groupRead = "This read"

const credsHelp = `
Returns an access token for N-central's REST API. Send it to the url beside it,
as "Authorization: Bearer TOKEN":

    vault read ncentral/creds/monitoring
    vault read ncentral/creds/monitoring min_ttl=10m validate=true

All readers of a shared role get the same token. The engine obtains it when it
is first needed, reuses it until it has less life left than the role's min_ttl,
and then replaces it. So most reads cost N-central nothing. A read of a
dedicated role opens a session of its own, which is logged out when the lease
ends.

The token can do all that the N-central user of the role's config can do. A role
controls who may read it, how long it lives and how it is handed out. A role
never limits what the token may do.

Under a lease, lease_duration is the token's remaining life. The lease is not
renewable: read again before it ends. Revoking the lease of a shared token ends
nothing at N-central, since other readers hold the same token. Deleting
sessions/ROLE does end it. If the role has lease=false, ttl says in how many
seconds this engine replaces the token. The fields rotation_period and
last_vault_rotation are there for readers that plan by them. If the role has a
reread_interval, neither lease_duration nor ttl is longer than that.

The field config says which config the token came from. It is one of the role's
fallback_configs while the role's own config is out of service, and a warning
says why. If none of them is in service, the error names each with its reason.

Do not log a shared token out at N-central: that ends it for all its readers.

While no new token can be obtained, reads return the current one with a warning,
as long as it lives. Warnings also say when the API user's password or the
User-API token will expire soon.
`

func credsAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldAccessToken: {
			Type: framework.TypeString, Required: true, Description: "The access token.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Access token", Sensitive: true},
		},
		fieldTokenType: {
			Type: framework.TypeString, Required: true,
			Description: "How the token is sent in the Authorization header: Bearer.",
		},
		fieldURL: {
			Type: framework.TypeString, Required: true,
			Description: "Base URL of the N-central server that the token is for.",
		},
		fieldConfig: {
			Type: framework.TypeString, Required: true,
			Description: "Config that the token came from: the role's own, or one of its fallback_configs.",
		},
		fieldExpiresAt: {
			Type: framework.TypeTime, Required: true,
			Description: "When the token expires: RFC 3339, UTC.",
		},
		fieldExpiresAtSeconds: {
			Type: framework.TypeInt64, Required: true,
			Description: "When the token expires: Unix time in seconds.",
		},
		fieldTTL: {
			Type: framework.TypeInt64,
			Description: "Without a lease: seconds until this engine replaces the token, or until it has " +
				"only the min_ttl of this read left, if that is earlier; at least 1. The role's reread_interval is " +
				"the most.",
		},
		fieldRotationPeriod: {
			Type:        framework.TypeInt64,
			Description: "Without a lease: seconds from when the token was obtained until it is replaced.",
		},
		fieldLastRotation: {
			Type:        framework.TypeTime,
			Description: "Without a lease: when the token was obtained. RFC 3339, UTC.",
		},
	}
}

func (a *API) readCreds(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, _ := data.Raw["name"].(string) // captured from the path; a Get would decode it once more on every hot read
	options, err := readOptions(data)
	if err != nil {
		return mistake(err)
	}
	options.CacheOnly = a.isStandby()
	response, err := a.answerCreds(ctx, name, options)
	switch {
	case err != nil && options.CacheOnly:
		return nil, logical.ErrReadOnly // a standby may lag behind, so the active node has the last word
	case err != nil:
		return failed(err)
	}
	return response, nil
}

func (a *API) answerCreds(ctx context.Context, name string, options sessions.ReadOptions) (*logical.Response, error) {
	role, err := a.Store.Roles.Get(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case role == nil:
		return nil, fmt.Errorf("%w %q", sessions.ErrUnknownRole, name)
	case role.Lease && options.CacheOnly:
		return nil, sessions.ErrNeedsActiveNode
	}
	if role.CredentialType == store.Dedicated {
		answer, lease, err := a.Sessions.Open(ctx, role.Name, options.MinTTL)
		if err != nil {
			return nil, err
		}
		return leased(answer, answer.Remaining, leaseOfDedicated(lease)), nil
	}
	answer, err := a.Sessions.Read(ctx, role.Name, options)
	if err != nil {
		return nil, err
	}
	if role.Lease {
		return leased(answer, capped(answer.Remaining, role.RereadInterval), leaseOfShared(role)), nil
	}
	return unleased(answer, capped(untilReplaced(answer, options.MinTTL), role.RereadInterval)), nil
}

func readOptions(data *framework.FieldData) (sessions.ReadOptions, error) {
	var options sessions.ReadOptions
	if _, given := data.Raw[fieldValidate]; given {
		options.Validate = data.Get(fieldValidate).(bool)
	}
	if raw, given := data.Raw[fieldMinTTL]; given && raw != nil {
		minTTL, err := wholeSeconds(raw)
		if err != nil {
			return options, fmt.Errorf("%s: %w", fieldMinTTL, err)
		}
		options.MinTTL = minTTL
	}
	return options, nil
}

// untilReplaced returns the time after which another read with that min_ttl gets another token: the
// engine has replaced the token by then, or too little of its life is left for that read.
func untilReplaced(answer *sessions.Answer, minTTL time.Duration) time.Duration {
	if minTTL > 0 {
		return min(answer.UntilRotation, answer.Remaining-minTTL)
	}
	return answer.UntilRotation
}

// capped returns the time after which a reader is told to come back: until, or the role's
// reread_interval if that is shorter. An interval of 0 sets no limit.
func capped(until, interval time.Duration) time.Duration {
	if interval > 0 {
		return min(until, interval)
	}
	return until
}

// tokenData returns the data of an answer without ttl. All answers with the same token have this in
// common, so it is put together once, and each read copies it.
func tokenData(answer *sessions.Answer, isLeased bool) map[string]any {
	common := answer.Rendered(isLeased, func() map[string]any {
		data := map[string]any{
			fieldAccessToken:      answer.AccessToken,
			fieldTokenType:        answer.TokenType,
			fieldURL:              answer.URL,
			fieldConfig:           answer.Config.Name,
			fieldExpiresAt:        answer.ExpiresAt,
			fieldExpiresAtSeconds: answer.ExpiresAtSeconds,
		}
		if !isLeased {
			data[fieldRotationPeriod] = answer.RotationPeriod
			data[fieldLastRotation] = answer.ObtainedAt
		}
		return data
	})
	data := make(map[string]any, len(common)+1)
	maps.Copy(data, common)
	return data
}

// allWarnings returns the warnings of the answer, and those of expiries that are near.
func allWarnings(answer *sessions.Answer) []string {
	warnings := answer.Warnings
	for _, warning := range health.ExpiryWarnings(answer.Config, time.Now()) {
		warnings = append(warnings, health.ForReader(answer.Config.Name, warning))
	}
	return warnings
}

// unleased returns the token with the fields by which readers know when to come back. Two answers
// with the same token may differ in ttl alone: if another field differs, Vault's Secrets Operator
// restarts the workloads that use it.
func unleased(answer *sessions.Answer, until time.Duration) *logical.Response {
	data := tokenData(answer, false)
	data[fieldTTL] = max(int64((until+time.Second-1)/time.Second), 1)
	return &logical.Response{Data: data, Warnings: allWarnings(answer)}
}

// leased returns the token under a lease that ends with it. The lease is rounded down to whole
// seconds, so that it does not outlive its token. It is not renewable: N-central cannot extend an
// access token.
func leased(answer *sessions.Answer, lifetime time.Duration, internal map[string]any) *logical.Response {
	lifetime = lifetime.Truncate(time.Second)
	internal["secret_type"] = accessTokenType
	return &logical.Response{
		Data: tokenData(answer, true),
		Secret: &logical.Secret{
			LeaseOptions: logical.LeaseOptions{TTL: lifetime, MaxTTL: lifetime},
			InternalData: internal,
		},
		Warnings: allWarnings(answer),
	}
}

// What a lease keeps of its token. The lease of a shared token does not keep the token, since its
// end ends nothing.
const (
	leaseRole           = "role"
	leaseCredentialType = "credential_type"
	leaseConfig         = "config"
	leaseURL            = "url"
	leaseAccessToken    = "access_token"
	leaseGrantedUntil   = "dies_at"
)

func leaseOfShared(role *store.Role) map[string]any {
	return map[string]any{leaseRole: role.Name, leaseCredentialType: string(store.Shared)}
}

func leaseOfDedicated(lease *sessions.Lease) map[string]any {
	return map[string]any{
		leaseRole:           lease.Role,
		leaseCredentialType: string(store.Dedicated),
		leaseConfig:         lease.Origin.Config,
		leaseURL:            lease.Origin.URL,
		leaseAccessToken:    lease.AccessToken,
		leaseGrantedUntil:   lease.GrantedUntil.UTC().Format(time.RFC3339Nano),
	}
}

// accessTokenSecret returns the type of what a lease of this engine holds.
func (a *API) accessTokenSecret() *framework.Secret {
	return &framework.Secret{
		Type: accessTokenType,
		Fields: map[string]*framework.FieldSchema{
			fieldAccessToken: {Type: framework.TypeString, Description: "The N-central access token."},
		},
		Revoke: a.revoke,
	}
}

// revoke ends the session of a dedicated token. It leaves the session of a shared token alone,
// since other readers hold the same token. OpenBao's standbys ask for it too, and could not remove
// the lease afterwards.
func (a *API) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if a.isStandby() {
		return nil, logical.ErrReadOnly
	}
	kept := req.Secret.InternalData
	if kept[leaseCredentialType] != string(store.Dedicated) {
		return nil, nil
	}
	text := func(field string) string {
		value, _ := kept[field].(string)
		return value
	}
	grantedUntil, err := time.Parse(time.RFC3339Nano, text(leaseGrantedUntil))
	if err != nil {
		return nil, fmt.Errorf("the lease does not say when its token expires: %w", err)
	}
	return nil, a.Sessions.EndLease(ctx, sessions.Lease{
		Role:         text(leaseRole),
		Origin:       store.Origin{Config: text(leaseConfig), URL: text(leaseURL)},
		AccessToken:  text(leaseAccessToken),
		GrantedUntil: grantedUntil,
	})
}
