// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Find-server finds or builds the Vault or OpenBao server for the tests and the demo, and prints
// its path. The tests can do the same themselves, but go test would show nothing of a build that
// takes minutes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	path, err := testbed.ServerBinary(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "No server to test with:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}
