// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/sessions"
	"vault-plugin-secrets-ncentral/internal/store"
)

func (a *API) sessionsPath() *framework.Path {
	return &framework.Path{
		Pattern: "sessions/" + framework.GenericNameWithAtRegex("name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("The role's name.")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: a.readSessions,
				Summary:  "Read what is known about a role's sessions, without a secret.",
				Description: "Describes the token that the role's readers share, and says how many " +
					"earlier ones still live. No call is made to N-central. A dedicated role's sessions are its " +
					"leases: `leases` is their prefix.",
				Responses:                 answers("The role's sessions.", sessionsAnswerFields()),
				ForwardPerformanceStandby: true,
			},
			logical.DeleteOperation: &framework.PathOperation{
				Callback: a.telling(events.SessionsEnded, a.endSessions),
				Summary:  "Log a role's sessions out at N-central and forget them.",
				Description: "Do this first when an access token has leaked. From then on, every " +
					"reader of the role holds a dead token, and the next read authenticates again. Warnings name " +
					"what could not be ended, and until when it lives.",
				Responses:                 doneOrWarned(),
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "end"},
				ForwardPerformanceStandby: true,
			},
		},
		DisplayAttrs: display("", "sessions"),
		HelpSynopsis: "Read or end the sessions that a role has open at N-central.",
		HelpDescription: `
Reading describes the session whose token the role's readers share: when the
token was obtained, when it expires and when it is replaced, and how many
earlier tokens of the role still live. The answer holds no secret.

Deleting logs all of the role's sessions out at N-central, including earlier
ones, and forgets them. The next read of creds/ROLE authenticates again. Do this
first when an access token has leaked:

    vault delete ncentral/sessions/monitoring

Warnings name what could not be ended, and until when it lives. The sessions of
a dedicated role are its leases. Deleting does not end these: end them with
"vault lease revoke -prefix ncentral/creds/ROLE".
`,
	}
}

func (a *API) sessionsListPath() *framework.Path {
	return &framework.Path{
		Pattern: "sessions/?$",
		Fields:  listFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: a.listSessions,
				Summary:  "List the roles that have sessions at N-central.",
				Description: "Earlier sessions that still live count too. `after` and `limit` page " +
					"through the names.",
				Responses: answers("The names, and the main facts about each.",
					listAnswerFields("roles that have sessions", "expires_at, if there is a token to hand out")),
				ForwardPerformanceStandby: true,
			},
		},
		DisplayAttrs: display("", "sessions"),
		HelpSynopsis: "List the roles that have sessions at N-central.",
		HelpDescription: `
Lists the names of the roles that have sessions, including earlier ones that
still live. key_info has expires_at for each role that has a token to hand out;
"vault list -detailed ncentral/sessions" shows it.
`,
	}
}

func sessionInfoFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldExpiresAt: {
			Type:        framework.TypeTime,
			Description: "When the current token expires; absent if there is none.",
		},
	}
}

const (
	fieldIssuedAt         = "issued_at"
	fieldRotatesAt        = "rotates_at"
	fieldRefreshExpiresAt = "refresh_expires_at"
	fieldObtainedBy       = "obtained_by"
	fieldLastReadAt       = "last_read_at"
	fieldLastValidatedAt  = "last_validated_at"
	fieldSuspect          = "suspect"
	fieldEarlierTokens    = "earlier_tokens"
	fieldLogoutsOwed      = "logouts_owed"
	fieldLeases           = "leases"
)

func sessionsAnswerFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldIssuedAt: {
			Type: framework.TypeTime,
			Description: "When the current token was obtained. Absent if there is no token, as are the fields that " +
				"follow, down to last_validated_at.",
		},
		fieldExpiresAt:     {Type: framework.TypeTime, Description: "When the current token expires."},
		fieldServingConfig: servingField(),
		fieldRotatesAt: {
			Type:        framework.TypeTime,
			Description: "When this engine replaces the token at the latest, if it is read.",
		},
		fieldRefreshExpiresAt: {
			Type:        framework.TypeTime,
			Description: "When the refresh token of the session expires.",
		},
		fieldObtainedBy: {
			Type: framework.TypeString, AllowedValues: []any{"authenticate", "refresh"},
			Description: "Which call brought the token: authenticate or refresh.",
		},
		fieldSuspect: {
			Type:        framework.TypeBool,
			Description: "Whether the token is validated before it is handed out again.",
		},
		fieldLastReadAt: {
			Type:        framework.TypeTime,
			Description: "When the role was last read, as far as this node knows.",
		},
		fieldLastValidatedAt: {
			Type:        framework.TypeTime,
			Description: "When N-central last said that the token lives.",
		},
		fieldEarlierTokens: {
			Type: framework.TypeInt, Required: true,
			Description: "How many retired and replaced tokens of the role still live.",
		},
		fieldLeases: {
			Type: framework.TypeString,
			Description: "On a dedicated role, whose sessions are its leases: the prefix of these leases, for lease " +
				"revoke -prefix and sys/leases/lookup.",
		},
		fieldLogoutsOwed: {
			Type: framework.TypeInt, Required: true,
			Description: "How many logouts could not be done yet and are tried once a minute.",
		},
	}
}

func (a *API) readSessions(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	described, err := a.Sessions.Describe(ctx, name)
	if errors.Is(err, sessions.ErrUnknownRole) {
		return nil, nil
	}
	if err != nil {
		return failed(err)
	}
	owed, err := a.Store.CountOwedOfRole(ctx, name)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{
		fieldEarlierTokens: described.Earlier,
		fieldLogoutsOwed:   owed,
		fieldServingConfig: described.ServingConfig,
	}
	putTime(answer, fieldLastReadAt, described.LastReadAt)
	if described.Live {
		putTime(answer, fieldIssuedAt, described.IssuedAt)
		putTime(answer, fieldExpiresAt, described.ExpiresAt)
		putTime(answer, fieldRotatesAt, described.RotatesAt)
		putTime(answer, fieldRefreshExpiresAt, described.RefreshExpiresAt)
		putTime(answer, fieldLastValidatedAt, described.LastValidatedAt)
		answer[fieldObtainedBy] = string(described.ObtainedBy)
		answer[fieldSuspect] = described.Suspect
	}
	if described.Dedicated {
		answer[fieldLeases] = leasesOf(req, name)
	}
	return &logical.Response{Data: answer}, nil
}

// leasesOf returns the prefix of the leases of a dedicated role, in the form for lease revoke and
// sys/leases/lookup.
func leasesOf(req *logical.Request, role string) string { return req.MountPoint + "creds/" + role }

// leasesGoOn returns the warning that the leases of a dedicated role were left alone, for whoever
// ended its sessions or changed the role.
func leasesGoOn(req *logical.Request, role string) string {
	return fmt.Sprintf("the sessions of a dedicated role are its leases, which were left alone: end them with lease "+
		"revoke -prefix %s", leasesOf(req, role))
}

func (a *API) endSessions(
	ctx context.Context, req *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	role, unreadable, err := orUnreadable(a.Store.Roles.Get(ctx, name))
	if err != nil {
		return nil, err
	}
	session, err := a.Store.Sessions.Find(ctx, name)
	if err != nil {
		return nil, err
	}
	if role == nil && unreadable == nil && session == nil {
		return nil, logical.CodedError(http.StatusNotFound,
			fmt.Sprintf("there is no role %q, nor a session of one: nothing was ended", name))
	}
	warnings, err := a.Sessions.End(ctx, name)
	if err != nil {
		return failed(err)
	}
	a.Logger.Info("sessions were ended by hand", "role", name)
	if unreadable != nil || role != nil && role.CredentialType == store.Dedicated {
		warnings = append(warnings, leasesGoOn(req, name))
	}
	return withWarnings(nil, warnings), nil
}

func (a *API) listSessions(
	ctx context.Context, _ *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	names, err := a.Store.Sessions.Names(ctx)
	if err != nil {
		return nil, err
	}
	return listed(names, data, func(name string) (map[string]any, error) {
		described, err := a.Sessions.Describe(ctx, name)
		if errors.Is(err, sessions.ErrUnknownRole) || errors.Is(err, sessions.ErrUnknownConfig) {
			return map[string]any{}, nil // its token is no longer handed out
		}
		if err != nil {
			return nil, err
		}
		info := map[string]any{}
		if described.Live {
			putTime(info, fieldExpiresAt, described.ExpiresAt)
		}
		return info, nil
	})
}
