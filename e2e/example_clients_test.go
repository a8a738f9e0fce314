// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Examples that call N-central's API themselves.

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestExampleGo(t *testing.T) {
	t.Parallel()
	e := startExample(t, "go")
	program := filepath.Join(e.directory, "ncentral")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/go")
	build.Dir = filepath.Dir(filepath.Dir(e.folder))
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	e.expectClient(3, func(paths ...string) *exec.Cmd { return e.command(nil, program, paths...) })
}

// The README promises it, and a longer one would be a library.
func TestTheGoExampleFitsAScreenAndAHalf(t *testing.T) {
	content, err := os.ReadFile("../examples/go/transport.go")
	if err != nil {
		t.Fatal(err)
	}
	_, transport, _ := bytes.Cut(content, []byte("\n// Transport "))
	if lines := bytes.Count(transport, []byte("\n")); lines == 0 || lines >= 80 {
		t.Errorf("the transport has %d lines", lines)
	}
}

func TestExampleShell(t *testing.T) {
	t.Parallel()
	needs(t, "curl")
	needs(t, "jq")
	e := startExample(t, "shell")
	e.expectClient(1, func(paths ...string) *exec.Cmd {
		return e.command(nil, filepath.Join(e.folder, "ncentral.sh"), paths...)
	})
}

func TestExamplePython(t *testing.T) {
	t.Parallel()
	e := startExample(t, "python")
	e.expectPython(pythonWith(t))
}

func TestExamplePythonHvac(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "hvac", "requests")
	e := startExample(t, "python-hvac")
	e.expectPython(python)
}

func (e *example) expectPython(python string) {
	e.t.Helper()
	e.expectClient(3, func(paths ...string) *exec.Cmd {
		return e.command(nil, python, append([]string{filepath.Join(e.folder, "ncentral.py")}, paths...)...)
	})
}

// pythonWith returns the interpreter, and skips the test where it is absent or lacks a module.
func pythonWith(t *testing.T, modules ...string) string {
	t.Helper()
	python := needs(t, "python3")
	for _, module := range modules {
		if exec.CommandContext(t.Context(), python, "-c", "import "+module).Run() != nil {
			skipExample(t, "Python module "+module)
		}
	}
	// Of the interpreter itself: a wrapper on the PATH may depend on HOME.
	found, err := exec.CommandContext(t.Context(), python, "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(found))
}

func TestExampleNode(t *testing.T) {
	t.Parallel()
	node := needs(t, "node", "-e", "fetch") // which came with Node.js 18
	e := startExample(t, "node")
	e.expectClient(3, func(paths ...string) *exec.Cmd {
		return e.command(nil, node, append([]string{filepath.Join(e.folder, "ncentral.mjs")}, paths...)...)
	})
}
