// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package testbed finds or builds a Vault or OpenBao server, builds the plugin, and runs real
// server processes with it on loopback. The end-to-end tests, the demo, the benchmark and the soak
// use it. It needs a Unix and the go command, and nothing else.
//
// Start with [ServerBinary] and [BuildPlugin], then [StartDev], [StartRaft] or [StartCluster].
// [Server.Register] and [Server.Mount] bring the plugin in, and [Server.Client] calls it. The
// caller owns what it started and must call Stop, which removes every file of the server. [Process]
// runs any other command so that nothing of it survives this process.
package testbed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	startPatience = 60 * time.Second // for each step of a start, for slow machines under load
	stopPatience  = 10 * time.Second // until a server that was asked to stop is killed
	startAttempts = 5                // with other ports each, where another process took one
	defaultNodeID = "node-1"
	auditFileName = "audit.log"
)

// errAddressInUse means that another process listens at the server's address.
var errAddressInUse = errors.New("address already in use")

// Options say how a server is started. Only Binary is required.
type Options struct {
	Binary          string   // the server's binary, from ServerBinary
	PluginDirectory string   // directory of the plugins, from BuildPlugin
	LogLevel        string   // of server and plugin: trace, debug, info (default), warn or error
	LogFile         string   // appended to; default: a file in the server's own directory, which Stop removes
	Environment     []string // "NAME=value", for server and plugin, added to this process's own
	NodeID          string   // a Raft server's name in the cluster; default: node-1
	Address         string   // host:port of the API; default: a free port on loopback
	ClusterAddress  string   // host:port for the peers of a Raft server; default: a free port on loopback
	Audit           bool     // keep an audit log, from the time the server serves
}

// Server is a running server process. Several goroutines may use it at once, except for Restart and
// Stop.
type Server struct {
	Address   string // of the API, as a URL
	RootToken string
	LogFile   string // the log of server and plugin
	AuditFile string // the audit log, if there is one
	Directory string // the server's own, for its configuration, storage, home and scratch files; Stop removes it

	options    Options
	arguments  []string
	process    *Process
	client     *api.Client
	unsealKey  string // of a Raft server
	leader     string // URL of the server whose Raft cluster this one joins; empty for the first
	logOpening int64  // the length of the log when the process started
}

// StartDev starts a server in dev mode: in memory, unsealed, with a KV engine mounted at secret/.
// The context limits only the start.
func StartDev(ctx context.Context, options Options) (*Server, error) {
	rootToken := rand.Text()
	return start(ctx, options, func(server *Server, address, _ string) (map[string]any, error) {
		server.RootToken = rootToken
		server.arguments = []string{
			"-dev", "-dev-root-token-id=" + rootToken, "-dev-listen-address=" + address, "-dev-no-store-token",
		}
		return map[string]any{}, nil
	}, (*Server).waitUntilActive)
}

// StartRaft starts a server with Raft storage on disk, as a cluster of one node without TLS. It
// initialises the server with one key share and unseals it. The context limits only the start.
func StartRaft(ctx context.Context, options Options) (*Server, error) {
	return start(ctx, options, raftConfiguration, (*Server).initialise)
}

// Client returns a client with the root token, which never retries a request. All callers share it
// and must not change it; ClientWithToken returns one for another token.
func (s *Server) Client() *api.Client { return s.client }

// ClientWithToken returns a new client with the token. It belongs to the caller.
func (s *Server) ClientWithToken(token string) (*api.Client, error) {
	return newClient(s.Address, token)
}

// PID returns the process id of the server.
func (s *Server) PID() int { return s.process.PID() }

// Ended returns a channel that is closed when the server process has ended.
func (s *Server) Ended() <-chan struct{} { return s.process.Ended() }

// Kill kills the server process and its plugins, as kill -9 does, and returns when they are gone.
// Restart starts the server again.
func (s *Server) Kill() { s.process.Kill() }

// Restart kills a Raft server and its plugins, as kill -9 does, starts it again with the same
// storage and addresses, and unseals it. A dev server has no storage, so Restart fails and the
// server goes on.
func (s *Server) Restart(ctx context.Context) error {
	if s.unsealKey == "" {
		return errors.New("a dev server keeps everything in memory and cannot be restarted")
	}
	s.process.Kill()
	if err := s.startProcess(ctx); err != nil {
		return err
	}
	return s.Unseal(ctx)
}

// Shutdown ends the server and its plugins. It lets them end gracefully for up to ten seconds. What
// they wrote remains until Stop.
func (s *Server) Shutdown() {
	if s.process != nil {
		s.process.Stop(stopPatience)
	}
	if s.client != nil {
		s.client.CloneConfig().HttpClient.CloseIdleConnections()
	}
}

