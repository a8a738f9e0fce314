// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// description is what is known of N-central's calls. Requests and answers are checked against it.
type description struct {
	document *openapi3.T
	router   routers.Router
}

var described = sync.OnceValue(func() *description {
	loaded, err := openapi3.NewLoader().LoadFromFile("testdata/openapi.yaml")
	if err != nil {
		panic(err)
	}
	for _, schema := range loaded.Components.Schemas {
		closeObjects(schema)
	}
	for _, item := range loaded.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, response := range operation.Responses.Map() {
				for _, content := range response.Value.Content {
					closeObjects(content.Schema)
				}
			}
		}
	}
	router, err := legacy.NewRouter(loaded) // this also validates the document
	if err != nil {
		panic(err)
	}
	return &description{document: loaded, router: router}
})

// closeObjects forbids fields that are not described: the simulator must send nothing that
// N-central is not known to send.
func closeObjects(schema *openapi3.SchemaRef) {
	if schema == nil {
		return
	}
	closeObjects(schema.Value.Items)
	for _, alternative := range schema.Value.OneOf {
		closeObjects(alternative)
	}
	for _, property := range schema.Value.Properties {
		closeObjects(property)
	}
	if schema.Value.Type.Is("object") {
		nothing := false
		schema.Value.AdditionalProperties.Has = &nothing
	}
}

// validationOptions keep the errors from quoting what they are about, which may hold tokens.
var validationOptions = &openapi3filter.Options{
	IncludeResponseStatus:             true,
	RejectWhenRequestBodyNotSpecified: true,
	AuthenticationFunc:                needsBearer,
	SchemaValidationOptions: []openapi3.SchemaValidationOption{
		openapi3.EnableFormatValidation(), openapi3.DisableSchemaErrorDetails(),
	},
}

func needsBearer(_ context.Context, input *openapi3filter.AuthenticationInput) error {
	if token, ok := strings.CutPrefix(input.RequestValidationInput.Request.Header.Get("Authorization"),
		bearerPrefix); !ok || token == "" {
		return errors.New("there is no bearer token")
	}
	return nil
}

// input finds the operation of a request. The description applies to any address.
func (d *description) input(request *http.Request) (*openapi3filter.RequestValidationInput, error) {
	local := request.Clone(request.Context())
	local.URL.Scheme, local.URL.Host = "", ""
	found, parameters, err := d.router.FindRoute(local)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", request.Method, request.URL.Path, err)
	}
	return &openapi3filter.RequestValidationInput{
		Request: local, PathParams: parameters, Route: found,
		Options: validationOptions,
	}, nil
}

// checkRequest returns how the request differs from the description. The body can be read again
// afterwards.
func (d *description) checkRequest(request *http.Request) error {
	body := []byte{}
	if request.Body != nil {
		var err error
		if body, err = io.ReadAll(request.Body); err != nil {
			return err
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
	}
	input, err := d.input(request)
	if err != nil {
		return err
	}
	input.Request.Body = io.NopCloser(bytes.NewReader(body))
	operation := input.Route.Operation
	if len(*operation.Security) == 0 && request.Header.Get("Authorization") != "" {
		return fmt.Errorf("%s takes no Authorization", operation.OperationID)
	}
	for name := range input.Request.URL.Query() {
		if operation.Parameters.GetByInAndName(openapi3.ParameterInQuery, name) == nil {
			return fmt.Errorf("%s takes no %s", operation.OperationID, name)
		}
	}
	return openapi3filter.ValidateRequest(request.Context(), input)
}

// checkAnswer returns how the answer to the request differs from the description. A path or method
// that N-central does not have must be answered with an error in N-central's form.
func (d *description) checkAnswer(request *http.Request, answered response) error {
	input, err := d.input(request)
	if err != nil {
		if answered.status != http.StatusNotFound && answered.status != http.StatusMethodNotAllowed {
			return err
		}
		return d.holdError(answered.body)
	}
	declared := input.Route.Operation.Responses.Status(answered.status)
	if declared != nil && len(declared.Value.Content) == 0 && answered.body != "" {
		return fmt.Errorf("%s: a body of %d bytes, where there is none", input.Route.Operation.OperationID,
			len(answered.body))
	}
	output := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answered.status, Header: answered.header, Options: validationOptions,
	}
	if err := openapi3filter.ValidateResponse(request.Context(),
		output.SetBodyBytes([]byte(answered.body))); err != nil {
		return fmt.Errorf("%s: status %d: %w", input.Route.Operation.OperationID, answered.status, err)
	}
	return nil
}

func (d *description) holdError(body string) error {
	var plain any
	if err := decodeJSON(body, &plain); err != nil {
		return err
	}
	return d.document.Components.Schemas["Error"].Value.VisitJSON(plain)
}

func TestDescriptionHasAllEndpointsAndNoOther(t *testing.T) {
	inDescription := described().document.Paths.Map()
	for path, route := range routes {
		item := inDescription[path]
		if item == nil || item.Operations()[route.method] == nil || len(item.Operations()) != 1 {
			t.Errorf("%s %s is not described, or not alone", route.method, path)
			continue
		}
		wantEqual(t, path, item.Operations()[route.method].OperationID, string(route.endpoint))
	}
	wantEqual(t, "paths", len(inDescription), len(routes))
}
