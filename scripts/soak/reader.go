// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	answered = "answered"
	hungUp   = "hung up"
	noServer = "no server"

	// afterDisruption is how long the server may take until the plugin runs again.
	afterDisruption = 10 * time.Second
	// slowMachine is what a read may take in addition to what the engine promises.
	slowMachine = 3 * time.Second
)

// reader reads roles at random until stop ends.
func (s *soak) reader(ctx, stop context.Context, number int) {
	random := rand.New(rand.NewPCG(s.seed, uint64(1000+number)))
	for sleep(stop, seconds(random, 0.2, 1)) == nil {
		s.read(ctx, s.roles[random.IntN(len(s.roles))], random)
	}
}

// read reads a role in one of the ways in which readers do, and records the outcome.
func (s *soak) read(ctx context.Context, r *role, random *rand.Rand) {
	parameters := map[string][]string{}
	reading, cancel := ctx, context.CancelFunc(func() {})
	patient := true
	switch draw := random.IntN(20); {
	case draw == 0:
		parameters["min_ttl"] = []string{strconv.Itoa(1+random.IntN(3)) + "s"}
	case draw == 1 && r.ncentral.demanding:
		parameters["validate"] = []string{"true"}
	case draw <= 3 && r.ncentral.demanding:
		patient = false
		reading, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(40))*time.Millisecond)
	}
	defer cancel()
	h := &handout{role: r, sent: time.Now(), dedicated: r.may(dedicated)}
	secret, err := s.server.Client().Logical().ReadWithDataWithContext(reading, mountPath+"/creds/"+r.name, parameters)
	took := time.Since(h.sent)
	h.dedicated = h.dedicated || r.may(dedicated)
	if h.dedicated {
		r.ncentral.authenticates.add("dedicated reads", 1)
	}
	if err == nil {
		err = h.fill(secret)
	}
	switch {
	case err == nil:
		s.answers.add(answered, 1)
		s.ledger.record(h, random)
	case !patient || ctx.Err() != nil:
		s.answers.add(hungUp, 1)
		if h.dedicated {
			r.ncentral.hangUps.add(h.sent, time.Now())
		}
	default:
		s.noteFailure(h, err)
	}
	if patient {
		s.noteDuration(h, took)
	}
}

// fill copies the token and its end from the answer.
func (h *handout) fill(secret *api.Secret) error {
	if secret == nil {
		return errors.New("an answer without data")
	}
	token, _ := secret.Data["access_token"].(string)
	number, _ := secret.Data["expires_at_seconds"].(json.Number)
	end, err := number.Int64()
	if token == "" || err != nil {
		return fmt.Errorf("an answer without a token or its end: %w", err)
	}
	h.token, h.lease, h.until = token, secret.LeaseID, time.Unix(end, 0)
	h.dedicated = h.dedicated && h.lease != ""
	if leaseEnd := h.sent.Add(time.Duration(secret.LeaseDuration) * time.Second); h.dedicated &&
		leaseEnd.Before(h.until) {
		h.until = leaseEnd
	}
	return nil
}

// noteFailure counts a read that failed. It is a finding where the read should not have failed.
func (s *soak) noteFailure(h *handout, err error) {
	status := statusOf(err)
	name := strconv.Itoa(status)
	if status == 0 {
		name = noServer
	}
	s.answers.add(name, 1)
	switch {
	case s.outages.during(h.sent.Add(-afterDisruption), time.Now()):
	case status != http.StatusBadRequest && status != http.StatusBadGateway && status != http.StatusServiceUnavailable:
		s.wrongStatus.add("%s of %s: %v", h.role.name, h.role.ncentral.name, err)
	case s.quiet.during(h.sent, h.sent):
		s.failedInQuiet.add("%s of %s: %v", h.role.name, h.role.ncentral.name, err)
	default:
		s.noteFailureOfTwoUsers(h, err)
	}
}

// noteDuration records a finding for a read that took longer than the engine may take.
func (s *soak) noteDuration(h *handout, took time.Duration) {
	if took > flightLimit+slowMachine && !s.outages.during(h.sent.Add(-afterDisruption), time.Now()) {
		s.slow.add("%s of %s took %s", h.role.name, h.role.ncentral.name, took.Round(time.Millisecond))
	}
}