// Stop calls Shutdown and removes the server's directory. It may be called twice.
func (s *Server) Stop() error {
	s.Shutdown()
	return os.RemoveAll(s.Directory)
}

// configure sets what a kind of server needs and returns its configuration.
type configure func(server *Server, address, clusterAddress string) (map[string]any, error)

// start starts a server and gets it ready. It tries again on other ports where another process took
// one of them.
func start(ctx context.Context, options Options, configure configure,
	ready func(*Server, context.Context) error,
) (*Server, error) {
	for attempt := 1; ; attempt++ {
		server, err := startOnce(ctx, options, configure)
		if err == nil {
			err = ready(server, ctx)
		}
		if err == nil && options.Audit {
			err = server.enableAudit(ctx)
		}
		if err == nil {
			return server, nil
		}
		err = errors.Join(err, server.Stop())
		if !errors.Is(err, errAddressInUse) || attempt == startAttempts {
			return nil, fmt.Errorf("starting %s: %w", options.Binary, err)
		}
	}
}

// startOnce returns a server even where it returns an error. The caller must stop it.
func startOnce(ctx context.Context, options Options, configure configure) (*Server, error) {
	server := &Server{options: options, LogFile: options.LogFile}
	free, err := freeAddresses(2)
	if err != nil {
		return server, err
	}
	address, clusterAddress := options.Address, options.ClusterAddress
	if address == "" {
		address = free[0]
	}
	if clusterAddress == "" {
		clusterAddress = free[1]
	}
	server.Address = "http://" + address

	if err := server.makeDirectory(); err != nil {
		return server, err
	}
	configuration, err := configure(server, address, clusterAddress)
	if err != nil {
		return server, err
	}
	if err := server.writeConfiguration(ctx, configuration); err != nil {
		return server, err
	}
	if server.client, err = newClient(server.Address, server.RootToken); err != nil {
		return server, err
	}
	return server, server.startProcess(ctx)
}

// makeDirectory gives the directory a short name: plugins open Unix sockets in it, and the paths of
// those are limited to about a hundred characters.
func (s *Server) makeDirectory() error {
	directory, err := os.MkdirTemp("", "vault-")
	if err != nil {
		return err
	}
	if s.Directory, err = filepath.EvalSymlinks(directory); err != nil {
		return err
	}
	if s.LogFile == "" {
		s.LogFile = filepath.Join(s.Directory, "server.log")
	}
	if s.options.Audit {
		s.AuditFile = filepath.Join(s.Directory, auditFileName)
	}
	for _, name := range []string{"home", "tmp"} {
		if err := os.Mkdir(filepath.Join(s.Directory, name), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func raftConfiguration(server *Server, address, clusterAddress string) (map[string]any, error) {
	storage := filepath.Join(server.Directory, "raft")
	if err := os.Mkdir(storage, 0o700); err != nil {
		return nil, err
	}
	nodeID := server.options.NodeID
	if nodeID == "" {
		nodeID = defaultNodeID
	}
	raft := map[string]any{"path": storage, "node_id": nodeID, "performance_multiplier": "1"}
	if server.leader != "" {
		raft["retry_join"] = map[string]any{"leader_api_addr": server.leader}
	}
	return map[string]any{
		"storage": map[string]any{"raft": raft},
		"listener": map[string]any{"tcp": map[string]any{
			"address": address, "cluster_address": clusterAddress, "tls_disable": true,
		}},
		"api_addr":      "http://" + address,
		"cluster_addr":  "https://" + clusterAddress,
		"disable_mlock": true,
	}, nil
}

func (s *Server) writeConfiguration(ctx context.Context, configuration map[string]any) error {
	if s.options.PluginDirectory != "" {
		directory, err := filepath.Abs(s.options.PluginDirectory)
		if err != nil {
			return err
		}
		// The server rejects a plugin directory that is behind a link.
		if s.options.PluginDirectory, err = filepath.EvalSymlinks(directory); err != nil {
			return err
		}
		configuration["plugin_directory"] = s.options.PluginDirectory
	}
	if s.options.Audit && IsOpenBao(ctx, s.options.Binary) {
		configuration["unsafe_allow_api_audit_creation"] = true // otherwise it rejects the call of enableAudit
	}
	content, err := json.Marshal(configuration)
	if err != nil {
		return err
	}
	path := filepath.Join(s.Directory, "server.json")
	s.arguments = append([]string{"server", "-config=" + path}, s.arguments...)
	return os.WriteFile(path, content, 0o600)
}

// startProcess starts the server process and waits until it listens.
func (s *Server) startProcess(ctx context.Context) error {
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	information, err := log.Stat()
	if err != nil {
		return err
	}
	s.logOpening = information.Size()

	command := exec.Command(s.options.Binary, s.arguments...)
	command.Dir = s.Directory
	command.Env = s.environment()
	command.Stdout, command.Stderr = log, log
	if s.process, err = StartProcess(command); err != nil {
		return err
	}
	// Only the log shows that this process, and no other, listens at the address.
	return s.waitUntil(ctx, "listens", func(context.Context) bool {
		return strings.Contains(s.logSinceStart(), "server started!")
	})
}

// environment returns this process's environment without what would lead the server elsewhere or
// into its user's home.
func (s *Server) environment() []string {
	level := s.options.LogLevel
	if level == "" {
		level = "info"
	}
	own := []string{
		"HOME=" + filepath.Join(s.Directory, "home"),
		"TMPDIR=" + filepath.Join(s.Directory, "tmp"),
		"VAULT_LOG_LEVEL=" + level,
	}
	return append(append(CleanEnvironment(), own...), s.options.Environment...)
}

// CleanEnvironment returns this process's environment without the VAULT_ and BAO_ variables, which
// configure server and command line.
func CleanEnvironment() []string {
	var clean []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "VAULT_") && !strings.HasPrefix(variable, "BAO_") {
			clean = append(clean, variable)
		}
	}
	return clean
}

func (s *Server) initialise(ctx context.Context) error {
	answer, err := s.client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.unsealKey, s.RootToken = answer.KeysB64[0], answer.RootToken
	s.client.SetToken(s.RootToken)
	return s.Unseal(ctx)
}

// enableAudit starts the audit log. The nodes of a cluster share this setting, so the first node
// makes it. The file name is relative to each server's own directory, in which it runs.
func (s *Server) enableAudit(ctx context.Context) error {
	if s.leader != "" {
		return nil
	}
	return s.client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": auditFileName},
	})
}

