// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

const (
	// untilQuiet is how long the engine may still fail after the last fault.
	untilQuiet = 20 * time.Second
	// logoutPatience is enough for two ticks.
	logoutPatience = 130 * time.Second
)

// quieten waits until the engine must have recovered from everything. First it reboots one of the
// servers whose readers never ask for validation: no dead token may be handed out at the end.
func (s *soak) quieten(ctx context.Context) error {
	for _, n := range s.withSecondUsers() {
		// A check that passes ends the cool-down of a refused User-API token.
		if err := s.persist(ctx, func(ctx context.Context) error { return s.check(ctx, n) }); err != nil {
			return err
		}
	}
	unasked := slices.DeleteFunc(slices.Clone(s.ncentrals), func(n *ncentral) bool { return n.demanding })
	if err := s.play(ctx, unasked[s.seed%uint64(len(unasked))], episode{faults: []fault{reboot}}); err != nil {
		return err
	}
	if err := sleep(ctx, untilQuiet); err != nil {
		return err
	}
	defer s.quiet.begin()()
	return sleep(ctx, calmAfterReboot-untilQuiet)
}

// settle ends everything that is open, and finds what cannot be ended.
func (s *soak) settle(ctx context.Context) (*report, error) {
	report := &report{soak: s}
	s.findExcess()
	if err := s.revokeEverything(ctx); err != nil {
		return report, err
	}
	for _, r := range s.roles {
		answer, err := s.delete(ctx, "sessions/"+r.name)
		if err != nil {
			return report, err
		}
		if answer != nil {
			s.noteUnended(r, answer.Warnings)
		}
	}
	if err := s.awaitLogouts(ctx); err != nil {
		return report, err
	}
	for _, n := range s.ncentrals {
		s.findOpenSessions(n)
	}
	var err error
	if report.before, report.now, err = s.watch.compare(); err != nil {
		return report, err
	}
	if err := s.watch.countGoroutinesAtLast(ctx); err != nil {
		return report, err
	}
	return report, s.searchLog()
}

// revokeEverything revokes the leases one role at a time, so that no request takes too long.
func (s *soak) revokeEverything(ctx context.Context) error {
	for _, r := range s.roles {
		if err := s.revokeAll(ctx, r); err != nil {
			s.leases.add("revoking those of %s: %v", r.name, err)
		}
	}
	answer, err := s.server.Client().Logical().ReadWithDataWithContext(ctx, "sys/leases/count",
		map[string][]string{"type": {"irrevocable"}})
	if err != nil {
		return err
	}
	if count := intOf(answer.Data["lease_count"]); count > 0 {
		s.leases.add("%d are irrevocable, says the server", count)
	}
	for _, r := range s.roles {
		// The server may have stored the lease of a reader that hung up only now.
		err := s.persist(ctx, func(ctx context.Context) error { return s.hasNoLease(ctx, r) })
		if err != nil {
			s.leases.add("%s: %v", r.name, err)
		}
	}
	return nil
}

// hasNoLease revokes a role's leases and returns an error while there are any.
func (s *soak) hasNoLease(ctx context.Context, r *role) error {
	answer, err := s.server.Client().Logical().ListWithContext(ctx, "sys/leases/lookup/"+mountPath+"/creds/"+r.name)
	if err != nil || answer == nil {
		return err
	}
	return errors.Join(fmt.Errorf("leases %v are still there", answer.Data["keys"]), s.revokeAll(ctx, r))
}

// noteUnended records what delete sessions/ROLE could not end, although no fault troubled the
// server. For a dedicated role the answer says where its sessions are.
func (s *soak) noteUnended(r *role, warnings []string) {
	for _, warning := range warnings {
		if !strings.Contains(warning, "lease revoke -prefix") {
			s.open.add("%s of %s: %s", r.name, r.ncentral.name, warning)
		}
	}
}

