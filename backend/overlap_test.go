package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// The flight lands in the moment in which the patience of readers ends.
func TestLandingAsPatienceEnds(t *testing.T) {
	for range 20 {
		inBubble(t, nil, func(m *mount) {
			first := m.expectLives(m.read(nil))
			time.Sleep(56 * time.Minute)
			m.Change(func(k *simulator.Knobs) { k.Latency = 5 * time.Second })
			m.FailNext(simulator.EndpointRefresh, 1, status(401))
			var wait sync.WaitGroup
			var old, failed atomic.Int64
			for range 1000 {
				wait.Add(1)
				go func() {
					defer wait.Done()
					r, err := m.backend.HandleRequest(context.Background(), &logical.Request{Operation: opRead, Path: "creds/monitoring", Storage: m.storage})
					if err != nil || r.IsError() {
						failed.Add(1)
						return
					}
					if r.Data["access_token"] == first {
						old.Add(1)
					}
				}()
			}
			wait.Wait()
			if failed.Load() > 0 {
				t.Errorf("%d stale, %d failed", old.Load(), failed.Load())
			}
		})
	}
}

// A dedicated token that dies while it is validated.
func TestDedicatedLeaseOfADeadToken(t *testing.T) {
	inDedicatedBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		m.write("roles/worker", map[string]any{"ttl": "10s"})
		g := m.gated()
		release := g.hold(toAuthenticate)
		a := m.begin(opRead, "creds/worker", nil)
		synctest.Wait()
		// Another overlaps: fails before it opens a session
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.write("roles/other", map[string]any{"lease": false})
		m.fails(400, opRead, "creds/other", nil)
		hold := g.hold(toValidate)
		release()
		synctest.Wait()
		time.Sleep(9500 * time.Millisecond)
		hold()
		o := a()
		if o.err == nil || !strings.Contains(o.err.Error(), "was of no use any more") {
			t.Errorf("%v %v", o.err, o.response)
		}
	})
}

// How long a dedicated read lasts
func TestDedicatedReadOutlastsItsLimit(t *testing.T) {
	inDedicatedBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true }, func(m *mount) {
		m.write("config/default", map[string]any{"request_timeout": "20s", "max_retries": 10, "verify": false})
		g := m.gated()
		release := g.hold(toAuthenticate)
		a := m.begin(opRead, "creds/worker", nil)
		synctest.Wait()
		m.FailNext(simulator.EndpointAuthenticate, 1, status(401))
		m.write("roles/other", map[string]any{"lease": false})
		m.fails(400, opRead, "creds/other", nil)
		m.FailNext(simulator.EndpointValidate, -1, hang)
		release()
		o := a()
		if o.took > 61*time.Second {
			t.Errorf("took %s", o.took)
		}
	})
}

// The mark of suspicion is not stored where the time of the whole call ran out.
func TestSuspicionIsStoredWhenTimeIsUp(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointAuthenticate, 2, hang)
		o := m.begin(opRead, "creds/other", nil)
		time.Sleep(21 * time.Second)
		release := g.hold(toAuthenticate) // the third attempt opens a session, and its answer comes too late
		o()
		release()
		m.start()
		m.expectLives(m.read(nil))
	})
}

// A new version of the config forgets which authenticates are under way.
func TestOverlapAcrossConfigVersions(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		g := m.gated()
		m.write("roles/other", map[string]any{"lease": false})
		release := g.hold(toAuthenticate)
		a := m.begin(opRead, "creds/monitoring", nil) // worked on first, answered last
		synctest.Wait()
		m.write("config/default", map[string]any{"max_retries": 4, "verify": false})
		m.expectLives(m.readRole("other"))
		release()
		if o := a(); o.token() == "" || !m.AccessTokenLives(o.token()) {
			t.Error("a dead token was handed out", o.err)
		}
		if again := m.read(nil); !m.AccessTokenLives(again["access_token"].(string)) {
			t.Error("and again")
		}
	})
}

// The answer to the first attempt was lost, the next attempt was refused.
func TestEarlierAttemptOpenedASession(t *testing.T) {
	inBubble(t, endsEarlier, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureLostAnswer})
		m.FailNext(simulator.EndpointAuthenticate, -1, status(503))
		m.fails(503, opRead, "creds/other", nil)
		m.ClearFailures()
		time.Sleep(20 * time.Second)
		if answer := m.read(nil); !m.AccessTokenLives(answer["access_token"].(string)) {
			t.Error("a dead token was handed out")
		}
	})
}

// The tick's validation of a token that is ended by hand meanwhile.
func TestTickAuthenticatesAfterSessionsWereEnded(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.expectLives(m.read(nil))
		m.FailNext(simulator.EndpointValidate, 1, hang)
		ticked := make(chan struct{})
		go func() { m.tick(); close(ticked) }()
		synctest.Wait()
		m.delete("sessions/monitoring")
		m.ResetCounts()
		m.ClearFailures()
		<-ticked
		synctest.Wait()
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 0 || m.OpenSessions() != 0 {
			t.Errorf("the tick opened %d sessions for a role whose sessions were just ended", n)
		}
	})
}

