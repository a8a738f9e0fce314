// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"
)

const root = "../.."

// build is how .goreleaser.yaml has the plugin built.
type build struct {
	Main                string
	Env, Flags, LDFlags []string
}

func theBuild(t *testing.T) build {
	t.Helper()
	var config struct{ Builds []build }
	if err := yaml.Unmarshal(readFile(t, filepath.Join(root, ".goreleaser.yaml")), &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Builds) != 1 {
		t.Fatalf("%d builds", len(config.Builds))
	}
	return config.Builds[0]
}

// filled returns a text of .goreleaser.yaml with what GoReleaser fills in.
func filled(t *testing.T, text string, with map[string]any) string {
	t.Helper()
	parsed, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var filled strings.Builder
	if err := parsed.Execute(&filled, with); err != nil {
		t.Fatal(err)
	}
	return filled.String()
}

// execute runs a command in the directory and returns what it prints.
func execute(t *testing.T, directory string, environment []string, command ...string) string {
	t.Helper()
	process := exec.CommandContext(t.Context(), command[0], command[1:]...)
	process.Dir = directory
	process.Env = append(os.Environ(), environment...)
	output, err := process.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, output)
	}
	return string(output)
}

// sourceIn copies what the plugin is built from into the directory.
func sourceIn(t *testing.T, directory string) {
	t.Helper()
	for _, part := range []string{"backend", "cmd", "internal", "paths"} {
		if err := os.CopyFS(filepath.Join(directory, part), os.DirFS(filepath.Join(root, part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{"go.mod", "go.sum"} {
		content := readFile(t, filepath.Join(root, part))
		if err := os.WriteFile(filepath.Join(directory, part), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// One directory is a tagged commit with a file that is not of it, as whoever makes a release may
// have; the other, elsewhere, is the unpacked source alone.
func TestTheSameSourceGivesTheSameBytesWhereverItIsBuilt(t *testing.T) {
	released, unpacked := t.TempDir(), filepath.Join(t.TempDir(), "at", "another", "depth")
	sourceIn(t, released)
	sourceIn(t, unpacked)
	git := []string{"git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"}
	execute(t, released, nil, append(git, "init", "--quiet")...)
	execute(t, released, nil, append(git, "add", ".")...)
	execute(t, released, nil, append(git, "commit", "--quiet", "--message", "test")...)
	execute(t, released, nil, append(git, "tag", "v1.2.3")...)
	if err := os.WriteFile(filepath.Join(released, "untracked"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	const commit = "0123456789abcdef0123456789abcdef01234567"
	how := theBuild(t)
	linked := filled(t, strings.Join(how.LDFlags, " "), map[string]any{"FullCommit": commit, "IsGitDirty": false})
	arguments := append([]string{"go", "build"}, how.Flags...)
	arguments = append(arguments, "-ldflags="+linked, "-o", binaryName, how.Main)
	// Without GOFLAGS of whoever runs the test, so that the flags alone decide.
	environment := append([]string{"GOFLAGS=", "GOENV=off"}, how.Env...)
	sums := map[string]bool{}
	for _, directory := range []string{released, unpacked} {
		execute(t, directory, environment, arguments...)
		sums[sumOf(readFile(t, filepath.Join(directory, binaryName)))] = true
	}
	if len(sums) != 1 {
		t.Error("two builds of the same source differ")
	}
	told := execute(t, unpacked, nil, "./"+binaryName, "-version")
	if !strings.Contains(told, ", commit "+commit+", ") {
		t.Errorf("the release says that it is %s", told)
	}
}
