// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

// helperVariable makes the test binary start a process and wait to be killed, instead of running
// tests.
const helperVariable = "TESTBED_HELPER"

// family is a child with its own child. Both ignore polite signals and keep the output open.
const family = `trap "" TERM INT; sleep 1000 & echo ready; wait; sleep 1000`

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "" {
		m.Run()
		return
	}
	command := exec.Command("/bin/sh", "-c", family)
	command.Stdout = os.Stdout
	if _, err := StartProcess(command); err != nil {
		panic(err)
	}
	select {}
}

// readyPipe returns a pipe. Its reading end gets a line when a family is ready, and ends when
// nobody holds the writing end.
func readyPipe(t *testing.T) (*bufio.Reader, *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return bufio.NewReader(reader), writer
}

func waitForReady(t *testing.T, reader *bufio.Reader) {
	t.Helper()
	if line, err := reader.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("read %q, %v", line, err)
	}
}

func waitForEnd(t *testing.T, reader *bufio.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Fatal(err)
	}
}

func TestStoppingAProcessEndsItsWholeGroup(t *testing.T) {
	reader, writer := readyPipe(t)
	command := exec.Command("/bin/sh", "-c", family)
	command.Stdout = writer
	process, err := StartProcess(command)
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	waitForReady(t, reader)
	process.Stop(0)
	waitForEnd(t, reader)
	if process.Err() == nil {
		t.Error("the killed process ended well")
	}
	process.Stop(0) // stopping twice does nothing
}

func TestAProcessThatEndsTakesItsGroupAlong(t *testing.T) {
	reader, writer := readyPipe(t)
	command := exec.Command("/bin/sh", "-c", "sleep 1000 & echo ready")
	command.Stdout = writer
	process, err := StartProcess(command)
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	<-process.Ended()
	if process.Err() != nil {
		t.Error(process.Err())
	}
	waitForReady(t, reader)
	waitForEnd(t, reader)
}

func TestTheGroupDiesWithAKilledParent(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := readyPipe(t)
	parent := exec.Command(executable)
	parent.Env = append(os.Environ(), helperVariable+"=1")
	parent.Stdout = writer
	err = parent.Start()
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	waitForReady(t, reader)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	waitForEnd(t, reader)
}

func TestRunEndsWithItsContext(t *testing.T) {
	reader, writer := readyPipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = reader.ReadString('\n')
		cancel()
	}()
	command := exec.Command("/bin/sh", "-c", "echo ready; exec sleep 1000")
	command.Stdout = writer
	err := Run(ctx, command)
	writer.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	waitForEnd(t, reader)
	if err := Run(ctx, exec.Command("/bin/sh")); !errors.Is(err, context.Canceled) {
		t.Errorf("a command was started after the context's end: %v", err)
	}
}

func TestStartProcessTellsOfAMissingExecutable(t *testing.T) {
	if _, err := StartProcess(exec.Command(t.TempDir() + "/none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
