// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Blocks of commands of the runbook, run as they stand.

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// block is one fenced block of commands of the runbook, or of the page on two users.
type block struct {
	step     string
	commands string
	excerpt  string // what the reader is told to see; empty where nothing is shown
}

// runbookBlock is a block of sh below its marker, with the block of text that follows it, if any. The
// marker of a block that one kind of server takes says so.
var runbookBlock = regexp.MustCompile(
	"(?ms)^<!-- run: ([\\w-]+)/([\\w-]+)(?: on (\\w+))? -->\n```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?",
)

// runbookPages are the pages of docs with blocks of commands that are run as they stand.
var runbookPages = []string{"operations.md", "two-users.md"}

// readRunbook returns the blocks of the pages by procedure, in their order.
func readRunbook(t *testing.T) map[string][]block {
	t.Helper()
	root, err := testbed.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	procedures := map[string][]block{}
	for _, page := range runbookPages {
		content, err := os.ReadFile(filepath.Join(root, "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		readBlocks(t, page, string(content), procedures)
	}
	return procedures
}

// readBlocks adds the blocks of one page. Each of sh must say what runs it, and each of text must
// follow the commands that print it.
func readBlocks(t *testing.T, page, document string, procedures map[string][]block) {
	t.Helper()
	excerpts := 0
	found := runbookBlock.FindAllStringSubmatch(document, -1)
	for _, parts := range found {
		procedure, step, server, commands, excerpt := parts[1], parts[2], parts[3], parts[4], parts[5]
		if excerpt != "" {
			excerpts++
		}
		if server == "" || server == serverKind.name {
			procedures[procedure] = append(procedures[procedure], block{step, commands, excerpt})
		}
	}
	if fences := strings.Count(document, "```sh\n"); fences != len(found) {
		t.Fatalf("%s has %d blocks of sh, of which %d are marked with what runs them", page, fences, len(found))
	}
	if fences := strings.Count(document, "```text\n"); fences != excerpts {
		t.Fatalf("%s has %d blocks of text, of which %d follow the commands that print them", page, fences, excerpts)
	}
}

// procedure is one procedure of the runbook, followed on a server of its own where the engine is
// mounted at ncentral/, with a shared role "monitoring" and a dedicated role "worker".
type procedure struct {
	*mount
	left, taken []block
	directory   string // where the commands run
	environment []string
}

// startProcedure gets everything ready for the procedure's first step.
func startProcedure(t *testing.T, blocks []block, options testbed.Options) *procedure {
	t.Helper()
	server, err := testbed.StartDev(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	p := &procedure{left: blocks, directory: t.TempDir()}
	t.Cleanup(func() {
		if err := endServer(server); err != nil {
			t.Error(err)
		}
	})
	if err := server.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	p.mount = newMountAt(t, server, "ncentral", api.MountConfigInput{}, nil)
	p.write("roles/monitoring", map[string]any{})
	p.write("roles/worker", map[string]any{"credential_type": "dedicated"})

	programs := t.TempDir()
	for _, name := range []string{"vault", "bao"} {
		if err := os.Symlink(serverBinary, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.environment = append(testbed.CleanEnvironment(),
		"PATH="+programs+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"HOME="+p.directory,
		"VAULT_ADDR="+server.Address,
		"VAULT_TOKEN="+server.RootToken,
		"SERVER_LOG="+server.LogFile)
	return p
}

// set gives the commands to come an environment variable.
func (p *procedure) set(name, value string) { p.environment = append(p.environment, name+"="+value) }

// file puts a file where the commands run.
func (p *procedure) file(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.directory, name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// step runs the next block, which must be the one of that name, as it stands, and holds what it
// prints against what the runbook shows.
func (p *procedure) step(name string) {
	p.t.Helper()
	p.paste(name, "")
}

// paste is step for commands that are given a token while they run.
func (p *procedure) paste(name, token string) {
	p.t.Helper()
	if output, err := p.run(name, token); err != nil {
		p.t.Fatalf("step %s: %v\n%s", name, err, output)
	}
}

// failingStep is step for commands whose last one is to fail.
func (p *procedure) failingStep(name string) {
	p.t.Helper()
	if output, err := p.run(name, ""); err == nil {
		p.t.Fatalf("step %s did not fail\n%s", name, output)
	}
}

func (p *procedure) run(name, input string) (output string, err error) {
	p.t.Helper()
	if len(p.left) == 0 || p.left[0].step != name {
		p.t.Fatalf("step %s is not the next of the procedure: %+v", name, p.left)
	}
	next := p.left[0]
	p.left, p.taken = p.left[1:], append(p.taken, next)
	return p.runBlock(next, input)
}

// repeat runs a block again that was taken, as the runbook says.
func (p *procedure) repeat(name string) {
	p.t.Helper()
	at := slices.IndexFunc(p.taken, func(taken block) bool { return taken.step == name })
	if at < 0 {
		p.t.Fatalf("step %s was not taken yet", name)
	}
	if output, err := p.runBlock(p.taken[at], ""); err != nil {
		p.t.Fatalf("step %s: %v\n%s", name, err, output)
	}
}

func (p *procedure) runBlock(next block, input string) (output string, err error) {
	p.t.Helper()
	var printed bytes.Buffer
	command := exec.CommandContext(p.t.Context(), "/bin/sh", "-euc", next.commands)
	command.Dir, command.Env = p.directory, p.environment
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &printed, &printed
	err = command.Run()
	output = printed.String()
	secrets.addShown("step "+next.step+" of "+p.t.Name(), output)
	if !next.isShownBy(output) {
		p.t.Errorf("step %s does not print what the runbook shows, but:\n%s", next.step, output)
	}
	return output, err
}

// isShownBy reports whether the excerpt is in the output. What is taken from an audit log that has
// another order than the runbook's may be in any.
func (b block) isShownBy(output string) bool {
	if !serverKind.auditsInOtherOrder || !strings.Contains(b.commands, "$AUDIT_LOG") {
		return showsExcerpt(output, b.excerpt)
	}
	for line := range strings.Lines(b.excerpt) {
		if !showsExcerpt(output, line) {
			return false
		}
	}
	return true
}

var instant = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// showsExcerpt reports whether the excerpt is in the output: "…" stands for anything, a time for
// any time. White space does not count: how wide columns are and where lines break is the command
// line's own business.
func showsExcerpt(output, excerpt string) bool {
	pattern := regexp.QuoteMeta(withoutSpace(excerpt))
	pattern = instant.ReplaceAllLiteralString(pattern, instant.String())
	pattern = strings.ReplaceAll(pattern, "…", ".*")
	return regexp.MustCompile(pattern).MatchString(withoutSpace(output))
}

func withoutSpace(text string) string { return strings.Join(strings.Fields(text), "") }

// keepReading reads the roles all the time until stop is called. No read may fail or answer a dead
// token.
func (p *procedure) keepReading(lives func(token string) bool, roles ...string) (stop func()) {
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, role := range roles {
		readers.Go(func() {
			for {
				answer, err := p.tryRead(role)
				switch {
				case err != nil:
					p.t.Errorf("a reader of creds/%s got an error: %v", role, err)
					return
				case !lives(answer.token):
					p.t.Errorf("a reader of creds/%s got dead token %s", role, fingerprint(answer.token))
					return
				}
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(done)
		readers.Wait()
	})
	p.t.Cleanup(stop) // before the server's, also where the test gives up
	return stop
}

// newUserAPIToken is what N-central's web UI shows when the user's token is generated anew.
func (p *procedure) newUserAPIToken() string {
	p.t.Helper()
	token, err := p.RegenerateUserAPIToken(userName)
	if err != nil {
		p.t.Fatal(err)
	}
	return token
}

// expectNoneOpen fails the test if a session is open at N-central.
func (p *procedure) expectNoneOpen() {
	p.t.Helper()
	if open := p.OpenSessions(); open != 0 {
		p.t.Errorf("%d sessions are open at N-central, want none", open)
	}
}

// expectLife fails the test unless the tokens are as alive as they are to be.
func (p *procedure) expectLife(want bool, tokens ...credentials) {
	p.t.Helper()
	for _, token := range tokens {
		if lives := p.AccessTokenLives(token.token); lives != want {
			p.t.Errorf("token %s lives: %t", fingerprint(token.token), lives)
		}
	}
}
