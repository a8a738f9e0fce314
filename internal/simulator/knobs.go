// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Knobs say how this server behaves where servers differ, or where N-central's behaviour is not
// publicly known [?]. RegisterFlags has the usage text of each knob. In JSON a knob has the name of
// its flag with underscores, and a duration is a string such as "1h".
type Knobs struct {
	IgnoreOverrides     bool
	RefuseLongOverrides bool
	IgnoreBadOverrides  bool
	GrantLongerBy       time.Duration
	AccessLimit         time.Duration
	RefreshLimit        time.Duration
	OmitExpirySeconds   bool

	OverrideErrorsNameField bool

	SingleUseRefreshTokens    bool
	RefreshEndsPredecessor    bool
	LenientRefreshContentType bool

	LogoutAbsent                       bool
	LogoutEndsChain                    bool
	ValidateAbsent                     bool
	AuthenticateEndsEarlierSessions    bool
	RegenerateEndsSessions             bool
	PasswordChangeEndsSessions         bool
	ExpiredPasswordRefusesAuthenticate bool
	ExpiredPasswordFailsUser           bool
	BarredUsersAuthenticate            bool
	UserAbsent                         bool
	UserForbidden                      bool
	DataForbidden                      bool
	HideCoreErrors                     bool
	HiddenErrorKey                     string
	LinksNested                        bool
	ThreeLinks                         bool
	OmitStartTime                      bool
	ServerVersion                      string

	MaxInFlight       int
	RetryAfterSeconds int
	Latency           time.Duration
	ClockOffset       time.Duration
}

// hiddenErrorKeys are the spellings in the documentation and in a client [D,O]. Which of them
// N-central uses is not known [?].
var hiddenErrorKeys = []string{"Error Message", "error message"}

// DefaultKnobs returns the behaviour of an N-central of 2026 as far as it is known: a session lives
// for an hour, its refresh token for 25 hours, and 50 requests may be in flight at one endpoint
// [D,O].
func DefaultKnobs() Knobs {
	return Knobs{
		AccessLimit:   time.Hour,
		RefreshLimit:  25 * time.Hour,
		ServerVersion: "2026.4.1.12",
		MaxInFlight:   50,

		OverrideErrorsNameField: true,
		HiddenErrorKey:          hiddenErrorKeys[0],
	}
}

// RegisterFlags adds one flag for each knob. A flag that is not given leaves its knob unchanged.
func (k *Knobs) RegisterFlags(flags *flag.FlagSet) {
	k.registerLifetimes(flags)
	k.registerSessions(flags)
	k.registerAnswers(flags)
	k.registerTraffic(flags)
}

func (k *Knobs) registerLifetimes(flags *flag.FlagSet) {
	flags.BoolVar(&k.IgnoreOverrides, "ignore-overrides", k.IgnoreOverrides,
		"grant the system-wide lifetimes whatever the expiry overrides ask for, instead of honouring them")
	flags.BoolVar(&k.RefuseLongOverrides, "refuse-long-overrides", k.RefuseLongOverrides,
		"answer 400 to an override beyond the system-wide limit, instead of granting the limit")
	flags.BoolVar(&k.IgnoreBadOverrides, "ignore-bad-overrides", k.IgnoreBadOverrides,
		"ignore an override that is not <integer><s|m|h>, instead of answering 400")
	flags.BoolVar(&k.OverrideErrorsNameField, "override-errors-name-field", k.OverrideErrorsNameField,
		"name the override that a 400 refuses in the field of its errors, instead of leaving open what is wrong")
	flags.DurationVar(&k.GrantLongerBy, "grant-longer-by", k.GrantLongerBy,
		"grant this much more than an override asks for, beyond the limits too")
	flags.DurationVar(&k.AccessLimit, "access-limit", k.AccessLimit,
		"system-wide lifetime of an access token: the longest, and that granted without an override")
	flags.DurationVar(&k.RefreshLimit, "refresh-limit", k.RefreshLimit,
		"system-wide lifetime of a refresh token: the longest, and that granted without an override")
	flags.BoolVar(&k.OmitExpirySeconds, "omit-expiry-seconds", k.OmitExpirySeconds,
		"leave expirySeconds out of the answers to authenticate and refresh")
}

