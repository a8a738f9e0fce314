// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package upstream talks to N-central for a config. It answers two questions: may this server be
// called now, and what is known about it?
//
// The Registry has one Server for each config, made anew for each version of the config. What
// outlasts a version is kept beside it: the health.Record with its counters, the Watch, which knows
// whether a reboot would have been noticed, and the credential, which is shared by all configs with
// the same User-API token and URL.
//
// A shared token passes through here like this. Server.Authenticate opens its session (open.go),
// through the gates of cool-down and back-off (pause.go), a place among the requests in flight
// (attempts.go), and the lifetimes that this server accepts (overrides.go). Before the first
// rotation, ProbeRotation finds out on sessions of its own what a refresh would end (traits.go,
// check.go). Then Refresh or Authenticate brings the next token, Validate tells whether one lives
// (server.go, aliveness.go), and Logout ends one. Suspect raises the config's epoch, so that its
// tokens are validated first.
//
// Registry.mu guards the registry's maps. Server.mu guards the back-offs, credential.mu the
// cool-down, Watch.mu the watch. None of them is held during a call to storage or to N-central.
// configState.changingTraits is held while what was learnt is read, changed and stored. The order
// of all locks is in docs/design.md.
//
// The tests beside the files test the rules against the simulator. remedy_test.go has the failures
// of real servers, proxies and certificates. How an engine behaves as a whole is tested in backend.
package upstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// DialContext opens a connection to N-central, like the method of that name of net.Dialer.
type DialContext func(ctx context.Context, network, address string) (net.Conn, error)

// Registry holds the servers of one mount: one for each config, made anew for each version of the
// config.
type Registry struct {
	store     *store.Store
	logger    hclog.Logger
	userAgent string
	dial      DialContext
	events    *events.Sender

	mu          sync.Mutex // never held during a call to storage or N-central
	servers     map[string]*Server
	configs     map[string]*configState
	credentials map[credentialKey]*credential // of the servers, and of verifications that are under way
}

// NewRegistry returns a registry without servers. The userAgent is how the engine names itself to
// N-central. If dial is nil, net.Dialer's is used.
func NewRegistry(
	entries *store.Store, sender *events.Sender, logger hclog.Logger, userAgent string, dial DialContext,
) *Registry {
	return &Registry{
		store:       entries,
		logger:      logger,
		userAgent:   userAgent,
		dial:        dial,
		events:      sender,
		servers:     map[string]*Server{},
		configs:     map[string]*configState{},
		credentials: map[credentialKey]*credential{},
	}
}

// ErrOutdated is the error if a newer version of the config is in use by now.
var ErrOutdated = errors.New("the config was changed in the meantime")

// Server returns the server of that version of the config. A new version has no back-off, and may
// try its User-API token at once, even during a cool-down. If another version has followed it, the
// error is ErrOutdated. Which version is the newest, storage decides and not the time in it: the
// clocks of other nodes may be behind.
func (r *Registry) Server(config *store.Config) (*Server, error) {
	for {
		known := r.known(config.Name)
		switch {
		case known == nil:
		case known.config.IsVersion(config):
			return known, nil
		case known.config.WrittenAt.After(config.WrittenAt) && !r.isInForce(config):
			return nil, ErrOutdated
		}
		if server, err := r.replace(known, config); server != nil || err != nil {
			return server, err
		}
	}
}

// known returns the server of the config, of whichever version, or nil.
func (r *Registry) known(config string) *Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers[config]
}

// replace makes the server of the config in place of the known one. It returns nil if another
// caller has replaced the known one in the meantime.
func (r *Registry) replace(known *Server, config *store.Config) (*Server, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.servers[config.Name] != known {
		return nil, nil
	}
	fresh, err := r.newServer(config, r.state(config.Name))
	if err != nil {
		return nil, err
	}
	if known != nil {
		known.client.CloseIdleConnections()
		if known.config.Fingerprint() != config.Fingerprint() {
			fresh.generation = fresh.record.StartOver()
		}
		fresh.credential.endWait()
	}
	r.servers[config.Name] = fresh
	r.dropUnused()
	return fresh, nil
}

// isInForce reports whether that version of the config is the stored one. Its context is its own: a
// caller who hangs up must not make the config count as outdated.
//
//nolint:contextcheck // see above
func (r *Registry) isInForce(config *store.Config) bool {
	stored, err := r.store.Configs.Get(context.Background(), config.Name)
	return err == nil && stored.IsVersion(config)
}

// Record returns how the config's server fared since this process started.
func (r *Registry) Record(config string) *health.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state(config).record
}

// Watch returns what knows whether a reboot of the config's server would have been noticed.
func (r *Registry) Watch(config string) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state(config).watch
}

// EndStale is Record.EndStale, but does nothing for a config that the registry does not
// know.
func (r *Registry) EndStale(config string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state, known := r.configs[config]; known {
		state.record.EndStale(until)
	}
}

// Evict drops what memory holds of a config that was deleted.
func (r *Registry) Evict(config string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if server, known := r.servers[config]; known {
		server.client.CloseIdleConnections()
	}
	if state, known := r.configs[config]; known {
		state.record.StartOver() // results of calls under way must not count for a new config of that name
	}
	delete(r.servers, config)
	delete(r.configs, config)
	r.dropUnused()
}

// Close closes the idle connections of all servers.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, server := range r.servers {
		server.client.CloseIdleConnections()
	}
}

// configState is what memory holds of one config beside its Server. All versions share it.
type configState struct {
	record *health.Record
	watch  *Watch
	// changingTraits is held while the server's traits are read, changed and stored, so that no
	// change is lost.
	changingTraits *sync.Mutex
}

func newConfigState(config string) *configState {
	return &configState{record: health.NewRecord(config), watch: newWatch(), changingTraits: &sync.Mutex{}}
}

// beside returns the state for a candidate that is being verified while another version is stored.
// Both count in the same counters, and change the traits under the same lock.
func (s *configState) beside() *configState {
	return &configState{record: s.record.Beside(), watch: newWatch(), changingTraits: s.changingTraits}
}

// state returns what memory holds of the config, and makes it if there is none. The registry is
// locked.
func (r *Registry) state(config string) *configState {
	if r.configs[config] == nil {
		r.configs[config] = newConfigState(config)
	}
	return r.configs[config]
}

// credentialOf returns the credential of the config, and makes it if there is none. The registry is
// locked.
func (r *Registry) credentialOf(config *store.Config) *credential {
	key := keyOf(config)
	if r.credentials[key] == nil {
		r.credentials[key] = newCredential()
	}
	return r.credentials[key]
}

// dropUnused forgets the credentials that no server has any more. The registry is locked.
func (r *Registry) dropUnused() {
	used := map[*credential]bool{}
	for _, server := range r.servers {
		used[server.credential] = true
	}
	for key, credential := range r.credentials {
		if !used[credential] {
			delete(r.credentials, key)
		}
	}
}
