// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

const (
	maxBodyBytes = 1 << 20
	maxTokenSize = 16 << 10

	hiddenErrorKey = "Error Message"

	validMessage = "The token is valid." // [D]

	maxExactFloat = 1 << 53 // a larger float64 may stand for another whole number
)

var errTooLong = errors.New("the body is over 1 MiB")

// answer is a 200 or 204 that passed the checks which all calls share.
type answer struct {
	body       []byte
	sentAt     time.Time
	receivedAt time.Time
}

// Session is what authenticate and refresh return [D].
type Session struct {
	AccessToken  string
	TokenType    string // as answered; "Bearer" where the answer has none
	RefreshToken string // "" where the answer has none

	// SentAt is when the attempt that succeeded was sent, after any wait in the transport.
	// Lifetimes count from it. It keeps its monotonic clock reading.
	SentAt time.Time

	// The lifetimes are the expirySeconds of the answer, even where they are zero, negative or
	// absurd: the caller judges them. They are limited to what a time.Duration can hold, some 292
	// years.
	AccessLifetime  time.Duration
	RefreshLifetime time.Duration

	// These report whether the answer stated the lifetime: expirySeconds is optional [S]. A
	// lifetime that was not stated is 0.
	AccessLifetimeStated  bool
	RefreshLifetimeStated bool
}

// Links are the addresses that the server lists for its authentication API. They are for display
// and must never be followed. A link that is present means that the server has the call. A link
// that is missing means nothing: older servers and the documentation list the first three only
// [D,S].
type Links struct {
	Authenticate string
	Refresh      string
	Validate     string
	Logout       string
	SSO          string
}

// ServerInfo holds the versions of the server's software.
type ServerInfo struct {
	Version   string // of the API service
	NCentral  string // of N-central; "" where the server does not state it [O]
	StartTime string // as answered, in any format; "" where absent [S]
}

// User is the user that an access token belongs to. What N-central left out is empty or nil.
type User struct {
	Name                  string
	Enabled               *bool
	Locked                *bool
	PasswordExpired       *bool
	PasswordResetRequired *bool
	TwoFactorType         string // "NONE" for none [S]
}

// HasTwoFactor reports whether two-factor authentication is known to be on.
func (u User) HasTwoFactor() bool {
	return u.TwoFactorType != "" && !strings.EqualFold(u.TwoFactorType, "NONE")
}

// Health is the server's clock.
type Health struct {
	// ClockOffset is how far the server's clock is ahead of this machine's; it is negative where
	// the server's is behind. The server is assumed to have read its clock halfway between sending
	// and receiving.
	ClockOffset time.Duration
}

// readAnswer reads and closes the response to an attempt.
func readAnswer(ctx context.Context, r request, response *http.Response) (answer, *Error) {
	body, readError := readBody(response)
	response.Body = http.NoBody // retryablehttp would drain a body that it takes for unread
	received := answer{body: body, receivedAt: time.Now()}

	failure := &Error{Call: r.call, Kind: KindMalformed, Status: response.StatusCode}
	switch status := response.StatusCode; {
	case status >= http.StatusBadRequest:
		return answer{}, readProblem(ctx, r, response, body, readError)
	case status >= http.StatusMultipleChoices:
		found := describeRedirect(response.Header, r.credential)
		failure.Fault, failure.Detail = found.fault, found.detail
		return answer{}, failure
	case status != http.StatusOK && (status != http.StatusNoContent || r.call != CallLogout):
		failure.Detail = "a status that the call does not have"
		return answer{}, failure
	case readError != nil:
		return answer{}, brokenBody(ctx, failure, readError)
	case len(body) == 0 && r.call == CallLogout:
		return received, nil
	case !isJSON(mediaTypeOf(response.Header)):
		failure.Detail = describeBody(body, response.Header) + "; the URL is probably not that of N-central's API"
		return answer{}, failure
	case !json.Valid(body):
		failure.Detail = describeBody(body, response.Header)
		return answer{}, failure
	}
	if text, found := hiddenError(body); found {
		failure.Kind, failure.Detail = KindHiddenError, filter(text, r.credential)
		return answer{}, failure
	}
	return received, nil
}

func readBody(response *http.Response) ([]byte, error) {
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // this body is the connection itself, and no timeout ends it
	}
	read, err := io.ReadAll(io.LimitReader(response.Body, maxBodyBytes+1))
	if len(read) > maxBodyBytes {
		err = errTooLong
	}
	return read, err
}

func brokenBody(ctx context.Context, failure *Error, cause error) *Error {
	if interrupted := interruption(ctx, failure.Call, cause); interrupted != nil {
		interrupted.Status = failure.Status
		return interrupted
	}
	failure.Detail, failure.Err = "the answer broke off in the middle", cause
	if errors.Is(cause, errTooLong) {
		failure.Detail = "the answer is over 1 MiB; the URL is probably not that of N-central's API"
	}
	return failure
}

