// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Mutants finds out whether the tests would notice a fault in the code. It changes one thing at a
// time in the packages that the promises depend on, and runs the tests that reach the changed
// place. A change that no test notices is a survivor: a rule that no test holds, or code that does
// nothing.
//
//	go run ./scripts/mutants -n 100 -seed 1
//
// It changes no file of the repository. All changes to the functions of a package are woven into
// one copy of it; the environment variable MUTANT turns one of them on. The build takes the copies
// with -overlay. So a change costs a run of a few tests and no build. Verdicts are kept, and a
// change with a verdict is not tried again.
//
// change.go finds the changes, weave.go weaves them into copies, suite.go measures and builds the
// tests, try.go tries the changes and reports.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// settings are the values of the flags.
type settings struct {
	packages []string      // directories, below the root, of the packages to change
	files    regexp.Regexp // of these, the files to change
	tests    []string      // packages whose tests also run
	sample   int
	seed     uint64
	workers  int
	skip     *regexp.Regexp
	retry    bool
	results  string
}

func main() {
	s, err := parse()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		err = run(ctx, s)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "The mutation run failed:", err)
		os.Exit(1)
	}
}

func parse() (settings, error) {
	var s settings
	var packages, tests, skip string
	flag.StringVar(&packages, "in", "internal/sessions,internal/upstream,internal/store,internal/ncentral",
		"directories of the packages to change")
	flag.TextVar(&s.files, "file", regexp.MustCompile(""),
		"of these, change only the files whose paths match this regular expression")
	flag.StringVar(&tests, "tests", "backend",
		"directories of the packages whose tests are run, beside those of the packages changed")
	flag.IntVar(&s.sample, "n", 0, "try so many changes, drawn at random, instead of all")
	flag.Uint64Var(&s.seed, "seed", 1, "what they are drawn by")
	flag.IntVar(&s.workers, "j", runtime.NumCPU(), "changes tried at the same time")
	flag.StringVar(&skip, "skip", "", "leave out the tests whose names match this regular expression")
	flag.BoolVar(&s.retry, "retry", false, "try the survivors of earlier runs again")
	flag.StringVar(&s.results, "results", "bin/mutants.jsonl", "file that keeps the verdicts")
	flag.Parse() //nolint:revive // main calls this first
	s.packages, s.tests = strings.Split(packages, ","), strings.Split(tests, ",")
	if skip != "" {
		var err error
		if s.skip, err = regexp.Compile(skip); err != nil {
			return s, fmt.Errorf("-skip: %w", err)
		}
	}
	if s.sample < 0 || s.workers < 1 {
		return s, errors.New("-n must not be negative, and -j at least 1")
	}
	return s, nil
}

func run(ctx context.Context, s settings) error {
	root, err := testbed.RepositoryRoot()
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	directory, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)

	fmt.Println("Finding what can be changed.")
	packages, err := load(ctx, s.packages)
	if err != nil {
		return err
	}
	var all []*mutant
	for _, p := range packages {
		if err := p.weave(); err != nil {
			return err
		}
		all = append(all, p.mutants()...)
	}
	all = slices.DeleteFunc(all, func(m *mutant) bool { return !s.files.MatchString(m.file.path) })
	fmt.Printf("Running each test once, to see what it reaches of %d changes.\n", len(all))
	suite, err := newSuite(ctx, s, directory)
	if err != nil {
		return err
	}
	kept, err := openResults(s.results)
	if err != nil {
		return err
	}
	defer kept.close()
	chosen := sample(all, s.sample, s.seed)
	fmt.Println("Building the tests with all changes woven in.")
	if err := suite.buildWoven(ctx, packages); err != nil {
		return err
	}
	if err := tryAll(ctx, s, suite, kept, chosen); err != nil {
		return err
	}
	return report(os.Stdout, chosen, kept)
}
