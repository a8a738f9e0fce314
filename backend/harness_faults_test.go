// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What tests break: storage that fails or is held up, answers that are held back, failures of
// N-central.

package backend

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// countingStorage counts the calls that reach it, and refuses writes, and reads of keys that begin
// so, on demand.
type countingStorage struct {
	logical.InmemStorage
	calls        atomic.Int64
	refuses      atomic.Bool
	refusesReads atomic.Pointer[string]
}

func (s *countingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	if prefix := s.refusesReads.Load(); prefix != nil && strings.HasPrefix(key, *prefix) {
		return nil, errors.New("storage refuses reads")
	}
	return s.InmemStorage.Get(ctx, key)
}

func (s *countingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.calls.Add(1)
	if s.refuses.Load() {
		return errors.New("storage refuses writes")
	}
	return s.InmemStorage.Put(ctx, entry)
}

func (s *countingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.calls.Add(1)
	return s.InmemStorage.List(ctx, prefix)
}

func (s *countingStorage) Delete(ctx context.Context, key string) error {
	s.calls.Add(1)
	return s.InmemStorage.Delete(ctx, key)
}

// damage puts an entry in the place of another that the engine cannot read.
func (m *mount) damage(key string) {
	m.t.Helper()
	err := m.storage.Put(context.Background(), &logical.StorageEntry{
		Key: key, Value: []byte(`{"url": 1, "current": 1, "config": `),
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// hookedStorage hooks into the storage of a mount.
type hookedStorage struct {
	logical.Storage
	get atomic.Pointer[func(key string) error]
	put atomic.Pointer[func(key string) error]
	del atomic.Pointer[func(key string) error]
	// stored can fail a write that was done.
	stored atomic.Pointer[func(key string) error]
	// got runs after the entry was read, and before the caller has it.
	got atomic.Pointer[func(key string)]
}

func (s *hookedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if hook := s.get.Load(); hook != nil {
		if err := (*hook)(key); err != nil {
			return nil, err
		}
	}
	entry, err := s.Storage.Get(ctx, key)
	if hook := s.got.Load(); hook != nil {
		(*hook)(key)
	}
	return entry, err
}

func (s *hookedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if hook := s.put.Load(); hook != nil {
		if err := (*hook)(entry.Key); err != nil {
			return err
		}
	}
	err := s.Storage.Put(ctx, entry)
	if hook := s.stored.Load(); hook != nil && err == nil {
		return (*hook)(entry.Key)
	}
	return err
}

func (s *hookedStorage) Delete(ctx context.Context, key string) error {
	if hook := s.del.Load(); hook != nil {
		if err := (*hook)(key); err != nil {
			return err
		}
	}
	return s.Storage.Delete(ctx, key)
}

// hooked makes the backend anew on a storage with hooks.
func (m *mount) hooked() *hookedStorage {
	m.t.Helper()
	storage := &hookedStorage{Storage: m.storage}
	m.startOn(storage)
	return storage
}

// errNotThere is what a storage answers that is to fail.
var errNotThere = errors.New("storage is not there for a moment")

func failsFor(prefix string) *func(key string) error {
	return new(func(key string) error {
		if strings.HasPrefix(key, prefix) {
			return errNotThere
		}
		return nil
	})
}

// failToRead has looks at keys that begin so fail.
func (s *hookedStorage) failToRead(prefix string) { s.get.Store(failsFor(prefix)) }

// failToWrite has writes of keys that begin so fail.
func (s *hookedStorage) failToWrite(prefix string) { s.put.Store(failsFor(prefix)) }

// failToReadOnce has the next look at the key fail.
func (s *hookedStorage) failToReadOnce(key string) {
	var once sync.Once
	hook := func(looked string) (err error) {
		if looked == key {
			once.Do(func() { err = errNotThere })
		}
		return err
	}
	s.get.Store(&hook)
}

// holdLook holds up whoever looks at the key in storage, with what was read there, until the
// channel is closed.
func (m *mount) holdLook(storage *hookedStorage, key string) (goOn chan struct{}) {
	goOn = make(chan struct{})
	hook := func(looked string) {
		if looked == key {
			<-goOn
		}
	}
	storage.got.Store(&hook)
	m.backend.InvalidateKey(context.Background(), key)
	return goOn
}

// holdFirstLook is holdLook for the first look alone.
func (m *mount) holdFirstLook(storage *hookedStorage, key string) (goOn chan struct{}) {
	goOn = make(chan struct{})
	var held atomic.Bool
	hook := func(looked string) {
		if looked == key && !held.Swap(true) {
			<-goOn
		}
	}
	storage.got.Store(&hook)
	m.backend.InvalidateKey(context.Background(), key)
	return goOn
}

// holdSecondLook is holdLook for the second look alone.
func (m *mount) holdSecondLook(storage *hookedStorage, key string) (goOn chan struct{}) {
	goOn = make(chan struct{})
	var looks atomic.Int64
	hook := func(looked string) {
		switch {
		case looked != key:
		case looks.Add(1) == 2:
			<-goOn
		default:
			m.backend.InvalidateKey(context.Background(), key) // so that the next look comes by here
		}
	}
	storage.got.Store(&hook)
	m.backend.InvalidateKey(context.Background(), key)
	return goOn
}

// gates hold back the answers to requests while the server has done their work.
type gates struct {
	mu    sync.Mutex
	armed []gate
}

type gate struct {
	line string
	open chan struct{}
}

type gatedConn struct {
	net.Conn
	gates *gates
	mu    sync.Mutex
	hold  chan struct{}
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.gates.mu.Lock()
	for i, g := range c.gates.armed {
		if !bytes.HasPrefix(p, []byte(g.line)) {
			continue
		}
		c.mu.Lock()
		c.hold = g.open
		c.mu.Unlock()
		c.gates.armed = append(c.gates.armed[:i], c.gates.armed[i+1:]...)
		break
	}
	c.gates.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	hold := c.hold
	c.hold = nil
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return n, err
}

// gated makes the backend anew, with gates between it and the server.
func (m *mount) gated() *gates {
	m.t.Helper()
	return m.gatedOn(m.storage)
}

func (m *mount) gatedOn(storage logical.Storage) *gates {
	m.t.Helper()
	g := &gates{}
	m.startWith(storage, func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := m.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &gatedConn{Conn: conn, gates: g}, nil
	})
	return g
}

// hangingAt makes the backend anew. Once what it returns is set, connections to an address that
// ends so are not made.
func (m *mount) hangingAt(address string) *atomic.Bool {
	m.t.Helper()
	hangs := &atomic.Bool{}
	m.startWith(m.storage, func(ctx context.Context, network, to string) (net.Conn, error) {
		if hangs.Load() && strings.HasSuffix(to, address) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // net.Dialer's, as the engine sets it
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return m.dial(ctx, network, to)
	})
	return hangs
}

// hold keeps back the answer to the next request that begins so, until the answered function is
// called.
func (g *gates) hold(line string) (release func()) {
	open := make(chan struct{})
	g.mu.Lock()
	g.armed = append(g.armed, gate{line, open})
	g.mu.Unlock()
	return func() { close(open) }
}

const (
	toAuthenticate = "POST /api/auth/authenticate"
	toRefresh      = "POST /api/auth/refresh"
	toValidate     = "GET /api/auth/validate"
	toData         = "GET /api/service-orgs"
)

var hang = simulator.Failure{Kind: simulator.FailureHang}

func status(code int) simulator.Failure {
	return simulator.Failure{Kind: simulator.FailureStatus, Status: code}
}

func endsEarlier(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }
