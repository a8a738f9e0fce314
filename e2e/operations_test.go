// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Every procedure of the runbook works as it stands.

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// followed is a test that follows a procedure.
type followed func(t *testing.T, blocks []docs.Block)

// on follows the procedure, unless all of it is for the other kind of server.
func (follow followed) on(t *testing.T, blocks []docs.Block) {
	t.Helper()
	if len(blocks) == 0 {
		t.Skip("this is not for " + serverKind.name)
	}
	follow(t, blocks)
}

// runbookTests follow the procedures of the pages, by the names that their markers have.
// Most procedures are followed one after the other, for each has a server of its own. Those that
// wait for the engine's tick are followed at once.
var (
	runbookTests = map[string]followed{
		"look":                  followLook,
		"rotate":                followRotate,
		"rotate-two-users":      followRotateByTheSecondUser,
		"leaked-access-token":   followLeakedAccessToken,
		"leaked-user-api-token": followLeakedUserAPIToken,
		"password-ahead":        followPasswordAhead,
		"reboot":                followReboot,
		"move":                  followMove,
		"move-role-by-role":     followMoveRoleByRole,
		"move-mount":            followMoveMount,
		"upgrade":               followUpgrade,
		"sample":                followSample,
		"quick-start":           followQuickStart,
		"setup":                 followSetup,
		"setup-release":         followRelease,
		"setup-pin":             followPin,
		"setup-namespace":       followNamespace,
		"api":                   followAPI,
	}
	runbookTestsWithTick = map[string]followed{
		"password-expired":           followPasswordExpired,
		"password-expired-two-users": followPasswordExpiredWithTwoUsers,
		"two-users":                  followTwoUsers,
		"disable":                    followDisable,
	}
)

func TestEveryProcedureIsFollowed(t *testing.T) {
	onPages := map[string]bool{}
	for _, block := range readBlocks(t) {
		onPages[block.Procedure] = true
	}
	delete(onPages, "") // what no test runs
	for _, tests := range []map[string]followed{runbookTests, runbookTestsWithTick, readmeTests} {
		for name := range tests {
			if !onPages[name] {
				t.Errorf("no page has the procedure %s", name)
			}
			delete(onPages, name)
		}
	}
	for name := range onPages {
		t.Errorf("no test follows the procedure %s", name)
	}
}

// TestRunbook runs every block of commands as it stands on its page, with TestRunbookWithTick and
// TestReadmesOfExamples.
func TestRunbook(t *testing.T) {
	t.Parallel()
	procedures := readProcedures(t)
	for name, follow := range runbookTests {
		t.Run(name, func(t *testing.T) { follow.on(t, procedures[name]) })
	}
}

func TestRunbookWithTick(t *testing.T) {
	t.Parallel()
	followAtOnce(t, runbookTestsWithTick)
}

// followAtOnce follows the procedures beside each other.
func followAtOnce(t *testing.T, tests map[string]followed) {
	t.Helper()
	procedures := readProcedures(t)
	for name, follow := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			follow.on(t, procedures[name])
		})
	}
}

// end fails the test if the procedure has steps that were not taken.
func (p *procedure) end() {
	p.t.Helper()
	for _, block := range p.left {
		p.t.Errorf("step %s was not taken", block.Step)
	}
}

func followLook(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.read("monitoring")
	p.newUserAPIToken()
	p.fails(badRequest, credsRequest("worker"))
	p.step("status")
	p.step("check")
	p.step("sessions")
	p.step("validate")
	p.step("log")
	p.end()
}

func followRotate(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.role("polling", "10s") // is rotated all the time
	held, _ := p.read("monitoring"), p.read("polling")
	stop := p.keepReading(p.AccessTokenLives, "monitoring", "polling")

	token := p.newUserAPIToken()
	p.fails(badRequest, credsRequest("worker"), "refused")
	p.paste("save", token)
	p.step("write")
	p.read("worker")
	p.step("see")
	p.step("remove")
	stop()
	p.expectLife(true, held)
	if p.read("monitoring").token == held.token {
		t.Error("the retired token is still handed out")
	}
	p.end()
}

func followLeakedAccessToken(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	shared, leaked, other := p.read("monitoring"), p.read("worker"), p.read("worker")
	p.set("AUDIT_LOG", p.testbed.AuditFile)
	p.set("LEASE_ID", leaked.LeaseID)
	p.ResetCounts()

	p.paste("find", shared.token+"\n")
	p.step("end")
	p.expectLife(false, shared)
	p.expectLife(true, leaked, other)
	p.step("see")
	p.step("lease")
	p.expectLife(false, leaked)
	p.expectLife(true, other)
	p.step("leases")
	p.expectLife(false, other)
	p.expectNoneOpen()
	p.expectCalls(calls{simulator.EndpointLogout: 3})
	if p.read("monitoring").token == shared.token {
		t.Error("the leaked token is handed out")
	}
	p.end()
}

