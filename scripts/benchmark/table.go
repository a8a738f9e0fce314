// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// printTable prints reads per second, and the engine's as a share of the constant plugin's. A share
// compares the two measurements of one round, which come directly one after the other.
func printTable(output io.Writer, description string, all []*figures) error {
	table := tabwriter.NewWriter(output, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(output, description)
	fmt.Fprint(table, "reads/s\tmedian\tmin\tmax\t\n")
	for _, kind := range all {
		printRow(table, "constant, "+kind.kind, "%.0f", kind.constant)
		printRow(table, "engine, "+kind.kind, "%.0f", kind.engine)
	}
	for _, kind := range all {
		printRow(table, "engine/constant, "+kind.kind, "%.2f", ratios(kind.engine, kind.constant))
	}
	return table.Flush()
}

func printRow(table io.Writer, name, format string, values []float64) {
	row := "%s\t" + format + "\t" + format + "\t" + format + "\t\n"
	fmt.Fprintf(table, row, name, median(values), slices.Min(values), slices.Max(values))
}

func ratios(dividends, divisors []float64) []float64 {
	var all []float64
	for i, dividend := range dividends {
		all = append(all, dividend/divisors[i])
	}
	return all
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
