// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"net/http"
	"strings"
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// root returns where the other calls are [S].
func root() *answer {
	return okAnswer(map[string]any{"_links": map[string]string{
		"root": rootPath, "auth": linksPath, "health": healthPath, "server-info": serverInfoPath,
	}})
}

func (s *Simulator) health() *answer {
	return okAnswer(map[string]string{"currentTime": s.serverClock().UTC().Format(timeFormat)})
}

// withAccessToken handles the calls that need a valid access token.
func (s *Simulator) withAccessToken(incoming call) *answer {
	token, isBearer := strings.CutPrefix(incoming.authorization, bearerPrefix)
	if !isBearer {
		return errorAnswer(http.StatusUnauthorized, "UnauthorizedException: Missing authorization header bearer.")
	}
	p := s.pairByAccess(token)
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
	case EndpointServerTime:
		return s.serverTime()
	case EndpointUser:
		return s.user(s.users[p.user])
	default:
		return s.serviceOrgs(p)
	}
}

// serverInfo leaves out startTime, or has a null version, where the knobs say so. Real servers do
// both [S,O].
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

// serverTime returns the same clock as health, of a server in UTC [S].
func (s *Simulator) serverTime() *answer {
	now := s.serverClock().UTC().Format("2006-01-02T15:04:05-07:00")
	return okAnswer(map[string]string{"serverTime": now, "timezone": "Etc/UTC", "utcOffset": "+00:00"})
}

// user returns the caller's profile. It needs a permission [S]. Whether it needs the core engine,
// which rejects a user whose password has expired, is not known [?].
func (s *Simulator) user(u *user) *answer {
	switch {
	case u.passwordExpired && s.knobs.ExpiredPasswordFailsUser:
		return s.coreError(http.StatusInternalServerError, coreFailed)
	case s.knobs.UserForbidden:
		return forbidden()
	}
	return okAnswer(map[string]any{"status": http.StatusOK, "message": "The user was found.", "data": u.profile()})
}

// serviceOrgs is the data call. It needs the core engine, which rejects a user whose password has
// expired [D,O].
func (s *Simulator) serviceOrgs(p *pair) *answer {
	if s.users[p.user].passwordExpired {
		return s.coreError(http.StatusInternalServerError, coreFailed)
	}
	if s.knobs.DataForbidden {
		return forbidden()
	}
	return okAnswer(map[string]any{"data": []any{serviceOrganisation}, "totalItems": 1})
}

// serviceOrganisation has every field of N-central's [S].
var serviceOrganisation = map[string]any{
	"soId": "50", "soName": "Example Service Organisation", "orgUnitType": "SO", "parentId": "1",
	"externalId": "", "externalId2": "", "phone": "",
	"contactTitle": "", "contactFirstName": "", "contactLastName": "", "contactEmail": "contact@example.com",
	"contactPhone": "", "contactPhoneExt": nil, "contactDepartment": "",
	"street1": "1 Example Street", "street2": "", "city": "Exampleton", "stateProv": "", "country": "CA",
	"postalCode": "",
	"generation": 1, "descendantCount": 3, "isSystem": false, "isServiceOrg": true,
}

const coreFailed = "UnexpectedDmsResponseException: The core engine answered in an unexpected way."

func forbidden() *answer {
	return errorAnswer(http.StatusForbidden, "AccessDeniedException: Access is denied")
}

// coreError returns an error of the core engine behind the API: with a status, or hidden in a 200
// [D].
func (s *Simulator) coreError(status int, detail string) *answer {
	refusal := errorAnswer(status, detail)
	if s.knobs.HideCoreErrors {
		return hiddenErrorAnswer(s.knobs.HiddenErrorKey, refusal.outcome)
	}
	return refusal
}
