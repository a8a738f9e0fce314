// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// Failure is a call to N-central that did not bring what it was made for, worded for the people who
// run the engine: which config, which step, what happened, what to do, and when the engine tries
// again.
type Failure struct {
	Config string
	Step   ncentral.Call
	Kind   ncentral.Kind
	Cause  error
	// has holds those settings of the config on which the remedy depends.
	has settings
	// Next is when the engine tries again; zero where it tries at the next request.
	Next time.Time
	// NotMade is set if the call was not made, because the server is being left alone. Cause is
	// then the failure of the earlier call.
	NotMade bool
	// Lost is set for a refresh on which N-central may have acted although no answer arrived. This
	// holds for the last attempt and for those before it.
	Lost bool
	// User is what N-central said about the API user when a data call failed, or what is wrong with
	// the user. It is nil if N-central did not say anything.
	User *ncentral.User
}

// Error returns a text that names the config, the step, the cause, the remedy and the time of the
// next attempt. It holds no token.
func (f *Failure) Error() string {
	return fmt.Sprintf("config %q: %s", f.Config, f.Explanation())
}

// Explanation returns the text of Error without the config.
func (f *Failure) Explanation() string {
	var text strings.Builder
	if f.NotMade {
		fmt.Fprintf(&text, "%s: not tried, since an earlier call failed: ", f.Step)
	}
	text.WriteString(strings.TrimRight(f.Cause.Error(), "."))
	if remedy := f.Remedy(); remedy != "" {
		fmt.Fprintf(&text, "; %s", remedy)
	}
	if f.Next.After(time.Now()) {
		fmt.Fprintf(&text, "; it is not tried again before %s", f.Next.UTC().Format(time.RFC3339))
	}
	return text.String()
}

// NotMadeFor returns the failure of a call that was not made because of f. The config may be
// another than that of f, if both have the same User-API token.
func (f *Failure) NotMadeFor(config string, step ncentral.Call) *Failure {
	later := *f
	later.Config, later.Step, later.NotMade = config, step, true
	return &later
}

// Unwrap returns the error of the client.
func (f *Failure) Unwrap() error { return f.Cause }

// CredentialRejected reports whether N-central refused the User-API token. Only a change of the
// config or of the N-central user helps then, and waiting does not.
func (f *Failure) CredentialRejected() bool {
	return f.Step == ncentral.CallAuthenticate && (f.Kind == ncentral.KindUnauthorized ||
		f.Kind == ncentral.KindForbidden)
}

// MayBeRejection reports whether N-central may have refused the User-API token in another form than
// the usual 401 or 403.
func (f *Failure) MayBeRejection() bool {
	return f.Step == ncentral.CallAuthenticate && f.fault() != ncentral.FaultAuthorizationLost &&
		(f.Kind == ncentral.KindBadRequest || f.Kind == ncentral.KindHiddenError)
}

// Down reports whether N-central did not answer, or was too busy to. Waiting may help then.
func (f *Failure) Down() bool { return IsDown(f.Kind) }

// Final reports whether N-central decided about the call, so that the same call would fail in the
// same way again.
func (f *Failure) Final() bool {
	switch f.Kind {
	case ncentral.KindUnauthorized, ncentral.KindForbidden, ncentral.KindBadRequest, ncentral.KindNotFound:
		return true
	}
	return false
}

// Reason returns what happened and what to do about it, without the config and the time of the next
// attempt.
func (f *Failure) Reason() string {
	plain := *f
	plain.NotMade, plain.Next = false, time.Time{}
	return plain.Explanation()
}

// UserIsBarred reports whether N-central said that the API user does not work, for example because
// the user is locked. It returns false if f is nil.
func (f *Failure) UserIsBarred() bool {
	if f == nil {
		return false
	}
	_, bars := UserTroubles(f.User)
	return bars
}

// Remedy returns what a person can do about the failure. It is empty if that is not known.
func (f *Failure) Remedy() string {
	if remedy := f.remedyOfFault(); remedy != "" {
		return remedy
	}
	switch f.Kind {
	case ncentral.KindUnauthorized, ncentral.KindForbidden:
		if f.Step == ncentral.CallAuthenticate {
			return "the User-API token is unknown to this server, was replaced by a newer one, or its user is " +
				"locked or disabled, has an expired password, or has two-factor authentication or SSO switched on: " +
				"check the user in N-central (Administration, User Management, Users, API Access), and write the " +
				"token that the user has now, or a new one, to user_api_token"
		}
	case ncentral.KindUnreachable, ncentral.KindTimeout:
		return "check that url is right, that the server is up, and that this Vault node may reach it"
	case ncentral.KindRateLimited:
		return "N-central limits the requests in flight for all integrations together: try later, or lower " +
			"max_requests_in_flight"
	case ncentral.KindMalformed, ncentral.KindNotFound:
		return "check that url is the base URL of an N-central server, without /api, and that no proxy or login page " +
			"answers in its place"
	case ncentral.KindServerError, ncentral.KindHiddenError:
		switch f.Step {
		case ncentral.CallAuthenticate:
			return "N-central itself fails, or the API user's password has expired, which some servers report in " +
				"this way: check the password in N-central (Administration, User Management, Users); if it has " +
				"expired, set a new one, then generate a new User-API token and write user_api_token and " +
				"password_changed_at"
		case ncentral.CallData:
			return remedyOfData(f.User)
		}
	case ncentral.KindBadRequest:
		if f.Step == ncentral.CallLinks { // which has nothing in it to be refused for
			if f.has.http {
				return "write url with https, which is most likely what the server speaks on this port"
			}
			return "check that url is the base URL of an N-central server, with its port"
		}
		if f.Step == ncentral.CallAuthenticate {
			return "N-central may mean that it refuses the User-API token: check the user in N-central " +
				"(Administration, User Management, Users); if nothing is wrong there, " +
				"generate a new User-API token and write it to user_api_token"
		}
	case ncentral.KindQueued:
		return "try later, or raise max_requests_in_flight"
	}
	return ""
}

// IsDown reports whether a failure of that kind means that N-central did not answer or was too
// busy, or that the call got no place among those in flight.
func IsDown(kind ncentral.Kind) bool {
	switch kind {
	case ncentral.KindUnreachable, ncentral.KindTimeout, ncentral.KindRateLimited, ncentral.KindUnavailable,
		ncentral.KindQueued:
		return true
	}
	return false
}

// NewFailure returns the failure of a call for the config. If the cause is a Failure already, it
// returns that.
func NewFailure(config *store.Config, step ncentral.Call, cause error) *Failure {
	if known, ok := errors.AsType[*Failure](cause); ok {
		return known
	}
	// An error of the transport does not know to which call it belongs.
	var callErr *ncentral.Error
	if errors.As(cause, &callErr) && callErr.Call == "" {
		callErr.Call = step
	}
	return &Failure{
		Config: config.Name, Step: step, Kind: ncentral.KindOf(cause), Cause: cause,
		has: settingsOf(config),
	}
}
