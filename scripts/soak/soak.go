// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	mountPath   = testbed.PluginName
	logName     = "server.log"
	journalName = "journal"
)

// soak is one run: what it runs on, and what it records.
type soak struct {
	settings
	plan      plan
	directory string
	server    *testbed.Server
	process   sync.Mutex // held while the server's process is replaced
	ncentrals []*ncentral
	roles     []*role
	ledger    *ledger
	watch     *watch

	journal *os.File // what was done to whom, and with what result

	outages spans // from a disruption until the server serves again
	quiet   spans // when every read should succeed
	faults  tally
	acts    tally
	answers tally // of reads, by outcome

	wrongStatus        findings // reads that failed with a status that the engine never returns
	slow               findings // reads that took longer than the engine may take
	failedInQuiet      findings // reads that failed in the quiet time
	leases             findings // leases that cannot be revoked
	owed               findings // logouts that remain owed
	open               findings // sessions that remain open and should not
	leaks              findings // what the plugin process holds more of than at first
	excess             findings // authenticates that nothing explains
	tries              findings // tries of a dead user that are too many
	failedWithTwoUsers findings // reads that failed though one of the role's users works
	logged             findings // what must never be in the server's log
	leftOpen           tally    // sessions that remain open, by reason
}

// role is a role as it was last written.
type role struct {
	name     string
	ncentral *ncentral
	endings  spans // when its sessions, or a dedicated role's leases, were being ended

	mu sync.Mutex
	// The definitions that the role may have. There are several while it is being written, and
	// after a write that failed, because such a write may have been done.
	definitions []definition
	since       time.Time // when the last of them was written
	rotations   float64   // the most that the earlier ones needed
}

// beginWrite records that the role is being written.
func (r *role) beginWrite(d definition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rotations = r.rotationsUntil(time.Now())
	r.definitions, r.since = append(r.definitions, d), time.Now()
}

// finishWrite records that the role was written.
func (r *role) finishWrite(d definition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.definitions = []definition{d}
}

// last returns the definition of the last write, even where it failed.
func (r *role) last() definition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.definitions[len(r.definitions)-1]
}

// rotationsSoFar returns the most rotations that the role has needed.
func (r *role) rotationsSoFar() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.rotationsUntil(time.Now())) + 1
}

// rotationsUntil counts one rotation in two fifths of a token's life: half of it must be left, and
// a read starts the next rotation a tenth before that. For a longer life, the default leaves at
// least five minutes.
func (r *role) rotationsUntil(now time.Time) float64 {
	if len(r.definitions) == 0 {
		return 0
	}
	last := r.definitions[len(r.definitions)-1]
	if last.dedicated {
		return r.rotations
	}
	return r.rotations + now.Sub(r.since).Seconds()/(last.ttl.Seconds()*2/5)
}

// may reports whether the role may have such a definition now.
func (r *role) may(is func(definition) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.definitions, is)
}

func dedicated(d definition) bool { return d.dedicated }
func shared(d definition) bool    { return !d.dedicated }

// tally counts by name.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) add(name string, count int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	if count > 0 {
		t.counts[name] += count
	}
}

func (t *tally) all() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

func (t *tally) sum() (sum int) {
	for _, count := range t.all() {
		sum += count
	}
	return sum
}

func newSoak(s settings) *soak {
	made := &soak{settings: s, plan: draw(s.seed, s.duration)}
	made.ledger = newLedger(&made.outages)
	made.ledger.began = time.Now()
	return made
}

