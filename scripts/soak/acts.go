// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// persistLimit is how long an action that must succeed is retried, through disruptions and faults.
const persistLimit = 90 * time.Second

// playEpisodes plays the episodes of one server.
func (s *soak) playEpisodes(ctx context.Context, began time.Time, n *ncentral, episodes []episode) error {
	for _, one := range episodes {
		if err := sleepUntil(ctx, began.Add(one.at)); err != nil {
			return err
		}
		if err := s.play(ctx, n, one); err != nil {
			return fmt.Errorf("%s: %s: %w", n.name, one, err)
		}
	}
	return nil
}

func (s *soak) play(ctx context.Context, n *ncentral, one episode) error {
	s.note("%s: %s", n.name, one)
	defer s.note("%s: calm again after %s", n.name, one)
	regenerated := false
	for _, fault := range one.faults {
		s.faults.add(fault.name, 1)
		if fault.silences {
			defer n.silences.begin()() //nolint:revive // it lasts as long as the episode
		}
		if fault.name == "user disabled" {
			defer n.lockouts.begin()() //nolint:revive // it lasts as long as the episode
		}
		n.authenticates.add("useless grants", fault.explains)
		if fault.ends || (fault.regenerates && n.knobs.RegenerateEndsSessions) {
			n.authenticates.add("sessions ended by the server", s.sharedRolesOf(n)+n.authenticatesToLearn())
		}
		if err := fault.begin(n); err != nil {
			return err
		}
		regenerated = regenerated || fault.regenerates
	}
	if err := sleep(ctx, one.lasts); err != nil {
		return err
	}
	if err := n.calm(); err != nil || !regenerated {
		return err
	}
	return s.persist(ctx, func(ctx context.Context) error { return s.writeConfig(ctx, n) })
}

// authenticatesToLearn returns how many authenticates the engine needs to learn the traits of a
// server, including those of a check: two. Where the server keeps a single session, they also end
// the role's session, which takes a third.
func (n *ncentral) authenticatesToLearn() int {
	if n.singleSession {
		return 3
	}
	return 2
}

func (s *soak) sharedRolesOf(n *ncentral) (count int) {
	for _, r := range s.roles {
		if (r.ncentral == n || r.ncentral == n.other()) && r.may(shared) {
			count++
		}
	}
	return count
}

// disrupt carries out the disruptions.
func (s *soak) disrupt(ctx context.Context, began time.Time) error {
	for _, one := range s.plan.disruptions {
		if err := sleepUntil(ctx, began.Add(one.at)); err != nil {
			return err
		}
		s.acts.add(one.kind, 1)
		s.note("%s", one.kind)
		// What was under way is lost, and is done again.
		for _, n := range s.ncentrals {
			n.authenticates.add("disruptions", s.sharedRolesOf(n))
		}
		end := s.outages.begin()
		if err := s.disruptOnce(ctx, one.kind); err != nil {
			return fmt.Errorf("%s: %w", one.kind, err)
		}
		end()
		s.note("serving again")
	}
	return nil
}

func (s *soak) disruptOnce(ctx context.Context, kind string) error {
	s.process.Lock()
	defer s.process.Unlock()
	switch kind {
	case killServer:
		return s.server.Restart(ctx)
	case sealServer:
		if err := s.server.Seal(ctx); err != nil {
			return err
		}
		return s.server.Unseal(ctx)
	default:
		pids, err := s.server.PluginPIDs()
		for _, pid := range pids {
			err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
		}
		return err
	}
}

// rewriteAll carries out the planned rewrites. One that fails because the server is down is
// skipped, but what was deleted is always made again.
func (s *soak) rewriteAll(ctx context.Context, began time.Time) error {
	for _, one := range s.plan.rewrites {
		if err := sleepUntil(ctx, began.Add(one.at)); err != nil {
			return err
		}
		if time.Since(began) > s.duration {
			return nil // the machine is too slow for all of them
		}
		s.acts.add(one.kind, 1)
		if err := s.rewrite(ctx, one); err != nil {
			return fmt.Errorf("%s: %w", one.kind, err)
		}
	}
	return nil
}

func (s *soak) rewrite(ctx context.Context, one rewrite) error {
	role, n := s.roles[one.role], s.withSecondUsers()[one.config]
	switch one.kind {
	case rewriteRole:
		_ = s.writeRole(ctx, role, one.definition)
	case rewriteConfig:
		_ = s.writeConfig(ctx, n)
	case recreateRole:
		return s.recreate(ctx, role, one.definition)
	case deleteConfig:
		return s.deleteConfig(ctx, n)
	case checkConfig:
		_ = s.check(ctx, n)
	case endSessions:
		_ = s.endSessions(ctx, role)
	case revokeLease:
		s.revokeOne(ctx, one.role)
	case revokeAllLeases:
		_ = s.revokeAll(ctx, role)
	case readState:
		s.readState(ctx)
	}
	return nil
}