// The tick's validation of a token that a reader's rotation replaced meanwhile.
func TestTickReplacesAFreshToken(t *testing.T) {
	inBubble(t, func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions, k.RefreshEndsPredecessor = true, true }, func(m *mount) {
		m.expectLives(m.read(nil))
		time.Sleep(52*time.Minute + 59*time.Second) // due ahead at 53m
		m.ResetCounts()
		m.FailNext(simulator.EndpointValidate, 1, hang)
		ticked := make(chan struct{})
		go func() { m.tick(); close(ticked) }()
		synctest.Wait()
		time.Sleep(2 * time.Second)
		m.read(nil) // starts the rotation
		synctest.Wait()
		second := m.expectLives(m.read(nil))
		m.ClearFailures()
		<-ticked
		synctest.Wait()
		if !m.AccessTokenLives(second) {
			t.Error("the tick ended a fresh token that a reader holds")
		}
		if n := m.Count(simulator.EndpointAuthenticate, simulator.AnyOutcome); n != 1 {
			t.Errorf("%d authenticates for one rotation", n)
		}
	})
}

// A session whose config storage does not tell any more, once it is opened, is ended when storage is well again.
func TestASessionOpenedWhileStorageFailsIsEnded(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		m.get("config/default")
		release := g.hold(toAuthenticate)
		reader := m.begin(opRead, "creds/worker", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "config/default") // another node writes it
		fails := func(key string) error {
			if key == "config/default" {
				return errors.New("storage is not there for a moment")
			}
			return nil
		}
		storage.get.Store(&fails)
		release()
		if o := reader(); o.token() != "" || m.OpenSessions() != 1 {
			t.Errorf("a token was answered (%t), and %d sessions are open", o.token() != "", m.OpenSessions())
		}
		synctest.Wait()
		storage.get.Store(nil)
		time.Sleep(time.Minute)
		m.tick()
		if open := m.OpenSessions(); open != 0 || len(m.owedKeys()) != 0 {
			t.Errorf("%d sessions stay open, owed is %v", open, m.owedKeys())
		}
	})
}

// A refresh that succeeds hides that the User-API token is refused.
func TestRefreshHidesTheRefusal(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/other", map[string]any{"lease": false})
		m.expectLives(m.read(nil))
		time.Sleep(56 * time.Minute)
		_, _ = m.RegenerateUserAPIToken("api-user")
		m.fails(400, opRead, "creds/other", nil)
		if s := m.status(); s["state"] != "failing" {
			t.Error(s)
		}
		m.expectLives(m.read(nil)) // validated, refreshed
		if s := m.status(); s["state"] == "ok" {
			t.Errorf("state ok though the User-API token is refused: %v", s)
		}
		m.fails(400, opRead, "creds/other", nil)
	})
}

// A stale answer below the reader's min_ttl.
func TestStaleBelowTheReadersMinTTL(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.write("roles/monitoring", map[string]any{"min_ttl": "20m"})
		m.read(nil)
		time.Sleep(49*time.Minute + 55*time.Second)
		m.FailNext(simulator.EndpointRefresh, -1, hang)
		m.FailNext(simulator.EndpointAuthenticate, -1, hang)
		r, err := m.do(opRead, "creds/monitoring", map[string]any{"min_ttl": "10m"})
		if err == nil && !r.IsError() {
			t.Errorf("%v of 600 s left", r.Data["expires_at_seconds"].(int64)-time.Now().Unix())
		}
		m.ClearFailures()
	})
}

// Status goes on telling of a stale token that was ended.
func TestStatusAfterTheStaleTokenWasEnded(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		_, _ = m.RegenerateUserAPIToken("api-user")
		m.FailNext(simulator.EndpointRefresh, -1, status(401))
		time.Sleep(56 * time.Minute)
		m.expectLives(m.read(nil))
		m.delete("sessions/monitoring")
		m.fails(400, opRead, "creds/monitoring", nil)
		if s := m.status(); s["state"] != "failing" {
			t.Error(s["state"], s["reasons"])
		}
	})
}

// Status after a rewrite without verify.
func TestStatusAfterARewrite(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		fresh, _ := m.RegenerateUserAPIToken("api-user")
		m.fails(400, opRead, "creds/monitoring", nil)
		m.write("config/default", map[string]any{"user_api_token": fresh, "verify": false})
		s := m.status()
		if reasons := strings.Join(s["reasons"].([]string), "\n"); strings.Contains(reasons, "not tried again before") {
			t.Error(s["state"], reasons)
		}
	})
}

// A reader is told of storage that fails once its session is open, and no second one is opened.
func TestNoSecondSessionIsOpenedWhereStorageFails(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		storage := &hookedStorage{Storage: m.storage}
		g := m.gatedOn(storage)
		release := g.hold(toAuthenticate)
		reader := m.begin(opRead, "creds/worker", nil)
		synctest.Wait()
		m.backend.InvalidateKey(context.Background(), "role/worker")
		storage.failToReadOnce("role/worker")
		release()
		if o := reader(); o.err == nil || !strings.Contains(o.err.Error(), "storage is not there for a moment") {
			t.Errorf("%v %v", o.err, o.response)
		}
		m.expectCalls(calls{simulator.EndpointAuthenticate: 1, simulator.EndpointLogout: 1})
	})
}