// setUp starts all servers and writes the configs and roles.
func (s *soak) setUp(ctx context.Context) error {
	var err error
	if s.directory, err = os.MkdirTemp("", "ncentral-soak-"); err != nil {
		return err
	}
	if s.journal, err = os.Create(filepath.Join(s.directory, journalName)); err != nil {
		return err
	}
	binary, err := testbed.ServerBinary(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println("Building the plugin and starting the server.")
	plugin, err := testbed.BuildPlugin(ctx, s.directory)
	if err != nil {
		return err
	}
	// From this level on, the log has what the plugin writes to its standard error, including a
	// panic.
	s.server, err = testbed.StartRaft(ctx, testbed.Options{
		Binary: binary, PluginDirectory: s.directory, LogLevel: "debug", LogFile: filepath.Join(s.directory, logName),
	})
	if err != nil {
		return err
	}
	s.watch = &watch{soak: s}
	if err := errors.Join(s.server.Register(ctx, plugin),
		s.server.Mount(ctx, mountPath, plugin, api.MountConfigInput{})); err != nil {
		return err
	}
	for _, profile := range profiles {
		n, err := startNCentral(profile)
		if n != nil {
			s.ncentrals = append(s.ncentrals, n)
		}
		if err != nil {
			return err
		}
	}
	for _, n := range s.withSecondUsers() {
		if err := s.writeConfig(ctx, n); err != nil {
			return err
		}
	}
	return s.makeRoles(ctx)
}

// makeRoles spreads the roles over the configs. The one for a single session gets only the last
// role.
func (s *soak) makeRoles(ctx context.Context) error {
	last := len(s.ncentrals) - 1
	for i, definition := range s.plan.definitions {
		made := &role{name: fmt.Sprintf("role-%02d", i), ncentral: s.ncentrals[i%last]}
		switch {
		case i == roleCount-1:
			made.ncentral = s.ncentrals[last]
		case made.ncentral.second != nil && i/last%2 == 1:
			made.ncentral = made.ncentral.second
		}
		s.roles = append(s.roles, made)
		if err := s.writeRole(ctx, made, definition); err != nil {
			return err
		}
	}
	return nil
}

// run lets readers read while everything planned happens.
func (s *soak) run(ctx context.Context) error {
	if err := s.watch.countGoroutinesAtFirst(ctx); err != nil {
		return err
	}
	began := time.Now()
	s.ledger.began = began
	stop, stopAll := context.WithCancel(ctx)
	defer stopAll()
	var readers sync.WaitGroup
	for i := range readerCount {
		readers.Go(func() { s.reader(ctx, stop, i) })
	}
	readers.Go(func() { s.watch.sample(stop) })
	if err := s.disturb(ctx, began); err != nil {
		return err
	}
	if err := s.quieten(ctx); err != nil {
		return err
	}
	stopAll()
	readers.Wait()
	s.ledger.close()
	return nil
}

// disturb does everything planned.
func (s *soak) disturb(ctx context.Context, began time.Time) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, n := range s.ncentrals {
		group.Go(func() error { return s.playEpisodes(ctx, began, n, s.plan.episodes[i]) })
	}
	group.Go(func() error { return s.playDeaths(ctx, began) })
	group.Go(func() error { return s.disrupt(ctx, began) })
	group.Go(func() error { return s.rewriteAll(ctx, began) })
	group.Go(func() error { return sleepUntil(ctx, began.Add(s.duration)) })
	return group.Wait()
}

// clear stops and removes everything.
func (s *soak) clear() error {
	var err error
	if s.server != nil {
		err = s.server.Stop()
	}
	for _, n := range s.ncentrals {
		if n.server != nil {
			n.server.Close()
		}
	}
	if s.directory == "" {
		return err
	}
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return errors.Join(err, os.RemoveAll(s.directory))
}

// keepRecords moves the server's log and the journal to where clear does not remove them.
func (s *soak) keepRecords() error {
	kept, err := os.MkdirTemp("", fmt.Sprintf("ncentral-soak-%d-", s.seed))
	if err != nil {
		return err
	}
	for _, name := range []string{logName, journalName} {
		if err := os.Rename(filepath.Join(s.directory, name), filepath.Join(kept, name)); err != nil {
			return err
		}
	}
	fmt.Println("The server's log and the journal of what was done are kept in", kept)
	return nil
}

// note writes a line to the journal.
func (s *soak) note(format string, arguments ...any) {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, arguments...)), " ")
	fmt.Fprintf(s.journal, "%s %10s %s\n", time.Now().UTC().Format("15:04:05.000"), s.since(time.Now()), line)
}

// since returns the time since the start of the soak.
func (s *soak) since(at time.Time) time.Duration {
	return at.Sub(s.ledger.began).Round(time.Millisecond)
}

// sleepUntil returns at that time, or returns the error of a context that ends first.
func sleepUntil(ctx context.Context, at time.Time) error { return sleep(ctx, time.Until(at)) }

func sleep(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
