// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/backend"
)

// asPlugin has the test binary be the plugin, and countsRoots has it say whether it trusts anybody.
const (
	asPlugin    = "TEST_AS_PLUGIN"
	countsRoots = "TEST_COUNTS_ROOTS"
)

func TestMain(m *testing.M) {
	if os.Getenv(countsRoots) != "" {
		roots, err := x509.SystemCertPool()
		fmt.Println(err == nil && !roots.Equal(x509.NewCertPool()))
		return
	}
	if os.Getenv(asPlugin) != "" {
		main()
		return
	}
	m.Run()
}

func command(ctx context.Context, environment []string, arguments ...string) *exec.Cmd {
	plugin := exec.CommandContext(ctx, os.Args[0], arguments...)
	plugin.Env = append(append(os.Environ(), asPlugin+"=1"), environment...)
	return plugin
}

func TestVersionSaysWhatThePluginWasBuiltFrom(t *testing.T) {
	want := regexp.MustCompile(`^vault-plugin-secrets-ncentral ` + regexp.QuoteMeta(backend.Version()) +
		`, commit \S.*, go\S+\n$`)
	for _, flag := range []string{"-version", "--version"} {
		output, err := command(t.Context(), nil, flag).Output()
		if err != nil || !want.Match(output) {
			t.Errorf("%s: %q, %v", flag, output, err)
		}
	}
}

// A server starts the plugin with a cookie, and reads a line of the protocol before all else. It
// may have been told to give the flags of its TLS connection.
func TestThePluginShakesHandsWithTheFlagsOfAServer(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	sockets, err := os.MkdirTemp("", "") //nolint:usetesting // t.TempDir's path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	plugin := command(ctx, []string{
		"PLUGIN_UNIX_SOCKET_DIR=" + sockets,
		"VAULT_BACKEND_PLUGIN=6669da05-b1c8-4f49-97d9-c8e5bed98e20", "PLUGIN_PROTOCOL_VERSIONS=5",
		"VAULT_PLUGIN_AUTOMTLS_ENABLED=true", "PLUGIN_MULTIPLEXING_SUPPORT=true", "VAULT_VERSION=1.21.0",
	}, "-ca-cert=a", "-ca-path=b", "-client-cert=c", "-client-key=d", "-tls-server-name=e", "-tls-skip-verify")
	output, err := plugin.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "1|5|") {
		t.Errorf("its first line is %q, %v", line, err)
	}
	stop()
	_ = plugin.Wait() // it was killed
}

// Otherwise every config without ca_cert would fail in a container from scratch.
func TestWhereTheSystemHasNoAuthoritiesThePluginHas(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux are there containers from scratch")
	}
	nowhere := t.TempDir()
	output, err := command(t.Context(), []string{
		countsRoots + "=1", "SSL_CERT_FILE=" + nowhere + "/none", "SSL_CERT_DIR=" + nowhere,
	}).Output()
	if err != nil || string(output) != "true\n" {
		t.Errorf("%q, %v", output, err)
	}
}
