// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// AdminHandler returns a handler that changes and reads this server at run time, in JSON. It asks
// for no credentials and returns User-API tokens: serve it on loopback only.
//
//	GET    /counts                            calls by endpoint and outcome
//	POST   /counts/reset
//	GET    /knobs
//	PATCH  /knobs                             {"latency":"1s",...}: changes the knobs given
//	POST   /fail                              {"endpoint":"any","count":1,"kind":"status",...}
//	DELETE /fail                              removes all failures asked for
//	POST   /reboot
//	POST   /users                             {"name":"...","lifetime":"1h"}: returns user_api_token
//	POST   /users/{name}/regenerate           returns user_api_token
//	POST   /users/{name}/change-password      as an administrator does
//	POST   /users/{name}/password-expired     {"expired":true}
//	POST   /users/{name}/password-reset       {"required":true}
//	POST   /users/{name}/disabled             {"disabled":true}
//	POST   /users/{name}/locked               {"locked":true}
//	POST   /users/{name}/two-factor           {"type":"TOTP"}, or "NONE"
//	GET    /sessions                          {"open":n}
//	POST   /down                              {"down":true}
//
// The lifetime of a user's token is optional. Calls without a result return 204. An error is
// {"error":"..."}: 400 with the name of the field that is unknown or invalid, 404 for an unknown
// user, 409 where no server listens.
func (s *Simulator) AdminHandler() http.Handler {
	routes := http.NewServeMux()
	route := func(pattern string, handle func(*http.Request) (any, error)) {
		routes.HandleFunc(pattern, func(writer http.ResponseWriter, request *http.Request) {
			request.Body = http.MaxBytesReader(writer, request.Body, maxBodyBytes)
			result, err := handle(request)
			sendAdmin(writer, result, err)
		})
	}
	route("GET /counts", func(*http.Request) (any, error) { return s.Counts(), nil })
	route("POST /counts/reset", func(*http.Request) (any, error) { s.ResetCounts(); return nil, nil })
	route("GET /knobs", func(*http.Request) (any, error) { return s.Knobs(), nil })
	route("PATCH /knobs", s.adminKnobs)
	route("POST /fail", s.adminFail)
	route("DELETE /fail", func(*http.Request) (any, error) { s.ClearFailures(); return nil, nil })
	route("POST /reboot", func(*http.Request) (any, error) { s.Reboot(); return nil, nil })
	route("POST /users", s.adminAddUser)
	route("POST /users/{name}/regenerate", s.adminRegenerate)
	route("POST /users/{name}/change-password", s.adminChangePassword)
	route("POST /users/{name}/password-expired", adminSwitch("expired", s.SetPasswordExpired))
	route("POST /users/{name}/password-reset", adminSwitch("required", s.SetPasswordResetRequired))
	route("POST /users/{name}/disabled", adminSwitch("disabled", s.SetUserDisabled))
	route("POST /users/{name}/locked", adminSwitch("locked", s.SetUserLocked))
	route("POST /users/{name}/two-factor", s.adminTwoFactor)
	route("GET /sessions", func(*http.Request) (any, error) { return map[string]int{"open": s.OpenSessions()}, nil })
	route("POST /down", s.adminDown)
	return routes
}

// adminError is an error with a status. Any other error is a 400.
type adminError struct {
	status int
	err    error
}

func (e *adminError) Error() string { return e.err.Error() }

func sendAdmin(writer http.ResponseWriter, result any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadRequest
		if refused, ok := errors.AsType[*adminError](err); ok {
			status = refused.status
		}
		result = map[string]string{"error": err.Error()}
	}
	if result == nil {
		writer.WriteHeader(http.StatusNoContent)
		return
	}
	writer.Header().Set("Content-Type", "application/json")
	writer.WriteHeader(status)
	_, _ = writer.Write(append(toJSON(result), '\n')) // a client that has gone needs no answer
}