// persist retries until it succeeds.
func (s *soak) persist(ctx context.Context, try func(context.Context) error) error {
	for deadline := time.Now().Add(persistLimit); ; {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", persistLimit, err)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (s *soak) write(ctx context.Context, path string, fields map[string]any) error {
	began := time.Now()
	_, err := s.server.Client().Logical().WriteWithContext(ctx, mountPath+"/"+path, fields)
	s.note("%s written, took %s: %v", path, time.Since(began).Round(time.Millisecond), err)
	return err
}

func (s *soak) delete(ctx context.Context, path string) (*api.Secret, error) {
	began := time.Now()
	answer, err := s.server.Client().Logical().DeleteWithContext(ctx, mountPath+"/"+path)
	s.note("%s deleted, took %s: %v", path, time.Since(began).Round(time.Millisecond), err)
	return answer, err
}

// restartedReads is how many reads of dedicated roles may be under way and start over when
// something changes.
const restartedReads = 2

// writeRole writes a role. A definition other than before needs a new session.
func (s *soak) writeRole(ctx context.Context, r *role, d definition) error {
	if r.ncentral.singleSession {
		d.dedicated = false // its sessions would end one another
	}
	fields := d.fields()
	fields["config"] = r.ncentral.name
	if other := r.ncentral.other(); other != nil {
		fields["fallback_configs"] = other.name
		if !d.dedicated {
			fields["reread_interval"] = d.reread.String()
		}
	}
	r.beginWrite(d)
	r.ncentral.authenticates.add("roles written", 1+restartedReads)
	err := s.write(ctx, "roles/"+r.name, fields)
	if err == nil {
		r.finishWrite(d)
	}
	return err
}

// writeConfig writes the current User-API token, which the engine verifies. A new token retires the
// sessions.
func (s *soak) writeConfig(ctx context.Context, n *ncentral) error {
	n.authenticates.add("configs written", n.authenticatesToLearn()+restartedReads)
	if n.recordWrittenToken() {
		n.authenticates.add("User-API tokens changed", s.sharedRolesOf(n))
	}
	defer n.asked.begin()()
	return s.write(ctx, "config/"+n.name, n.config())
}

func (s *soak) check(ctx context.Context, n *ncentral) error {
	n.authenticates.add("checks", n.authenticatesToLearn())
	defer n.asked.begin()()
	answer, err := s.server.Client().Logical().WriteWithContext(ctx, mountPath+"/config/"+n.name+"/check", nil)
	if err == nil && answer.Data["ok"] != true {
		err = fmt.Errorf("the check of %s failed: %v: %v", n.name, answer.Data["failed_step"], answer.Data["message"])
	}
	return err
}

// endSessions ends a shared role's sessions. Those of a dedicated role end with their leases, which
// this leaves alone.
func (s *soak) endSessions(ctx context.Context, r *role) error {
	defer r.endings.begin()()
	r.ncentral.authenticates.add("sessions ended on request", 1)
	_, err := s.delete(ctx, "sessions/"+r.name)
	return err
}

func (s *soak) recreate(ctx context.Context, r *role, d definition) error {
	defer r.endings.begin()()
	_, _ = s.delete(ctx, "roles/"+r.name) // where this fails, the role is rewritten
	return s.persist(ctx, func(ctx context.Context) error { return s.writeRole(ctx, r, d) })
}

// deleteConfig deletes the config that has a single role, and makes both again. The deletion of any
// other config must be refused.
func (s *soak) deleteConfig(ctx context.Context, n *ncentral) error {
	if !n.singleSession {
		if _, err := s.delete(ctx, "config/"+n.name); err == nil {
			return errors.New("the config was deleted under its roles")
		}
		return nil
	}
	r := s.roles[roleCount-1]
	defer r.endings.begin()()
	_, _ = s.delete(ctx, "roles/"+r.name)
	n.recordDeletion()
	_, _ = s.delete(ctx, "config/"+n.name) // refused where the role still exists
	if err := s.persist(ctx, func(ctx context.Context) error { return s.writeConfig(ctx, n) }); err != nil {
		return err
	}
	return s.persist(ctx, func(ctx context.Context) error { return s.writeRole(ctx, r, r.last()) })
}

func (s *soak) revokeOne(ctx context.Context, draw int) {
	lease := s.ledger.leaseToRevoke(draw)
	if lease == "" {
		return
	}
	_ = s.server.Client().Sys().RevokeWithContext(ctx, lease) // where this fails, the lease expires
}

// revokeAll ends the sessions of a dedicated role, and those of a role that was dedicated when they
// were opened.
func (s *soak) revokeAll(ctx context.Context, r *role) error {
	defer r.endings.begin()()
	err := s.server.Client().Sys().RevokePrefixWithContext(ctx, mountPath+"/creds/"+r.name)
	s.note("all leases of %s revoked: %v", r.name, err)
	return err
}

// readState reads everything that describes the engine. This makes no call to N-central.
func (s *soak) readState(ctx context.Context) {
	logical := s.server.Client().Logical()
	for _, path := range []string{"status", "metrics", "roles/role-00", "sessions/role-00", "config/plain"} {
		_, _ = logical.ReadWithContext(ctx, mountPath+"/"+path)
	}
	for _, path := range []string{"roles", "sessions", "config"} {
		_, _ = logical.ListWithContext(ctx, mountPath+"/"+path)
	}
}

// statusOf returns the HTTP status of an error from the server, or 0 where it did not answer.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*api.ResponseError](err); ok {
		return answer.StatusCode
	}
	return 0
}
