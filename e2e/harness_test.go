// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package e2e tests the engine as users meet it: a real Vault or OpenBao server process that runs
// the plugin's binary, over HTTP, with a simulated N-central behind it over TLS.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// What all tests of the package share. Set by TestMain, before any of them runs.
var (
	serverBinary    string
	pluginDirectory string
	plugin          testbed.Plugin
	// sharedServer runs most tests' mounts. A test that seals, restarts or kills starts a server of
	// its own.
	sharedServer *testbed.Server
)

// testsAtATime are more than there are cores, since the tests spend their time waiting.
const testsAtATime = 16

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	if err := allowParallelTests(); err != nil {
		return 1, err
	}
	ctx := context.Background()
	if pluginDirectory, err = os.MkdirTemp("", "e2e-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(pluginDirectory)
	if serverBinary, err = testbed.ServerBinary(ctx, os.Stderr); err != nil {
		return 1, err
	}
	serverKind = kindOf(ctx, serverBinary)
	if plugin, err = testbed.BuildPlugin(ctx, pluginDirectory); err != nil {
		return 1, err
	}
	if sharedServer, err = testbed.StartDev(ctx, serverOptions()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, endServer(sharedServer), secrets.searchShown()) }()
	if err := sharedServer.Register(ctx, plugin); err != nil {
		return 1, err
	}
	if err := readDeclared(ctx, sharedServer); err != nil {
		return 1, err
	}
	code = m.Run()
	tellSkippedExamples()
	return code, nil
}

// allowParallelTests sets how many tests run at a time, unless the command line does.
func allowParallelTests() error {
	flag.Parse() //nolint:revive // TestMain calls this first
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(testsAtATime))
}

// serverOptions have all written down that a server can tell, what the plugin writes to its
// standard error included: that is where the race detector reports.
func serverOptions() testbed.Options {
	return testbed.Options{Binary: serverBinary, PluginDirectory: pluginDirectory, LogLevel: "trace", Audit: true}
}

// startRaft starts a server of the test's own, on storage that outlives a restart, with the plugin
// registered.
func startRaft(t *testing.T) *testbed.Server {
	t.Helper()
	server, err := testbed.StartRaft(t.Context(), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := endServer(server); err != nil {
			t.Error(err)
		}
	})
	if err := server.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	return server
}

// ncentral is a simulated N-central of one test, with the user "api-user", that listens over TLS.
type ncentral struct {
	*simulator.Simulator
	server       *simulator.Server
	userAPIToken string
}

// userName is the user whose User-API token the configs have.
const userName = "api-user"

// newNCentral starts a simulated N-central. The function changes its knobs; nil leaves all at their
// default.
func newNCentral(t *testing.T, change func(*simulator.Knobs)) *ncentral {
	t.Helper()
	knobs := simulator.DefaultKnobs()
	if change != nil {
		change(&knobs)
	}
	simulated := simulator.New(knobs)
	server, err := simulator.Listen(simulated, "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	secrets.addSimulator(simulated)
	return &ncentral{Simulator: simulated, server: server, userAPIToken: simulated.AddUser(userName)}
}

// config is what to write to a config for this server: never tried again, patient enough for a busy
// machine, and with a password that does not expire.
func (n *ncentral) config() map[string]any {
	return map[string]any{
		"url":              n.server.URL,
		"ca_cert":          string(n.server.CAPEM),
		"user_api_token":   n.userAPIToken,
		"request_timeout":  "5s",
		"max_retries":      0,
		"password_max_age": 0,
	}
}

// mount is the engine mounted for one test, with a simulated N-central of its own behind the config
// "default".
type mount struct {
	*ncentral
	t       *testing.T
	testbed *testbed.Server
	client  *api.Client // with the root token
	path    string      // of the mount, without a slash at its end
}

var mounts atomic.Int64

// newMount mounts the engine on the shared server and writes the config "default". All the calls
// that this took are counted no more.
func newMount(t *testing.T, change func(*simulator.Knobs)) *mount {
	t.Helper()
	m := newMountOn(t, sharedServer, api.MountConfigInput{}, change)
	t.Cleanup(m.unmount)
	return m
}

// newMountOn is newMount on a server of the caller's choice and with a mount configuration. The
// mount is left where it is.
func newMountOn(
	t *testing.T, server *testbed.Server, config api.MountConfigInput, change func(*simulator.Knobs),
) *mount {
	t.Helper()
	return newMountAt(t, server, "ncentral-"+strconv.FormatInt(mounts.Add(1), 10), config, change)
}

// newMountAt is newMountOn with a path of the caller's choice.
func newMountAt(
	t *testing.T, server *testbed.Server, path string, config api.MountConfigInput, change func(*simulator.Knobs),
) *mount {
	t.Helper()
	m := &mount{
		ncentral: newNCentral(t, change),
		t:        t,
		testbed:  server,
		client:   server.Client(),
		path:     path,
	}
	if err := server.Mount(t.Context(), m.path, plugin, config); err != nil {
		t.Fatal(err)
	}
	m.write("config/default", m.config())
	m.ResetCounts()
	return m
}

// unmount disables the mount, which must always succeed.
func (m *mount) unmount() {
	if err := m.client.Sys().UnmountWithContext(context.Background(), m.path); err != nil {
		m.t.Errorf("disabling the mount: %v", err)
	}
}

// clientFor returns a client with a token of the policy, which is given as its rules. MOUNT in them
// stands for the mount's path.
func (m *mount) clientFor(rules string) *api.Client {
	m.t.Helper()
	policy := m.path + "-" + strconv.FormatInt(mounts.Add(1), 10)
	rules = string(bytes.ReplaceAll([]byte(rules), []byte("MOUNT"), []byte(m.path)))
	if err := m.client.Sys().PutPolicyWithContext(m.t.Context(), policy, rules); err != nil {
		m.t.Fatal(err)
	}
	secret, err := m.client.Auth().Token().CreateWithContext(m.t.Context(), &api.TokenCreateRequest{
		Policies: []string{policy},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	client, err := m.testbed.ClientWithToken(secret.Auth.ClientToken)
	if err != nil {
		m.t.Fatal(err)
	}
	return client
}

// calls are how often endpoints were called.
type calls = map[simulator.Endpoint]int

// calls returns how often N-central was called since the last look.
func (m *mount) calls() calls {
	made := calls{}
	for endpoint, outcomes := range m.Counts() {
		for _, count := range outcomes {
			made[endpoint] += count
		}
	}
	return made
}

// expectCalls fails the test unless N-central was called so often since the last look, and not at
// all at endpoints that are not named. The engine's tick may add, once a minute, a validation, a
// data call and a question after the user.
func (m *mount) expectCalls(want calls) {
	m.t.Helper()
	got := m.calls()
	m.ResetCounts()
	for endpoint, count := range want {
		if got[endpoint] < count {
			m.t.Errorf("%s was called %d times, want %d", endpoint, got[endpoint], count)
		}
	}
	for endpoint, count := range got {
		ofTick := 0
		switch endpoint {
		case simulator.EndpointValidate, simulator.EndpointServiceOrgs, simulator.EndpointUser:
			ofTick = 1
		}
		if count > want[endpoint]+ofTick {
			m.t.Errorf("%s was called %d times, want %d", endpoint, count, want[endpoint])
		}
	}
}

// eventually waits until the condition answers nil, and fails the test with its last error when the
// time is over.
func eventually(t *testing.T, patience time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
