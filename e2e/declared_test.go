// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Every answer is held against the OpenAPI document.

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// OpenAPI documents, read once, for the server fails to draw its own while another test unmounts.
// Set by TestMain.
var (
	wholeDocument *openapi3.T // the server's, of all its mounts
	// ownDocument is what the engine says of itself, which the help on its mount has. Every answer
	// that the tests see is held against it.
	ownDocument *openapi3.T
	// The operations of ownDocument by method and path.
	declared map[string]*openapi3.Operation
)

// declaredMount is where the engine is mounted while the documents are read.
const declaredMount = "declared"

// readDeclared reads the documents of a server that runs no test yet.
func readDeclared(ctx context.Context, server *testbed.Server) error {
	if err := server.Mount(ctx, declaredMount, plugin, api.MountConfigInput{}); err != nil {
		return err
	}
	whole, err := readBody(ctx, server, "sys/internal/specs/openapi", nil)
	if err != nil {
		return err
	}
	if wholeDocument, err = openapi3.NewLoader().LoadFromData(whole); err != nil {
		return err
	}
	help, err := readBody(ctx, server, declaredMount+"/", url.Values{"help": {"1"}})
	if err != nil {
		return err
	}
	var own struct{ OpenAPI json.RawMessage }
	if err := json.Unmarshal(help, &own); err != nil {
		return err
	}
	if ownDocument, err = openapi3.NewLoader().LoadFromData(own.OpenAPI); err != nil {
		return err
	}
	if declared, err = operationsToHoldAgainst(own.OpenAPI); err != nil {
		return err
	}
	return server.Client().Sys().UnmountWithContext(ctx, declaredMount)
}

// readBody returns an answer's body as it is.
func readBody(ctx context.Context, server *testbed.Server, path string, query url.Values) ([]byte, error) {
	response, err := server.Client().Logical().ReadRawWithDataWithContext(ctx, path, query)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// operationsToHoldAgainst returns the document's operations, closed.
func operationsToHoldAgainst(document []byte) (map[string]*openapi3.Operation, error) {
	loaded, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, err
	}
	operations := map[string]*openapi3.Operation{}
	for path, item := range loaded.Paths.Map() {
		for method, operation := range item.Operations() {
			closeAnswers(operation)
			operations[method+" "+strings.TrimPrefix(path, "/")] = operation
		}
	}
	return operations, nil
}

// closeAnswers has the operation's answers hold no field that is not declared. The document does
// not say so itself: who reads an answer must bear that a later version adds to it.
func closeAnswers(operation *openapi3.Operation) {
	for _, response := range operation.Responses.Map() {
		for _, content := range response.Value.Content {
			closeObjects(content.Schema)
		}
	}
}

func closeObjects(schema *openapi3.SchemaRef) {
	if schema == nil {
		return
	}
	closeObjects(schema.Value.Items)
	closeObjects(schema.Value.AdditionalProperties.Schema)
	for _, property := range schema.Value.Properties {
		closeObjects(property)
	}
	if schema.Value.Type.Is("object") && schema.Value.AdditionalProperties.Schema == nil {
		nothing := false
		schema.Value.AdditionalProperties.Has = &nothing
	}
}

// expectDeclared fails the test where an answer is not as it is declared: a status, field or type
// that is not, or a required field that is missing. Errors are in Vault's own form; nothing at a
// path is Vault's own 404; a wrapped answer is not here.
func (m *mount) expectDeclared(r request, secret *api.Secret) {
	if secret == nil && (r.operation == opRead || r.operation == opList) || secret != nil && secret.WrapInfo != nil {
		return
	}
	if err := holdAgainstDeclared(r, secret); err != nil {
		m.t.Errorf("%s %s: the answer is not as declared: %v", r.operation, r.path, err)
	}
}

func holdAgainstDeclared(r request, secret *api.Secret) error {
	operation := declared[declaredName(r)]
	if operation == nil {
		return fmt.Errorf("%s is not declared", declaredName(r))
	}
	status, data := http.StatusNoContent, map[string]any{}
	if secret != nil {
		status = http.StatusOK
		maps.Copy(data, secret.Data)
	}
	response := operation.Responses.Status(status)
	if response == nil {
		return fmt.Errorf("a %d is not declared", status)
	}
	content := response.Value.Content["application/json"]
	if content == nil {
		if len(data) > 0 {
			return fmt.Errorf("%d fields, where none is declared", len(data))
		}
		return nil
	}
	return holdAgainst(content.Schema.Value, data)
}

// holdAgainst checks the data. The schema's own errors quote what they find, so tokens are taken
// out of it before.
func holdAgainst(schema *openapi3.Schema, data map[string]any) error {
	if token, ok := data["access_token"].(string); ok {
		data["access_token"] = fingerprint(token)
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return err
	}
	var plain any
	if err := json.Unmarshal(encoded, &plain); err != nil {
		return err
	}
	return schema.VisitJSON(
		plain, openapi3.MultiErrors(), openapi3.EnableFormatValidation(), openapi3.DisableSchemaErrorDetails(),
	)
}

// declaredName is under which name the operation of a request is declared.
func declaredName(r request) string {
	methods := map[operation]string{
		opRead: http.MethodGet, opList: http.MethodGet, opWrite: http.MethodPost, opPatch: http.MethodPatch,
		opDelete: http.MethodDelete,
	}
	parts := strings.Split(r.path, "/")
	if len(parts) > 1 {
		parts[1] = "{name}"
	}
	if r.operation == opList {
		parts = append(parts, "")
	}
	return methods[r.operation] + " " + strings.Join(parts, "/")
}
