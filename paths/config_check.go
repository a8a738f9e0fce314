// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
	"vault-plugin-secrets-ncentral/internal/upstream"
)

const (
	fieldOK               = "ok"
	fieldFailedStep       = "failed_step"
	fieldMessage          = "message"
	fieldSteps            = "steps"
	fieldStepName         = "name"
	fieldStepMilliseconds = "milliseconds"
	fieldClockOffset      = "clock_offset_seconds"
	fieldServerVersion    = "server_version"
	fieldCanLogOut        = "can_log_out"
	fieldCanValidate      = "can_validate"
	fieldRefreshEnds      = "refresh_ends_predecessor"
	fieldAuthEnds         = "authenticate_ends_earlier_sessions"
	fieldReport           = "report"

	fieldUser                  = "user"
	fieldUserName              = "name"
	fieldPasswordExpired       = "password_expired"
	fieldPasswordResetRequired = "password_reset_required"
	fieldLocked                = "locked"
	fieldEnabled               = "enabled"
	fieldTwoFactor             = "two_factor"
)

func (a *API) configCheckPath() *framework.Path {
	return &framework.Path{
		Pattern: "config/" + framework.GenericNameWithAtRegex("name") + "/check",
		Fields:  map[string]*framework.FieldSchema{"name": nameField("The config's name.")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: a.checkConfig,
				Summary: "Check that a config's credential works, and find out how its server " +
					"behaves.",
				Description: "Makes every kind of call that the engine makes in its work, once and " +
					"without retries, and logs out every session that it opened. The answer is 200 whether the " +
					"check passed or not: see `ok`. What the check learns about the server is stored.",
				Responses: answers("How the check went, whether it passed or not.",
					checkAnswerFields()),
				ForwardPerformanceStandby: true,
			},
		},
		DisplayAttrs: display("check", "config"),
		HelpSynopsis: "Find out whether a config's credential works.",
		HelpDescription: `
Makes every kind of call that the engine makes in its work, once and without
retries: reads the links, authenticates twice, validates, asks who the N-central
user is, makes a data call, refreshes, asks for the server's version, and logs
out every session that it opened. This prints one line for each step:

    vault write -f -field=report ncentral/config/default/check

The answer is 200 even if a step failed: ok, failed_step and message say so.
steps describes each step, and report has all of it as one text. user is what
N-central says about the user. It says this from version 2026 on, if the user's
role has USERS_VIEW. The data call asks for service organisations. A user that
may not see them passes, and the step says so.

What the check learns about the server is stored, and decides how tokens are
replaced. After a server refused its User-API token or did not answer, the
engine leaves it alone for a time. A check that passes ends that time. It also
brings a config back that is out of service for roles with fallback_configs.

On a server where a new session ends the user's earlier ones, a check ends the
tokens that readers hold. The answer warns about such a server.
`,
	}
}

func checkAnswerFields() map[string]*framework.FieldSchema {
	return together(learntFields(), map[string]*framework.FieldSchema{
		fieldOK: {Type: framework.TypeBool, Required: true, Description: "Whether every step passed."},
		fieldFailedStep: {
			Type: framework.TypeString, Required: true,
			Description: "The first step that failed; empty if none did.",
		},
		fieldMessage: {Type: framework.TypeString, Required: true, Description: "The result, and what to do."},
		fieldSteps: {
			Type: framework.TypeSlice, Required: true,
			Description: "Each step that was made: name, ok, milliseconds, message.",
		},
		fieldReport: {
			Type: framework.TypeString, Required: true,
			Description: "The steps, the result and the warnings, as a text with one line for each.",
		},
		fieldUser: userField(),
	})
}

func userField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:        framework.TypeMap,
		Description: "What N-central says about the API user; absent if it does not say anything.",
	}
}

// userFields returns the fields of what N-central may say about the API user. What it does not say
// is left out.
func userFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldUserName: {Type: framework.TypeString, Description: "The user's name in N-central."},
		fieldPasswordExpired: {
			Type:        framework.TypeBool,
			Description: "Whether the password has expired, so that no token of the user works.",
		},
		fieldPasswordResetRequired: {
			Type:        framework.TypeBool,
			Description: "Whether the user must set a new password.",
		},
		fieldLocked:  {Type: framework.TypeBool, Description: "Whether the user is locked."},
		fieldEnabled: {Type: framework.TypeBool, Description: "Whether the user is enabled."},
		fieldTwoFactor: {
			Type:        framework.TypeString,
			Description: "The kind of two-factor authentication. It must be NONE.",
		},
	}
}

