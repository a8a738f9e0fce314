// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The page on two users works as it stands, and so do the runbook's procedures for roles that name
// a second user.

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/internal/simulator"
)

// addSecondUser adds a user at N-central and a config for it. Both roles fall back to that.
func (p *procedure) addSecondUser() {
	p.t.Helper()
	p.writeSecond()
	for _, role := range []string{"monitoring", "worker"} {
		p.write("roles/"+role, map[string]any{"fallback_configs": "second"})
	}
}

// insert makes the blocks of another procedure the next ones.
func (p *procedure) insert(t *testing.T, name string) {
	t.Helper()
	p.left = slices.Concat(readProcedures(t)[name], p.left)
}

// userOf returns the user to whom N-central issued the token.
func (p *procedure) userOf(token credentials) string {
	issued, _ := p.IssuedWith(token.token)
	return issued.User
}

// awaitUser waits until the role answers a token of the user.
func (p *procedure) awaitUser(role, user string, patience time.Duration) {
	p.t.Helper()
	eventually(p.t, patience, func() error {
		answer, err := p.tryRead(role)
		if err != nil {
			return err
		}
		if got := p.userOf(answer); got != user {
			return fmt.Errorf("creds/%s answers a token of %s", role, got)
		}
		return nil
	})
}

// While nobody has written the new User-API token yet, no read fails, of dedicated roles either.
func TestRotatingWithASecondUserFailsNoRead(t *testing.T) {
	t.Parallel()
	blocks := readProcedures(t)
	for _, name := range []string{"rotate", "leaked-user-api-token"} {
		t.Run(name, func(t *testing.T) {
			p := startProcedure(t, blocks[name], serverOptions())
			p.addSecondUser()
			p.write("roles/dashboard", map[string]any{"ttl": "10s", "lease": false, "fallback_configs": "second"})
			held := p.read("monitoring")
			stop := p.keepReading(p.AccessTokenLives, "monitoring", "dashboard", "worker")
			token := p.newUserAPIToken()
			p.awaitUser("worker", secondUser, 0)
			p.awaitUser("dashboard", secondUser, 20*time.Second)
			p.paste("save", token)
			p.step("write")
			p.awaitUser("worker", userName, 0)
			p.awaitUser("dashboard", userName, 20*time.Second)
			p.expectLife(true, held)
			stop()
			for len(p.left) > 0 {
				p.step(p.left[0].Step)
			}
			p.read("monitoring")
		})
	}
}

// followRotateByTheSecondUser is on a server where a new User-API token ends the user's sessions.
func followRotateByTheSecondUser(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.Change(func(k *simulator.Knobs) { k.RegenerateEndsSessions = true })
	p.addSecondUser()
	p.role("monitoring", "10s")
	held := p.read("monitoring")
	stop := p.keepReading(p.AccessTokenLives, "monitoring")
	p.step("swap")
	p.awaitUser("monitoring", secondUser, 0)
	eventually(t, 20*time.Second, func() error {
		if p.AccessTokenLives(held.token) {
			return fmt.Errorf("the first user's token %s lives", fingerprint(held.token))
		}
		return nil
	})
	p.write("roles/monitoring", map[string]any{"ttl": 0}) // so that its own rotations leave nothing either
	time.Sleep(11 * time.Second)
	p.step("wait")
	p.insert(t, "rotate")
	p.paste("save", p.newUserAPIToken())
	p.step("write")
	p.step("see")
	p.step("remove")
	p.step("back")
	p.awaitUser("monitoring", userName, 0)
	stop()
	p.end()
}

func followPasswordExpiredWithTwoUsers(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.addSecondUser()
	p.read("monitoring")
	stop := p.keepReading(p.AccessTokenLives, "monitoring", "worker")
	if err := p.SetPasswordExpired(userName, true); err != nil {
		t.Fatal(err)
	}
	p.awaitUser("monitoring", secondUser, tickPatience)
	p.step("look")

	p.insert(t, "password-expired")
	for p.left[0].Step != "save" { // what is seen without a second user
		p.left = p.left[1:]
	}
	if err := p.SetPasswordExpired(userName, false); err != nil {
		t.Fatal(err)
	}
	p.paste("save", p.newUserAPIToken())
	p.step("write")
	p.awaitUser("worker", userName, 0)
	p.step("see")
	p.step("remove")
	stop()
	p.end()
}

func followTwoUsers(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.nextServer(p.ncentral) // the same: the page needs to know its address and its authority
	held := p.read("monitoring")
	p.paste("save", p.AddUser(secondUser))
	p.step("config")
	p.step("check")
	p.step("roles")
	if p.read("monitoring").token != held.token {
		t.Error("naming a second config replaced the role's token")
	}
	p.step("see")
	p.step("remove")

	mayBeDead := func(string) bool { return true } // for a minute at most
	stop := p.keepReading(mayBeDead, "monitoring", "worker")
	if err := p.SetUserDisabled(userName, true); err != nil {
		t.Fatal(err)
	}
	p.awaitUser("monitoring", secondUser, tickPatience)
	p.read("monitoring")
	p.step("failover")
	if err := p.SetUserDisabled(userName, false); err != nil {
		t.Fatal(err)
	}
	p.step("back")
	p.awaitUser("worker", userName, 0)
	stop()
	p.end()
}

// docs/security.md says that a policy which limits config must deny fallback_configs too.
func TestAPolicyThatLimitsConfigMustDenyFallbackConfigsToo(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	const rule = `path "MOUNT/roles/*" { capabilities = ["create", "update", "patch"]`
	limited := m.clientFor(rule + `
		allowed_parameters = { "config" = ["default"], "*" = [] }
	}`)
	denied := m.clientFor(rule + `
		allowed_parameters = { "config" = ["default"], "*" = [] }
		denied_parameters  = { "fallback_configs" = [] }
	}`)
	named := map[string]any{"config": "default", "fallback_configs": "second"}
	m.must(request{client: limited, operation: opWrite, path: "roles/limited", body: named})
	m.fails(forbidden, request{
		client: limited, operation: opWrite, path: "roles/limited", body: map[string]any{"config": "second"},
	})
	for _, value := range []any{"second", []string{"second"}, "", nil} {
		body := map[string]any{"fallback_configs": value}
		_, err := m.do(request{client: denied, operation: opWrite, path: "roles/denied", body: body})
		if err == nil {
			t.Errorf("a write of %v as fallback_configs was not denied", value)
		}
	}
	m.must(request{client: denied, operation: opWrite, path: "roles/denied", body: map[string]any{"config": "default"}})
}
