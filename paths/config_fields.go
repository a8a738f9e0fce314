// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/pasted"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	fieldURL                 = "url"
	fieldUserAPIToken        = "user_api_token"
	fieldCACert              = "ca_cert"
	fieldTLSServerName       = "tls_server_name"
	fieldTLSSkipVerify       = "tls_skip_verify"
	fieldRequestTimeout      = "request_timeout"
	fieldMaxRetries          = "max_retries"
	fieldMaxRequestsInFlight = "max_requests_in_flight"
	fieldRefreshTokenTTL     = "refresh_token_ttl"
	fieldPasswordChangedAt   = "password_changed_at"
	fieldPasswordMaxAge      = "password_max_age"
	fieldExpiryWarning       = "expiry_warning"
	fieldVerify              = "verify"

	fieldUserAPITokenSHA256    = "user_api_token_sha256"
	fieldUserAPITokenSetAt     = "user_api_token_set_at"
	fieldUserAPITokenExpiresAt = "user_api_token_expires_at"
	fieldPasswordExpiresAt     = "password_expires_at"
	fieldState                 = "state"
)

const (
	defaultRequestTimeout      = 10 * time.Second
	defaultMaxRetries          = 3
	defaultMaxRequestsInFlight = 8
	defaultPasswordMaxAge      = 90 * 24 * time.Hour
	defaultExpiryWarning       = 14 * 24 * time.Hour
)

// earliestPassword is before the time of any N-central password. An earlier time is a mistake: a
// day without hyphens, which was taken for seconds, or a year that cannot be stored.
var earliestPassword = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

const (
	groupServer = "Server"
	groupTrust  = "TLS trust"
	groupCalls  = "Calls to N-central"
	groupExpiry = "Expiry"
)

// configFields returns the fields of a config that can be written and read.
func configFields() map[string]*framework.FieldSchema {
	return together(serverFields(), callFields(), expiryFields())
}

func serverFields() map[string]*framework.FieldSchema {
	certificate := label("CA certificate", groupTrust)
	certificate.EditType = "file"
	return map[string]*framework.FieldSchema{
		fieldURL: {
			Type: framework.TypeString, Required: true, DisplayAttrs: label("URL", groupServer),
			Description: "Base URL of the N-central server, without /api: https, or http for a loopback host. " +
				"Required for a new config.",
		},
		fieldCACert: {
			Type: framework.TypeString, DisplayAttrs: certificate,
			Description: "PEM of the certificate authorities to trust instead of the system's, for servers with a " +
				"private certificate. A private key in it is refused.",
		},
		fieldTLSServerName: {
			Type: framework.TypeString, DisplayAttrs: label("TLS server name", groupTrust),
			Description: "Host name or IP address to expect in the server's certificate, if it is not the host of url.",
		},
		fieldTLSSkipVerify: {
			Type: framework.TypeBool, Default: false, DisplayAttrs: label("Skip TLS verification", groupTrust),
			Description: "Do not verify the server's certificate (false by default). Then anyone on the way to the " +
				"server can take the User-API token: give ca_cert instead.",
		},
	}
}

func callFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldRequestTimeout: {
			Type: framework.TypeDurationSecond, Default: "10s", DisplayAttrs: label("Request timeout", groupCalls),
			Description: "How long one call to N-central may take: 1s to 20s, by default 10s. Obtaining a token, " +
				"with all retries, takes no longer than three times this, and no longer than 55s.",
		},
		fieldMaxRetries: {
			Type: framework.TypeInt, Default: defaultMaxRetries, DisplayAttrs: label("Retries", groupCalls),
			Description: "How often a call is repeated that found N-central unreachable or busy: 0 to 10, by " +
				"default 3.",
		},
		fieldMaxRequestsInFlight: {
			Type: framework.TypeInt, Default: defaultMaxRequestsInFlight,
			DisplayAttrs: label("Requests in flight", groupCalls),
			Description: "How many calls may be under way at the same time: 1 to 50, by default 8. N-central limits " +
				"the calls of all integrations together.",
		},
		fieldRefreshTokenTTL: {
			Type: framework.TypeDurationSecond, Default: "0", DisplayAttrs: label("Refresh token TTL", groupCalls),
			Description: "Refresh-token lifetime to ask N-central for: at least 1m. 0, the default, leaves it to " +
				"N-central.",
		},
	}
}

func expiryFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldPasswordChangedAt: {
			Type: framework.TypeString, DisplayAttrs: label("Password changed at", groupExpiry),
			Description: "When the API user's password was last set: a day like 2026-11-03, RFC 3339, or Unix time " +
				"in seconds. The engine cannot find this out: you must give it.",
		},
		fieldPasswordMaxAge: {
			Type: framework.TypeDurationSecond, Default: "90d",
			DisplayAttrs: label("Password maximum age", groupExpiry),
			Description: "After how long the password expires in N-central, in days, like 90d, which is the " +
				"default; 0 if it does not expire.",
		},
		fieldExpiryWarning: {
			Type: framework.TypeDurationSecond, Default: "14d", DisplayAttrs: label("Expiry warning", groupExpiry),
			Description: "How long before the password or the User-API token expires the warnings begin, in days, " +
				"like 14d, which is the default. With 0 they begin when it has expired.",
		},
	}
}

// configWriteFields returns the fields of a config that can be written and not read.
func configWriteFields() map[string]*framework.FieldSchema {
	secret := label("User-API token", groupServer)
	secret.Sensitive = true
	return map[string]*framework.FieldSchema{
		fieldUserAPIToken: {
			Type: framework.TypeString, Required: true, DisplayAttrs: secret,
			Description: "The User-API token (JWT) that N-central's web UI generated for the API user, who must " +
				"have two-factor authentication and SSO switched off. It is never returned. Required for a new " +
				"config, and whenever url, ca_cert, tls_server_name or tls_skip_verify changes.",
		},
		fieldUserAPITokenSHA256: {
			Type: framework.TypeString, DisplayAttrs: label("SHA-256 of the User-API token", groupServer),
			Description: "SHA-256 of the User-API token, in hex. If given, it must match the token that is given or " +
				"stored. Declarative tools read it back, and so notice a write that failed. Never required.",
		},
		fieldVerify: {
			Type: framework.TypeBool, Default: true, DisplayAttrs: label("Verify", groupServer),
			Description: "Try the new values on the server before anything is stored, with the steps of " +
				"config/NAME/check (true by default). If a step fails, nothing is changed. This field itself is not " +
				"stored.",
		},
	}
}

// configAnswerFields returns the fields of a read: those of a config without its token, and those
// that are computed from them.
func configAnswerFields() map[string]*framework.FieldSchema {
	return together(alwaysAnswered(configFields()), map[string]*framework.FieldSchema{
		fieldPasswordChangedAt: {
			Type: framework.TypeTime, DisplayAttrs: label("Password changed at", groupExpiry),
			Description: "When the API user's password was last set, if that was given.",
		},
		fieldPasswordExpiresAt: {
			Type: framework.TypeTime, DisplayAttrs: label("Password expires at", groupExpiry),
			Description: "When the API user's password expires. Absent if password_changed_at is not given, or " +
				"password_max_age is 0.",
		},
		fieldUserAPITokenSHA256: {
			Type: framework.TypeString, Required: true, DisplayAttrs: label("SHA-256 of the User-API token",
				groupServer),
			Description: "SHA-256 of the User-API token, in hex. It shows whether two configs have the same token.",
		},
		fieldUserAPITokenSetAt: {
			Type: framework.TypeTime, Required: true, DisplayAttrs: label("User-API token set at", groupServer),
			Description: "When the User-API token was last changed here.",
		},
		fieldUserAPITokenExpiresAt: {
			Type: framework.TypeTime, DisplayAttrs: label("User-API token expires at", groupExpiry),
			Description: "When the User-API token expires by its own claim. Absent if it has none.",
		},
	})
}

// configSettings returns how a write changes each field of a config. changedConfig does what
// depends on several fields.
func configSettings() []setting[store.Config] {
	url := textSetting(fieldURL, ncentral.ParseBaseURL, func(c *store.Config) *string { return &c.URL })
	token := textSetting(fieldUserAPIToken, pasted.ParseUserAPIToken,
		func(c *store.Config) *string { return &c.UserAPIToken })
	url.reset, token.reset = nil, nil
	return []setting[store.Config]{
		url,
		token,
		textSetting(fieldCACert, checkCACert, func(c *store.Config) *string { return &c.CACert }),
		textSetting(fieldTLSServerName, checkServerName, func(c *store.Config) *string { return &c.TLSServerName }),
		boolSetting(fieldTLSSkipVerify, false, func(c *store.Config) *bool { return &c.TLSSkipVerify }),
		durationSetting(fieldRequestTimeout, defaultRequestTimeout,
			between(store.LeastRequestTimeout, store.MostRequestTimeout),
			func(c *store.Config) *time.Duration { return &c.RequestTimeout }),
		intSetting(fieldMaxRetries, defaultMaxRetries, 0, store.MostRetries,
			func(c *store.Config) *int { return &c.MaxRetries }),
		intSetting(fieldMaxRequestsInFlight, defaultMaxRequestsInFlight, 1, store.MostRequestsInFlight,
			func(c *store.Config) *int { return &c.MaxRequestsInFlight }),
		durationSetting(fieldRefreshTokenTTL, 0, zeroOrAtLeast(time.Minute),
			func(c *store.Config) *time.Duration { return &c.RefreshTokenTTL }),
		{
			field: fieldPasswordChangedAt,
			set: func(c *store.Config, data *framework.FieldData) (err error) {
				// The framework's own type for times does not take a number, and Unix time reaches
				// a plugin as a number.
				c.PasswordChangedAt, err = readPasswordChangedAt(data.Get(fieldPasswordChangedAt).(string), time.Now())
				return err
			},
			reset: func(c *store.Config) { c.PasswordChangedAt = time.Time{} },
		},
		durationSetting(fieldPasswordMaxAge, defaultPasswordMaxAge, zeroOrDays,
			func(c *store.Config) *time.Duration { return &c.PasswordMaxAge }),
		durationSetting(fieldExpiryWarning, defaultExpiryWarning, zeroOrDays,
			func(c *store.Config) *time.Duration { return &c.ExpiryWarning }),
	}
}