// learntFields returns the fields of what is known of a server. What is not known is left out.
func learntFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldClockOffset: {
			Type: framework.TypeFloat,
			Description: "How many seconds the server's clock is ahead of this node's; absent if the server did not " +
				"say.",
		},
		fieldServerVersion: {
			Type:        framework.TypeString,
			Description: "N-central's version; absent if the server did not say.",
		},
		fieldCanValidate: {
			Type: framework.TypeBool,
			Description: "Whether the server says if a token lives; if it does not, a data call is used instead. " +
				"Absent if that was not found out.",
		},
		fieldCanLogOut: {
			Type:        framework.TypeBool,
			Description: "Whether the server can end a session; absent if that was not found out.",
		},
		fieldRefreshEnds: {
			Type:        framework.TypeBool,
			Description: "Whether a refresh ends the access token before it; absent if that was not found out.",
		},
		fieldAuthEnds: {
			Type:        framework.TypeBool,
			Description: "Whether a new session ends the user's earlier ones; absent if that was not found out.",
		},
	}
}

func stepFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldStepName: {
			Type: framework.TypeString, Required: true,
			Description: "links, authenticate, authenticate_again, validate, user, data, refresh, server_info or " +
				"logout.",
		},
		fieldOK:               {Type: framework.TypeBool, Required: true, Description: "Whether it passed."},
		fieldStepMilliseconds: {Type: framework.TypeInt64, Required: true, Description: "How long it took."},
		fieldMessage: {
			Type: framework.TypeString, Required: true,
			Description: "What it found; empty if there is nothing to say.",
		},
	}
}

func (a *API) checkConfig(
	ctx context.Context, _ *logical.Request, data *framework.FieldData,
) (*logical.Response, error) {
	name := data.Get("name").(string)
	config, err := a.Store.Configs.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("there is no config %q to check", name))
	}
	report, err := a.Sessions.Check(ctx, config)
	if err != nil {
		return failed(err)
	}
	answer := checkAnswer(report)
	warnings := append(health.ExpiryWarnings(config, time.Now()), reportWarnings(report)...)
	answer[fieldReport] = reportText(report, answer[fieldMessage].(string), warnings)
	return withWarnings(&logical.Response{Data: answer}, warnings), nil
}

// reportText returns a line for each step and each warning, and one for the result. If somebody
// asks for this field alone, the command line shows nothing else.
func reportText(report *upstream.Report, outcome string, warnings []string) string {
	var text strings.Builder
	line := func(verdict, name string, took time.Duration, message string) {
		line := fmt.Sprintf("%-7s %-18s %6d ms  %s", verdict, name, took.Milliseconds(), message)
		text.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	for _, step := range report.Steps {
		verdict := "ok"
		if !step.OK {
			verdict = "FAILED"
		}
		line(verdict, step.Name, step.Duration, step.Message)
	}
	for _, warning := range warnings {
		text.WriteString("warning " + warning + "\n")
	}
	if report.Failed != nil {
		outcome = "failed at step " + report.Failed.Name
	}
	text.WriteString(outcome)
	return text.String()
}

func checkAnswer(report *upstream.Report) map[string]any {
	steps := make([]any, 0, len(report.Steps))
	for _, step := range report.Steps {
		steps = append(steps, map[string]any{
			fieldStepName: step.Name, fieldOK: step.OK, fieldStepMilliseconds: step.Duration.Milliseconds(),
			fieldMessage: step.Message,
		})
	}
	answer := map[string]any{
		fieldOK:         report.Failed == nil,
		fieldFailedStep: "",
		fieldMessage:    "the credential is alive",
		fieldSteps:      steps,
	}
	if report.Failed != nil {
		answer[fieldFailedStep], answer[fieldMessage] = report.Failed.Name, report.Failed.Message
	}
	putUser(answer, report.User)
	putTraits(answer, report.Traits)
	return answer
}

// putUser adds what N-central says about the API user to an answer.
func putUser(answer map[string]any, user *ncentral.User) {
	if user == nil {
		return
	}
	told := map[string]any{}
	for field, text := range map[string]string{fieldUserName: user.Name, fieldTwoFactor: user.TwoFactorType} {
		if text != "" {
			told[field] = text
		}
	}
	for field, known := range map[string]*bool{
		fieldPasswordExpired: user.PasswordExpired, fieldPasswordResetRequired: user.PasswordResetRequired,
		fieldLocked: user.Locked, fieldEnabled: user.Enabled,
	} {
		if known != nil {
			told[field] = *known
		}
	}
	answer[fieldUser] = told
}

// putTraits adds what is known of the server to an answer.
func putTraits(answer map[string]any, traits store.ServerTraits) {
	if traits.ServerVersion != "" {
		answer[fieldServerVersion] = traits.ServerVersion
	}
	if traits.ClockOffset != nil {
		answer[fieldClockOffset] = math.Round(traits.ClockOffset.Seconds()*1000)/1000 + 0 // never -0
	}
	for field, known := range map[string]*bool{
		fieldCanLogOut: traits.CanLogOut, fieldCanValidate: traits.CanValidate,
		fieldRefreshEnds: traits.RefreshEndsPredecessor, fieldAuthEnds: traits.AuthenticateEndsEarlierSessions,
	} {
		if known != nil {
			answer[field] = *known
		}
	}
}
