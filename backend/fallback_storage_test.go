// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What slow, failing and damaged storage does to what is known of configs out of service: nothing
// that a reader sees.

package backend

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// takes has each use of what is known of configs out of service take that long.
func takes(wait time.Duration) *func(key string) error {
	return new(func(key string) error {
		if strings.HasPrefix(key, "out/") {
			time.Sleep(wait)
		}
		return nil
	})
}

// expireAndTick has the password of config default's user expire, and the tick of a minute later find
// it out.
func (m *mount) expireAndTick() {
	m.t.Helper()
	m.setPasswordExpired("api-user", true)
	time.Sleep(time.Minute)
	m.tick()
	time.Sleep(time.Second)
}

// outOf returns the stored entry about the config; empty if there is none. It waits for what the engine
// writes in the background.
func (m *mount) outOf(config string) string {
	m.t.Helper()
	synctest.Wait()
	entry, err := m.storage.Get(context.Background(), "out/"+config)
	if err != nil {
		m.t.Fatal(err)
	}
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

// What is found out counts at once, however long storage takes to write it down.
func TestATokenOfADeadUserIsNotHandedOutWhileStorageIsSlow(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		storage := m.hooked()
		m.expectFrom("default", m.read(nil))
		m.tick()
		storage.put.Store(takes(25 * time.Second))
		m.setPasswordExpired("api-user", true)
		time.Sleep(time.Minute)
		wait := m.beginTick()
		time.Sleep(10 * time.Second)
		m.expectFrom("second", m.read(nil))
		wait()
	})
}

// One write that storage refused does not keep standbys, and the node after a restart, from knowing.
func TestThatAConfigIsOutIsStoredByTheNextTickWhereStorageRefusedIt(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		storage := m.hooked()
		m.read(nil)
		m.tick()
		storage.failToWrite("out/")
		m.expireAndTick()
		m.expectFrom("second", m.read(nil))
		if m.outOf("default") != "" {
			t.Fatal("storage did not refuse it")
		}
		m.expectLogged("whether a config is out of service could not be stored", true)
		storage.put.Store(nil)
		time.Sleep(time.Minute)
		m.tick()
		if m.outOf("default") == "" {
			t.Error("it is not stored")
		}
		if since := m.status()["out_of_service_since"]; since == nil {
			t.Error("it is in service")
		}
	})
}

// What storage does not tell for a moment is no reason to forget it.
func TestAConfigStaysOutThoughStorageDoesNotTellOfItForAMoment(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.read(nil)
		m.tick()
		m.expireAndTick()
		m.expectFrom("second", m.read(nil))
		m.hooked().failToRead("out/")
		m.tick()
		if m.outOf("default") == "" {
			t.Error("what was known of the config is gone")
		}
	})
}

// countLooks counts how often storage is asked for what is known of configs out of service, and may
// have the looks fail.
func (s *hookedStorage) countLooks(fail bool) *atomic.Int64 {
	var looks atomic.Int64
	s.get.Store(new(func(key string) error {
		if !strings.HasPrefix(key, "out/") {
			return nil
		}
		looks.Add(1)
		if fail {
			return errNotThere
		}
		return nil
	}))
	return &looks
}

// Nobody who has a good token waits for storage because a config came back, or because what is known
// of an earlier version of it is tidied away.
func TestAHotReadDoesNotWaitForStorageWhenAConfigComesBack(t *testing.T) {
	for how, comeBack := range map[string]func(m *mount){
		"by a check": func(m *mount) { m.must(opWrite, "config/default/check", nil) },
		"by a write": func(m *mount) {
			m.write("config/default", map[string]any{"max_retries": 2, "verify": false})
			m.tick()
		},
	} {
		for then, refuses := range map[string]bool{"storage notes it": false, "storage refuses": true} {
			t.Run(how+", "+then, func(t *testing.T) {
				withTwoUsers(t, nil, func(m *mount) {
					storage := m.hooked()
					m.read(nil)
					m.tick()
					m.expireAndTick()
					m.expectFrom("second", m.read(nil))
					m.setPasswordExpired("api-user", false)
					if refuses {
						storage.del.Store(failsFor("out/"))
					}
					looks := storage.countLooks(refuses)
					comeBack(m)
					for range 3 {
						m.expectFrom("second", m.read(nil))
					}
					if made := looks.Load(); made != 0 {
						t.Errorf("storage was asked %d times", made)
					}
				})
			})
		}
	}
}

// What is to be noted of a config keeps no reader waiting, of its role or of another.
func TestAReaderDoesNotWaitUntilItIsNotedThatAConfigIsOut(t *testing.T) {
	withTwoUsers(t, nil, func(m *mount) {
		m.addConfig("third")
		m.write("roles/others", map[string]any{"config": "third", "fallback_configs": "second", "lease": false})
		hangs := make(chan struct{})
		defer close(hangs)
		m.hooked().put.Store(new(func(key string) error {
			if strings.HasPrefix(key, "out/") {
				<-hangs
			}
			return nil
		}))
		m.regenerate()
		if _, err := m.RegenerateUserAPIToken("third-user"); err != nil {
			t.Fatal(err)
		}
		m.expectFrom("second", m.read(nil))
		m.expectFrom("second", m.readRole("others"))
	})
}

// A write that hangs, fails, or is done though it is said to have failed, keeps no flight from the
// next config.
func TestAFlightGoesOnWhateverStorageDoesWithWhatItNotes(t *testing.T) {
	for name, upset := range map[string]func(*hookedStorage){
		"the write takes seconds":             func(s *hookedStorage) { s.put.Store(takes(8 * time.Second)) },
		"the write fails":                     func(s *hookedStorage) { s.failToWrite("out/") },
		"the write is done and seems to fail": func(s *hookedStorage) { s.stored.Store(failsFor("out/")) },
		"the entry cannot be read":            func(s *hookedStorage) { s.failToRead("out/") },
		"all of it takes seconds": func(s *hookedStorage) {
			s.put.Store(takes(3 * time.Second))
			s.get.Store(takes(3 * time.Second))
		},
	} {
		t.Run(name, func(t *testing.T) {
			withTwoUsers(t, nil, func(m *mount) {
				upset(m.hooked())
				m.regenerate()
				m.expectFrom("second", m.read(nil))
				for range 3 {
					m.expectFrom("second", m.read(nil))
					m.tick()
				}
			})
		})
	}
}
