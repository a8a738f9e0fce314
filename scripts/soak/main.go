// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Soak tests the engine's promises under load and faults. A real server on Raft storage runs the
// plugin. Readers read tokens that live for seconds and use each until its stated end. Stand-in
// N-central servers fail in every way they can. The plugin and the server are killed, the server is
// sealed, configs and roles are rewritten. At the end the soak prints figures and rules, and fails
// where a rule is broken:
//
//	go run ./scripts/soak -duration 10m
//
// The schedule is drawn from the seed, which repeats it. Everything runs on loopback and is removed
// at the end. Only the server's log and the journal of a run that failed are kept.
//
// main.go has the flags, plan.go draws the schedule, soak.go runs it. acts.go does what is planned,
// faults.go has the faults of N-central, reader.go the readers, ledger.go what was promised to
// them. settle.go and watch.go find what is wrong at the end, and report.go prints it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings are the values of the flags.
type settings struct {
	duration time.Duration // of the faults
	seed     uint64
}

// shortestDuration leaves time for each kind of disruption.
const shortestDuration = time.Minute

func main() {
	var s settings
	flag.DurationVar(&s.duration, "duration", 10*time.Minute,
		"how long there are faults; a start, a quiet time and an end come on top, of about two minutes together")
	flag.Uint64Var(&s.seed, "seed", 0, "what the faults and their times are drawn from; 0 for another one each time")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "The soak failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	if s.duration < shortestDuration {
		return fmt.Errorf("-duration: at least %s", shortestDuration)
	}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	soak := newSoak(s)
	defer func() {
		if err := soak.clear(); err != nil {
			fmt.Fprintln(os.Stderr, "Cleaning up:", err)
		}
	}()
	if err := soak.setUp(ctx); err != nil {
		return err
	}
	fmt.Printf("Soaking for %s with seed %d.\n", s.duration, s.seed)
	if err := soak.run(ctx); err != nil {
		return err
	}
	report, err := soak.settle(ctx)
	if err != nil {
		return err
	}
	if err := report.print(os.Stdout); err != nil {
		return err
	}
	if broken := report.broken(); broken > 0 {
		broken := fmt.Errorf("%d rules are broken; -seed %d -duration %s repeats the schedule", broken, s.seed,
			s.duration)
		return errors.Join(broken, soak.keepRecords())
	}
	fmt.Println("Every rule holds.")
	return nil
}