func followLeakedUserAPIToken(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	shared, dedicated := p.read("monitoring"), p.read("worker")
	p.paste("save", p.newUserAPIToken())
	p.step("write")
	// The leaked token.
	p.fails(badRequest, request{operation: opWrite, path: "config/leaked", body: p.config()}, "refused")
	p.step("end")
	p.expectLife(false, shared, dedicated)
	p.expectNoneOpen()
	p.step("see")
	p.read("monitoring")
	p.step("remove")
	p.end()
}

// rememberPassword tells the engine when the password was set.
func (p *procedure) rememberPassword(age time.Duration) {
	p.t.Helper()
	p.write("config/default", map[string]any{
		"password_changed_at": time.Now().Add(-age).Format(time.RFC3339), "password_max_age": "2160h",
	})
}

func followPasswordAhead(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.rememberPassword(80 * 24 * time.Hour)
	held := p.read("monitoring")
	if !warns(held.Warnings, "password expires at") {
		t.Errorf("readers are not warned: %q", held.Warnings)
	}
	stop := p.keepReading(p.AccessTokenLives, "monitoring")
	p.step("look")
	p.paste("save", p.newUserAPIToken())
	p.step("write")
	p.step("see")
	p.step("remove")
	stop()
	p.expectLife(true, held)
	if answer := p.read("monitoring"); len(answer.Warnings) > 0 {
		t.Errorf("readers are still warned: %q", answer.Warnings)
	}
	p.end()
}

func followPasswordExpired(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	if err := p.SetPasswordExpired(userName, true); err != nil {
		t.Fatal(err)
	}
	asked := p.Count(simulator.EndpointUser, simulator.AnyOutcome)
	stop := p.keepReading(p.AccessTokenLives, "monitoring") // who reads gets a token, with which data calls fail
	eventually(t, tickPatience, func() error {
		if p.Count(simulator.EndpointUser, simulator.AnyOutcome) == asked {
			return errors.New("no tick made the data call and asked after the user")
		}
		return nil
	})
	p.step("look")
	p.step("check")
	p.step("log")
	if err := p.SetPasswordExpired(userName, false); err != nil {
		t.Fatal(err)
	}
	p.paste("save", p.newUserAPIToken())
	p.step("write")
	p.step("see")
	p.step("remove")
	stop()
	p.end()
}

func followReboot(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.role("reporting", "0")
	monitoring, reporting := p.read("monitoring"), p.read("reporting")
	p.Reboot()
	p.Change(func(k *simulator.Knobs) { k.ServerVersion = "2026.3.0.4" })
	p.role("late", "0")
	p.read("late") // obtained since the reboot, so that nobody has noticed it
	p.step("check")
	for role, before := range map[string]credentials{"monitoring": monitoring, "reporting": reporting} {
		if p.read(role).token == before.token {
			t.Errorf("the dead token of %s is handed out", role)
		}
	}
	p.step("validate")
	p.end()
}

func followMove(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	other := newNCentral(t, nil)
	p.nextServer(other)
	held := p.read("monitoring")
	stop := p.keepReading(func(token string) bool {
		return p.AccessTokenLives(token) || other.AccessTokenLives(token)
	}, "monitoring", "worker")
	p.step("write")
	if answer, err := p.tryRead("monitoring"); err != nil || !other.AccessTokenLives(answer.token) {
		t.Errorf("the role answers no token of the new server: %v", err)
	}
	p.expectLife(true, held)
	p.step("see")
	p.nextServer(p.ncentral)
	p.step("back")
	p.read("monitoring")
	stop()
	other.expectNothingOf(t, p.ncentral)
	p.end()
}

// nextServer lays ready what the commands need to know of the server that they name.
func (p *procedure) nextServer(n *ncentral) {
	p.t.Helper()
	p.set("NCENTRAL_URL", n.server.URL)
	p.file("ca.pem", string(n.server.CAPEM))
	p.file("new-token.jwt", n.userAPIToken)
}

