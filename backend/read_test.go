// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a read waits for, and for how long.

package backend

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// A reader whose token is good enough waits for nobody who writes to storage.
func TestAGoodTokenWaitsForNoStorage(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		time.Sleep(54 * time.Minute)
		goOn := make(chan struct{})
		slow := func(key string) error {
			if strings.HasPrefix(key, "session/") {
				<-goOn // as while Raft elects a leader
			}
			return nil
		}
		storage.put.Store(&slow)
		m.read(nil) // starts the rotation ahead; it lands and is being stored
		synctest.Wait()
		var done atomic.Bool
		reader := m.beginRead("monitoring", nil)
		finished := make(chan struct{})
		go func() { reader(); done.Store(true); close(finished) }()
		for range 200_000 { // the bubble's time stands still while a write is under way, so the reader is given turns
			runtime.Gosched()
		}
		if !done.Load() {
			t.Error("the reader waits for a write to storage")
		}
		close(goOn)
		<-finished
	})
}

// Whatever a read needs, and however slow each call is, it ends within three times request_timeout.
func TestAReadEndsInTime(t *testing.T) {
	for name, prepare := range map[string]func(m *mount){
		"validate, then obtain": func(m *mount) {
			m.Reboot()
			m.FailNext(simulator.EndpointValidate, 2, hang)
			m.FailNext(simulator.EndpointAuthenticate, 2, hang)
		},
		"everything hangs": func(m *mount) { m.FailNext(simulator.AnyEndpoint, -1, hang) },
		"a server that drips": func(m *mount) {
			m.FailNext(simulator.AnyEndpoint, -1, simulator.Failure{
				Kind: simulator.FailureDrip, Delay: simulator.Delay(time.Second),
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				m.write("config/default", map[string]any{"request_timeout": "20s"})
				m.read(nil)
				prepare(m)
				o := m.beginRead("monitoring", map[string]any{"validate": true})()
				if o.took > time.Minute {
					t.Errorf("one read took %s", o.took)
				}
				if o.err != nil && !strings.Contains(o.err.Error(), "config") &&
					!strings.Contains(o.err.Error(), "request_timeout") {
					t.Error(o.err)
				}
				m.ClearFailures()
			})
		})
	}
}

// A reader that looked before a token was obtained, and comes to ask for one after, looks again and
// asks for none.
func TestAReaderWhoLookedBeforeIsServedWhatCameMeanwhile(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		time.Sleep(40 * time.Minute)
		m.ResetCounts()
		goOn := m.holdSecondLook(storage, "learnt/default")
		late := m.beginRead("monitoring", map[string]any{"min_ttl": "30m"})
		synctest.Wait()
		token := m.expectLives(m.read(map[string]any{"min_ttl": "30m"}))
		close(goOn)
		if o := late(); o.token() != token {
			t.Errorf("another token, or none: %v", o.err)
		}
		m.expectCalls(calls{simulator.EndpointRefresh: 1, simulator.EndpointServerInfo: 1})
	})
}

// Readers start over once. They are told the reason where that is superseded too.
func TestReadersStartOverOnce(t *testing.T) {
	for _, path := range []string{"creds/monitoring", "creds/worker"} {
		inDedicatedBubble(t, func(k *simulator.Knobs) { k.Latency = 3 * time.Second }, func(m *mount) {
			m.ResetCounts()
			reader := m.begin(opRead, path, nil)
			for i := range 4 {
				time.Sleep(2 * time.Second)
				role := strings.TrimPrefix(path, "creds/")
				m.write("roles/"+role, map[string]any{"ttl": fmt.Sprintf("%dm", 20+i)})
			}
			o := reader()
			if o.err == nil || !strings.Contains(o.err.Error(), "changed again and again") || o.took > 8*time.Second {
				t.Errorf("%s: after %s: %v", path, o.took, o.err)
			}
			if tried := m.all(simulator.EndpointAuthenticate); tried != 2 {
				t.Errorf("%s: %d authenticates, want 2", path, tried)
			}
		})
	}
}

// Readers of one token do not share the array of its warnings.
func TestWarningsAreNotShared(t *testing.T) {
	knobs := func(k *simulator.Knobs) { k.AccessLimit = 10 * time.Minute; k.RefuseLongOverrides = true }
	inBubble(t, knobs, func(m *mount) {
		m.system.MaxLeaseTTLVal = 40 * time.Minute
		m.write("roles/monitoring", map[string]any{"ttl": "50m", "min_ttl": "20m"})
		t.Log(m.warnings())
		m.start()
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for range 50 {
					response, err := m.backend.HandleRequest(context.Background(), &logical.Request{
						Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
						Data: map[string]any{fmt.Sprint("unknown", i): "x"},
					})
					if err != nil || response.IsError() {
						t.Error(err, response)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func TestTheTypeOfATokenIsTold(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		for _, answer := range []map[string]any{m.read(nil), m.open(nil).Data} {
			if answer["token_type"] != "Bearer" {
				t.Errorf("token_type is %v", answer["token_type"])
			}
		}
	})
}
