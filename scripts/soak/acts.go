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

// patience is for how long what must succeed is tried, through blows and troubles.
const patience = 90 * time.Second

// trouble plays a server's episodes.
func (s *soak) trouble(ctx context.Context, began time.Time, n *ncentral, episodes []episode) error {
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
	s.writeDown("%s: %s", n.name, one)
	defer s.writeDown("%s: calm again after %s", n.name, one)
	regenerated := false
	for _, fault := range one.faults {
		s.faults.add(fault.name, 1)
		if fault.silences {
			defer n.silences.begin()()
		}
		if fault.name == "user disabled" {
			defer n.lockouts.begin()()
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

// authenticatesToLearn are how many authenticates it takes to learn what the server is like, of a check too: two, which on a
// jealous one end the role's session.
func (n *ncentral) authenticatesToLearn() int {
	if n.jealous {
		return 3
	}
	return 2
}

func (s *soak) sharedRolesOf(n *ncentral) (count int) {
	for _, r := range s.roles {
		if r.ncentral == n && r.may(shared) {
			count++
		}
	}
	return count
}

// strike deals the blows.
func (s *soak) strike(ctx context.Context, began time.Time) error {
	for _, one := range s.plan.blows {
		if err := sleepUntil(ctx, began.Add(one.at)); err != nil {
			return err
		}
		s.acts.add(one.kind, 1)
		s.writeDown("%s", one.kind)
		// What was under way is lost, and done again.
		for _, n := range s.ncentrals {
			n.authenticates.add("blows", s.sharedRolesOf(n))
		}
		end := s.outages.begin()
		if err := s.deal(ctx, one.kind); err != nil {
			return fmt.Errorf("%s: %w", one.kind, err)
		}
		end()
		s.writeDown("serving again")
	}
	return nil
}

func (s *soak) deal(ctx context.Context, kind string) error {
	s.process.Lock()
	defer s.process.Unlock()
	switch kind {
	case blowKillServer:
		return s.server.Restart(ctx)
	case blowSeal:
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

// rewriteAll does what is planned to the engine. What fails, for the server is down, is not done; but what was taken away
// is put back.
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
	role, n := s.roles[one.role], s.ncentrals[one.config]
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

// persist tries until it succeeds.
func (s *soak) persist(ctx context.Context, try func(context.Context) error) error {
	for deadline := time.Now().Add(patience); ; {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", patience, err)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (s *soak) write(ctx context.Context, path string, fields map[string]any) error {
	began := time.Now()
	_, err := s.server.Client().Logical().WriteWithContext(ctx, mountPath+"/"+path, fields)
	s.writeDown("%s written, took %s: %v", path, time.Since(began).Round(time.Millisecond), err)
	return err
}

func (s *soak) delete(ctx context.Context, path string) (*api.Secret, error) {
	began := time.Now()
	answer, err := s.server.Client().Logical().DeleteWithContext(ctx, mountPath+"/"+path)
	s.writeDown("%s deleted, took %s: %v", path, time.Since(began).Round(time.Millisecond), err)
	return answer, err
}

// readsOvertaken are how many reads of dedicated roles may be under way that start over when something changes.
const readsOvertaken = 2

// writeRole writes a role, to which another definition than before takes a session of its own.
func (s *soak) writeRole(ctx context.Context, r *role, d definition) error {
	if r.ncentral.jealous {
		d.dedicated = false // its sessions would end each other
	}
	fields := d.fields()
	fields["config"] = r.ncentral.name
	r.becoming(d)
	r.ncentral.authenticates.add("roles written", 1+readsOvertaken)
	err := s.write(ctx, "roles/"+r.name, fields)
	if err == nil {
		r.became(d)
	}
	return err
}

// writeConfig tells the engine the User-API token of now, which it verifies. Another one than before retires the sessions.
func (s *soak) writeConfig(ctx context.Context, n *ncentral) error {
	n.authenticates.add("configs written", n.authenticatesToLearn()+readsOvertaken)
	if n.tells() {
		n.authenticates.add("User-API tokens changed", s.sharedRolesOf(n))
	}
	return s.write(ctx, "config/"+n.name, n.config())
}

func (s *soak) check(ctx context.Context, n *ncentral) error {
	n.authenticates.add("checks", n.authenticatesToLearn())
	answer, err := s.server.Client().Logical().WriteWithContext(ctx, mountPath+"/config/"+n.name+"/check", nil)
	if err == nil && answer.Data["ok"] != true {
		err = fmt.Errorf("the check of %s failed: %v: %v", n.name, answer.Data["failed_step"], answer.Data["message"])
	}
	return err
}

// endSessions ends a shared role's sessions. Those of a dedicated one are its leases, which it leaves alone.
func (s *soak) endSessions(ctx context.Context, r *role) error {
	defer r.endings.begin()()
	r.ncentral.authenticates.add("sessions ended on request", 1)
	_, err := s.delete(ctx, "sessions/"+r.name)
	return err
}

func (s *soak) recreate(ctx context.Context, r *role, d definition) error {
	defer r.endings.begin()()
	_, _ = s.delete(ctx, "roles/"+r.name) // where it was not done, the role is rewritten
	return s.persist(ctx, func(ctx context.Context) error { return s.writeRole(ctx, r, d) })
}

// deleteConfig deletes the config of a single role, and makes both anew. Another one must be refused to be deleted.
func (s *soak) deleteConfig(ctx context.Context, n *ncentral) error {
	if !n.jealous {
		if _, err := s.delete(ctx, "config/"+n.name); err == nil {
			return errors.New("the config was deleted under its roles")
		}
		return nil
	}
	r := s.roles[roleCount-1]
	defer r.endings.begin()()
	_, _ = s.delete(ctx, "roles/"+r.name)
	n.strand()
	_, _ = s.delete(ctx, "config/"+n.name) // refused where the role is still there
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
	_ = s.server.Client().Sys().RevokeWithContext(ctx, lease) // if it was not done, it ends by itself
}

// revokeAll ends the sessions of a dedicated role, also those of a role that was dedicated when they were opened.
func (s *soak) revokeAll(ctx context.Context, r *role) error {
	defer r.endings.begin()()
	err := s.server.Client().Sys().RevokePrefixWithContext(ctx, mountPath+"/creds/"+r.name)
	s.writeDown("all leases of %s revoked: %v", r.name, err)
	return err
}

// readState reads all that tells of the engine, which makes no call to N-central.
func (s *soak) readState(ctx context.Context) {
	logical := s.server.Client().Logical()
	for _, path := range []string{"status", "metrics", "roles/role-00", "sessions/role-00", "config/plain"} {
		_, _ = logical.ReadWithContext(ctx, mountPath+"/"+path)
	}
	for _, path := range []string{"roles", "sessions", "config"} {
		_, _ = logical.ListWithContext(ctx, mountPath+"/"+path)
	}
}

// statusOf returns the HTTP status of an error of the server's, 0 where it did not answer.
func statusOf(err error) int {
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}
