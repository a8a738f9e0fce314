// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// answer is the response to a call, before it is sent.
type answer struct {
	outcome           Outcome
	status            int
	contentType       string
	location          string
	retryAfterSeconds int // 0 for no such header
	body              []byte
	delivery          delivery
	pace              time.Duration // for deliverDrip: the time between two bytes
	issued            *IssuedToken  // the tokens in the body, if any
}

func okAnswer(body any) *answer {
	return &answer{outcome: OutcomeOK, status: http.StatusOK, contentType: "application/json", body: toJSON(body)}
}

type fieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// errorAnswer returns an error of N-central's. The detail begins with the name of a Java exception
// [S,O].
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

// hiddenErrorAnswer returns an error of the core engine, hidden in a 200 [D].
func hiddenErrorAnswer(key string, outcome Outcome) *answer {
	hidden := okAnswer(map[string]string{key: "The core engine could not handle the request."})
	hidden.outcome = outcome
	return hidden
}

// abandonedAnswer is for a call whose client has gone.
func abandonedAnswer() *answer {
	return &answer{outcome: OutcomeAbandoned, delivery: deliverReset}
}

func toJSON(body any) []byte {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // every body is made of plain values, in this package
	}
	return encoded
}
