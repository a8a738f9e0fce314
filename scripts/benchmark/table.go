// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// printTables prints the report as the tables of docs/performance.md.
func printTables(output io.Writer, r *report) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s. Rounds: %d; a measurement: %gs.\n", r.Machine, r.Rounds, r.Seconds)
	text.WriteString("Figures are medians of the rounds. " +
		"Ratios are those within a round, with the least and the most.\n\n")
	reads := table{{"storage", "clients", "read", "reads/s", "of constant", "p50 ms", "p99 ms", "of constant"}}
	for _, row := range r.Reads {
		reads = append(reads, []string{
			row.Storage, fmt.Sprint(row.Clients), row.Kind, fmt.Sprintf("%.0f", row.Rate), row.RateOfConstant.String(),
			fmt.Sprintf("%.2f", row.P50), fmt.Sprintf("%.2f", row.P99), row.P99OfConstant.String(),
		})
	}
	reads.print(&text)
	if len(r.Meanwhile) > 0 {
		text.WriteString("\n")
	}
	meanwhile := table{{"storage", "clients", "while there is", "p50 ms", "p99 ms", "of nothing's"}}
	for _, row := range r.Meanwhile {
		meanwhile = append(meanwhile, []string{
			row.Storage, fmt.Sprint(row.Clients), row.While, fmt.Sprintf("%.2f", row.P50), fmt.Sprintf("%.2f", row.P99),
			row.P99OfCalm.String(),
		})
	}
	meanwhile.print(&text)
	_, err := io.WriteString(output, text.String())
	return err
}

func (s *spread) String() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max)
}

// table is rows of cells, of which the first is the heading.
type table [][]string

// print writes the table in Markdown, which a terminal shows well too. One without rows is left out.
func (t table) print(output *strings.Builder) {
	if len(t) < 2 {
		return
	}
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for i, row := range t {
		for column, cell := range row {
			fmt.Fprintf(output, "| %-*s ", widths[column], cell)
		}
		output.WriteString("|\n")
		if i == 0 {
			for _, width := range widths {
				output.WriteString("|" + strings.Repeat("-", width+2))
			}
			output.WriteString("|\n")
		}
	}
}
