// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Blocks of commands of the documents, run as they stand.

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

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// readBlocks returns the blocks of all pages.
func readBlocks(t *testing.T) []docs.Block {
	t.Helper()
	root, err := testbed.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := docs.Blocks(root)
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

// readProcedures returns the blocks of commands that the server at hand takes, by the procedure that
// they are part of, in the order of their page.
func readProcedures(t *testing.T) map[string][]docs.Block {
	t.Helper()
	procedures := map[string][]docs.Block{}
	for _, block := range readBlocks(t) {
		if block.Procedure != "" && (block.Server == "" || block.Server == serverKind.name) {
			procedures[block.Procedure] = append(procedures[block.Procedure], block)
		}
	}
	return procedures
}

// procedure is a procedure of a page, followed on a server of its own.
type procedure struct {
	*mount
	left, taken []docs.Block
	directory   string // where the commands run
	environment []string
}

// newProcedure starts the server, with no plugin registered and nothing mounted.
func newProcedure(t *testing.T, blocks []docs.Block, options testbed.Options) *procedure {
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
	p.mount = &mount{t: t, testbed: server, client: server.Client(), path: "ncentral"}
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

// startProcedure gets everything ready for the first step of a procedure that begins with the engine
// at ncentral/, a shared role "monitoring" and a dedicated role "worker".
func startProcedure(t *testing.T, blocks []docs.Block, options testbed.Options) *procedure {
	t.Helper()
	p := newProcedure(t, blocks, options)
	if err := p.testbed.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	p.mount = newMountAt(t, p.testbed, "ncentral", api.MountConfigInput{}, nil)
	p.write("roles/monitoring", map[string]any{})
	p.write("roles/worker", map[string]any{"credential_type": "dedicated"})
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
// prints against what the page shows.
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

// showsTokens is step for commands that are there to show an access token. It returns what they
// printed.
func (p *procedure) showsTokens(name string) (output string) {
	p.t.Helper()
	output, err := p.runBlock(p.take(name), "")
	if err != nil {
		p.t.Fatalf("step %s: %v\n%s", name, err, withoutTokens(output))
	}
	return output
}

var anyToken = regexp.MustCompile(`eyJ[\w.-]+`)

func withoutTokens(output string) string { return anyToken.ReplaceAllString(output, "eyJ…") }

func (p *procedure) run(name, input string) (output string, err error) {
	p.t.Helper()
	output, err = p.runBlock(p.take(name), input)
	secrets.addShown("step "+name+" of "+p.t.Name(), output)
	return output, err
}

// take returns the next block, which must be the one of that name.
func (p *procedure) take(name string) docs.Block {
	p.t.Helper()
	if len(p.left) == 0 || p.left[0].Step != name {
		p.t.Fatalf("step %s is not the next of the procedure: %+v", name, p.left)
	}
	next := p.left[0]
	p.left, p.taken = p.left[1:], append(p.taken, next)
	return next
}

// repeat runs a block again that was taken, as the runbook says.
func (p *procedure) repeat(name string) {
	p.t.Helper()
	at := slices.IndexFunc(p.taken, func(taken docs.Block) bool { return taken.Step == name })
	if at < 0 {
		p.t.Fatalf("step %s was not taken yet", name)
	}
	p.left = slices.Concat(p.taken[at:at+1], p.left)
	p.step(name)
}

// runBlock runs a block as it stands, and holds what it prints against what the page shows.
func (p *procedure) runBlock(next docs.Block, input string) (output string, err error) {
	p.t.Helper()
	var printed bytes.Buffer
	command := exec.CommandContext(p.t.Context(), "/bin/sh", "-euc", next.Text)
	command.Dir, command.Env = p.directory, p.environment
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &printed, &printed
	err = command.Run()
	output = printed.String()
	if !isShown(next, output) {
		p.t.Errorf("step %s does not print what the page shows, but:\n%s", next.Step, withoutTokens(output))
	}
	return output, err
}

// isShown reports whether the block's excerpt is in the output. What is taken from an audit log that
// has another order than the runbook's may be in any.
func isShown(block docs.Block, output string) bool {
	if !serverKind.auditsInOtherOrder || !strings.Contains(block.Text, "$AUDIT_LOG") {
		return showsExcerpt(output, block.Excerpt)
	}
	for line := range strings.Lines(block.Excerpt) {
		if !showsExcerpt(output, line) {
			return false
		}
	}
	return true
}

// varying are what an excerpt shows one example of, where the output may have any other: a time, a
// number of seconds since 1970, a duration, and the address of N-central.
var varying = []string{
	`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, `1\d{9}`, `\d+ ?ms|(?:\d+h)?(?:\d+m)?\d+s`, `https://[\w.]+(?::\d+)?`,
}

// showsExcerpt reports whether the excerpt is in the output: "…" stands for anything, and what
// varies for its like. White space does not count: how wide columns are and where lines break is the
// command line's own business.
func showsExcerpt(output, excerpt string) bool {
	stand := func(i int) string { return string(rune('\uE000' + i)) }
	for i, pattern := range varying {
		whole := regexp.MustCompile(`(^|\W)(?:` + pattern + `)($|\W)`)
		excerpt = whole.ReplaceAllString(excerpt, "${1}"+stand(i)+"${2}")
	}
	expected := strings.ReplaceAll(regexp.QuoteMeta(withoutSpace(excerpt)), "…", ".*")
	for i, pattern := range varying {
		expected = strings.ReplaceAll(expected, stand(i), "(?:"+pattern+")")
	}
	return regexp.MustCompile(expected).MatchString(withoutSpace(output))
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
