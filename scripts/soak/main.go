// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Soak holds the engine to its promises under load and faults: a real server on Raft storage runs the plugin, readers read
// tokens that live for seconds and use each until its stated end, stand-in N-central servers fail in every way they can, the
// plugin and the server are killed and sealed, configs and roles are rewritten. At its end it prints figures and rules, and
// fails where a rule is broken:
//
//	go run ./scripts/soak -duration 10m
//
// What is done when is drawn from the seed, which repeats it. Everything runs on loopback, and is removed at the end, save
// the server's log of a run that failed.
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

// settings are what the flags say.
type settings struct {
	duration time.Duration // of the faults
	seed     uint64
}

// shortestDuration leaves room for each kind of fault of the server.
const shortestDuration = time.Minute

func main() {
	var s settings
	flag.DurationVar(&s.duration, "duration", 10*time.Minute, "how long there are faults; a start, a quiet time and an end come on top, of about two minutes together")
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
		broken := fmt.Errorf("%d rules are broken; -seed %d -duration %s repeats the schedule", broken, s.seed, s.duration)
		return errors.Join(broken, soak.keepRecords())
	}
	fmt.Println("Every rule holds.")
	return nil
}