// waitUntilActive waits until the server is unsealed and its cluster's active node.
func (s *Server) waitUntilActive(ctx context.Context) error {
	return s.waitUntil(ctx, "is active", func(ctx context.Context) bool {
		health, err := s.client.Sys().HealthWithContext(ctx)
		return err == nil && health.Initialized && !health.Sealed && !health.Standby
	})
}

// waitUntilServing waits until the server is unsealed and either active or the standby of an active
// node.
func (s *Server) waitUntilServing(ctx context.Context) error {
	if s.leader == "" {
		return s.waitUntilActive(ctx)
	}
	return s.waitUntil(ctx, "serves", func(ctx context.Context) bool {
		leader, err := s.client.Sys().LeaderWithContext(ctx)
		return err == nil && leader.LeaderAddress != ""
	})
}

// waitUntil waits until the condition holds. It fails where the server or the context ends, and
// after a minute.
func (s *Server) waitUntil(ctx context.Context, what string, condition func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.process.Ended():
			return s.endedError()
		case <-ctx.Done():
			return fmt.Errorf("waiting until the server %s: %w; its last log lines:\n%s", what, ctx.Err(), s.logTail())
		case <-ticker.C:
			if condition(ctx) {
				return nil
			}
		}
	}
}

func (s *Server) endedError() error {
	cause := errors.New("the server ended")
	if strings.Contains(s.logSinceStart(), errAddressInUse.Error()) {
		cause = errAddressInUse
	}
	return fmt.Errorf("%w (%w); its last log lines:\n%s", cause, s.process.Err(), s.logTail())
}

// logTail returns the end of the log, without the secrets that a dev server prints at its start.
func (s *Server) logTail() string {
	const most = 20
	var lines []string
	for line := range strings.Lines(s.logSinceStart()) {
		if !strings.HasPrefix(line, "Unseal Key") && !strings.HasPrefix(line, "Root Token") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

func (s *Server) logSinceStart() string {
	content, err := os.ReadFile(s.LogFile)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(content[min(s.logOpening, int64(len(content))):]))
}

func newClient(address, token string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.AgentAddress, config.MaxRetries = address, "", 0
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearNamespace() // VAULT_NAMESPACE is about another server
	client.SetToken(token)
	return client, nil
}

// freeAddresses returns loopback addresses whose ports were free just now. Another process may take
// one at any moment, so listening may fail.
func freeAddresses(count int) ([]string, error) {
	var addresses []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close() //nolint:revive // each is held until all are found, lest one be found twice
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}
