// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// standardLibrary is the name by which govulncheck calls it, in place of a module's path.
const standardLibrary = "stdlib"

// vulnerability is a known one that the plugin calls.
type vulnerability struct {
	id, summary            string
	module, version, fixed string // fixed is empty if no version is
	calledIn               string // a place in this repository from which it is reached
}

func (v vulnerability) String() string {
	fixed := "no version is fixed"
	if v.fixed != "" {
		fixed = "fixed in " + v.fixed
	}
	return fmt.Sprintf("%s: %s\n    %s %s, %s; reached from %s\n    https://pkg.go.dev/vuln/%s",
		v.id, v.summary, v.module, v.version, fixed, v.calledIn, v.id)
}

// The messages of govulncheck that matter here. A trace goes from what is vulnerable to what calls
// it. It has a function only if the plugin calls it: otherwise it is in a package or module of
// which the plugin uses something else.
type (
	message struct {
		OSV     *entry   `json:"osv"`
		Finding *finding `json:"finding"`
	}
	entry struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
	}
	finding struct {
		OSV   string  `json:"osv"`
		Fixed string  `json:"fixed_version"`
		Trace []frame `json:"trace"`
	}
	frame struct {
		Module   string `json:"module"`
		Version  string `json:"version"`
		Function string `json:"function"`
		Position struct {
			File string `json:"filename"`
			Line int    `json:"line"`
		} `json:"position"`
	}
)

// read returns what the plugin calls, each vulnerability of a module once, from what govulncheck
// writes.
func read(output io.Reader) (found []vulnerability, err error) {
	type key struct{ id, module string }
	summaries, known := map[string]string{}, map[key]bool{}
	for messages := json.NewDecoder(output); ; {
		var next message
		if err := messages.Decode(&next); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("what govulncheck writes: %w", err)
		}
		if next.OSV != nil {
			summaries[next.OSV.ID] = next.OSV.Summary
		}
		if next.Finding == nil || len(next.Finding.Trace) == 0 || next.Finding.Trace[0].Function == "" {
			continue
		}
		trace := next.Finding.Trace
		if of := (key{next.Finding.OSV, trace[0].Module}); !known[of] {
			known[of] = true
			found = append(found, vulnerability{
				id: of.id, summary: summaries[of.id], module: of.module, version: trace[0].Version,
				fixed: next.Finding.Fixed, calledIn: nearest(trace),
			})
		}
	}
}

// nearest returns the place in this repository that is nearest to what is vulnerable.
func nearest(trace []frame) string {
	main := trace[len(trace)-1].Module
	for _, frame := range trace {
		if frame.Module == main {
			return fmt.Sprintf("%s:%d", frame.Position.File, frame.Position.Line)
		}
	}
	return main
}
