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

	maxExactFloat = 1 << 53 // beyond it, a float64 may stand for another whole number
)

var errTooLong = errors.New("the body is over 1 MiB")

// answer is a 200 or 204 that passed every check that all calls share.
type answer struct {
	body       []byte
	sentAt     time.Time
	receivedAt time.Time
}

// Session is what authenticate and refresh answer [D].
type Session struct {
	AccessToken  string
	TokenType    string // as answered, "Bearer" where nothing was
	RefreshToken string // "" where none was answered

	// SentAt is when the attempt that succeeded went out, after any queueing in the
	// transport; it keeps its monotonic reading. Lifetimes count from it.
	SentAt time.Time

	// The lifetimes are expirySeconds as answered, be they zero, negative or absurd:
	// judging them is the caller's. Beyond some 292 years they are cut down.
	AccessLifetime  time.Duration
	RefreshLifetime time.Duration

	// A lifetime that was not stated is 0: expirySeconds is optional [S].
	AccessLifetimeStated  bool
	RefreshLifetimeStated bool
}

// Links are the addresses that the server names for its authentication API, to be
// shown, never to be followed. One that is there says that the call is. Nothing
// follows from one that is missing: older servers and the documentation name the
// first three [D,S].
type Links struct {
	Authenticate string
	Refresh      string
	Validate     string
	Logout       string
	SSO          string
}

// ServerInfo says which software the server runs.
type ServerInfo struct {
	Version   string // of the API service
	NCentral  string // of N-central; "" where the server does not tell [O]
	StartTime string // as answered, in whatever form; "" where absent [S]
}

// User is what N-central tells of the user whose token asked. What it did not tell is
// empty or nil.
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
	// ClockOffset is how far the server's clock is ahead of this machine's, negative
	// where it is behind. It takes the time to have been read halfway between
	// sending and receiving.
	ClockOffset time.Duration
}

// readAnswer reads and closes the response of an attempt.
func readAnswer(ctx context.Context, r request, response *http.Response) (answer, *Error) {
	body, readError := readBody(response)
	response.Body = http.NoBody // retryablehttp drains what it takes to be unread
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
		return nil, nil // this body is the bare connection, which no timeout ends
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

// mediaTypeOf returns the type without its parameters: something between may have
// spoilt or doubled these, and nothing depends on them.
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

// hiddenError finds an error of N-central's core that hides in a 200 [D]. In which
// letters its key is written is not known [?].
func hiddenError(body []byte) (text string, found bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return "", false // a list or a bare value has no keys
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if strings.EqualFold(key, hiddenErrorKey) {
			_ = json.Unmarshal(object[key], &text) // what is no text says nothing
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
		return nil, malformed(call, "a token in it is too long or holds white space or other characters that no token has")
	}
	session := &Session{AccessToken: access.Token, TokenType: tokenType, RefreshToken: refresh.Token, SentAt: received.sentAt}
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

// seconds are a whole number, which may be written as 3600.0 or as text.
type seconds int64

// UnmarshalJSON takes what stands for a whole number of 64 bits.
func (s *seconds) UnmarshalJSON(raw []byte) error {
	var number json.Number // takes text that holds a number too
	err := json.Unmarshal(raw, &number)
	whole, isOther := number.Int64()
	if err == nil && isOther != nil {
		var float float64
		float, err = number.Float64()
		whole = int64(float)
		if math.Abs(float) > maxExactFloat || float64(whole) != float {
			err = isOther
		}
	}
	if err != nil {
		return &json.UnmarshalTypeError{Type: reflect.TypeFor[seconds]()} // decode names the field
	}
	*s = seconds(whole)
	return nil
}

// isToken says whether text can be sent in a header and shown on a line: visible
// ASCII throughout, 16 KiB at most.
func isToken(text string) bool {
	isOther := func(character rune) bool { return character < 0x21 || character > 0x7e }
	return text != "" && len(text) <= maxTokenSize && !strings.ContainsFunc(text, isOther)
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

// checkValid finds the words that say that a token lives: a 200 alone does not, since
// N-central hides errors in it [D], and since a proxy may answer in its place.
func checkValid(received answer, accessToken string) error {
	var answered struct {
		Message string `json:"message"`
	}
	if err := decode(CallValidate, received.body, &answered); err != nil {
		return err
	}
	if essence(answered.Message) != essence(validMessage) {
		return malformed(CallValidate, filter("it does not say that the token is valid, but: "+answered.Message, accessToken))
	}
	return nil
}

// checkData finds that there is data, be it an empty list: the call judges users and
// tokens, and something else than N-central answers 200 too.
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

// essence is a message without what may differ from version to version: case, white
// space and a full stop.
func essence(message string) string {
	return strings.TrimRight(strings.ToLower(strings.Join(strings.Fields(message), "")), ".")
}

// link is text, or an object with an href: nobody public knows how links stand under
// _links [?], and since they are only shown, any other form is no failure.
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
		startTime = string(answered.StartTime) // a number, for one, or nothing
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
			Username                told[string] `json:"username"`
			IsEnabled               told[bool]   `json:"isEnabled"`
			IsLocked                told[bool]   `json:"isLocked"`
			IsPasswordExpired       told[bool]   `json:"isPasswordExpired"`
			IsPasswordResetRequired told[bool]   `json:"isPasswordResetRequired"`
			TwoFactorType           told[string] `json:"twoFactorType"`
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

// told is a value, or nil where the field is missing or of another type: of some
// twenty that a server tells, one of a later form is no reason to know none.
type told[T any] struct{ value *T }

// UnmarshalJSON never fails.
func (t *told[T]) UnmarshalJSON(raw []byte) error {
	var value *T
	if json.Unmarshal(raw, &value) == nil {
		t.value = value
	}
	return nil
}

func (t told[T]) or(other T) T {
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

// decode names the field that is wrong, never its value.
func decode(call Call, body []byte, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	detail := "its JSON is not of the form that the call answers"
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		detail = "its field " + wrongType.Field + " is not of the type that it must have"
	}
	return malformed(call, detail)
}