func followMoveRoleByRole(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	other := newNCentral(t, nil)
	p.nextServer(other)
	held, dedicated := p.read("monitoring"), p.read("worker")
	stop := p.keepReading(func(token string) bool {
		return p.AccessTokenLives(token) || other.AccessTokenLives(token)
	}, "monitoring", "worker")
	p.step("config")
	p.step("role")
	p.step("see")
	p.expectLife(true, held, dedicated)
	p.step("back")
	p.read("monitoring")
	p.step("rest")
	stop()
	p.step("end")
	p.expectLife(false, held, dedicated)
	p.expectNoneOpen()
	p.step("delete")
	other.expectNothingOf(t, p.ncentral)
	p.expectNothingOf(t, other)
	p.end()
}

func followMoveMount(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	shared, dedicated := p.read("monitoring"), p.read("worker")
	p.step("move")
	p.fails(notFound, request{operation: opWrite, path: "roles/monitoring"})
	p.path = "msp/ncentral"
	if p.read("monitoring").token != shared.token {
		t.Error("the move replaced the token that readers share")
	}
	p.expectLife(true, shared)
	p.expectLife(false, dedicated)
	p.step("see")
	p.read("worker")
	p.step("back")
	p.path = "ncentral"
	if p.read("monitoring").token != shared.token {
		t.Error("the move back replaced the token that readers share")
	}
	p.read("worker")
	p.end()
}

func followDisable(t *testing.T, blocks []docs.Block) {
	p := startProcedure(t, blocks, serverOptions())
	p.role("reporting", "0")
	tokens := []credentials{p.read("monitoring"), p.read("reporting"), p.read("worker"), p.read("worker")}
	p.FailNext(simulator.EndpointLogout, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 500})
	p.step("roles")
	p.step("leases")
	p.failingStep("sessions")
	if owed := p.logoutsOwed(); owed != 1 {
		t.Errorf("%d logouts are owed, want 1", owed)
	}
	eventually(t, tickPatience, func() error {
		if owed := p.logoutsOwed(); owed > 0 {
			return fmt.Errorf("%d logouts are owed", owed)
		}
		return nil
	})
	p.step("owed")
	p.expectLife(false, tokens...)
	p.expectNoneOpen()
	p.step("disable")
	p.fails(notFound, request{operation: opWrite, path: "roles/monitoring"})
	p.end()
}

func followUpgrade(t *testing.T, blocks []docs.Block) {
	options := serverOptions()
	options.PluginDirectory = t.TempDir()
	if err := os.Link(plugin.Path, filepath.Join(options.PluginDirectory, plugin.Command)); err != nil {
		t.Fatal(err)
	}
	p := startProcedure(t, blocks, options)
	const next = "v99.0.0"
	p.buildVersion(next)
	p.set("PLUGIN_DIRECTORY", options.PluginDirectory)
	p.set("NEW_VERSION", next)
	p.set("OLD_VERSION", plugin.Version)
	shared, dedicated := p.read("monitoring"), p.read("worker")
	stop := p.keepReading(p.AccessTokenLives, "monitoring", "worker")

	p.step("copy")
	p.step("register")
	p.step("tune")
	p.step("reload")
	p.expectRunning(next)
	p.step("see")
	p.step("back")
	p.repeat("reload")
	p.expectRunning(plugin.Version)
	p.repeat("see")
	stop()
	if p.read("monitoring").token != shared.token {
		t.Error("the upgrade replaced the token that readers share")
	}
	p.expectLife(true, dedicated)
	p.end()
}

// expectRunning fails the test unless the mount runs that version of the plugin.
func (p *procedure) expectRunning(version string) {
	p.t.Helper()
	mounts, err := p.client.Sys().ListMountsWithContext(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if running := mounts[p.path+"/"].RunningVersion; running != version {
		p.t.Errorf("version %s runs, want %s", running, version)
	}
}

// buildVersion builds the plugin as another version of itself and puts it where the commands run.
func (p *procedure) buildVersion(version string) {
	p.t.Helper()
	root, err := testbed.RepositoryRoot()
	if err != nil {
		p.t.Fatal(err)
	}
	p.file("VERSION", version+"\n")
	p.file("overlay.json", fmt.Sprintf(`{"Replace": {%q: %q}}`,
		filepath.Join(root, "backend", "VERSION"), filepath.Join(p.directory, "VERSION")))
	build := exec.CommandContext(p.t.Context(), "go", "build", "-C", root, "-trimpath", "-buildvcs=false",
		"-overlay", filepath.Join(p.directory, "overlay.json"),
		"-o", filepath.Join(p.directory, plugin.Command), "./cmd/"+plugin.Command)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		p.t.Fatalf("building the plugin: %v\n%s", err, output)
	}
}
