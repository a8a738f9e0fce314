// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// delivery is how an answer reaches the client, if at all.
type delivery int

const (
	deliverWhole delivery = iota
	deliverHalf           // breaks off in the middle of the body
	deliverReset          // the connection is reset before anything is sent
)

// answer is what a call answers, before it is sent.
type answer struct {
	outcome           Outcome
	status            int
	contentType       string
	location          string
	retryAfterSeconds int // 0: no such header
	body              []byte
	delivery          delivery
}

func okAnswer(body any) *answer {
	return &answer{outcome: OutcomeOK, status: http.StatusOK, contentType: "application/json", body: toJSON(body)}
}

type fieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// errorAnswer is N-central's error; the detail begins with the name of a Java exception [S,O].
func errorAnswer(status int, detail string, fields ...fieldError) *answer {
	body := toJSON(struct {
		Status  int          `json:"status"`
		Message string       `json:"message"`
		Errors  []fieldError `json:"errors,omitempty"`
	}{
		Status:  status,
		Message: fmt.Sprintf("[ID=%s] %s: %s", rand.Text()[:8], strings.ToUpper(http.StatusText(status)), detail),
		Errors:  fields,
	})
	return &answer{outcome: outcomeOf(status), status: status, contentType: "application/json", body: body}
}

func unauthorized() *answer {
	return errorAnswer(http.StatusUnauthorized, "UnauthorizedException: The token is invalid or has expired.")
}

// hiddenErrorAnswer is an error of the core engine in a 200 [D].
func hiddenErrorAnswer(outcome Outcome) *answer {
	hidden := okAnswer(map[string]string{"Error Message": "The core engine could not handle the request."})
	hidden.outcome = outcome
	return hidden
}

// abandonedAnswer ends a call whose client went away.
func abandonedAnswer() *answer {
	return &answer{outcome: OutcomeAbandoned, delivery: deliverReset}
}

func toJSON(body any) []byte {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // all bodies are made here, of plain values
	}
	return encoded
}

// send writes the answer. The date is this server's own, right or wrong.
func (a *answer) send(writer http.ResponseWriter, date time.Time) {
	if a.delivery == deliverReset {
		reset(writer)
		return
	}
	header := writer.Header()
	header.Set("Date", date.UTC().Format(http.TimeFormat))
	if a.contentType != "" {
		header.Set("Content-Type", a.contentType)
	}
	if a.location != "" {
		header.Set("Location", a.location)
	}
	if a.retryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(a.retryAfterSeconds))
	}
	if a.delivery == deliverHalf {
		a.sendHalf(writer)
		return
	}
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	writer.WriteHeader(a.status)
	_, _ = writer.Write(a.body) // a client that is gone needs no answer
}

// sendHalf promises a byte more than there is, so that even an empty body breaks off.
func (a *answer) sendHalf(writer http.ResponseWriter) {
	writer.Header().Set("Content-Length", strconv.Itoa(len(a.body)+1))
	writer.WriteHeader(a.status)
	_, _ = writer.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(writer).Flush()
	panic(http.ErrAbortHandler)
}
