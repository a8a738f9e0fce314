// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	sampleEvery = 2 * time.Second
	// warmUp is how long a plugin process runs before its first sample counts as its base.
	warmUp = 10 * time.Second

	// What a process may have grown by: connections that are kept for the next call, threads for
	// calls that block, memory that the collector has not returned yet.
	allowedGoroutines = 10
	allowedFiles      = 20
	allowedThreads    = 10
	allowedMemory     = 32 << 20
)

// watch observes the plugin's process.
type watch struct {
	soak            *soak
	firstGoroutines int
	lastGoroutines  int

	mu      sync.Mutex
	pid     int
	since   time.Time // when this process was first seen
	base    *sample   // of this process, after its warm-up
	highest int       // memory of any process
}

// sample is what a process holds at one moment.
type sample struct {
	files, threads, memory int
}

// sample takes samples until the context ends.
func (w *watch) sample(ctx context.Context) {
	for sleep(ctx, sampleEvery) == nil {
		pid, taken, err := w.take()
		if err != nil {
			continue // the process is just ending or starting
		}
		w.note(pid, taken)
	}
}

func (w *watch) note(pid int, taken sample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pid != w.pid {
		w.pid, w.since, w.base = pid, time.Now(), nil
	}
	if w.base == nil && time.Since(w.since) > warmUp {
		w.base = &taken
	}
	w.highest = max(w.highest, taken.memory)
}

// take takes a sample of the plugin process, of which there must be exactly one.
func (w *watch) take() (pid int, taken sample, err error) {
	pid, err = w.pluginPID()
	if err != nil {
		return 0, taken, err
	}
	directory := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(filepath.Join(directory, "fd"))
	if err != nil {
		return 0, taken, err
	}
	status, err := os.ReadFile(filepath.Join(directory, "status"))
	if err != nil {
		return 0, taken, err
	}
	taken = sample{files: len(files), threads: numberIn(status, "Threads"), memory: numberIn(status, "VmRSS") << 10}
	return pid, taken, nil
}

func (w *watch) pluginPID() (int, error) {
	w.soak.process.Lock()
	defer w.soak.process.Unlock()
	pids, err := w.soak.server.PluginPIDs()
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("there are %d plugin processes", len(pids))
	}
	return pids[0], nil
}

// numberIn returns the number in a line such as "Threads: 12", or 0.
func numberIn(status []byte, name string) int {
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			number, _ := strconv.Atoi(string(bytes.Fields(value)[0]))
			return number
		}
	}
	return 0
}

// compare finds what the process holds more of than after its warm-up.
func (w *watch) compare() (before, now sample, err error) {
	pid, now, err := w.take()
	if err != nil {
		return before, now, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if pid != w.pid || w.base == nil {
		return before, now, errors.New("the plugin process ended by itself, or was not watched long enough")
	}
	for _, held := range []struct {
		name               string
		before, now, allow int
	}{
		{"file descriptors", w.base.files, now.files, allowedFiles},
		{"threads", w.base.threads, now.threads, allowedThreads},
		{"bytes of memory", w.base.memory, now.memory, w.base.memory/2 + allowedMemory},
	} {
		if held.now > held.before+held.allow {
			w.soak.leaks.add("%s: %d, and %d when it had warmed up", held.name, held.now, held.before)
		}
	}
	return *w.base, now, nil
}

// countGoroutinesAtFirst counts the goroutines of a plugin process that has served every role once.
func (w *watch) countGoroutinesAtFirst(ctx context.Context) error {
	for _, role := range w.soak.roles {
		if _, err := w.soak.server.Client().Logical().ReadWithContext(ctx, mountPath+"/creds/"+role.name); err != nil {
			return err
		}
	}
	var err error
	w.firstGoroutines, err = w.countGoroutines(ctx)
	return err
}

// countGoroutinesAtLast finds an increase in goroutines.
func (w *watch) countGoroutinesAtLast(ctx context.Context) error {
	var err error
	w.lastGoroutines, err = w.countGoroutines(ctx)
	if w.lastGoroutines > w.firstGoroutines+allowedGoroutines {
		w.soak.leaks.add("goroutines: %d, and %d at first", w.lastGoroutines, w.firstGoroutines)
	}
	return err
}

var (
	aGoroutine = regexp.MustCompile(`: goroutine \d+ .*\[[^\]]+\]:`)
	// ofAConnection marks the two goroutines that keep a connection for the next call.
	ofAConnection = []byte("created by net/http.(*Transport).dialConn ")
)

// countGoroutines ends the plugin process with SIGQUIT, on which Go prints all goroutines, and
// counts those in the server's log. It leaves out those of connections that are kept for the next
// call.
func (w *watch) countGoroutines(ctx context.Context) (int, error) {
	pid, err := w.pluginPID()
	if err != nil {
		return 0, err
	}
	before, err := os.Stat(w.soak.server.LogFile)
	if err != nil {
		return 0, err
	}
	defer w.soak.outages.begin()()
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		return 0, err
	}
	for syscall.Kill(pid, 0) == nil {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	if err := sleep(ctx, time.Second); err != nil { // until the server has read all output
		return 0, err
	}
	log, err := os.ReadFile(w.soak.server.LogFile)
	if err != nil {
		return 0, err
	}
	said := log[before.Size():]
	count := len(aGoroutine.FindAll(said, -1)) - bytes.Count(said, ofAConnection)
	if count <= 0 {
		return 0, errors.New("the plugin process did not tell of its goroutines in the server's log")
	}
	return count, nil
}
