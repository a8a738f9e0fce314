// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package upstream is one N-central server as a config describes it: the client, how many requests
// may be in flight, when it is left alone, what was learnt of it, the steps of check, and how it
// fared.
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

// DialContext opens a connection to N-central, as net.Dialer's method of that name does.
type DialContext func(ctx context.Context, network, address string) (net.Conn, error)

// Registry knows the servers of one mount: one for each config, made anew for each version of the
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
	credentials map[credentialKey]*credential // of the servers, and of verifications under way
}

// NewRegistry returns a registry without servers. The userAgent names the engine to N-central. A
// nil dial is net.Dialer's.
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

// ErrOutdated says that the config is not the newest version that the registry has seen.
var ErrOutdated = errors.New("the config was changed in the meantime")

// Server returns the server of that version of the config. A new version starts without back-off,
// and may try its User-API token at once; of a version that a newer one has followed there is none
// any more. Newer is what is stored: clocks of other nodes may be behind.
func (r *Registry) Server(config *store.Config) (*Server, error) {
	for {
		known := r.known(config.Name)
		switch {
		case known == nil:
		case known.config.WrittenAt.Equal(config.WrittenAt):
			return known, nil
		case known.config.WrittenAt.After(config.WrittenAt) && !r.isInForce(config):
			return nil, ErrOutdated
		}
		if server, err := r.replace(known, config); server != nil || err != nil {
			return server, err
		}
	}
}

func (r *Registry) known(config string) *Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers[config]
}

// replace makes the server of another version of the config. It returns none where another caller
// replaced the known one in the meantime.
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
		fresh.credential.mayBeTried()
	}
	r.servers[config.Name] = fresh
	r.dropUnused()
	return fresh, nil
}

// isInForce reads on a context of its own: a caller's end must not make its config an outdated one.
//
//nolint:contextcheck // see above
func (r *Registry) isInForce(config *store.Config) bool {
	stored, err := r.store.Configs.Get(context.Background(), config.Name)
	return err == nil && stored != nil && stored.WrittenAt.Equal(config.WrittenAt)
}

// Record is how the config's server fared since this process started.
func (r *Registry) Record(config string) *health.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state(config).record
}

// Watch knows whether a reboot of the config's server would have been noticed.
func (r *Registry) Watch(config string) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state(config).watch
}

// ServesStaleNoMore notes that a token of the config which lived until then is gone, be it a stale
// one.
func (r *Registry) ServesStaleNoMore(config string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state, known := r.configs[config]; known {
		state.record.EndStale(until)
	}
}

// Evict drops what memory holds of a config that is no more.
func (r *Registry) Evict(config string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if server, known := r.servers[config]; known {
		server.client.CloseIdleConnections()
	}
	if state, known := r.configs[config]; known {
		state.record.StartOver() // what calls under way come to is nothing to a config made anew
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

// configState is what memory holds of one config, whatever its version.
type configState struct {
	record *health.Record
	watch  *Watch
	// changingTraits is held while the server's traits are changed, so that no change is lost.
	changingTraits *sync.Mutex
}

func newConfigState(config string) *configState {
	return &configState{record: health.NewRecord(config), watch: newWatch(), changingTraits: &sync.Mutex{}}
}

// beside returns the state of a config that is not stored beside the one that is: what is counted
// and learnt lies in one place for both.
func (s *configState) beside() *configState {
	return &configState{record: s.record.Beside(), watch: newWatch(), changingTraits: s.changingTraits}
}

// state returns what memory holds of the config. The registry is locked.
func (r *Registry) state(config string) *configState {
	if r.configs[config] == nil {
		r.configs[config] = newConfigState(config)
	}
	return r.configs[config]
}

// credentialOf returns what is known of the config's User-API token at its URL. The registry is
// locked.
func (r *Registry) credentialOf(config *store.Config) *credential {
	key := keyOf(config)
	if r.credentials[key] == nil {
		r.credentials[key] = newCredential()
	}
	return r.credentials[key]
}

// dropUnused forgets the credentials that no config has any more. The registry is locked.
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
