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

// checkName holds names to Vault's usual form with @, which the patterns of paths enforce but for
// the length.
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

// resemblesToken reports whether the text is in the form of a JWT. Such a one may be a secret, and
// is repeated nowhere.
func resemblesToken(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") >= 2
}

// CheckPath refuses a path that holds what looks like a token, before anything of it gets into an
// error or a log.
func CheckPath(path string) error {
	for name := range strings.SplitSeq(path, "/") {
		if resemblesToken(name) {
			return errors.New("the path has text that looks like a token where a name should be: if it is a token, " +
				"end it, since Vault's audit log has it unencrypted now")
		}
	}
	return nil
}

// remedies say what a field of that type takes.
var remedies = map[framework.FieldType]string{
	framework.TypeString:           "give text",
	framework.TypeBool:             "give true or false",
	framework.TypeInt:              "give a whole number",
	framework.TypeCommaStringSlice: "give names, with commas between or as a list",
	framework.TypeDurationSecond: "give a duration that is not negative: whole seconds, or a number with a unit " +
		"like 90s, 5m or 1h",
}

// CheckTypes refuses a value that the field of its name does not take, a secret that is anything
// but a string, and what looks like a token in a field's place. The error names the field and holds
// nothing of the value.
func CheckTypes(fields map[string]*framework.FieldSchema, given map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if resemblesToken(name) { // the framework would warn of it as a field that it does not know
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
		// which the framework takes for false or 0
		isNothing := isText && text == "" && field.Type != framework.TypeString &&
			field.Type != framework.TypeCommaStringSlice
		if isSecret && !isText || isNothing || one.Validate() != nil {
			return fmt.Errorf("%s: %s", name, remedies[field.Type])
		}
	}
	return nil
}

// setting is how one field of a write changes an entry. Its default is what reset sets.
type setting[T any] struct {
	field string
	set   func(entry *T, data *framework.FieldData) error
	reset func(entry *T) // nil: the field has no default, so it cannot be null
}

// withDefaults returns an entry in which every field that has a default has it.
func withDefaults[T any](settings []setting[T]) *T {
	entry := new(T)
	for _, s := range settings {
		if s.reset != nil {
			s.reset(entry)
		}
	}
	return entry
}

// apply changes the fields of the entry that the request gives and no other. In a PATCH, null
// resets a field to its default; elsewhere it counts as not given. Errors begin with the field's
// name.
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

// durationSetting is the setting of a duration in whole seconds. check may be nil.
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

// intSetting is the setting of an integer from least to most.
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

// textSetting is the setting of a string in the form that clean answers.
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

// wholeSeconds reads a duration as it was given. The framework would take one under a second, a
// negative one too, for 0.
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

// isFraction reports whether a field was given as a number that is not whole, which conversions
// would cut off. To a plugin all numbers of a request come as float64.
func isFraction(raw any) bool {
	number, isFloat := raw.(float64)
	return isFloat && number != math.Trunc(number)
}

func isNegative(raw any) bool {
	number, isFloat := raw.(float64)
	return isFloat && number < 0
}

// between is a check for durations from least to most.
func between(least, most time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value < least || value > most {
			return fmt.Errorf("%s is out of range: give from %s to %s", value, least, most)
		}
		return nil
	}
}

// zeroOrAtLeast is a check for durations where zero has a meaning of its own.
func zeroOrAtLeast(least time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value != 0 && value < least {
			return fmt.Errorf("%s is too short: give 0 or at least %s", value, least)
		}
		return nil
	}
}

func seconds(duration time.Duration) int64 { return int64(duration / time.Second) }

// putTime adds a time to an answer as RFC 3339 in UTC, and leaves it out where it is not known.
func putTime(answer map[string]any, field string, at time.Time) {
	if !at.IsZero() {
		answer[field] = at.UTC().Format(time.RFC3339)
	}
}

// listFields are the fields of every LIST.
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

// label is how a form shows a field.
func label(name, group string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{Name: name, Group: group}
}

// whatNamesHold is for help: a name in a path that holds something else is refused by Vault itself,
// with no more than a 404.
const whatNamesHold = " 128 characters at most: letters, digits, underscores, hyphens, @ and single dots, with a " +
	"letter, digit or underscore at either end."

// nameField is the name in a path.
func nameField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeString, Required: true, DisplayAttrs: &framework.DisplayAttributes{Name: "Name"},
		Description: description,
	}
}

// alwaysAnswered are fields of a write as a read answers them: always there, with durations in
// seconds.
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

// listed returns a LIST: the page of the names that the request asks for, each with what infoOf
// tells of it. A name of which it tells nothing is gone in the meantime and left out. One that
// cannot be read is listed, so that it can be found and deleted, and a warning says why nothing is
// told of it.
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
	return withWarnings(logical.ListResponseWithInfo(keys, info), some(warnings)), nil
}

func listAnswerFields(of, info string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldKeys: {Type: framework.TypeStringSlice, Required: true, Description: "The names of the " + of +
			", sorted."},
		fieldKeyInfo: {Type: framework.TypeMap, Required: true, Description: "By name: " + info + "."},
	}
}

// example is a request that API explorers offer to change and send.
func example(data map[string]any) []framework.RequestExample {
	return []framework.RequestExample{{Data: data}}
}

// returns are the responses of an operation that has an answer.
func answers(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

// doneOrWarned are the responses of a write or delete that answers nothing but warnings.
func doneOrWarned() map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusOK:        {{Description: "Done, with warnings."}},
		http.StatusNoContent: {{Description: "Done."}},
	}
}

// written returns a write: nothing, unless the request has fields that the path does not know. The
// framework warns of them, but only in an answer.
func written(data *framework.FieldData) *logical.Response {
	for field := range data.Raw {
		if data.Schema[field] == nil {
			return &logical.Response{}
		}
	}
	return nil
}

// together returns the fields of all maps.
func together(fields ...map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	all := map[string]*framework.FieldSchema{}
	for _, some := range fields {
		maps.Copy(all, some)
	}
	return all
}

// mostNamed bounds how many names or warnings of one kind an answer holds: there may be very many.
const mostNamed = 50

// some returns the texts, or the first of them and how many more there are.
func some(texts []string) []string {
	if len(texts) <= mostNamed {
		return texts
	}
	return append(texts[:mostNamed:mostNamed], fmt.Sprintf("%d more such", len(texts)-mostNamed))
}

// withWarnings returns the response with the warnings added; a nil response becomes one that has
// them, if there are any.
func withWarnings(response *logical.Response, warnings []string) *logical.Response {
	if response == nil && len(warnings) > 0 {
		response = &logical.Response{}
	}
	for _, warning := range warnings {
		response.AddWarning(warning)
	}
	return response
}