// readPasswordChangedAt reads a time in any form in which people and tools write it. It returns an
// error if that cannot be what was meant.
func readPasswordChangedAt(given string, now time.Time) (time.Time, error) {
	at, err := parseutil.ParseAbsoluteTime(given)
	if err != nil {
		at, err = time.Parse(time.DateOnly, given)
	}
	latest := now.Add(24 * time.Hour)
	inMilliseconds := time.UnixMilli(at.Unix())
	switch {
	case err != nil:
		return time.Time{}, errors.New("not a time: give a day like 2026-11-03, RFC 3339 like 2026-11-03T00:00:00Z, " +
			"or Unix time in seconds")
	case at.After(latest) && inMilliseconds.After(earliestPassword) && inMilliseconds.Before(latest):
		return time.Time{}, errors.New("it is Unix time in milliseconds: give it in seconds, without the last three " +
			"digits")
	case at.After(latest):
		return time.Time{}, errors.New("it lies in the future: give the day on which the password was last set")
	case at.Before(earliestPassword):
		return time.Time{}, errors.New("it lies before 1980: give the day on which the password was last set, like " +
			"2026-11-03")
	}
	return at.UTC(), nil
}

// zeroOrDays checks a duration of whole days. If it is shorter than a day, somebody most likely
// gave days without a unit.
func zeroOrDays(value time.Duration) error {
	if value != 0 && value < 24*time.Hour {
		return fmt.Errorf("%s is too short: give 0 or at least a day, with the unit d for days, like 14d", value)
	}
	return nil
}

var inHex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checkSHA256 compares the given hash with that of the config's User-API token.
func checkSHA256(given string, config *store.Config, tokenGiven bool) error {
	given = strings.ToLower(strings.TrimSpace(given))
	of := func(token string) string { return (&store.Config{UserAPIToken: token}).UserAPITokenSHA256() }
	switch given {
	case of(config.UserAPIToken):
		return nil
	case of(config.UserAPIToken + "\n"), of(config.UserAPIToken + "\r\n"):
		return errors.New("it is the SHA-256 of the token with a line end after it: give that of the token alone")
	}
	switch {
	case !inHex.MatchString(given):
		return errors.New("not a SHA-256: give 64 hexadecimal digits, without what sha256sum prints after them")
	case tokenGiven:
		return errors.New("it is not that of the User-API token beside it: one of the two is of another token")
	}
	return errors.New("it is not that of the stored User-API token: give the token that it is of as user_api_token")
}

// checkCACert returns the bundle as it was given, or an error: declarative tools compare what they
// gave with what they read.
func checkCACert(given string) (string, error) {
	if pasted.HoldsPrivateKey(given) {
		return "", errors.New("it holds a private key, which everyone who may read this config would see: leave the " +
			"key out and give the certificates alone")
	}
	bundle := (&store.Config{CACert: given}).Authorities()
	if _, err := ncentral.NewTransport(ncentral.TransportOptions{CACert: bundle}); err != nil {
		return "", cmp.Or(pasted.DiagnoseBundle(bundle), err)
	}
	return given, nil
}

const longestHostName = 253

// hostName matches a name of labels as in RFC 1123, with or without a final dot.
var hostName = regexp.MustCompile(`(?i)^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\.?$`)

// checkServerName returns the name, or an error unless a certificate can hold it: it is a host name
// or an IP address. Every handshake sends the name unencrypted, so nothing else may get through.
func checkServerName(given string) (string, error) {
	name := strings.TrimSpace(given)
	address, err := netip.ParseAddr(name)
	switch {
	case name == "", err == nil && address.Zone() == "":
		return name, nil
	case len(strings.TrimSuffix(name, ".")) > longestHostName || !hostName.MatchString(name) || resemblesToken(name):
		return "", errors.New("not a host name: give the name alone, without scheme, port or path")
	}
	return name, nil
}
