// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	caCertFile       = "ca.pem"
	userAPITokenFile = "user-api-token"
)

// stage is everything that exists while the demo runs.
type stage struct {
	output    io.Writer
	directory string // the demo's own, in which its commands run
	cli       string // vault or bao
	plugin    testbed.Plugin
	server    *testbed.Server
	simulator *testbed.Process
	ncentral  ncentral
}

// ncentral holds the simulator's addresses, from the line that it prints when it is ready.
type ncentral struct {
	URL      string `json:"url"`
	AdminURL string `json:"admin_url"`
}

// setStage builds and starts everything. It returns a stage that must be cleared even where it
// returns an error.
func setStage(ctx context.Context, output io.Writer) (*stage, error) {
	s := &stage{output: output}
	directory, err := os.MkdirTemp("", "ncentral-demo-")
	if err != nil {
		return s, err
	}
	s.directory = directory
	plugins := filepath.Join(directory, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return s, err
	}

	fmt.Fprintln(output, "Building the plugin and the N-central simulator. The first time takes a minute or two.")
	if s.plugin, err = testbed.BuildPlugin(ctx, plugins); err != nil {
		return s, err
	}
	simulator, err := testbed.BuildCommand(ctx, directory, "ncentral-simulator")
	if err != nil {
		return s, err
	}
	binary, err := testbed.ServerBinary(ctx, output)
	if err != nil {
		return s, err
	}
	if err := s.linkCLI(ctx, binary); err != nil {
		return s, err
	}
	fmt.Fprintf(output, "Starting the simulator, and %s in dev mode.\n", binary)
	if err := s.startSimulator(ctx, simulator); err != nil {
		return s, fmt.Errorf("starting the simulator: %w", err)
	}
	s.server, err = testbed.StartDev(ctx, testbed.Options{Binary: binary, PluginDirectory: plugins})
	return s, err
}

// linkCLI makes a link to the server's binary, which is also its command line, under the command's
// name.
func (s *stage) linkCLI(ctx context.Context, binary string) error {
	s.cli = "vault"
	if testbed.IsOpenBao(ctx, binary) {
		s.cli = "bao"
	}
	if err := os.Mkdir(s.binDirectory(), 0o755); err != nil {
		return err
	}
	return os.Symlink(binary, filepath.Join(s.binDirectory(), s.cli))
}

func (s *stage) binDirectory() string { return filepath.Join(s.directory, "bin") }

// startSimulator starts the simulator and waits for the line with its addresses.
func (s *stage) startSimulator(ctx context.Context, binary string) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reader.Close()
	command := exec.Command(binary, "-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0",
		"-ca-cert-file", caCertFile, "-user-api-token-file", userAPITokenFile)
	command.Dir = s.directory
	command.Stdout, command.Stderr = writer, os.Stderr
	s.simulator, err = testbed.StartProcess(command)
	writer.Close()
	if err != nil {
		return err
	}

	stopWatching := context.AfterFunc(ctx, s.simulator.Kill)
	defer stopWatching()
	line, err := bufio.NewReader(reader).ReadBytes('\n')
	if err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("waiting until it is ready: %w", err))
	}
	return json.Unmarshal(line, &s.ncentral)
}

// clear stops and removes everything.
func (s *stage) clear() error {
	var err error
	if s.server != nil {
		err = s.server.Stop()
	}
	if s.simulator != nil {
		s.simulator.Stop(5 * time.Second)
	}
	if s.directory == "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(s.directory))
}

// printUsage explains how to use what runs. It shows the root token, because nothing can be done
// with the server without it.
func (s *stage) printUsage() {
	fmt.Fprintf(s.output, `
Everything runs, until you press Ctrl-C here. In another terminal:

  export PATH="%[1]s:$PATH"
  export VAULT_ADDR=%[2]s
  export VAULT_TOKEN=%[3]s

  %[4]s read ncentral/creds/monitoring
  %[4]s read ncentral/sessions/monitoring
  %[4]s path-help ncentral/

N-central's stand-in, its counters and its knobs:

  %[5]s   (its CA certificate: %[7]s)
  %[6]s/counts, %[6]s/knobs

  curl %[6]s/counts
  curl -X POST %[6]s/reboot     # ends every session, as an upgrade of N-central does
  %[4]s read ncentral/creds/monitoring validate=true

  # The API user's password expires. All that the stand-in can do is in internal/simulator/admin.go.
  curl -d '{"expired":true}' %[6]s/users/api-user/password-expired
  %[4]s write -f -field=report ncentral/config/default/check
  curl -d '{"expired":false}' %[6]s/users/api-user/password-expired

Log of the server and the plugin: %[8]s
`, s.binDirectory(), s.server.Address, s.server.RootToken, s.cli, s.ncentral.URL, s.ncentral.AdminURL,
		filepath.Join(s.directory, caCertFile), s.server.LogFile)
}

// waitForEnd waits for Ctrl-C, which is a good end, or for a process that ends by itself, which is
// not.
func (s *stage) waitForEnd(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.simulator.Ended():
		return errors.New("the simulator ended by itself")
	case <-s.server.Ended():
		return errors.New("the server ended by itself")
	}
}
