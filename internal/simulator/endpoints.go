// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"io"
	"net/http"
	"strings"
)

// Endpoint is a call of N-central's API.
type Endpoint string

// The endpoints. EndpointOther stands for every path that N-central does not have; AnyEndpoint
// matches all.
const (
	EndpointRoot         Endpoint = "root"
	EndpointLinks        Endpoint = "links"
	EndpointAuthenticate Endpoint = "authenticate"
	EndpointRefresh      Endpoint = "refresh"
	EndpointValidate     Endpoint = "validate"
	EndpointLogout       Endpoint = "logout"
	EndpointSSO          Endpoint = "sso"
	EndpointHealth       Endpoint = "health"
	EndpointServerInfo   Endpoint = "server_info"
	EndpointServerTime   Endpoint = "server_time"
	EndpointUser         Endpoint = "user"
	EndpointServiceOrgs  Endpoint = "service_orgs"
	EndpointOther        Endpoint = "other"
	AnyEndpoint          Endpoint = "any"
)

// isKnown reports whether failures can be asked for at this endpoint.
func (e Endpoint) isKnown() bool {
	if e == EndpointOther || e == AnyEndpoint {
		return true
	}
	for _, route := range routes {
		if route.endpoint == e {
			return true
		}
	}
	return false
}

const (
	rootPath         = "/api"
	linksPath        = "/api/auth"
	authenticatePath = "/api/auth/authenticate"
	refreshPath      = "/api/auth/refresh"
	validatePath     = "/api/auth/validate"
	logoutPath       = "/api/auth/logout"
	ssoPath          = "/api/auth/sso"
	healthPath       = "/api/health"
	serverInfoPath   = "/api/server-info"
)

// route is an endpoint and the method that calls it.
type route struct {
	endpoint Endpoint
	method   string
}

var routes = map[string]route{
	rootPath:                {EndpointRoot, http.MethodGet},
	linksPath:               {EndpointLinks, http.MethodGet},
	authenticatePath:        {EndpointAuthenticate, http.MethodPost},
	refreshPath:             {EndpointRefresh, http.MethodPost},
	validatePath:            {EndpointValidate, http.MethodGet},
	logoutPath:              {EndpointLogout, http.MethodPost},
	ssoPath:                 {EndpointSSO, http.MethodPost},
	healthPath:              {EndpointHealth, http.MethodGet},
	serverInfoPath:          {EndpointServerInfo, http.MethodGet},
	"/api/server-info/time": {EndpointServerTime, http.MethodGet},
	"/api/users/me":         {EndpointUser, http.MethodGet},
	"/api/service-orgs":     {EndpointServiceOrgs, http.MethodGet},
}

// routeOf returns the route at a path. A double slash makes a different path, and so a 404 [O].
func routeOf(path string) route {
	if known, ok := routes[path]; ok {
		return known
	}
	return route{endpoint: EndpointOther}
}

const (
	accessOverrideHeader  = "X-ACCESS-EXPIRY-OVERRIDE"
	refreshOverrideHeader = "X-REFRESH-EXPIRY-OVERRIDE"
	bearerPrefix          = "Bearer "
	maxBodyBytes          = 64 << 10
)

// call is a request in the form that the endpoints need.
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
	failure         Failure // the failure of this call, if any
}

// readCall reads the request to its end. Only then does net/http notice a client that goes away.
func readCall(request *http.Request) call {
	// An incomplete body is rejected for what is missing.
	body, _ := io.ReadAll(io.LimitReader(request.Body, maxBodyBytes))
	route := routeOf(request.URL.Path)
	return call{
		endpoint:        route.endpoint,
		method:          request.Method,
		allowedMethod:   route.method,
		path:            request.URL.Path,
		authorization:   request.Header.Get("Authorization"),
		contentType:     request.Header.Get("Content-Type"),
		body:            string(body),
		accessOverride:  request.Header.Get(accessOverrideHeader),
		refreshOverride: request.Header.Get(refreshOverrideHeader),
		userAgent:       request.UserAgent(),
	}
}

// secrets returns what may be a secret in the call, in the header and in the body.
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
