// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// suite holds the tests, and which code each test reaches.
type suite struct {
	directory string // for binaries and other files
	packages  []*testPackage
	covered   []string // import paths of the packages whose code is changed

	mu     sync.Mutex
	blocks map[string]map[block]bool // by file, all blocks of the coverage tool
}

// testPackage holds the tests of one package.
type testPackage struct {
	directory string
	tests     []*test
	binary    string // with all changes woven in
}

// test is a single test.
type test struct {
	name     string
	took     time.Duration
	reach    map[string][]block // by file, the blocks that it ran
	unsteady bool               // it does not always pass on unchanged code
}

// runsToMeasure is how often each test runs at first, to find those that do not always pass.
const runsToMeasure = 3

// block is a piece of a file in the coverage tool's division: from one line and column to another.
type block struct {
	fromLine, fromColumn, toLine, toColumn int
}

func (b block) holds(line, column int) bool {
	return (b.fromLine < line || b.fromLine == line && b.fromColumn <= column) &&
		(line < b.toLine || line == b.toLine && column < b.toColumn)
}

// newSuite runs each test alone on the unchanged code.
func newSuite(ctx context.Context, s settings, directory string) (*suite, error) {
	made := &suite{directory: directory, blocks: map[string]map[block]bool{}}
	for _, changed := range s.packages {
		path, err := goTool(ctx, "list", "./"+changed)
		if err != nil {
			return nil, err
		}
		made.covered = append(made.covered, strings.TrimSpace(string(path)))
	}
	for _, tested := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.packages, s.tests)))) {
		p := &testPackage{directory: tested}
		found, err := made.measure(ctx, s, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tested, err)
		}
		if found {
			made.packages = append(made.packages, p)
		}
	}
	return made, nil
}

// measure finds the package's tests, which code each reaches and how long it takes. It reports
// whether the package has tests.
func (s *suite) measure(ctx context.Context, settings settings, p *testPackage) (found bool, err error) {
	binary := s.binaryOf(p, "covered")
	_, err = goTool(ctx, "test", "-c", "-vet=off", "-cover", "-covermode=set",
		"-coverpkg="+strings.Join(s.covered, ","), "-o", binary, "./"+p.directory)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(binary); errors.Is(err, fs.ErrNotExist) {
		return false, nil // a package without tests has no test binary
	}
	listed := exec.CommandContext(ctx, binary, "-test.list=^(Test|Fuzz|Example)")
	listed.Dir = p.directory
	names, err := listed.Output()
	if err != nil {
		return false, err
	}
	var group errgroup.Group
	group.SetLimit(settings.workers)
	for name := range strings.FieldsSeq(string(names)) {
		if settings.skip != nil && settings.skip.MatchString(name) {
			continue
		}
		t := &test{name: name}
		p.tests = append(p.tests, t)
		group.Go(func() error { return s.measureOne(ctx, p, t, binary) })
	}
	err = group.Wait()
	p.tests = slices.DeleteFunc(p.tests, func(t *test) bool { return t.unsteady })
	return true, err
}

func (s *suite) binaryOf(p *testPackage, kind string) string {
	return filepath.Join(s.directory, strings.ReplaceAll(p.directory, "/", "-")+"."+kind)
}

func (s *suite) measureOne(ctx context.Context, p *testPackage, t *test, binary string) error {
	profile := binary + "." + t.name
	began := time.Now()
	verdict, output, err := runTests(ctx, p, binary, []string{t.name}, 10*time.Minute, 0,
		"-test.count="+strconv.Itoa(runsToMeasure), "-test.coverprofile="+profile)
	t.took = time.Since(began) / runsToMeasure
	if err != nil {
		return err
	}
	if verdict != survived {
		t.unsteady = true
		fmt.Printf("%s is left out, for it does not always pass on the code as it is:\n%s", t.name, output)
		return nil
	}
	content, err := os.ReadFile(profile)
	if err != nil {
		return err
	}
	t.reach = map[string][]block{}
	return s.readProfile(content, t)
}

var profileLine = regexp.MustCompile(`^` + regexp.QuoteMeta(modulePath) + `/(\S+):(\d+)\.(\d+),(\d+)\.(\d+) \d+ (\d+)$`)

const modulePath = "vault-plugin-secrets-ncentral"

