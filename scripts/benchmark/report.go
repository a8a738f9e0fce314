// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// report is all that a run measured. The tables, the JSON and the picture show it.
type report struct {
	Machine   string         `json:"machine"` // and the server
	Seconds   float64        `json:"seconds"` // that one measurement of the reads took
	Rounds    int            `json:"rounds"`
	Reads     []readsRow     `json:"reads"`
	Meanwhile []meanwhileRow `json:"meanwhile"`
}

// readsRow is how one kind of read fared. Each figure is the median of the rounds.
type readsRow struct {
	Storage string  `json:"storage"`
	Clients int     `json:"clients"`
	Kind    string  `json:"kind"`
	Rate    float64 `json:"reads_per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	// The rate and p99 as parts of those of the constant plugin, which has none.
	RateOfConstant *spread `json:"rate_of_constant,omitempty"`
	P99OfConstant  *spread `json:"p99_of_constant,omitempty"`
}

// meanwhileRow is how reads fared while something else happened.
type meanwhileRow struct {
	Storage string  `json:"storage"`
	Clients int     `json:"clients"`
	While   string  `json:"while"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	// P99OfCalm is the p99 as a part of that while nothing happened, which has none.
	P99OfCalm *spread `json:"p99_of_calm,omitempty"`
}

// spread are the ratios of measurements of one round, which come one after the other.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func (r *report) addReads(storage string, clients int, found measured) {
	for _, kind := range kinds {
		mine, floor := found[kind.name], found[kind.floor]
		r.Reads = append(r.Reads, readsRow{
			Storage: storage, Clients: clients, Kind: kind.name,
			Rate: median(each(mine, rate)), P50: median(each(mine, p50)), P99: median(each(mine, p99)),
			RateOfConstant: ratios(each(mine, rate), each(floor, rate)),
			P99OfConstant:  ratios(each(mine, p99), each(floor, p99)),
		})
	}
}

func (r *report) addMeanwhile(storage string, found measured) {
	for _, while := range whiles {
		var calm []float64
		if while != nothing {
			calm = each(found[nothing], p99)
		}
		mine := found[while]
		r.Meanwhile = append(r.Meanwhile, meanwhileRow{
			Storage: storage, Clients: meanwhileClients, While: while,
			P50: median(each(mine, p50)), P99: median(each(mine, p99)), P99OfCalm: ratios(each(mine, p99), calm),
		})
	}
}

// write writes the report as JSON and as a picture into the directory, if there is one.
func (r *report) write(directory string) error {
	if directory == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if err := draw(&picture, r); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(directory, "performance.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, "performance.svg"), picture.Bytes(), 0o644)
}

func rate(m measurement) float64 { return m.rate }
func p50(m measurement) float64  { return milliseconds(m.p50) }
func p99(m measurement) float64  { return milliseconds(m.p99) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func each(measurements []measurement, figure func(measurement) float64) []float64 {
	var figures []float64
	for _, one := range measurements {
		figures = append(figures, figure(one))
	}
	return figures
}

// ratios divides what was measured in one round; nil where there is nothing to compare with.
func ratios(dividends, divisors []float64) *spread {
	if len(divisors) == 0 {
		return nil
	}
	var all []float64
	for i, dividend := range dividends {
		all = append(all, dividend/divisors[i])
	}
	return &spread{Median: median(all), Min: rounded(slices.Min(all)), Max: rounded(slices.Max(all))}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return rounded(sorted[middle])
	}
	return rounded((sorted[middle-1] + sorted[middle]) / 2)
}

// rounded leaves out the digits that were not measured.
func rounded(value float64) float64 { return math.Round(value*1000) / 1000 }
