// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Benchmark measures how many reads a real server answers in a second, and how long they take: those of
// this engine's roles, of a plugin whose answers are constants over the same SDK
// (scripts/constant-plugin), and of the server's own kv engine. It then measures what readers see of a
// rotation, and of the dearest requests of others. All are measured in turns on one server, so that
// other load on the machine affects them alike. Run it by hand:
//
//	make bench
//	make bench BENCH='-storage raft -clients 16 -duration 10s'
//
// It goes one way: measure.go, reads.go and meanwhile.go measure, report.go sums up, and table.go and
// picture.go show the report. Everything, including the clients, runs on loopback and is removed at the
// end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings are the values of the flags.
type settings struct {
	clients  []int // that read at the same time
	duration time.Duration
	rounds   int // measurements of each kind of read
	storages []string
	output   string // directory
}

const (
	storageInMemory = "inmem"
	storageRaft     = "raft"
)

func main() {
	s := settings{clients: []int{1, 16, 128}, storages: []string{storageInMemory, storageRaft}}
	flag.Func("clients", "clients that read at the same time, with commas: 1,16,128 unless given", s.setClients)
	flag.DurationVar(&s.duration, "duration", 700*time.Millisecond, "how long one measurement takes")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each kind of read is measured")
	flag.Func("storage", "the servers' storage, with commas: inmem (a dev server), raft (on disk), or both, as "+
		"unless given", s.setStorages)
	flag.StringVar(&s.output, "output", "",
		"directory for performance.json and performance.svg; without one there is only the table")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "The benchmark failed:", err)
		os.Exit(1)
	}
}

func (s *settings) setClients(list string) error {
	s.clients = nil
	for one := range strings.SplitSeq(list, ",") {
		count, err := strconv.Atoi(one)
		if err != nil || count < 1 {
			return fmt.Errorf("%q is not a number of clients: at least 1", one)
		}
		s.clients = append(s.clients, count)
	}
	return nil
}

func (s *settings) setStorages(list string) error {
	s.storages = strings.Split(list, ",")
	for _, one := range s.storages {
		if one != storageInMemory && one != storageRaft {
			return fmt.Errorf("%q is not a storage: inmem or raft", one)
		}
	}
	return nil
}

func (s *settings) check() error {
	switch {
	case s.duration <= 0:
		return errors.New("-duration: more than 0")
	case s.rounds < 1:
		return errors.New("-rounds: at least 1")
	}
	return nil
}

func run(ctx context.Context, s settings) error {
	if err := s.check(); err != nil {
		return err
	}
	report := &report{Rounds: s.rounds, Seconds: s.duration.Seconds()}
	for i, storage := range s.storages {
		if err := measureOn(ctx, storage, s, i == 0, report); err != nil {
			return err
		}
	}
	if err := printTables(os.Stdout, report); err != nil {
		return err
	}
	return report.write(s.output)
}

// measureOn adds to the report what is measured on a server with that storage. What happens meanwhile
// is measured on one of the servers only.
func measureOn(ctx context.Context, storage string, s settings, meanwhile bool, report *report) error {
	bed, err := setUp(ctx, storage)
	defer func() {
		if err := bed.clear(); err != nil {
			fmt.Fprintln(os.Stderr, "Cleaning up:", err)
		}
	}()
	if err != nil {
		return err
	}
	if report.Machine, err = bed.describe(ctx); err != nil {
		return err
	}
	reader := newReader(bed)
	defer reader.close()
	for _, clients := range s.clients {
		fmt.Fprintf(os.Stderr, "Measuring reads with storage %s and %d clients.\n", storage, clients)
		measured, err := reader.measureReads(ctx, clients, s)
		if err != nil {
			return err
		}
		report.addReads(storage, clients, measured)
	}
	if !meanwhile {
		return nil
	}
	fmt.Fprintln(os.Stderr, "Measuring reads while other things happen.")
	measured, err := measureMeanwhile(ctx, bed, reader, s.rounds)
	if err != nil {
		return err
	}
	report.addMeanwhile(storage, measured)
	return nil
}
