// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The OpenAPI document is valid and complete.

package e2e

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestServerPublishesTheEnginesDocument has the server's own document, which tools and web UIs
// read, hold the engine's as it is, save what this kind of server drops.
func TestServerPublishesTheEnginesDocument(t *testing.T) {
	t.Parallel()
	own, published := ownDocument.Paths.Map(), map[string]*openapi3.PathItem{}
	for path, item := range wholeDocument.Paths.Map() {
		if below, ok := strings.CutPrefix(path, "/"+declaredMount); ok {
			published[below] = item
		}
	}
	want, got := asJSON(t, own), asJSON(t, published)
	if serverKind.dropsOfDocument {
		want, got = withoutDropped(want), withoutDropped(got)
	}
	expectSame(t, want, got)
}

func asJSON(t *testing.T, value any) any {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// withoutDropped returns the document without the PATCH operations and what maps hold.
func withoutDropped(document any) any {
	object, ok := document.(map[string]any)
	if !ok {
		return document
	}
	kept := map[string]any{}
	for name, value := range object {
		if name != "patch" && name != "additionalProperties" {
			kept[name] = withoutDropped(value)
		}
	}
	return kept
}

// TestOpenAPIDocumentIsValid is about what the server publishes of the engine's paths. They refer
// to no components, and Vault's own are not valid: they have numbers as the defaults of durations,
// which are strings.
func TestOpenAPIDocumentIsValid(t *testing.T) {
	t.Parallel()
	published := *wholeDocument
	published.Paths, published.Components = openapi3.NewPaths(), nil
	for path, item := range wholeDocument.Paths.Map() {
		if strings.HasPrefix(path, "/"+declaredMount+"/") {
			published.Paths.Set(path, item)
		}
	}
	if published.Paths.Len() == 0 {
		t.Error("the document has nothing of the engine")
	}
	for name, document := range map[string]*openapi3.T{"published": &published, "the engine's own": ownDocument} {
		if err := document.Validate(t.Context(), openapi3.EnableMultiError()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var operationID = regexp.MustCompile(`^ncentral(-[a-z]+)+$`)

func TestOpenAPIDocumentDescribesEveryOperation(t *testing.T) {
	t.Parallel()
	ids := map[string]string{}
	for name, operation := range declared {
		if operation.Summary == "" || operation.Description == "" {
			t.Errorf("%s: the summary is %q, the description %q", name, operation.Summary, operation.Description)
		}
		if !operationID.MatchString(operation.OperationID) || ids[operation.OperationID] != "" {
			t.Errorf(
				"%s: its operation id is %q, as that of %q", name, operation.OperationID, ids[operation.OperationID],
			)
		}
		ids[operation.OperationID] = name
		if len(operation.Tags) != 1 {
			t.Errorf("%s: its tags are %q, want one", name, operation.Tags)
		}
		for _, parameter := range operation.Parameters {
			if parameter.Value.Description == "" && parameter.Value.Name != "list" || parameter.Value.Schema == nil ||
				parameter.Value.Schema.Value.Type == nil {
				t.Errorf("%s: parameter %s has no description or no type", name, parameter.Value.Name)
			}
		}
		if operation.RequestBody != nil {
			for media, content := range operation.RequestBody.Value.Content {
				expectForm(t, name+": "+media, content.Schema.Value)
			}
		}
		expectTypedAnswers(t, name, operation)
	}
}

// expectForm holds what is sent against what a form needs: a label and a group for every field, and
// words of its own.
func expectForm(t *testing.T, name string, schema *openapi3.Schema) {
	t.Helper()
	if len(schema.Properties) == 0 {
		t.Errorf("%s: there is no field", name)
	}
	for field, property := range schema.Properties {
		display := displayOf(property.Value)
		if property.Value.Description == "" || property.Value.Type == nil || display["name"] == nil ||
			display["group"] == nil {
			t.Errorf("%s: %s lacks a description, type, label or group", name, field)
		}
	}
}

// expectTypedAnswers holds an operation's answers to having types, save those that hold nothing but
// warnings.
func expectTypedAnswers(t *testing.T, name string, operation *openapi3.Operation) {
	t.Helper()
	answers := operation.Responses.Map()
	for status, response := range answers {
		if *response.Value.Description == "" {
			t.Errorf("%s: %s has no description", name, status)
		}
		if len(response.Value.Content) == 0 && status != "204" && answers["204"] == nil {
			t.Errorf("%s: %s has no type", name, status)
		}
		for _, content := range response.Value.Content {
			expectTyped(t, name+": "+status, content.Schema.Value)
		}
	}
	if len(answers) == 0 {
		t.Errorf("%s: no answer is declared", name)
	}
}

// expectTyped holds every field of an object to having a type and a description, whatever it holds
// in turn too.
func expectTyped(t *testing.T, name string, schema *openapi3.Schema) {
	t.Helper()
	if schema.Type == nil || schema.Type.Is("object") && len(schema.Properties) == 0 &&
		schema.AdditionalProperties.Schema == nil {
		t.Errorf("%s: it has no type", name)
	}
	for field, property := range schema.Properties {
		if property.Value.Description == "" {
			t.Errorf("%s: %s has no description", name, field)
		}
		expectTyped(t, name+"."+field, property.Value)
	}
	for _, inner := range []*openapi3.SchemaRef{schema.Items, schema.AdditionalProperties.Schema} {
		if inner != nil {
			expectTyped(t, name+" of", inner.Value)
		}
	}
}

func displayOf(schema *openapi3.Schema) map[string]any {
	display, _ := schema.Extensions["x-vault-displayAttrs"].(map[string]any)
	return display
}

func TestOpenAPIDocumentMarksSecretsAndNothingElse(t *testing.T) {
	t.Parallel()
	found := map[string]int{}
	for name, operation := range declared {
		for field, property := range allFields(operation) {
			secret := field == "user_api_token" || field == "access_token"
			if sensitive, _ := displayOf(property.Value)["sensitive"].(bool); sensitive != secret {
				t.Errorf("%s: %s is marked as sensitive: %t", name, field, sensitive)
			}
			if secret {
				found[field]++
			}
		}
	}
	// Written and patched, read by GET and by POST.
	expectSame(t, map[string]int{"user_api_token": 2, "access_token": 2}, found)
}

// allFields are the fields of what an operation takes and answers.
func allFields(operation *openapi3.Operation) openapi3.Schemas {
	fields := openapi3.Schemas{}
	if operation.RequestBody != nil {
		for _, content := range operation.RequestBody.Value.Content {
			maps.Copy(fields, content.Schema.Value.Properties)
		}
	}
	for _, response := range operation.Responses.Map() {
		for _, content := range response.Value.Content {
			maps.Copy(fields, content.Schema.Value.Properties)
		}
	}
	return fields
}

func TestOpenAPIDocumentTellsHowParametersAreSent(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][]string{
		"creds/{name}": {"min_ttl", "validate"},
		"config/":      {"after", "limit", "list"},
		"roles/":       {"after", "limit", "list"},
		"sessions/":    {"after", "limit", "list"},
	} {
		var query []string
		for _, parameter := range declared["GET "+path].Parameters {
			if parameter.Value.In == openapi3.ParameterInQuery {
				query = append(query, parameter.Value.Name)
			}
		}
		expectSame(t, want, query)
	}
	for _, path := range []string{"config/{name}", "roles/{name}"} {
		post := declared["POST "+path].RequestBody.Value.Content
		patch := declared["PATCH "+path].RequestBody.Value.Content
		if post["application/json"] == nil || patch["application/merge-patch+json"] == nil ||
			len(post)+len(patch) != 2 {
			t.Errorf(
				"%s: POST takes %v, PATCH %v", path, slices.Collect(maps.Keys(post)), slices.Collect(maps.Keys(patch)),
			)
		}
	}
}

// TestTokensComeFirstInAnExplorer puts the operations into the order of Vault's web UI, which is
// Swagger UI's: the groups as they appear in the document, whose paths are sorted; in each, the
// operations by path.
func TestTokensComeFirstInAnExplorer(t *testing.T) {
	t.Parallel()
	var tags []string
	operations := map[string][]string{}
	for _, path := range slices.Sorted(maps.Keys(wholeDocument.Paths.Map())) {
		item := wholeDocument.Paths.Value(path)
		for _, operation := range []*openapi3.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if operation == nil {
				continue
			}
			tag := operation.Tags[0]
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
			if below, ok := strings.CutPrefix(path, "/"+declaredMount+"/"); ok {
				operations[tag] = append(operations[tag], below)
			}
		}
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool { return operations[tag] == nil })
	expectSame(t, []string{"secrets", "N-central setup", "N-central operations"}, tags)
	expectSame(t, []string{"creds/{name}", "creds/{name}"}, operations["secrets"])
}
