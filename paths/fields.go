// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package paths

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/store"
)

const longestName = 128

var validName = regexp.MustCompile(`^\w(([\w\-.@]+)?\w)?$`)

// checkName checks that a name has Vault's usual form with @. The patterns of paths check all of
// that but the length.
func checkName(name string) error {
	switch {
	case resemblesToken(name):
		return errors.New("it looks like a token, not like a name")
	case len(name) > longestName:
		return fmt.Errorf("a name of %d characters is too long: %d are allowed", len(name), longestName)
	case !validName.MatchString(name), !store.Storable(name):
		return errors.New("a name consists of letters, digits, underscores, hyphens, @ and single dots, and begins " +
			"and ends with a letter, digit or underscore")
	}
	return nil
}

// resemblesToken reports whether the text has the form of a JWT. It may be a secret then, so it
// must not be repeated anywhere.
func resemblesToken(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") >= 2
}

// CheckPath returns an error if part of the path looks like a token, before it gets into an error
// or log.
func CheckPath(path string) error {
	for name := range strings.SplitSeq(path, "/") {
		if resemblesToken(name) {
			return errors.New("the path has text that looks like a token where a name should be: if it is a token, " +
				"end it, since Vault's audit log has it unencrypted now")
		}
	}
	return nil
}

// remedies say what a field of each type takes.
var remedies = map[framework.FieldType]string{
	framework.TypeString:           "give text",
	framework.TypeBool:             "give true or false",
	framework.TypeInt:              "give a whole number",
	framework.TypeCommaStringSlice: "give names, with commas between or as a list",
	framework.TypeDurationSecond: "give a duration that is not negative: whole seconds, or a number with a unit " +
		"like 90s, 5m or 1h",
}

// CheckTypes returns an error if a value has a type that its field does not take, if a secret is no
// string, or if the name of a field looks like a token. The error names the field and quotes
// nothing of the value.
func CheckTypes(fields map[string]*framework.FieldSchema, given map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if resemblesToken(name) { // the framework would quote it in a warning about an unknown field
			return errors.New("text that looks like a token is where the name of a field should be: give the token " +
				"as user_api_token=@file")
		}
		field, known := fields[name]
		if !known || given[name] == nil {
			continue
		}
		text, isText := given[name].(string)
		isSecret := field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive
		one := framework.FieldData{Raw: map[string]any{name: given[name]}, Schema: fields}
		// the framework takes an empty text for false or 0
		isNothing := isText && text == "" && field.Type != framework.TypeString &&
			field.Type != framework.TypeCommaStringSlice
		if isSecret && !isText || isNothing || one.Validate() != nil {
			return fmt.Errorf("%s: %s", name, remedies[field.Type])
		}
	}
	return nil
}

// setting is how a write changes one field of an entry. T is the type of the entry.
type setting[T any] struct {
	field string
	set   func(entry *T, data *framework.FieldData) error
	reset func(entry *T) // sets the default; nil if there is none, so the field cannot be null
}

// withDefaults returns an entry in which all fields that have a default are set to it.
func withDefaults[T any](settings []setting[T]) *T {
	entry := new(T)
	for _, s := range settings {
		if s.reset != nil {
			s.reset(entry)
		}
	}
	return entry
}

// apply changes the fields of the entry that the request gives. In a PATCH, null resets a field to
// its default; otherwise null counts as not given. Errors begin with the name of the field.
func apply[T any](entry *T, settings []setting[T], req *logical.Request, data *framework.FieldData) error {
	for _, s := range settings {
		raw, given := data.Raw[s.field]
		var err error
		switch {
		case !given, raw == nil && req.Operation != logical.PatchOperation:
		case raw != nil:
			err = s.set(entry, data)
		case s.reset == nil:
			err = errors.New("it has no default, so it cannot be null: give a value or leave it out")
		default:
			s.reset(entry)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.field, err)
		}
	}
	return nil
}

// durationSetting returns the setting of a duration in whole seconds. check may be nil.
func durationSetting[T any](
	field string, standard time.Duration, check func(time.Duration) error, of func(*T) *time.Duration,
) setting[T] {
	return setting[T]{
		field: field,
		set: func(entry *T, data *framework.FieldData) error {
			value, err := wholeSeconds(data.Raw[field])
			if err == nil && check != nil {
				err = check(value)
			}
			if err == nil {
				*of(entry) = value
			}
			return err
		},
		reset: func(entry *T) { *of(entry) = standard },
	}
}

