// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// maxLifetime limits absurd lifetimes from a client or a failure: 100 years.
const maxLifetime = 100 * 365 * 24 * time.Hour

// grant is a lifetime as this server keeps it and as it states it. The two are equal wherever a
// lifetime can be what is stated.
type grant struct {
	lifetime time.Duration
	stated   json.Number
}

func newGrant(lifetime time.Duration) grant {
	lifetime = lifetime.Truncate(time.Second)
	return grant{lifetime: lifetime, stated: json.Number(strconv.FormatInt(int64(lifetime/time.Second), 10))}
}

// grants returns the lifetimes of the pair of tokens that the call asks for, or the refusal.
func (s *Simulator) grants(incoming call) (access, refresh grant, refusal *answer) {
	var refused []fieldError
	access, reason := s.grantFor(incoming.accessOverride, s.knobs.AccessLimit)
	if reason != "" {
		refused = append(refused, fieldError{Field: accessOverrideHeader, Message: reason})
	}
	refresh, reason = s.grantFor(incoming.refreshOverride, s.knobs.RefreshLimit)
	if reason != "" {
		refused = append(refused, fieldError{Field: refreshOverrideHeader, Message: reason})
	}
	if len(refused) > 0 {
		return grant{}, grant{}, s.overridesRefused(refused)
	}
	return incoming.failure.alterGrant(access), refresh, nil
}

// grantFor honours an override within the system-wide limit [D], or treats it as the knobs say [?].
func (s *Simulator) grantFor(override string, limit time.Duration) (granted grant, refused string) {
	if override == "" || s.knobs.IgnoreOverrides {
		return newGrant(limit), ""
	}
	asked, ok := parseOverride(override)
	switch {
	case !ok && s.knobs.IgnoreBadOverrides:
		return newGrant(limit), ""
	case !ok:
		return grant{}, "must be an integer followed by s, m or h"
	case asked > limit && s.knobs.RefuseLongOverrides:
		return grant{}, "cannot exceed the system-wide setting"
	}
	return newGrant(min(asked, limit) + s.knobs.GrantLongerBy), ""
}

// parseOverride parses an override in N-able's documented form, <integer><s|m|h> [D].
func parseOverride(override string) (time.Duration, bool) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour}
	unit, ok := units[override[len(override)-1]]
	if !ok {
		return 0, false
	}
	count, err := strconv.ParseUint(override[:len(override)-1], 10, 63)
	if err != nil || count == 0 {
		return 0, false
	}
	return time.Duration(min(count, uint64(maxLifetime/unit))) * unit, true
}

// overridesRefused names the headers, or does not say what is wrong with the request [?].
func (s *Simulator) overridesRefused(refused []fieldError) *answer {
	if !s.knobs.OverrideErrorsNameField {
		return errorAnswer(http.StatusBadRequest, "ConstraintViolationException: An expiry override is not valid.")
	}
	detail := "ConstraintViolationException: " + refused[0].Field + " " + refused[0].Message
	return errorAnswer(http.StatusBadRequest, detail, refused...)
}