func (k *Knobs) registerSessions(flags *flag.FlagSet) {
	flags.BoolVar(&k.SingleUseRefreshTokens, "single-use-refresh-tokens", k.SingleUseRefreshTokens,
		"a refresh token works once, instead of until it expires")
	flags.BoolVar(&k.RefreshEndsPredecessor, "refresh-ends-predecessor", k.RefreshEndsPredecessor,
		"a refresh ends the session's earlier access tokens at once, instead of leaving them to expire")
	flags.BoolVar(&k.LenientRefreshContentType, "lenient-refresh-content-type", k.LenientRefreshContentType,
		"take any content type for the body of a refresh, instead of answering 415 to all but text/plain")
	flags.BoolVar(&k.LogoutAbsent, "logout-absent", k.LogoutAbsent,
		"answer 404 to logout, as N-central 2025.3.1.1 does")
	flags.BoolVar(&k.LogoutEndsChain, "logout-ends-chain", k.LogoutEndsChain,
		"a logout ends all that was refreshed from the same authenticate, instead of its own pair of tokens")
	flags.BoolVar(&k.ValidateAbsent, "validate-absent", k.ValidateAbsent,
		"answer 404 to validate, as behind a proxy with a list of paths")
	flags.BoolVar(&k.AuthenticateEndsEarlierSessions, "authenticate-ends-earlier-sessions",
		k.AuthenticateEndsEarlierSessions, "a new session ends all earlier ones of the same user")
	flags.BoolVar(&k.RegenerateEndsSessions, "regenerate-ends-sessions", k.RegenerateEndsSessions,
		"a new User-API token ends the user's sessions, instead of only the old User-API token")
	flags.BoolVar(&k.PasswordChangeEndsSessions, "password-change-ends-sessions", k.PasswordChangeEndsSessions,
		"a password that an administrator sets ends the user's sessions, instead of leaving them alone")
}

func (k *Knobs) registerAnswers(flags *flag.FlagSet) {
	flags.BoolVar(&k.ExpiredPasswordRefusesAuthenticate, "expired-password-refuses-authenticate",
		k.ExpiredPasswordRefusesAuthenticate, "a user whose password has expired gets 401 from authenticate, instead "+
			"of a session whose data calls answer 500")
	flags.BoolVar(&k.ExpiredPasswordFailsUser, "expired-password-fails-user", k.ExpiredPasswordFailsUser,
		"a user whose password has expired gets 500 from users/me too, instead of an answer that says so")
	flags.BoolVar(&k.BarredUsersAuthenticate, "barred-users-authenticate", k.BarredUsersAuthenticate,
		"a user who is locked, disabled or has two-factor authentication on gets a session that works, instead of 401")
	flags.BoolVar(&k.UserAbsent, "user-absent", k.UserAbsent, "answer 404 to users/me, as servers before 2026 do")
	flags.BoolVar(&k.UserForbidden, "user-forbidden", k.UserForbidden,
		"answer 403 to users/me, as to a user without the permission USERS_VIEW")
	flags.BoolVar(&k.DataForbidden, "data-forbidden", k.DataForbidden,
		"answer 403 to the data call of a live session, instead of 200")
	flags.BoolVar(&k.HideCoreErrors, "hide-core-errors", k.HideCoreErrors,
		"hide the core engine's errors, a failed login among them, in a 200")
	flags.StringVar(&k.HiddenErrorKey, "hidden-error-key", k.HiddenErrorKey,
		"key of such an error, of these that are asked for too: \"Error Message\" or \"error message\"")
	flags.BoolVar(&k.LinksNested, "links-nested", k.LinksNested,
		"put the links under the key _links, instead of at the top of the answer")
	flags.BoolVar(&k.ThreeLinks, "three-links", k.ThreeLinks,
		"leave logout and sso out of the links, as a server without logout does")
	flags.BoolVar(&k.OmitStartTime, "omit-start-time", k.OmitStartTime, "leave startTime out of the server info")
	flags.StringVar(&k.ServerVersion, "server-version", k.ServerVersion,
		"N-central's version in the server info; empty for null")
}