// intSetting returns the setting of an integer from least to most.
func intSetting[T any](field string, standard, least, most int, of func(*T) *int) setting[T] {
	return setting[T]{
		field: field,
		set: func(entry *T, data *framework.FieldData) error {
			value := data.Get(field).(int)
			if isFraction(data.Raw[field]) {
				return fmt.Errorf("%v is not a whole number: give one from %d to %d", data.Raw[field], least, most)
			}
			if value < least || value > most {
				return fmt.Errorf("%d is out of range: give a number from %d to %d", value, least, most)
			}
			*of(entry) = value
			return nil
		},
		reset: func(entry *T) { *of(entry) = standard },
	}
}

// boolSetting returns the setting of a boolean.
func boolSetting[T any](field string, standard bool, of func(*T) *bool) setting[T] {
	return setting[T]{
		field: field,
		set: func(entry *T, data *framework.FieldData) error {
			*of(entry) = data.Get(field).(bool)
			return nil
		},
		reset: func(entry *T) { *of(entry) = standard },
	}
}

// textSetting returns the setting of a string. It stores what clean returns.
func textSetting[T any](field string, clean func(string) (string, error), of func(*T) *string) setting[T] {
	return setting[T]{
		field: field,
		set: func(entry *T, data *framework.FieldData) error {
			value, err := clean(data.Get(field).(string))
			if err == nil {
				*of(entry) = value
			}
			return err
		},
		reset: func(entry *T) { *of(entry) = "" },
	}
}

// wholeSeconds returns the given duration. The framework would take one under a second, even a
// negative one, for 0.
func wholeSeconds(raw any) (time.Duration, error) {
	value, err := parseutil.ParseDurationSecond(raw)
	switch {
	case err != nil:
		return 0, errors.New("not a duration: give seconds, or a number with a unit like 90s, 5m or 1h")
	case value < 0, isNegative(raw):
		return 0, errors.New("a duration cannot be negative")
	case value%time.Second != 0, isFraction(raw):
		return 0, errors.New("a duration is in whole seconds here")
	}
	return value, nil
}

// isFraction reports whether the value is a number that is not whole, which a conversion would cut
// off. A plugin gets all numbers of a request as float64.
func isFraction(raw any) bool {
	number, isFloat := raw.(float64)
	return isFloat && number != math.Trunc(number)
}

func isNegative(raw any) bool {
	number, isFloat := raw.(float64)
	return isFloat && number < 0
}

// between returns a check for durations from least to most.
func between(least, most time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value < least || value > most {
			return fmt.Errorf("%s is out of range: give from %s to %s", value, least, most)
		}
		return nil
	}
}

// zeroOrAtLeast returns a check for durations of at least that length, or 0, which has a meaning of
// its own.
func zeroOrAtLeast(least time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value != 0 && value < least {
			return fmt.Errorf("%s is too short: give 0 or at least %s", value, least)
		}
		return nil
	}
}

// seconds returns a duration in whole seconds.
func seconds(duration time.Duration) int64 { return int64(duration / time.Second) }

// putTime adds a time to an answer as RFC 3339 in UTC, unless it is zero: it is not known then.
func putTime(answer map[string]any, field string, at time.Time) {
	if !at.IsZero() {
		answer[field] = at.UTC().Format(time.RFC3339)
	}
}

// listFields returns the fields of every LIST.
func listFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldAfter: {
			Type: framework.TypeString, Query: true, DisplayAttrs: label("After", groupPage),
			Description: "List only what comes after this name. The name itself need not exist.",
		},
		fieldLimit: {
			Type: framework.TypeInt, Query: true, Default: 0, DisplayAttrs: label("Limit", groupPage),
			Description: "The largest number of entries to list; 0, the default, lists all.",
		},
	}
}

const (
	fieldAfter   = "after"
	fieldLimit   = "limit"
	fieldKeys    = "keys"
	fieldKeyInfo = "key_info"

	groupPage = "Page"
)

// label returns how a form shows a field.
func label(name, group string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{Name: name, Group: group}
}