// readAdmin decodes a JSON object. Unknown fields are an error.
func readAdmin(request *http.Request, into any) error {
	decoder := json.NewDecoder(request.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the body must be a JSON object")
		}
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body must be one JSON object and nothing after it")
	}
	return nil
}

func (s *Simulator) adminKnobs(request *http.Request) (any, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := json.Unmarshal(body, &s.knobs); err != nil {
		return nil, err
	}
	return s.knobs, nil
}

func (s *Simulator) adminFail(request *http.Request) (any, error) {
	body := struct {
		Endpoint Endpoint `json:"endpoint"`
		Count    *int     `json:"count"`
		Failure
	}{}
	if err := readAdmin(request, &body); err != nil {
		return nil, err
	}
	if !body.Endpoint.isKnown() {
		return nil, fmt.Errorf("endpoint: no endpoint %q", body.Endpoint)
	}
	if body.Count == nil || *body.Count == 0 {
		return nil, errors.New("count: must be given: how many calls are to fail, negative for all until the " +
			"failures are cleared")
	}
	if err := body.Check(); err != nil {
		return nil, err
	}
	s.FailNext(body.Endpoint, *body.Count, body.Failure)
	return nil, nil
}

func (s *Simulator) adminAddUser(request *http.Request) (any, error) {
	var body struct {
		Name     string  `json:"name"`
		Lifetime *string `json:"lifetime"`
	}
	if err := readAdmin(request, &body); err != nil {
		return nil, err
	}
	if body.Name == "" {
		return nil, errors.New("name: must be given")
	}
	if s.hasUser(body.Name) {
		return nil, fmt.Errorf("name: there is a user %q already", body.Name)
	}
	var lifetime time.Duration
	if body.Lifetime != nil {
		parsed, err := time.ParseDuration(*body.Lifetime)
		if err != nil || parsed < time.Second {
			return nil, errors.New("lifetime: must be a duration such as \"90s\", of at least 1s")
		}
		lifetime = parsed
	}
	return userAPITokenBody(s.AddUserExpiring(body.Name, lifetime)), nil
}

func (s *Simulator) adminRegenerate(request *http.Request) (any, error) {
	token, err := s.RegenerateUserAPIToken(request.PathValue("name"))
	return userAPITokenBody(token), notFound(err)
}

func userAPITokenBody(token string) map[string]string {
	return map[string]string{"user_api_token": token}
}

func (s *Simulator) adminChangePassword(request *http.Request) (any, error) {
	return nil, notFound(s.ChangePassword(request.PathValue("name")))
}

// adminSwitch returns a handler for an object with one boolean field, about the user in the path.
func adminSwitch(field string, set func(name string, on bool) error) func(*http.Request) (any, error) {
	return func(request *http.Request) (any, error) {
		var body map[string]*bool
		if err := readAdmin(request, &body); err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		for name := range body {
			if name != field {
				return nil, fmt.Errorf("unknown field %q", name)
			}
		}
		if body[field] == nil {
			return nil, fmt.Errorf("%s: must be true or false", field)
		}
		return nil, notFound(set(request.PathValue("name"), *body[field]))
	}
}

func (s *Simulator) adminTwoFactor(request *http.Request) (any, error) {
	var body struct {
		Type string `json:"type"`
	}
	if err := readAdmin(request, &body); err != nil {
		return nil, err
	}
	if body.Type == "" {
		return nil, fmt.Errorf("type: must be given, %q for none", noTwoFactor)
	}
	return nil, notFound(s.SetTwoFactorType(request.PathValue("name"), body.Type))
}

func notFound(err error) error {
	if err != nil {
		return &adminError{http.StatusNotFound, err}
	}
	return nil
}

func (s *Simulator) adminDown(request *http.Request) (any, error) {
	var body struct {
		Down *bool `json:"down"`
	}
	if err := readAdmin(request, &body); err != nil {
		return nil, err
	}
	if body.Down == nil {
		return nil, errors.New("down: must be true or false")
	}
	if err := s.SetDown(*body.Down); err != nil {
		return nil, &adminError{http.StatusConflict, err}
	}
	return nil, nil
}
