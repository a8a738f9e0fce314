// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Readers of a shared role share one flight. One that is superseded brings nobody anything.

package backend

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// readers starts concurrent reads of the role and returns a function that waits for them and
// returns their tokens.
func (m *mount) readers(count int) (tokens func() []string) {
	var group sync.WaitGroup
	answers := make([]string, count)
	for i := range count {
		group.Go(func() {
			response, err := m.do(opRead, "creds/monitoring", nil)
			if err == nil && !response.IsError() {
				answers[i] = response.Data["access_token"].(string)
			}
		})
	}
	return func() []string {
		group.Wait()
		return answers
	}
}

// However many come at once to a role that has no token, they wait for one authenticate and for
// nothing else.
func TestAThousandColdReadersWaitForOneCall(t *testing.T) {
	const latency, most = 2 * time.Second, 2*time.Second + 50*time.Millisecond
	inBubble(t, func(k *simulator.Knobs) { k.Latency = latency }, func(m *mount) {
		var waits []func() outcome
		for range 1000 {
			waits = append(waits, m.beginRead("monitoring", nil))
		}
		first := ""
		for _, wait := range waits {
			read := wait()
			if first == "" {
				first = m.expectLives(read.response.Data)
			}
			if read.token() != first {
				t.Fatal("the readers got different tokens, or none")
			}
			if read.took > most {
				t.Fatalf("a reader waited for %s", read.took)
			}
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// While a token is replaced, however slow N-central is about it, its readers wait for nothing: they get
// the old one, and then the new one.
func TestARotationIsNotSeenByReaders(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"unleased":        {"lease": false},
		"leased":          {"lease": true},
		"short":           {"ttl": "1m"},
		"with a fallback": {"fallback_configs": "second"},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				m.write("roles/hot", role)
				m.readRole("hot")
				m.ResetCounts()
				m.Change(func(k *simulator.Knobs) { k.Latency = 2 * time.Second })
				for begun := time.Now(); time.Since(begun) < time.Hour; time.Sleep(100 * time.Millisecond) {
					if read := m.beginRead("hot", nil)(); read.token() == "" || read.took != 0 {
						t.Fatalf("after %s a reader waited for %s: %v", time.Since(begun), read.took, read.err)
					}
				}
				if m.all(simulator.EndpointRefresh) == 0 {
					t.Error("there was no rotation")
				}
			})
		})
	}
}

// A reader that looked before a flight ended and joins after starts none of its own.
func TestAReaderWhoComesLateStartsNoSecondFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		goOn := m.holdFirstLook(storage, "session/monitoring")
		late := m.readers(1)
		synctest.Wait()
		token := m.expectLives(m.read(nil))
		close(goOn)
		if late()[0] != token {
			t.Error("the readers got different tokens")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

func TestAHangUpFailsNoOtherReader(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.Latency = time.Second }, func(m *mount) {
		ctx, hangUp := context.WithCancel(context.Background())
		gone := make(chan error)
		go func() {
			_, err := m.backend.HandleRequest(ctx, &logical.Request{
				Operation: opRead, Path: "creds/monitoring", Storage: m.storage,
			})
			gone <- err
		}()
		synctest.Wait()
		tokens := m.readers(10)
		hangUp()
		if err := <-gone; err == nil {
			t.Error("the reader that hung up waited for the flight")
		}
		for _, token := range tokens() {
			if token == "" {
				t.Fatal("a hang-up failed another reader")
			}
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1})
	})
}

// whileInFlight begins a cold read on a slow server, makes the change while the call is under way,
// and returns the token that the reader got in the end.
func (m *mount) whileInFlight(change func()) (token string) {
	m.t.Helper()
	m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
	tokens := m.readers(1)
	synctest.Wait()
	m.Change(func(k *simulator.Knobs) { k.Latency = 0 })
	time.Sleep(time.Second)
	change()
	token = tokens()[0]
	time.Sleep(10 * time.Second)
	return token
}

// A flight whose sessions are ended meanwhile is made anew for its readers, and leaves nothing
// open.
func TestAFlightWhoseSessionsAreEndedIsMadeAnew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.onlySession(m.whileInFlight(func() { m.delete("sessions/monitoring") }))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// So is a flight whose config is rewritten.
func TestAFlightWhoseConfigIsRewrittenIsMadeAnew(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.onlySession(m.whileInFlight(func() {
			m.write("config/default", map[string]any{
				"user_api_token": m.token, "tls_server_name": "localhost", "verify": false,
			})
		}))
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// A flight whose role is deleted brings nobody anything.
func TestAFlightWhoseRoleIsDeletedBringsNothing(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		if token := m.whileInFlight(func() { m.delete("roles/monitoring") }); token != "" {
			t.Error("a token of a deleted role was answered")
		}
		m.onlySession("")
	})
}

