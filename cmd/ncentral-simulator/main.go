// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command ncentral-simulator is a stand-in N-central server on loopback, for trying and testing the
// secrets engine without a real one. It has one API user, prints one line of JSON when it is ready,
// and ends on SIGINT or SIGTERM. See package simulator for its knobs and its admin API.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code: 0 after the context ends, 1 where the server cannot be started, 2 for
// invalid flags.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	options, err := parseOptions(arguments, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "ncentral-simulator: %v\n", err)
		return 2
	}
	if err := serve(ctx, options, stdout); err != nil {
		_, _ = fmt.Fprintf(stderr, "ncentral-simulator: %v\n", err)
		return 1
	}
	return 0
}

// ready is the line that reports that the servers are up. It holds no secret.
type ready struct {
	URL              string `json:"url"`
	AdminURL         string `json:"admin_url"`
	CACertFile       string `json:"ca_cert_file"`
	UserAPITokenFile string `json:"user_api_token_file"`
}

func serve(ctx context.Context, options options, stdout io.Writer) error {
	ncentral := simulator.New(options.knobs)
	server, err := simulator.Listen(ncentral, options.listen, options.plainHTTP)
	if err != nil {
		return err
	}
	defer server.Close()
	adminListener, err := net.Listen("tcp", options.adminListen)
	if err != nil {
		return err
	}
	admin := &http.Server{Handler: ncentral.AdminHandler()}
	var serving sync.WaitGroup
	serving.Go(func() { _ = admin.Serve(adminListener) })
	defer func() {
		_ = admin.Close()
		serving.Wait()
	}()
	if err := writeFiles(options, server.CAPEM, ncentral.AddUser(options.user)); err != nil {
		return err
	}
	line := ready{
		URL:              server.URL,
		AdminURL:         "http://" + adminListener.Addr().String(),
		CACertFile:       options.caCertFile,
		UserAPITokenFile: options.userAPITokenFile,
	}
	if err := json.NewEncoder(stdout).Encode(line); err != nil {
		return fmt.Errorf("saying that it is ready: %w", err)
	}
	<-ctx.Done()
	return nil
}

func writeFiles(options options, caPEM []byte, userAPIToken string) error {
	if options.caCertFile != "" {
		if err := os.WriteFile(options.caCertFile, caPEM, 0o644); err != nil {
			return err
		}
	}
	if options.userAPITokenFile != "" {
		return writeSecret(options.userAPITokenFile, userAPIToken)
	}
	return nil
}

// writeSecret restricts the permissions of an existing file before it writes the secret to it.
func writeSecret(path, secret string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = file.Chmod(0o600)
	if err == nil {
		_, err = file.WriteString(secret)
	}
	return errors.Join(err, file.Close())
}