// readProfile reads from a coverage profile which blocks the test ran.
func (s *suite) readProfile(content []byte, t *test) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range bytes.Lines(content) {
		if bytes.HasPrefix(line, []byte("mode: ")) {
			continue
		}
		parts := profileLine.FindStringSubmatch(string(bytes.TrimSpace(line)))
		if parts == nil {
			return fmt.Errorf("the coverage profile has a line %q", line)
		}
		var numbers [4]int
		for i := range numbers {
			numbers[i], _ = strconv.Atoi(parts[2+i]) // the pattern allows only digits
		}
		file, found := parts[1], block{numbers[0], numbers[1], numbers[2], numbers[3]}
		if s.blocks[file] == nil {
			s.blocks[file] = map[block]bool{}
		}
		s.blocks[file][found] = true
		if parts[6] != "0" {
			t.reach[file] = append(t.reach[file], found)
		}
	}
	return nil
}

// reaches reports whether the test runs the changed code. The coverage tool leaves out what is
// between two blocks, such as the values of a case. For such a change, every test counts that runs
// any part of the function. For a declaration of the package, every test counts.
func (s *suite) reaches(t *test, m *mutant) bool {
	if m.function == nil {
		return true
	}
	at := m.file.positions.Position(m.file.at(m.from))
	holds := func(b block) bool { return b.holds(at.Line, at.Column) }
	ran := t.reach[m.file.path]
	for b := range s.blocks[m.file.path] {
		if holds(b) {
			return slices.ContainsFunc(ran, holds)
		}
	}
	first, last := m.file.positions.Position(m.function.Pos()).Line, m.file.positions.Position(m.function.End()).Line
	return slices.ContainsFunc(ran, func(b block) bool { return b.fromLine >= first && b.toLine <= last })
}

// buildWoven builds each package's tests with all changes woven in and none of them on.
func (s *suite) buildWoven(ctx context.Context, packages []*sourcePackage) error {
	replacements := map[string][]byte{}
	for _, p := range packages {
		for _, file := range p.files {
			replacements[file.path], _ = file.woven()
		}
		replacements[filepath.Join(p.directory, switchFile)] = p.switchSource()
	}
	woven := filepath.Join(s.directory, "woven")
	if err := os.Mkdir(woven, 0o755); err != nil {
		return err
	}
	overlay, err := writeOverlay(woven, replacements)
	if err != nil {
		return err
	}
	for _, p := range s.packages {
		p.binary = s.binaryOf(p, "woven")
		if err := build(ctx, p, overlay, p.binary); err != nil {
			return err
		}
		how, output, err := runTests(ctx, p, p.binary, p.names(), 10*time.Minute, 0)
		if err != nil {
			return err
		}
		if how != survived {
			return fmt.Errorf("%s: the tests fail with the changes woven in and none of them on:\n%s",
				p.directory, output)
		}
	}
	return nil
}

func (p *testPackage) names() (names []string) {
	for _, t := range p.tests {
		names = append(names, t.name)
	}
	return names
}

func build(ctx context.Context, p *testPackage, overlay, binary string) error {
	_, err := goTool(ctx, "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay="+overlay, "-o", binary,
		"./"+p.directory)
	return err
}

// writeOverlay writes the replacements of repository files into the directory. It returns the file
// that tells the go command about them.
func writeOverlay(directory string, replacements map[string][]byte) (string, error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, content := range replacements {
		original, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		written := filepath.Join(directory, strings.ReplaceAll(path, "/", "-"))
		if err := os.WriteFile(written, content, 0o644); err != nil {
			return "", err
		}
		overlay.Replace[original] = written
	}
	encoded, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	file := filepath.Join(directory, "overlay.json")
	return file, os.WriteFile(file, encoded, 0o644)
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// runTests runs tests of a binary with one change on. It returns the verdict and the output.
func runTests(ctx context.Context, p *testPackage, binary string, tests []string, patience time.Duration, on int,
	more ...string,
) (how verdict, output string, err error) {
	arguments := append([]string{
		"-test.run=^(" + strings.Join(tests, "|") + ")$", "-test.failfast", "-test.timeout=" + patience.String(),
	}, more...)
	var said bytes.Buffer
	command := exec.Command(binary, arguments...)
	command.Dir = p.directory
	command.Env = append(os.Environ(), mutantVariable+"="+strconv.Itoa(on))
	command.Stdout, command.Stderr = &said, &said
	limited, cancel := context.WithTimeout(ctx, patience+10*time.Second)
	defer cancel()
	err = testbed.Run(limited, command)
	output = said.String()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case err == nil:
		return survived, output, nil
	case limited.Err() != nil, strings.Contains(output, "panic: test timed out after"):
		return timedOut, output, nil
	case errors.As(err, &ended):
		return killed, output, nil
	}
	return "", "", err
}