// A flight that was superseded ends and leaves the flight that followed it alone.
func TestASupersededFlightLeavesTheNextOneToItsReaders(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		releaseFirst := g.hold(toAuthenticate)
		first := m.beginRead("monitoring", nil)
		synctest.Wait()
		releaseSecond := g.hold(toAuthenticate)
		m.delete("sessions/monitoring") // the reader starts over
		synctest.Wait()
		releaseFirst()
		synctest.Wait()
		second := m.beginRead("monitoring", nil)
		synctest.Wait()
		releaseSecond()
		if a, b := first().token(), second().token(); a == "" || a != b {
			t.Error("the readers got different tokens, or none")
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// Where storage does not tell whether what a flight brought is still wanted, nobody gets it, and it
// is ended.
func TestWhatAFlightBringsIsEndedWhereStorageDoesNotTellWhetherItIsWanted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		release := g.hold(toAuthenticate)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "role/monitoring")
		storage.failToReadOnce("role/monitoring")
		release()
		if o := reader(); o.err == nil || !strings.Contains(o.err.Error(), "storage is not there for a moment") {
			t.Errorf("%v %v", o.err, o.response)
		}
		m.onlySession("")
	})
}

// A flight whose role or config was deleted on another node brings nobody anything, and leaves no
// session.
func TestAFlightForWhatWasDeletedElsewhereLeavesNoSession(t *testing.T) {
	for _, key := range []string{"role/monitoring", "config/default"} {
		t.Run(key, func(t *testing.T) {
			inBubble(t, nil, func(m *mount) {
				token := m.whileInFlight(func() {
					if err := m.storage.Delete(context.Background(), key); err != nil {
						t.Fatal(err)
					}
					m.backend.InvalidateKey(context.Background(), key)
				})
				if token != "" {
					t.Error("a token was answered")
				}
				if key == "role/monitoring" { // else the token may be sent nowhere any more
					m.onlySession("")
				}
			})
		})
	}
}

// A new token that was ended before its reader looked is not what the reader gets: it starts over.
func TestAReaderWhoseNewTokenWasEndedStartsOver(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		storage := m.hooked()
		goOn := make(chan struct{})
		var stored, held atomic.Bool
		forgetsTheRole := func(key string) error {
			if key == "session/monitoring" && !stored.Swap(true) {
				m.backend.InvalidateKey(context.Background(), "role/monitoring") // so that the reader comes by storage
			}
			return nil
		}
		holdsTheReader := func(key string) {
			if key == "role/monitoring" && stored.Load() && !held.Swap(true) {
				<-goOn
			}
		}
		storage.put.Store(&forgetsTheRole)
		storage.got.Store(&holdsTheReader)
		reader := m.beginRead("monitoring", nil)
		synctest.Wait()
		m.delete("sessions/monitoring")
		close(goOn)
		m.onlySession(reader().token())
		m.expectCalls(calls{simulator.EndpointAuthenticate: 2, simulator.EndpointLogout: 1})
	})
}

// A session that cannot be read when a new token comes is told of, for the tokens in it are not
// ended; one that can is not.
func TestTheLogTellsOfTokensThatAreLeftToLapse(t *testing.T) {
	for _, fails := range []bool{false, true} {
		inBubble(t, nil, func(m *mount) {
			storage := &hookedStorage{Storage: m.storage}
			g := m.gatedOn(storage)
			release := g.hold(toAuthenticate)
			reader := m.beginRead("monitoring", nil)
			synctest.Wait()
			if fails {
				m.backend.InvalidateKey(context.Background(), "session/monitoring")
				storage.failToRead("session/monitoring")
			}
			release()
			if o := reader(); !m.AccessTokenLives(o.token()) {
				t.Error(o.err, o.response)
			}
			m.expectLogged("its tokens are left to lapse", fails)
		})
	}
}

// A role that was deleted and made anew while its logouts hang has one state: one flight serves its
// readers, and the end of its sessions reaches it.
func TestARoleMadeAnewHasOneFlight(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		g := m.gated()
		m.read(nil)
		releaseLogout := g.hold("POST /api/auth/logout")
		deleted := m.begin(opDelete, "roles/monitoring", nil)
		synctest.Wait()
		m.write("roles/monitoring", map[string]any{"lease": false})
		m.ResetCounts()
		release := g.hold(toAuthenticate)
		first := m.beginRead("monitoring", nil)
		synctest.Wait()
		releaseLogout()
		deleted()
		second := m.beginRead("monitoring", nil)
		synctest.Wait()
		if tried := m.all(simulator.EndpointAuthenticate); tried != 1 {
			t.Errorf("two readers caused %d authenticates, want 1", tried)
		}
		before := len(m.Issued())
		m.delete("sessions/monitoring")
		release()
		for _, o := range []outcome{first(), second()} {
			isAnswer := func(issued simulator.IssuedToken) bool { return issued.Access == o.token() }
			if !slices.ContainsFunc(m.Issued()[before:], isAnswer) {
				t.Errorf("a token was answered that was asked for before the sessions were ended: %v", o.err)
			}
		}
		synctest.Wait()
		m.onlySession(m.expectLives(m.read(nil)))
	})
}
