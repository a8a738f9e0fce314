// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// shownFindings is the most findings that are shown of one rule.
const shownFindings = 20

// findings are the violations of one rule.
type findings struct {
	mu    sync.Mutex
	count int
	shown []string // the first of them
}

func (f *findings) add(format string, arguments ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if len(f.shown) < shownFindings {
		f.shown = append(f.shown, fmt.Sprintf(format, arguments...))
	}
}

// addHidden counts a violation that another one already describes.
func (f *findings) addHidden() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
}

// report is the result of a soak.
type report struct {
	soak        *soak
	before, now sample // of the last plugin process
}

// rule is a rule that the soak must not violate.
type rule struct {
	name     string
	findings *findings
}

func (r *report) rules() []rule {
	s := r.soak
	return []rule{
		{"dead tokens handed out", &s.ledger.dead},
		{"tokens of dead users handed out", &s.ledger.useless},
		{"tries of dead users, too many", &s.tries},
		{"reads that failed though a user worked", &s.failedWithTwoUsers},
		{"leases that cannot be revoked", &s.leases},
		{"logouts owed at the end", &s.owed},
		{"sessions left open, unexplained", &s.open},
		{"authenticates that nothing explains", &s.excess},
		{"reads that failed in the quiet time", &s.failedInQuiet},
		{"reads that failed as none should", &s.wrongStatus},
		{"reads that took too long", &s.slow},
		{"what the plugin process holds too much of", &s.leaks},
		{"panics, races and tokens in the log", &s.logged},
	}
}

// broken returns the number of rules that were violated.
func (r *report) broken() (count int) {
	for _, rule := range r.rules() {
		if rule.findings.count > 0 {
			count++
		}
	}
	return count
}

// print writes first the violations, then the figures and the rules.
func (r *report) print(output io.Writer) error {
	for _, rule := range r.rules() {
		for _, text := range rule.findings.shown {
			fmt.Fprintf(output, "%s: %s\n", rule.name, text)
		}
		if hidden := rule.findings.count - len(rule.findings.shown); hidden > 0 {
			fmt.Fprintf(output, "%s: and %d more\n", rule.name, hidden)
		}
	}
	table := tabwriter.NewWriter(output, 0, 0, 2, ' ', 0)
	row := func(name string, value any, more string) { fmt.Fprintf(table, "%s\t%v\t%s\n", name, value, more) }
	s := r.soak
	row("reads", s.answers.sum(), formatCounts(s.answers.all()))
	row("uses of tokens", s.ledger.uses,
		fmt.Sprintf("%d of a token whose session had been ended, as it may", s.ledger.excused))
	row("faults of N-central", s.faults.sum(), formatCounts(s.faults.all()))
	row("disruptions, rewrites, revokes", s.acts.sum(), formatCounts(s.acts.all()))
	for _, n := range s.ncentrals {
		row("authenticates of "+n.name, n.Count(simulator.EndpointAuthenticate, simulator.OutcomeOK),
			fmt.Sprintf("of %d explained: %s",
				n.authenticates.sum(), formatCounts(n.authenticates.all())))
	}
	row("sessions left open, explained", s.leftOpen.sum(), formatCounts(s.leftOpen.all()))
	row("goroutines", s.watch.lastGoroutines, fmt.Sprintf("%d at first", s.watch.firstGoroutines))
	row("file descriptors", r.now.files, fmt.Sprintf("%d when the process had warmed up", r.before.files))
	row("threads", r.now.threads, fmt.Sprintf("%d when the process had warmed up", r.before.threads))
	row("memory", megabytes(r.now.memory),
		fmt.Sprintf("%s when the process had warmed up, %s at most", megabytes(r.before.memory),
			megabytes(s.watch.highest)))
	for _, rule := range r.rules() {
		fmt.Fprintf(table, "%s\t%d\n", rule.name, rule.findings.count)
	}
	return table.Flush()
}

func megabytes(bytes int) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// formatCounts lists counts in the order of their names.
func formatCounts(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