// awaitLogouts waits until no logout is owed. The engine retries them once a minute.
func (s *soak) awaitLogouts(ctx context.Context) error {
	for deadline := time.Now().Add(logoutPatience); ; {
		owed, err := s.logoutsOwed(ctx)
		if err != nil || len(owed) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			for _, text := range owed {
				s.owed.add("%s", text)
			}
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (s *soak) logoutsOwed(ctx context.Context) (owed []string, err error) {
	answer, err := s.server.Client().Logical().ReadWithContext(ctx, mountPath+"/status")
	if err != nil {
		return nil, err
	}
	configs, _ := answer.Data["configs"].(map[string]any)
	for name, config := range configs {
		described, _ := config.(map[string]any)
		if count := intOf(described["logouts_owed"]); count > 0 {
			owed = append(owed, fmt.Sprintf("%d of config %s", count, name))
		}
	}
	if len(configs) != len(s.withSecondUsers()) {
		return nil, fmt.Errorf("status tells of %d configs", len(configs))
	}
	return owed, nil
}

func intOf(value any) int64 {
	number, _ := value.(json.Number)
	count, _ := number.Int64()
	return count
}

// findOpenSessions finds the sessions that are still open, and the reasons.
func (s *soak) findOpenSessions(n *ncentral) {
	requests := map[string][]simulator.RequestRecord{}
	for _, request := range n.Requests() {
		requests[request.Secret] = append(requests[request.Secret], request)
	}
	for _, issued := range n.Issued() {
		if !n.AccessTokenLives(issued.Access) {
			continue
		}
		if why := s.whyOpen(n, issued, requests[issued.Access]); why != "" {
			s.leftOpen.add(why, 1)
			continue
		}
		s.open.add("one of %s, opened at %s by %s, handed out for %q, calls: %s", n.name,
			s.since(issued.IssuedAt), issued.Endpoint, s.ledger.handedOutFor(issued.Access),
			s.describe(requests[issued.Access]))
	}
}

func (s *soak) describe(requests []simulator.RequestRecord) string {
	var texts []string
	for _, request := range requests {
		texts = append(texts, fmt.Sprintf("%s %s %d %s", s.since(request.Time), request.Endpoint, request.Status,
			request.Outcome))
	}
	return strings.Join(texts, ", ")
}

// whyOpen returns the reason why a session is still open, or "".
func (s *soak) whyOpen(n *ncentral, issued simulator.IssuedToken, requests []simulator.RequestRecord) string {
	for _, request := range requests {
		switch {
		case request.Endpoint == simulator.EndpointLogout && request.Outcome == simulator.OutcomeNotFound:
			return "the server had no logout"
		case request.Status == http.StatusUnauthorized:
			return "the server said that it was dead"
		}
	}
	switch {
	case issued.Lost:
		return "the answer was lost"
	case n.deletedAt().After(issued.IssuedAt):
		return "its config was deleted"
	case s.ledger.handedOutFor(issued.Access) != "":
		return ""
	case n.hangUps.during(issued.IssuedAt.Add(-time.Second), issued.IssuedAt):
		return "its reader hung up at the wrong moment"
	case s.outages.during(issued.IssuedAt, issued.IssuedAt.Add(flightLimit)):
		return "a process was killed with it"
	}
	return ""
}

// findExcess finds authenticates that no role needs and nothing explains.
func (s *soak) findExcess() {
	for _, n := range s.ncentrals {
		for outcome, count := range n.Counts()[simulator.EndpointRefresh] {
			if outcome != simulator.OutcomeOK {
				n.authenticates.add("failed refreshes", count)
			}
		}
		if n.knobs.RefreshEndsPredecessor {
			for _, r := range s.roles {
				if r.ncentral == n {
					n.authenticates.add("rotations, where a refresh ends the token before it", r.rotationsSoFar())
				}
			}
		}
		if made := n.Count(simulator.EndpointAuthenticate, simulator.OutcomeOK); made > n.authenticates.sum() {
			s.excess.add("%s: %d, where %d are explained", n.name, made, n.authenticates.sum())
		}
	}
}

// never matches what the server's log must not hold: a token, a panic of the plugin, a data race.
var never = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+|panic: |fatal error: |DATA RACE`)

func (s *soak) searchLog() error {
	log, err := os.ReadFile(s.server.LogFile)
	if err != nil {
		return err
	}
	for _, found := range never.FindAll(log, -1) {
		if strings.HasPrefix(string(found), "eyJ") {
			found = []byte("a token")
		}
		s.logged.add("%s", found)
	}
	return nil
}
