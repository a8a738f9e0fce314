// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A Vault agent that tests run, and how the reads and the tokens of any other consumer are watched.

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

const (
	agentPatience     = 2 * time.Minute // for two rotations of a token
	agentStopPatience = 10 * time.Second
)

const agentConfiguration = `
vault {
  address = %q
}
auto_auth {
  method "token_file" {
    config = {
      token_file_path = %q
    }
  }
}
template {
  destination          = %q
  error_on_missing_key = true
  contents             = <<EOT
{{ with secret %q }}{{ .Data.access_token }}{{ end }}
EOT
}
`

// agent is an agent process, of the server's own binary, that renders a role's token into a file.
type agent struct {
	*mount
	process  *testbed.Process
	log      string // a file
	rendered string // a file
	token    string // the Vault token that it reads with
	reads    *notedReads
}

// startAgent starts an agent that may read the role's token and nothing else.
func startAgent(t *testing.T, m *mount, role string) *agent {
	t.Helper()
	directory := t.TempDir()
	path := m.path + "/creds/" + role
	a := &agent{
		mount:    m,
		log:      filepath.Join(directory, "agent.log"),
		rendered: filepath.Join(directory, "rendered"),
		token:    m.clientFor(fmt.Sprintf("path %q { capabilities = [\"read\"] }", path)).Token(),
		reads:    &notedReads{path: "/v1/" + path, transport: &http.Transport{}},
	}
	tokenFile, configuration := filepath.Join(directory, "token"), filepath.Join(directory, "agent.hcl")
	text := fmt.Sprintf(agentConfiguration, a.listen(a.reads), tokenFile, a.rendered, path)
	if err := errors.Join(
		os.WriteFile(tokenFile, []byte(a.token), 0o600), os.WriteFile(configuration, []byte(text), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	a.run(directory, configuration)
	return a
}

// listen returns an address where the server is reached and reads are noted.
func (m *mount) listen(reads *notedReads) string {
	server, err := url.Parse(m.testbed.Address)
	if err != nil {
		m.t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(request *httputil.ProxyRequest) { request.SetURL(server) },
		Transport: reads,
	})
	m.t.Cleanup(func() {
		proxy.Close()
		reads.transport.CloseIdleConnections()
	})
	return proxy.URL
}

func (a *agent) run(directory, configuration string) {
	log, err := os.Create(a.log)
	if err != nil {
		a.t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(serverBinary, "agent", "-config="+configuration)
	command.Dir = directory
	command.Env = append(testbed.CleanEnvironment(), "HOME="+directory)
	command.Stdout, command.Stderr = log, log
	if a.process, err = testbed.StartProcess(command); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		a.process.Stop(agentStopPatience)
		if a.t.Failed() {
			a.t.Logf("the agent's log:\n%s", a.logWithoutSecrets())
		}
	})
}

// expectLivingTokens looks at the rendered file until it has shown that many tokens one after the
// other. N-central must accept what it shows at every look.
func (a *agent) expectLivingTokens(count int) {
	a.t.Helper()
	a.mount.expectLivingTokens(a.process, count, func() (string, error) {
		content, err := os.ReadFile(a.rendered)
		return strings.TrimSpace(string(content)), err
	})
}

// expectLivingTokens looks at what the process shows until that were that many tokens one after the
// other. N-central must accept what it shows at every look. Nothing is shown where the look answers
// os.ErrNotExist.
func (m *mount) expectLivingTokens(process *testbed.Process, count int, look func() (string, error)) {
	m.t.Helper()
	var shown []string
	eventually(m.t, agentPatience, func() error {
		m.expectRunning(process)
		token, err := look()
		if errors.Is(err, os.ErrNotExist) {
			return errors.New("nothing was rendered")
		}
		if err != nil || !m.AccessTokenLives(token) {
			m.t.Fatalf("a dead token is shown, %s, after %d others: %v", fingerprint(token), len(shown), err)
		}
		if len(shown) == 0 || shown[len(shown)-1] != token {
			shown = append(shown, token)
		}
		if len(shown) < count {
			return fmt.Errorf("%d tokens were shown, want %d", len(shown), count)
		}
		return nil
	})
}

func (m *mount) expectRunning(process *testbed.Process) {
	m.t.Helper()
	select {
	case <-process.Ended():
		m.t.Fatalf("the process ended by itself: %v", process.Err())
	default:
	}
}

// stop asks the agent to end, which it must do by itself and well.
func (a *agent) stop() {
	a.t.Helper()
	a.process.Stop(agentStopPatience)
	if err := a.process.Err(); err != nil {
		a.t.Errorf("the agent ended with %v", err)
	}
}

// expectReadsApart fails the test where a read failed, or came sooner after the answer before it
// than the function says.
func (a *agent) expectReadsApart(atLeast func(answer *api.Secret) time.Duration) {
	a.t.Helper()
	reads := a.reads.all()
	if len(reads) < tokensOverTwoRotations {
		a.t.Fatalf("the agent read %d times, want at least %d", len(reads), tokensOverTwoRotations)
	}
	for i, read := range reads {
		if read.err != nil {
			a.t.Fatalf("read %d of the agent failed: %v", i+1, read.err)
		}
		asked := request{operation: opRead, path: strings.TrimPrefix(read.path, "/v1/"+a.path+"/")}
		a.expectNoSecrets(asked, read.answer, nil)
		a.expectDeclared(asked, read.answer)
		if i == len(reads)-1 {
			break
		}
		if pause, want := reads[i+1].asked.Sub(read.answered), atLeast(read.answer); pause < want {
			a.t.Errorf("the agent read again after %s, want %s at least", pause, want)
		}
	}
}

func (a *agent) logWithoutSecrets() string {
	log, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	text := string(log)
	for _, secret := range append(a.Secrets(), a.token) {
		text = strings.ReplaceAll(text, secret, fingerprint(secret))
	}
	return text
}

// notedReads stands between a consumer and the server and notes the reads of one path.
type notedReads struct {
	path      string
	transport *http.Transport

	mutex sync.Mutex
	reads []notedRead
}

type notedRead struct {
	path     string
	query    string
	asked    time.Time
	answered time.Time
	answer   *api.Secret
	err      error // the answer was none, or no 200
}

// RoundTrip is http.RoundTripper's.
func (r *notedReads) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Path != r.path {
		return r.transport.RoundTrip(request)
	}
	read := notedRead{path: request.URL.Path, query: request.URL.RawQuery, asked: time.Now()}
	response, err := r.transport.RoundTrip(request)
	if read.err = err; err == nil {
		read.answer, read.err = readAnswer(response)
	}
	read.answered = time.Now()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.reads = append(r.reads, read)
	return response, err
}

// all returns the reads so far, in the order in which they were answered.
func (r *notedReads) all() []notedRead {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return slices.Clone(r.reads)
}

// take returns the reads since the last take.
func (r *notedReads) take() []notedRead {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	taken := r.reads
	r.reads = nil
	return taken
}

// readAnswer parses the answer and leaves it to be read again.
func readAnswer(response *http.Response) (*api.Secret, error) {
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return api.ParseSecret(bytes.NewReader(body))
}
