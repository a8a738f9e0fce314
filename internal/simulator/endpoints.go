// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"io"
	"net/http"
	"strings"
)

// Endpoint is a call of N-central's API, or of none.
type Endpoint string

// The endpoints. EndpointOther stands for every path that is none of N-central's; AnyEndpoint matches all.
const (
	EndpointLinks        Endpoint = "links"
	EndpointAuthenticate Endpoint = "authenticate"
	EndpointRefresh      Endpoint = "refresh"
	EndpointValidate     Endpoint = "validate"
	EndpointLogout       Endpoint = "logout"
	EndpointHealth       Endpoint = "health"
	EndpointServerInfo   Endpoint = "server_info"
	EndpointServiceOrgs  Endpoint = "service_orgs"
	EndpointOther        Endpoint = "other"
	AnyEndpoint          Endpoint = "any"
)

// known says whether a failure can be asked for at this endpoint.
func (e Endpoint) known() bool {
	switch e {
	case EndpointLinks, EndpointAuthenticate, EndpointRefresh, EndpointValidate, EndpointLogout, EndpointHealth,
		EndpointServerInfo, EndpointServiceOrgs, EndpointOther, AnyEndpoint:
		return true
	}
	return false
}

const (
	authenticatePath = "/api/auth/authenticate"
	refreshPath      = "/api/auth/refresh"
	validatePath     = "/api/auth/validate"
)

// endpointOf answers the endpoint at a path and its method. A doubled slash makes another path, so a 404 [O].
func endpointOf(path string) (endpoint Endpoint, method string) {
	switch path {
	case "/api/auth":
		return EndpointLinks, http.MethodGet
	case authenticatePath:
		return EndpointAuthenticate, http.MethodPost
	case refreshPath:
		return EndpointRefresh, http.MethodPost
	case validatePath:
		return EndpointValidate, http.MethodGet
	case "/api/auth/logout":
		return EndpointLogout, http.MethodPost
	case "/api/health":
		return EndpointHealth, http.MethodGet
	case "/api/server-info":
		return EndpointServerInfo, http.MethodGet
	case "/api/service-orgs":
		return EndpointServiceOrgs, http.MethodGet
	}
	return EndpointOther, ""
}

const (
	accessOverrideHeader  = "X-ACCESS-EXPIRY-OVERRIDE"
	refreshOverrideHeader = "X-REFRESH-EXPIRY-OVERRIDE"
	bearerPrefix          = "Bearer "
	maxBodyBytes          = 64 << 10
)

// call is a request as the endpoints see it.
type call struct {
	endpoint        Endpoint
	method          string
	allowedMethod   string
	path            string
	authorization   string
	contentType     string
	body            string
	accessOverride  string
	refreshOverride string
	userAgent       string
	failure         Failure // the one that this call is to suffer, if any
}

// readCall reads the request to its end: only then does net/http notice a client that goes away.
func readCall(request *http.Request) call {
	body, _ := io.ReadAll(io.LimitReader(request.Body, maxBodyBytes)) // a body broken off is refused for what it lacks
	endpoint, method := endpointOf(request.URL.Path)
	return call{
		endpoint:        endpoint,
		method:          request.Method,
		allowedMethod:   method,
		path:            request.URL.Path,
		authorization:   request.Header.Get("Authorization"),
		contentType:     request.Header.Get("Content-Type"),
		body:            string(body),
		accessOverride:  request.Header.Get(accessOverrideHeader),
		refreshOverride: request.Header.Get(refreshOverrideHeader),
		userAgent:       request.UserAgent(),
	}
}

// secrets are what the call brought that may be one, wherever it stood.
func (c call) secrets() []string {
	var brought []string
	if token := strings.TrimPrefix(c.authorization, bearerPrefix); token != "" {
		brought = append(brought, token)
	}
	if c.body != "" {
		brought = append(brought, c.body)
	}
	return brought
}
