// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// watchdogScript waits until its standard input ends, which happens when the process at the other
// end of the pipe has gone. It then kills the process group that it leads.
const watchdogScript = `trap "" INT TERM; read -r line || kill -KILL 0`

// interruptPatience is how long Run waits for an interrupted command to clean up.
const interruptPatience = 10 * time.Second

// Process is a running child process. The child and everything it starts are in one process group.
// The group is killed when the child ends, and when this process ends in any way, including kill
// -9, a panic and a test's timeout. A watchdog (a shell that waits on a pipe) leads the group and
// ensures that. It also keeps the group's number in use, so that a signal to the group never
// reaches another process.
type Process struct {
	command      *exec.Cmd
	watchdog     *exec.Cmd
	watchdogPipe io.Closer
	ended        chan struct{}
	err          error // the child's result; written before ended is closed

	mutex     sync.Mutex
	groupGone bool
}

// StartProcess starts the command. The caller may set its Stdin, Stdout, Stderr, Env and Dir.
func StartProcess(command *exec.Cmd) (*Process, error) {
	watchdog := exec.Command("/bin/sh", "-c", watchdogScript)
	watchdog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := watchdog.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := watchdog.Start(); err != nil {
		return nil, err
	}

	process := &Process{command: command, watchdog: watchdog, watchdogPipe: pipe, ended: make(chan struct{})}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: watchdog.Process.Pid}
	if command.WaitDelay == 0 {
		// Otherwise a grandchild that keeps an output pipe open would keep Wait from returning.
		command.WaitDelay = 2 * time.Second
	}
	if err := command.Start(); err != nil {
		process.endGroup()
		return nil, err
	}
	go func() {
		process.err = command.Wait()
		process.endGroup()
		close(process.ended)
	}()
	return process, nil
}

// Run starts the command and waits for its end. Where the context ends first, Run interrupts the
// command's process group, waits for ten seconds, kills the group, and returns the context's error.
func Run(ctx context.Context, command *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	process, err := StartProcess(command)
	if err != nil {
		return err
	}
	select {
	case <-process.Ended():
		return process.Err()
	case <-ctx.Done():
		process.signalGroup(syscall.SIGINT)
		process.killAfter(interruptPatience)
		return ctx.Err()
	}
}

// PID returns the child's process id.
func (p *Process) PID() int { return p.command.Process.Pid }

// Ended returns a channel that is closed when the child has ended and its process group is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err returns the child's result, as exec.Cmd.Wait does. It must not be called before Ended is
// closed.
func (p *Process) Err() error { return p.err }

// Stop asks the child to end (SIGTERM), kills its process group after the patience, and returns
// when everything is gone. It does nothing to a process that has ended.
func (p *Process) Stop(patience time.Duration) {
	_ = p.command.Process.Signal(syscall.SIGTERM) // fails only where the child has ended
	p.killAfter(patience)
}

// Kill kills the process group at once and returns when it is gone.
func (p *Process) Kill() { p.killAfter(0) }

func (p *Process) killAfter(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
		return
	case <-timer.C:
	}
	p.signalGroup(syscall.SIGKILL)
	<-p.ended
}

func (p *Process) signalGroup(signal syscall.Signal) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.groupGone {
		_ = syscall.Kill(-p.watchdog.Process.Pid, signal)
	}
}

// endGroup kills the rest of the group, including the watchdog.
func (p *Process) endGroup() {
	p.signalGroup(syscall.SIGKILL)
	p.mutex.Lock()
	defer p.mutex.Unlock()
	_ = p.watchdog.Wait() // always "signal: killed"
	_ = p.watchdogPipe.Close()
	p.groupGone = true
}