func isJSON(mediaType string) bool {
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

func isHTML(mediaType string) bool {
	return mediaType == "text/html" || mediaType == "application/xhtml+xml"
}

// mediaTypeOf returns the Content-Type without its parameters. A proxy may have damaged or doubled
// the parameters, and nothing depends on them.
func mediaTypeOf(header http.Header) string {
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

func describeBody(body []byte, header http.Header) string {
	switch mediaType := mediaTypeOf(header); {
	case len(body) == 0:
		return "an empty body"
	case isHTML(mediaType):
		return "an HTML page"
	case mediaType == "":
		return "a body without a content type"
	case isJSON(mediaType) && !json.Valid(body):
		return "a body that claims to be JSON and is not"
	case isJSON(mediaType):
		return "JSON of another form"
	default:
		return "a body that is not JSON"
	}
}

// hiddenError finds an error of N-central's core that is hidden in a 200 [D]. The case of the
// letters in its key is not known [?].
func hiddenError(body []byte) (text string, found bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return "", false // a list or a bare value has no keys
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if strings.EqualFold(key, hiddenErrorKey) {
			_ = json.Unmarshal(object[key], &text) // a value that is not a string leaves the text empty
			return text, true
		}
	}
	return "", false
}

func parseSession(call Call, received answer) (*Session, error) {
	type answeredToken struct {
		Token         string   `json:"token"`
		Type          string   `json:"type"`
		ExpirySeconds *seconds `json:"expirySeconds"`
	}
	var answered struct {
		Tokens struct {
			Access  answeredToken `json:"access"`
			Refresh answeredToken `json:"refresh"`
		} `json:"tokens"`
	}
	if err := decode(call, received.body, &answered); err != nil {
		return nil, err
	}
	access, refresh := answered.Tokens.Access, answered.Tokens.Refresh
	if access.Token == "" {
		return nil, malformed(call, "no access token in it")
	}
	tokenType := cmp.Or(access.Type, "Bearer")
	if !isToken(access.Token) || !isToken(tokenType) || (refresh.Token != "" && !isToken(refresh.Token)) {
		return nil, malformed(call, "a token in it is too long or holds white space or other characters that "+
			"no token has")
	}
	session := &Session{
		AccessToken: access.Token, TokenType: tokenType, RefreshToken: refresh.Token,
		SentAt: received.sentAt,
	}
	session.AccessLifetime, session.AccessLifetimeStated = lifetime(access.ExpirySeconds)
	session.RefreshLifetime, session.RefreshLifetimeStated = lifetime(refresh.ExpirySeconds)
	return session, nil
}

func lifetime(expirySeconds *seconds) (stated time.Duration, isStated bool) {
	if expirySeconds == nil {
		return 0, false
	}
	return saturatedSeconds(int64(*expirySeconds)), true
}

// seconds is a whole number. JSON may write it as 3600, as 3600.0 or as a string.
type seconds int64

// UnmarshalJSON accepts any spelling of a whole number of 64 bits.
func (s *seconds) UnmarshalJSON(raw []byte) error {
	var number json.Number // also takes a string that holds a number
	err := json.Unmarshal(raw, &number)
	whole, notWhole := number.Int64()
	if err == nil && notWhole != nil {
		var float float64
		float, err = number.Float64()
		whole = int64(float)
		if math.Abs(float) > maxExactFloat || float64(whole) != float {
			err = notWhole
		}
	}
	if err != nil {
		return &json.UnmarshalTypeError{Type: reflect.TypeFor[seconds]()} // decode adds the field's name
	}
	*s = seconds(whole)
	return nil
}

// isToken reports whether the text can be sent in a header and shown on one line: visible ASCII
// only, and at most 16 KiB.
func isToken(text string) bool {
	isForbidden := func(character rune) bool { return character < 0x21 || character > 0x7e }
	return text != "" && len(text) <= maxTokenSize && !strings.ContainsFunc(text, isForbidden)
}

func parseLinks(received answer) (Links, error) {
	type links struct {
		Authenticate link `json:"authenticate"`
		Refresh      link `json:"refresh"`
		Validate     link `json:"validate"`
		Logout       link `json:"logout"`
		SSO          link `json:"sso"`
	}
	var answered struct {
		links
		Nested links `json:"_links"`
	}
	if err := decode(CallLinks, received.body, &answered); err != nil {
		return Links{}, err
	}
	return Links{
		Authenticate: filter(string(cmp.Or(answered.Authenticate, answered.Nested.Authenticate))),
		Refresh:      filter(string(cmp.Or(answered.Refresh, answered.Nested.Refresh))),
		Validate:     filter(string(cmp.Or(answered.Validate, answered.Nested.Validate))),
		Logout:       filter(string(cmp.Or(answered.Logout, answered.Nested.Logout))),
		SSO:          filter(string(cmp.Or(answered.SSO, answered.Nested.SSO))),
	}, nil
}

// checkValid looks for the message that says that the token is valid. A 200 alone does not say so:
// N-central hides errors in it [D], and a proxy may have answered in N-central's place.
func checkValid(received answer, accessToken string) error {
	var answered struct {
		Message string `json:"message"`
	}
	if err := decode(CallValidate, received.body, &answered); err != nil {
		return err
	}
	if normalize(answered.Message) != normalize(validMessage) {
		return malformed(CallValidate,
			filter("it does not say that the token is valid, but: "+answered.Message, accessToken))
	}
	return nil
}

// checkData checks that the answer has data; an empty list will do. The call judges users and
// tokens, and something other than N-central may also answer 200.
func checkData(received answer) error {
	var list []json.RawMessage
	if json.Unmarshal(received.body, &list) == nil && list != nil {
		return nil
	}
	var answered struct {
		Data json.RawMessage `json:"data"`
	}
	if err := decode(CallData, received.body, &answered); err != nil {
		return err
	}
	if answered.Data == nil {
		return malformed(CallData, "no data in it")
	}
	return nil
}

// normalize returns the message without what may differ between versions of N-central: case, white
// space and a full stop at the end.
func normalize(message string) string {
	return strings.TrimRight(strings.ToLower(strings.Join(strings.Fields(message), "")), ".")
}

// link is a string, or an object with an href. The form of the links under _links is not publicly
// known [?]. Links are for display only, so any other form is not an error.
type link string

// UnmarshalJSON never fails.
func (l *link) UnmarshalJSON(raw []byte) error {
	var object struct {
		Href string `json:"href"`
	}
	if json.Unmarshal(raw, (*string)(l)) != nil && json.Unmarshal(raw, &object) == nil {
		*l = link(object.Href)
	}
	return nil
}

func parseServerInfo(received answer, accessToken string) (ServerInfo, error) {
	var answered struct {
		Version   string          `json:"version"`
		NCentral  string          `json:"ncentral"`
		StartTime json.RawMessage `json:"startTime"`
	}
	if err := decode(CallServerInfo, received.body, &answered); err != nil {
		return ServerInfo{}, err
	}
	var startTime string
	if json.Unmarshal(answered.StartTime, &startTime) != nil {
		startTime = string(answered.StartTime) // a number, for example, or nothing
	}
	return ServerInfo{
		Version:   filter(answered.Version, accessToken),
		NCentral:  filter(answered.NCentral, accessToken),
		StartTime: filter(startTime, accessToken),
	}, nil
}

func parseUser(received answer, accessToken string) (User, error) {
	var answered struct {
		Data *struct {
			Username                optional[string] `json:"username"`
			IsEnabled               optional[bool]   `json:"isEnabled"`
			IsLocked                optional[bool]   `json:"isLocked"`
			IsPasswordExpired       optional[bool]   `json:"isPasswordExpired"`
			IsPasswordResetRequired optional[bool]   `json:"isPasswordResetRequired"`
			TwoFactorType           optional[string] `json:"twoFactorType"`
		} `json:"data"`
	}
	if err := decode(CallUser, received.body, &answered); err != nil {
		return User{}, err
	}
	data := answered.Data
	if data == nil {
		return User{}, malformed(CallUser, "no data in it")
	}
	return User{
		Name:                  filter(data.Username.or(""), accessToken),
		Enabled:               data.IsEnabled.value,
		Locked:                data.IsLocked.value,
		PasswordExpired:       data.IsPasswordExpired.value,
		PasswordResetRequired: data.IsPasswordResetRequired.value,
		TwoFactorType:         filter(data.TwoFactorType.or(""), accessToken),
	}, nil
}

// optional is a value, or nil where the field is missing or has another type. A server sends some
// twenty fields, and one in a new form is no reason to lose all others.
type optional[T any] struct{ value *T }

// UnmarshalJSON never fails.
func (t *optional[T]) UnmarshalJSON(raw []byte) error {
	var value *T
	if json.Unmarshal(raw, &value) == nil {
		t.value = value
	}
	return nil
}

func (t optional[T]) or(other T) T {
	if t.value == nil {
		return other
	}
	return *t.value
}

func parseHealth(received answer) (Health, error) {
	var answered struct {
		CurrentTime time.Time `json:"currentTime"`
	}
	if err := decode(CallHealth, received.body, &answered); err != nil {
		return Health{}, err
	}
	if answered.CurrentTime.IsZero() {
		return Health{}, malformed(CallHealth, "no currentTime in it")
	}
	halfway := received.sentAt.Add(received.receivedAt.Sub(received.sentAt) / 2)
	return Health{ClockOffset: answered.CurrentTime.Sub(halfway)}, nil
}

// decode decodes JSON. Its errors name the field that is wrong, and never its value.
func decode(call Call, body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	detail := "its JSON does not have the form of this call's answer"
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		detail = "its field " + wrongType.Field + " does not have the right type"
	}
	return malformed(call, detail)
}
