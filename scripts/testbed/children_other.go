// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package testbed

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// childrenFrom returns the process ids of the parent's children with a wanted executable.
func childrenFrom(parent int, wanted func(executable string) bool) ([]int, error) {
	output, err := exec.Command("ps", "-A", "-o", "pid=,ppid=,command=").Output()
	if err != nil {
		return nil, err
	}
	var children []int
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != strconv.Itoa(parent) || !wanted(fields[2]) {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, err
		}
		children = append(children, pid)
	}
	slices.Sort(children)
	return children, nil
}
