// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// childrenFrom returns the process ids of the parent's children with a wanted executable.
func childrenFrom(parent int, wanted func(executable string) bool) ([]int, error) {
	directories, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, directory := range directories {
		// A process that has just ended cannot be read, and is no longer a child.
		status, err := os.ReadFile(filepath.Join(directory, "stat"))
		if err != nil || parentOf(status) != parent {
			continue
		}
		executable, err := os.Readlink(filepath.Join(directory, "exe"))
		if err != nil || !wanted(executable) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(directory))
		if err != nil {
			return nil, err
		}
		children = append(children, pid)
	}
	slices.Sort(children)
	return children, nil
}

// parentOf reads the second field after the command's name, which is in parentheses and may hold
// any character.
func parentOf(status []byte) int {
	fields := bytes.Fields(status[bytes.LastIndexByte(status, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}