// whatNamesHold is for help. If a name in a path has any other form, Vault itself answers 404 and
// says nothing else.
const whatNamesHold = " 128 characters at most: letters, digits, underscores, hyphens, @ and single dots, with a " +
	"letter, digit or underscore at either end."

// nameField returns the field of the name in a path.
func nameField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString, Required: true, DisplayAttrs: &framework.DisplayAttributes{Name: "Name"},
		Description: description,
	}
}

// alwaysAnswered returns the fields of a write as a read answers them: all are always there, and
// durations are in seconds.
func alwaysAnswered(written map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	answered := map[string]*framework.FieldSchema{}
	for name, field := range written {
		copied := *field
		copied.Required, copied.Default = true, nil
		if copied.Type == framework.TypeDurationSecond {
			copied.Type = framework.TypeInt64
			copied.Description += " In seconds."
		}
		answered[name] = &copied
	}
	return answered
}

// listed returns the answer to a LIST: those names that the request asks for, each with what infoOf
// returns. A name for which infoOf returns nil has been deleted in the meantime and is left out. An
// entry that cannot be read is listed, so that it can be found and deleted, and a warning says why
// there are no facts about it.
func listed(
	names []string, data *framework.FieldData, infoOf func(name string) (map[string]any, error),
) (*logical.Response, error) {
	limit := data.Get(fieldLimit).(int)
	if limit < 0 {
		return logical.ErrorResponse("%s: %d is out of range: give 0 for all, or a positive number", fieldLimit, limit),
			nil
	}
	first := sort.SearchStrings(names, data.Get(fieldAfter).(string)+"\x00")
	keys, info, warnings := []string{}, map[string]any{}, []string(nil)
	for _, name := range names[first:] {
		if limit > 0 && len(keys) == limit {
			break
		}
		told, unreadable, err := orUnreadable(infoOf(name))
		switch {
		case err != nil:
			return nil, err
		case unreadable != nil:
			keys = append(keys, name)
			warnings = append(warnings, fmt.Sprintf("no facts about %s: %s", name, unreadable))
		case told != nil:
			keys = append(keys, name)
			info[name] = told
		}
	}
	return withWarnings(logical.ListResponseWithInfo(keys, info), firstFew(warnings)), nil
}

func listAnswerFields(of, info string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldKeys: {Type: framework.TypeStringSlice, Required: true, Description: "The names of the " + of +
			", sorted."},
		fieldKeyInfo: {Type: framework.TypeMap, Required: true, Description: "By name: " + info + "."},
	}
}

// example returns a request that API explorers offer as a start.
func example(data map[string]any) []framework.RequestExample {
	return []framework.RequestExample{{Data: data}}
}

// answers returns the responses of an operation that has an answer.
func answers(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

// doneOrWarned returns the responses of a write or delete that answers nothing but warnings.
func doneOrWarned() map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusOK:        {{Description: "Done, with warnings."}},
		http.StatusNoContent: {{Description: "Done."}},
	}
}

// written returns the answer to a write: none, unless the request has fields that the path does not
// know. The framework adds a warning about these, but only to an answer.
func written(data *framework.FieldData) *logical.Response {
	for field := range data.Raw {
		if data.Schema[field] == nil {
			return &logical.Response{}
		}
	}
	return nil
}

// together returns one map with the fields of all maps.
func together(fields ...map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	all := map[string]*framework.FieldSchema{}
	for _, some := range fields {
		maps.Copy(all, some)
	}
	return all
}

// mostNamed is how many names or warnings of one kind an answer holds at most.
const mostNamed = 50

// firstFew returns the texts. If there are very many, it returns the first ones and says how many
// more there are.
func firstFew(texts []string) []string {
	if len(texts) <= mostNamed {
		return texts
	}
	return append(texts[:mostNamed:mostNamed], fmt.Sprintf("%d more such", len(texts)-mostNamed))
}

// withWarnings returns the response with the warnings added. If the response is nil and there are
// warnings, it returns a new one.
func withWarnings(response *logical.Response, warnings []string) *logical.Response {
	if response == nil && len(warnings) > 0 {
		response = &logical.Response{}
	}
	for _, warning := range warnings {
		response.AddWarning(warning)
	}
	return response
}
