// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Benchmark measures how many reads of a shared role a real server answers in a second. It compares
// them with the reads of a plugin whose answers are constants over the same SDK
// (scripts/constant-plugin), with and without leases. It measures all of them on one server in one
// run, in turns, so that other load on the machine affects them alike. Run it by hand:
//
//	go run ./scripts/benchmark -storage raft
//
// Everything, including the clients, runs on loopback and is removed at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings are the values of the flags.
type settings struct {
	clients  int
	duration time.Duration // of one measurement
	rounds   int           // measurements of each path
	storage  string        // of the server
}

const (
	storageInMemory = "inmem"
	storageRaft     = "raft"
)

func main() {
	var s settings
	flag.IntVar(&s.clients, "clients", 16, "clients that read at the same time")
	flag.DurationVar(&s.duration, "duration", 10*time.Second, "how long one measurement takes")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each path is measured")
	flag.StringVar(&s.storage, "storage", storageInMemory,
		"the server's storage: inmem (a dev server) or raft (on disk)")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "The benchmark failed:", err)
		os.Exit(1)
	}
}

func (s settings) check() error {
	switch {
	case s.clients < 1:
		return errors.New("-clients: at least 1")
	case s.duration <= 0:
		return errors.New("-duration: more than 0")
	case s.rounds < 1:
		return errors.New("-rounds: at least 1")
	case s.storage != storageInMemory && s.storage != storageRaft:
		return errors.New("-storage: inmem or raft")
	}
	return nil
}

func run(ctx context.Context, s settings) error {
	if err := s.check(); err != nil {
		return err
	}
	bed, err := setUp(ctx, s.storage)
	defer func() {
		if err := bed.clear(); err != nil {
			fmt.Fprintln(os.Stderr, "Cleaning up:", err)
		}
	}()
	if err != nil {
		return err
	}
	description, err := bed.describe(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "Measuring.")
	figures, err := measureAll(ctx, bed, s)
	if err != nil {
		return err
	}
	return printTable(os.Stdout, description, figures)
}
