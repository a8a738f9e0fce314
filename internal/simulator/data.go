// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"net/http"
	"strings"
)

const timeFormat = "2006-01-02T15:04:05.000Z"

func (s *Simulator) health() *answer {
	return okAnswer(map[string]string{"currentTime": s.serverClock().UTC().Format(timeFormat)})
}

// withAccessToken answers the calls that need a living access token.
func (s *Simulator) withAccessToken(incoming call) *answer {
	token, isBearer := strings.CutPrefix(incoming.authorization, bearerPrefix)
	if !isBearer {
		return errorAnswer(http.StatusUnauthorized, "UnauthorizedException: Missing authorization header bearer.")
	}
	p := s.holderOfAccess(token)
	if p == nil {
		return unauthorized()
	}
	switch incoming.endpoint {
	case EndpointValidate:
		return okAnswer(map[string]string{"message": "The token is valid."})
	case EndpointLogout:
		return s.logout(p)
	case EndpointServerInfo:
		return s.serverInfo()
	default:
		return s.serviceOrgs(p)
	}
}

// serverInfo answers without a startTime, or with a null version, where the knobs say so; servers do [S,O].
func (s *Simulator) serverInfo() *answer {
	info := map[string]any{"version": "3.1.0", "jvmVersion": "17.0.12", "ncentral": nil}
	if s.knobs.ServerVersion != "" {
		info["ncentral"] = s.knobs.ServerVersion
	}
	if !s.knobs.OmitStartTime {
		info["startTime"] = s.startTime.Add(s.knobs.ClockOffset).UTC().Format(timeFormat)
	}
	return okAnswer(info)
}

// serviceOrgs is the data call. It needs the core engine, which refuses a user whose password has expired [D,O].
func (s *Simulator) serviceOrgs(p *pair) *answer {
	if s.users[p.user].passwordExpired {
		return s.coreError(http.StatusInternalServerError, "UnexpectedDmsResponseException: The core engine answered in an unexpected way.")
	}
	if s.knobs.DataForbidden {
		return errorAnswer(http.StatusForbidden, "AccessDeniedException: Access is denied")
	}
	organisation := map[string]any{"soId": 50, "soName": "Example Service Organisation"}
	return okAnswer(map[string]any{"data": []any{organisation}, "totalItems": 1, "pageSize": 1, "pageNumber": 1})
}

// coreError is an error of the core engine behind the API: a status, or hidden in a 200 [D].
func (s *Simulator) coreError(status int, detail string) *answer {
	refusal := errorAnswer(status, detail)
	if s.knobs.HideCoreErrors {
		return hiddenErrorAnswer(s.knobs.HiddenErrorKey, refusal.outcome)
	}
	return refusal
}
