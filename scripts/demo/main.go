// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Demo shows the secrets engine at work. It builds the plugin, starts a Vault or OpenBao server and
// a stand-in N-central server, and runs the commands that a user would type, with their real
// output. With -keep it sets all of that up and leaves it running. In both cases it removes every
// trace when it ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// exitInterrupted is the exit code that a shell reports for a command that SIGINT ended.
const exitInterrupted = 130

func main() {
	keep := flag.Bool("keep", false, "set everything up, print how to use it, and leave it running until Ctrl-C")
	flag.Parse()
	// If the reader of the output goes away (SIGPIPE), nothing may be left behind either.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP,
		syscall.SIGPIPE)
	code := run(ctx, os.Stdout, *keep)
	stop()
	os.Exit(code)
}

// whatNext ends the demo.
const whatNext = `
That is all. What to look at next:

  make dev                        leaves everything running, for you to try
  docs/setup.md                   sets the engine up on your own server
  docs/consumers.md               says how each of your applications takes its tokens
  docs/operations.md              is the runbook: what to do when something fails
  deploy/grafana-dashboard.json   shows all of it on a dashboard; the alert rules are beside it
`

// run returns the exit code.
func run(ctx context.Context, output io.Writer, keep bool) int {
	err := show(ctx, output, keep)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(output, "\nInterrupted. Nothing is left behind.")
		return exitInterrupted
	default:
		fmt.Fprintln(output, "\nThe demo failed:", err)
		return 1
	}
}

// show sets the stage, runs the steps on it, and clears it.
func show(ctx context.Context, output io.Writer, keep bool) error {
	stage, err := setStage(ctx, output)
	defer func() {
		if err := stage.clear(); err != nil {
			fmt.Fprintln(output, "Cleaning up:", err)
		}
	}()
	if err != nil {
		return err
	}

	stage.introduce()
	if err := stage.runAll(ctx, stage.setupSteps()); err != nil {
		return err
	}
	if keep {
		stage.printUsage()
		return stage.waitForEnd(ctx)
	}
	if err := stage.runAll(ctx, stage.usageSteps()); err != nil {
		return err
	}
	fmt.Fprint(output, whatNext)
	return nil
}
