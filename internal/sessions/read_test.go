// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

func TestEachFailedReadHasItsReason(t *testing.T) {
	failure := func(kind ncentral.Kind) error {
		return fmt.Errorf("reading: %w", &health.Failure{Kind: kind, Cause: &ncentral.Error{Kind: kind}})
	}
	for name, test := range map[string]struct {
		err     error
		options string
	}{
		"refused":                  {failure(ncentral.KindUnauthorized), string(ncentral.KindUnauthorized)},
		"given up":                 {failure(ncentral.KindCanceled), health.ReasonReaderGone},
		"the time of the read":     {ErrTimeOver, string(ncentral.KindTimeout)},
		"too many waiting":         {ErrTooManyWaiting, string(ncentral.KindQueued)},
		"the reader hung up":       {context.Canceled, health.ReasonReaderGone},
		"the reader's time is up":  {context.DeadlineExceeded, health.ReasonReaderGone},
		"changed again and again":  {ErrSuperseded, health.ReasonSuperseded},
		"dead on arrival":          {ErrDeadOnArrival, health.ReasonDeadOnArrival},
		"less than was asked for":  {&LateError{}, health.ReasonDeadOnArrival},
		"storage, or anything new": {errors.New("no such thing"), health.ReasonStorage},
	} {
		if got := reasonOf(test.err); got != test.options {
			t.Errorf("%s: %s, options %s", name, got, test.options)
		}
	}
}

// What a read does next depends on the token in hand, what the reader asks, and what this read has
// found out.
func TestAReadDecides(t *testing.T) {
	now := time.Now()
	token := func(left time.Duration) *store.Token {
		return &store.Token{
			AccessToken: left.String(), IssuedAt: now.Add(left - time.Hour), ExpiresAt: now.Add(left),
			GrantedUntil: now.Add(left),
		}
	}
	good, low, dead := token(30*time.Minute), token(4*time.Minute), token(time.Second)
	for name, test := range map[string]struct {
		token   *store.Token
		options ReadOptions
		found   findings
		doubts  doubts
		do      decision
		err     error
	}{
		"a good token":                 {token: good, do: toServe},
		"none":                         {do: toObtain},
		"less than the role's min_ttl": {token: low, do: toObtain},
		"less than the reader's":       {token: good, options: ReadOptions{MinTTL: 40 * time.Minute}, do: toObtain},
		"one that is over":             {token: dead, do: toObtain},
		"suspect":                      {token: good, doubts: doubts{suspect: true}, do: toValidate},
		"suspect, and found alive": {
			token: good, doubts: doubts{suspect: true}, found: findings{usable: good},
			do: toServe,
		},
		"found dead":              {token: good, found: findings{unusable: good}, do: toObtain},
		"validation is asked for": {token: good, options: ReadOptions{Validate: true}, do: toValidate},
		"validation is asked for, and it has come": {
			token: good, options: ReadOptions{Validate: true},
			found: findings{obtained: true}, do: toServe,
		},
		"from storage": {token: good, doubts: doubts{unproven: true}, do: toProve},
		"from storage, which cannot be proven": {
			token: good, doubts: doubts{unproven: true},
			found: findings{unproven: errors.New("down")}, do: toServe,
		},
		"suspect and from storage": {
			token: good, doubts: doubts{suspect: true, unproven: true},
			do: toValidate,
		},
		"below min_ttl, as the new one has it": {token: low, found: findings{obtained: true}, do: toServe},
		"a new one is suspect: its session may be over": {
			token: good, doubts: doubts{suspect: true},
			found: findings{obtained: true}, do: toValidate,
		},
		"a new one that is no more": {found: findings{obtained: true}, err: ErrSuperseded},
		"a new one that came too late": {
			token: dead, found: findings{obtained: true},
			err: ErrDeadOnArrival,
		},
	} {
		snap := &snapshot{token: test.token, minTTL: 5 * time.Minute}
		if do, err := snap.decide(test.options, &test.found, test.doubts, now); do != test.do ||
			!errors.Is(err, test.err) {
			t.Errorf("%s: %d %v", name, do, err)
		}
	}
	var late *LateError
	snap := &snapshot{token: low, minTTL: 5 * time.Minute}
	if _, err := snap.decide(ReadOptions{MinTTL: 10 * time.Minute}, &findings{obtained: true}, doubts{},
		now); !errors.As(err, &late) || late.Left > 4*time.Minute {
		t.Errorf("a new one with less than was asked for: %v", err)
	}
}
