// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// helpWidth is how wide a line of path-help may be.
const helpWidth = 80

// CompleteHelp completes the SDK's answer to a request for help. It wraps the text, so that it fits
// a terminal. It adds to the OpenAPI document what the SDK leaves out; the web UIs show that
// document in their API explorer.
func CompleteHelp(response *logical.Response, route func(path string) *framework.Path) {
	if text, ok := response.Data["help"].(string); ok {
		response.Data["help"] = wrapLines(text)
	}
	document, ok := response.Data["openapi"].(*framework.OASDocument)
	if !ok {
		return
	}
	for name, item := range document.Paths {
		path := route(strings.NewReplacer("{", "", "}", "").Replace(name[1:]))
		for operation, drawn := range operationsOf(name, item) {
			completeOperation(drawn, operation, path.Operations[operation].Properties(), document.Components.Schemas)
			drawn.Tags = []string{tagOf(name)}
		}
	}
	clear(document.Components.Schemas) // each of them is where it is used by now
}

// operationsOf returns the operations that an item of the document has. An item whose name ends in
// a slash is a LIST.
func operationsOf(name string, item *framework.OASPathItem) map[logical.Operation]*framework.OASOperation {
	var read logical.Operation = logical.ReadOperation
	if strings.HasSuffix(name, "/") {
		read = logical.ListOperation
	}
	operations := map[logical.Operation]*framework.OASOperation{
		read:                    item.Get,
		logical.UpdateOperation: item.Post,
		logical.PatchOperation:  item.Patch,
		logical.DeleteOperation: item.Delete,
	}
	maps.DeleteFunc(operations, func(_ logical.Operation, drawn *framework.OASOperation) bool { return drawn == nil })
	return operations
}

// The groups in which an API explorer shows the operations, in the order of their first paths.
// Vault puts the operations of all engines into its group "secrets". That group comes first,
// because Vault's cubbyhole is in it, so what hands out tokens stays there.
const (
	tagTokens     = "secrets"
	tagSetup      = "N-central setup"
	tagOperations = "N-central operations"
)

func tagOf(name string) string {
	switch {
	case strings.HasPrefix(name, "/creds/"):
		return tagTokens
	case strings.HasPrefix(name, "/roles/"), strings.HasPrefix(name, "/config/") && !strings.HasSuffix(name, "/check"):
		return tagSetup
	}
	return tagOperations
}

const (
	mediaTypeJSON  = "application/json"
	mediaTypePatch = "application/merge-patch+json" // Vault accepts a PATCH of this type only
)

// completeOperation puts each schema where it is used, since references to schemas get lost on the
// way from a plugin to the server. It describes the answers anew, with the fields that are always
// there and with what lists and maps hold.
func completeOperation(
	drawn *framework.OASOperation, operation logical.Operation, declared framework.OperationProperties,
	schemas map[string]*framework.OASSchema,
) {
	if body := drawn.RequestBody; body != nil {
		schema := schemas[strings.TrimPrefix(body.Content[mediaTypeJSON].Schema.Ref, "#/components/schemas/")]
		mediaType := mediaTypeJSON
		if operation == logical.PatchOperation {
			mediaType = mediaTypePatch
		}
		// a new config needs fields that a write of an existing one may leave out: the description
		// says so
		schema.Required = nil
		body.Content = framework.OASContent{mediaType: {Schema: schema}}
		body.Required = operation == logical.PatchOperation
	}
	for status, responses := range declared.Responses {
		drawn.Responses[status].Content = contentOf(responses[0], entryFields(drawn.OperationID))
	}
}

func contentOf(response framework.Response, entries map[string]map[string]*framework.FieldSchema) framework.OASContent {
	switch {
	case len(response.Fields) > 0:
		return framework.OASContent{mediaTypeJSON: {Schema: objectSchema(response.Fields, entries)}}
	case response.MediaType != "":
		return framework.OASContent{response.MediaType: {Schema: &framework.OASSchema{Type: "string"}}}
	}
	return nil
}

// entryFields returns the fields of the entries of lists and maps in an operation's answer, by the
// name of the list or map.
func entryFields(operationID string) map[string]map[string]*framework.FieldSchema {
	switch operationID {
	case "ncentral-check-config":
		return map[string]map[string]*framework.FieldSchema{fieldSteps: stepFields()}
	case "ncentral-list-configs":
		return map[string]map[string]*framework.FieldSchema{fieldKeyInfo: configInfoFields()}
	case "ncentral-list-roles":
		return map[string]map[string]*framework.FieldSchema{fieldKeyInfo: roleInfoFields()}
	case "ncentral-list-sessions":
		return map[string]map[string]*framework.FieldSchema{fieldKeyInfo: sessionInfoFields()}
	case "ncentral-read-status":
		return map[string]map[string]*framework.FieldSchema{fieldConfigs: statusFields()}
	}
	return nil
}

func objectSchema(
	fields map[string]*framework.FieldSchema, entries map[string]map[string]*framework.FieldSchema,
) *framework.OASSchema {
	object := &framework.OASSchema{Type: "object", Properties: map[string]*framework.OASSchema{}}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		object.Properties[name] = fieldSchema(name, fields[name], entries[name])
		if fields[name].Required {
			object.Required = append(object.Required, name)
		}
	}
	return object
}

// fieldSchema returns the schema of a field of an answer. entry has the fields of what a list or
// map holds. The user is a single object.
func fieldSchema(
	name string, field *framework.FieldSchema, entry map[string]*framework.FieldSchema,
) *framework.OASSchema {
	schema := &framework.OASSchema{
		Type: "string", Description: field.Description, Enum: field.AllowedValues,
		DisplayAttrs: field.DisplayAttrs,
	}
	switch field.Type {
	case framework.TypeBool:
		schema.Type = "boolean"
	case framework.TypeInt:
		schema.Type = "integer"
	case framework.TypeInt64:
		schema.Type, schema.Format = "integer", "int64"
	case framework.TypeFloat:
		schema.Type = "number"
	case framework.TypeTime:
		schema.Format = "date-time"
	case framework.TypeStringSlice, framework.TypeCommaStringSlice:
		schema.Type, schema.Items = "array", &framework.OASSchema{Type: "string"}
	case framework.TypeSlice:
		schema.Type, schema.Items = "array", objectSchema(entry, nil)
	case framework.TypeMap:
		if name == fieldUser {
			schema.Type, schema.Properties = "object", objectSchema(userFields(), nil).Properties
			break
		}
		schema.Type, schema.AdditionalProperties = "object", objectSchema(entry, nil)
	}
	return schema
}

// wrapLines breaks lines that are too long. Each part has the indentation of the line.
func wrapLines(text string) string {
	var wrapped []string
	for line := range strings.SplitSeq(text, "\n") {
		indentation := line[:len(line)-len(strings.TrimLeft(line, " "))]
		for len(line) > helpWidth {
			at := strings.LastIndex(line[:helpWidth+1], " ")
			if at <= len(indentation) {
				break
			}
			wrapped = append(wrapped, line[:at])
			line = indentation + strings.TrimLeft(line[at:], " ")
		}
		wrapped = append(wrapped, line)
	}
	return strings.Join(wrapped, "\n")
}
