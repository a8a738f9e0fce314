// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

// screen records the demo's output, and calls onShown once the text has been shown.
type screen struct {
	strings.Builder
	text    string
	onShown func()
}

func (s *screen) Write(p []byte) (int, error) {
	n, err := s.Builder.Write(p)
	if s.onShown != nil && strings.Contains(s.String(), s.text) {
		s.onShown()
		s.onShown = nil
	}
	return n, err
}

// setTemporaryDirectory makes a directory of the test the one for temporary files. It returns a
// function that lists what is in it.
func setTemporaryDirectory(t *testing.T) (left func() []os.DirEntry) {
	t.Helper()
	directory := t.TempDir()
	t.Setenv("TMPDIR", directory)
	return func() []os.DirEntry {
		entries, err := os.ReadDir(directory)
		if err != nil {
			t.Fatal(err)
		}
		return entries
	}
}

func TestDemo(t *testing.T) {
	left := setTemporaryDirectory(t)
	var output screen
	if code := run(t.Context(), &output, false); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, output.String())
	}
	if found := accessToken.FindString(output.String()); found != "" {
		t.Error("a whole token is shown")
	}
	for _, part := range []string{
		"access_token ", "eyJ", "********", "rotation_period", "Example", "path-help",
		whatNext,
	} {
		if !strings.Contains(output.String(), part) {
			t.Errorf("%q is not shown:\n%s", part, output.String())
		}
	}
	if entries := left(); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// What is no make target is a file of the repository.
func TestWhatTheDemoNamesAtItsEndExists(t *testing.T) {
	named := regexp.MustCompile(`(?m)^ {2}(make )?(\S+) `).FindAllStringSubmatch(whatNext, -1)
	if len(named) < 5 {
		t.Fatal("it names less than it did:", named)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if isTarget := name[1] != ""; isTarget {
			if !strings.Contains(string(makefile), "\n"+name[2]+":") {
				t.Errorf("there is no target %s", name[2])
			}
		} else if _, err := os.Stat("../../" + name[2]); err != nil {
			t.Error(err)
		}
	}
}

func TestAnInterruptedDemoLeavesNothing(t *testing.T) {
	for _, text := range []string{"Building the plugin", "Starting the simulator", "roles/monitoring"} {
		t.Run(text, func(t *testing.T) {
			left := setTemporaryDirectory(t)
			ctx, interrupt := context.WithCancel(t.Context())
			output := screen{text: text, onShown: interrupt}
			if code := run(ctx, &output, false); code != exitInterrupted {
				t.Errorf("exit code %d:\n%s", code, output.String())
			}
			if entries := left(); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestKeepRunsUntilInterrupted(t *testing.T) {
	left := setTemporaryDirectory(t)
	ctx, interrupt := context.WithCancel(t.Context())
	output := screen{text: "Log of the server", onShown: interrupt}
	if code := run(ctx, &output, true); code != 0 {
		t.Errorf("exit code %d:\n%s", code, output.String())
	}
	if !strings.Contains(output.String(), "  export VAULT_ADDR=http://127.0.0.1:") {
		t.Errorf("the environment is not shown:\n%s", output.String())
	}
	if entries := left(); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestSteps(t *testing.T) {
	var output screen
	stage, err := setStage(t.Context(), &output)
	defer func() {
		if err := stage.clear(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}

	t.Run("one that fails ends the demo", func(t *testing.T) {
		missing := stage.cli + " read ncentral/creds/missing"
		err := stage.runAll(t.Context(), []step{{command: missing}, {command: "echo the next"}})
		if err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(output.String(), "No value found") || strings.Contains(output.String(), "the next") {
			t.Errorf("shown:\n%s", output.String())
		}
		if _, err := stage.dataCall(t.Context()); err == nil {
			t.Error("a data call without a token went well")
		}
	})

	t.Run("one whose answer is not as it must be fails", func(t *testing.T) {
		wrong := errors.New("wrong")
		err := stage.runStep(t.Context(), step{command: "true", check: func(string) error { return wrong }})
		if !errors.Is(err, wrong) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("without curl the demo makes the call itself", func(t *testing.T) {
		if err := stage.runAll(t.Context(), stage.setupSteps()); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", stage.binDirectory())
		for _, step := range stage.usageSteps() {
			if step.instead == nil {
				continue
			}
			if err := stage.runStep(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(output.String(), "There is no curl on this machine") ||
			!strings.Contains(output.String(), "Example") {
			t.Errorf("shown:\n%s", output.String())
		}
	})
}

func TestMask(t *testing.T) {
	if got := mask("abcd" + strings.Repeat("x", 20) + "wxyz"); got != "abcd********wxyz" {
		t.Errorf("got %q", got)
	}
	if got := mask("a short one"); got != "********" {
		t.Errorf("got %q", got)
	}
}