func (k *Knobs) registerTraffic(flags *flag.FlagSet) {
	flags.IntVar(&k.MaxInFlight, "max-in-flight", k.MaxInFlight,
		"requests in flight at one endpoint before it answers 429; at least 1")
	flags.IntVar(&k.RetryAfterSeconds, "retry-after-seconds", k.RetryAfterSeconds,
		"Retry-After of that 429, in seconds; 0 for none")
	flags.DurationVar(&k.Latency, "latency", k.Latency, "time that every request takes")
	flags.DurationVar(&k.ClockOffset, "clock-offset", k.ClockOffset,
		"how far this server's clock is ahead of the true time; negative for behind")
}

// Check returns an error that names the first knob outside its range.
func (k Knobs) Check() error {
	switch {
	case k.AccessLimit < time.Second:
		return fmt.Errorf("access_limit: must be at least 1s, not %s", shortDuration(k.AccessLimit))
	case k.RefreshLimit < time.Second:
		return fmt.Errorf("refresh_limit: must be at least 1s, not %s", shortDuration(k.RefreshLimit))
	case k.GrantLongerBy < 0:
		return fmt.Errorf("grant_longer_by: must not be negative, not %s", shortDuration(k.GrantLongerBy))
	case k.Latency < 0:
		return fmt.Errorf("latency: must not be negative, not %s", shortDuration(k.Latency))
	case !slices.Contains(hiddenErrorKeys, k.HiddenErrorKey):
		return fmt.Errorf("hidden_error_key: must be one of %q, not %q", hiddenErrorKeys, k.HiddenErrorKey)
	case k.MaxInFlight < 1:
		return fmt.Errorf("max_in_flight: must be at least 1, not %d", k.MaxInFlight)
	case k.RetryAfterSeconds < 0:
		return fmt.Errorf("retry_after_seconds: must not be negative, not %d", k.RetryAfterSeconds)
	}
	return nil
}

// MarshalJSON writes every knob.
func (k Knobs) MarshalJSON() ([]byte, error) {
	values := map[string]any{}
	k.flagSet().VisitAll(func(knob *flag.Flag) {
		value := knob.Value.(flag.Getter).Get()
		if duration, ok := value.(time.Duration); ok {
			value = shortDuration(duration)
		}
		values[strings.ReplaceAll(knob.Name, "-", "_")] = value
	})
	return json.Marshal(values)
}

// UnmarshalJSON changes the knobs in the object and no others. It changes none where it returns an
// error, which names the knob.
func (k *Knobs) UnmarshalJSON(data []byte) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("knobs: %w", err)
	}
	changed := *k
	flags := changed.flagSet()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		knob := flags.Lookup(strings.ReplaceAll(name, "_", "-"))
		if knob == nil || strings.Contains(name, "-") {
			return fmt.Errorf("%s: no such knob", name)
		}
		if err := setFromJSON(knob.Value.(flag.Getter), values[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := changed.Check(); err != nil {
		return err
	}
	*k = changed
	return nil
}

func (k *Knobs) flagSet() *flag.FlagSet {
	flags := flag.NewFlagSet("knobs", flag.ContinueOnError)
	k.RegisterFlags(flags)
	return flags
}

// setFromJSON sets a knob from JSON. The value must have the knob's type.
func setFromJSON(knob flag.Getter, raw json.RawMessage) error {
	if string(raw) == "null" {
		return errors.New("must not be null")
	}
	switch knob.Get().(type) {
	case bool:
		var value bool
		if json.Unmarshal(raw, &value) != nil {
			return errors.New("must be true or false")
		}
		return knob.Set(strconv.FormatBool(value))
	case int:
		var value int
		if json.Unmarshal(raw, &value) != nil {
			return errors.New("must be an integer")
		}
		return knob.Set(strconv.Itoa(value))
	case time.Duration:
		var value string
		if json.Unmarshal(raw, &value) != nil || knob.Set(value) != nil {
			return errors.New("must be a duration such as \"90s\"")
		}
		return nil
	default:
		var value string
		if json.Unmarshal(raw, &value) != nil {
			return errors.New("must be a string")
		}
		return knob.Set(value)
	}
}

// shortDuration writes 1h where Duration.String writes 1h0m0s.
func shortDuration(duration time.Duration) string {
	text := duration.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
