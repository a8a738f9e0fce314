// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// someReport has three rounds of every kind of read, and of everything that happens meanwhile.
func someReport() *report {
	r := &report{Machine: "On a <machine>", Seconds: 0.5, Rounds: 3}
	rounds := func(rate float64, p99 time.Duration) []measurement {
		return []measurement{
			{rate, p99 / 2, p99},
			{rate * 2, p99 / 2, p99 * 2},
			{rate * 3, p99 / 2, p99 * 3},
		}
	}
	reads, meanwhile := measured{}, measured{}
	for i, kind := range kinds {
		reads[kind.name] = rounds(1000*float64(i+1), time.Duration(i+1)*time.Millisecond)
	}
	reads["dedicated"][2].rate = 24_000
	for _, while := range whiles {
		meanwhile[while] = rounds(1000, time.Millisecond)
	}
	meanwhile[rotation][1].p99 = 4 * time.Millisecond
	r.addReads(storageRaft, 16, reads)
	r.addMeanwhile(storageRaft, meanwhile)
	return r
}

func TestTables(t *testing.T) {
	var output bytes.Buffer
	if err := printTables(&output, someReport()); err != nil {
		t.Fatal(err)
	}
	want := `On a <machine>. Rounds: 3; a measurement: 0.5s.
Figures are medians of the rounds. Ratios are those within a round, with the least and the most.

| storage | clients | read               | reads/s | of constant      | p50 ms | p99 ms | of constant      |
|---------|---------|--------------------|---------|------------------|--------|--------|------------------|
| raft    | 16      | constant, unleased | 2000    |                  | 0.50   | 2.00   |                  |
| raft    | 16      | shared, unleased   | 4000    | 2.00 (2.00–2.00) | 1.00   | 4.00   | 2.00 (2.00–2.00) |
| raft    | 16      | kv v1              | 6000    | 3.00 (3.00–3.00) | 1.50   | 6.00   | 3.00 (3.00–3.00) |
| raft    | 16      | constant, leased   | 8000    |                  | 2.00   | 8.00   |                  |
| raft    | 16      | shared, leased     | 10000   | 1.25 (1.25–1.25) | 2.50   | 10.00  | 1.25 (1.25–1.25) |
| raft    | 16      | dedicated          | 12000   | 1.50 (1.50–2.00) | 3.00   | 12.00  | 1.50 (1.50–1.50) |

| storage | clients | while there is                           | p50 ms | p99 ms | of nothing's     |
|---------|---------|------------------------------------------|--------|--------|------------------|
| raft    | 16      | nothing                                  | 0.50   | 2.00   |                  |
| raft    | 16      | a write of the config, with verification | 0.50   | 2.00   | 1.00 (1.00–1.00) |
| raft    | 16      | check                                    | 0.50   | 2.00   | 1.00 (1.00–1.00) |
| raft    | 16      | a LIST of 10,000 roles                   | 0.50   | 2.00   | 1.00 (1.00–1.00) |
| raft    | 16      | a read of metrics                        | 0.50   | 2.00   | 1.00 (1.00–1.00) |
| raft    | 16      | a rotation, at a latency of 2 s          | 0.50   | 3.00   | 1.00 (1.00–2.00) |
`
	if difference := cmp.Diff(want, output.String()); difference != "" {
		t.Errorf("the tables (-want +got):\n%s", difference)
	}
}

func TestTheFilesHaveWhatTheTablesHave(t *testing.T) {
	directory := t.TempDir()
	report := someReport()
	if err := report.write(directory); err != nil {
		t.Fatal(err)
	}
	var kept struct {
		Reads, Meanwhile []map[string]any
	}
	text := readFile(t, directory, "performance.json")
	if err := json.Unmarshal(text, &kept); err != nil || len(kept.Reads) != len(kinds) ||
		len(kept.Meanwhile) != len(whiles) || kept.Reads[5]["reads_per_second"] != 12000.0 {
		t.Errorf("the JSON: %v\n%s", err, text)
	}
	picture := readFile(t, directory, "performance.svg")
	decoder := xml.NewDecoder(bytes.NewReader(picture))
	var err error
	for err == nil {
		_, err = decoder.Token()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the picture is no XML: %v", err)
	}
	for _, row := range report.Reads {
		if !strings.Contains(string(picture), ">"+row.Kind+"<") {
			t.Errorf("the picture lacks %s", row.Kind)
		}
	}
	if !strings.Contains(string(picture), "12000/s, 1.50 × constant, p99 12.0 ms") {
		t.Errorf("the picture lacks figures:\n%s", picture)
	}
}

func readFile(t *testing.T, directory, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// The percentiles are those of all clients together.
func TestPercentiles(t *testing.T) {
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration(200-i)*time.Millisecond)
	}
	got := summarise([][]time.Duration{took[:50], took[50:]}, 2*time.Second)
	if want := (measurement{rate: 100, p50: 101 * time.Millisecond, p99: 199 * time.Millisecond}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
