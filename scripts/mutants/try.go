// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// verdict is the result of trying a change.
type verdict string

const (
	killed    verdict = "killed"    // a test failed
	timedOut  verdict = "timed out" // the tests did not end
	survived  verdict = "survived"  // the tests passed
	unreached verdict = "unreached" // no test runs the code that was changed
)

// quick is the longest that a test takes which runs before the others.
const quick = 300 * time.Millisecond

// result is a verdict in the form in which it is kept.
type result struct {
	Key     string  `json:"key"`
	Place   string  `json:"place"`
	Change  string  `json:"change"`
	Verdict verdict `json:"verdict"`
	By      string  `json:"by,omitempty"` // the test that failed first
}

// results are the verdicts in a file, one per line. The last line about a change counts.
type results struct {
	mu    sync.Mutex
	file  *os.File
	byKey map[string]result
}

func openResults(path string) (*results, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	kept := &results{file: file, byKey: map[string]result{}}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) == nil { // a run that was killed may leave half a line
			kept.byKey[r.Key] = r
		}
	}
	return kept, lines.Err()
}

func (k *results) keep(r result) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byKey[r.Key] = r
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = k.file.Write(append(line, '\n'))
	return err
}

func (k *results) of(m *mutant) (r result, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, known = k.byKey[m.key]
	return r, known
}

func (k *results) close() { _ = k.file.Close() } // every line has been written

// sample draws this many changes; 0 means all.
func sample(all []*mutant, count int, seed uint64) []*mutant {
	if count == 0 || count >= len(all) {
		return all
	}
	shuffled := slices.Clone(all)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(shuffled),
		func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	return shuffled[:count]
}

// tryAll tries the changes that have no verdict yet.
func tryAll(ctx context.Context, s settings, suite *suite, kept *results, chosen []*mutant) error {
	var open []*mutant
	for _, m := range chosen {
		r, known := kept.of(m)
		if !known || s.retry && (r.Verdict == survived || r.Verdict == unreached) {
			open = append(open, m)
		}
	}
	fmt.Printf("Trying %d changes; the verdicts on %d others are known.\n", len(open), len(chosen)-len(open))
	group, trying := errgroup.WithContext(ctx)
	group.SetLimit(s.workers)
	for i, m := range open {
		if trying.Err() != nil {
			break
		}
		group.Go(func() error {
			r, err := suite.try(trying, m)
			if err != nil {
				return err
			}
			fmt.Printf("%d/%d %s: %s: %s\n", i+1, len(open), r.Place, r.Change,
				strings.TrimSpace(string(r.Verdict)+" "+r.By))
			return kept.keep(r)
		})
	}
	return group.Wait()
}

// try runs the tests that reach the change.
func (s *suite) try(ctx context.Context, m *mutant) (result, error) {
	r := result{Key: m.key, Place: m.place(), Change: m.describe(), Verdict: unreached}
	for _, p := range s.packages {
		var reaching []*test
		for _, t := range p.tests {
			if s.reaches(t, m) {
				reaching = append(reaching, t)
			}
		}
		if len(reaching) == 0 {
			continue
		}
		if err := s.tryPackage(ctx, p, m, reaching, &r); err != nil {
			return r, err
		}
		if r.Verdict == killed || r.Verdict == timedOut {
			break
		}
	}
	return r, nil
}

// tryPackage runs some tests of one package, the quick ones first. A change to a declaration of the
// package needs its own build.
func (s *suite) tryPackage(ctx context.Context, p *testPackage, m *mutant, tests []*test, r *result) (err error) {
	binary := p.binary
	if m.function == nil {
		alone, err := os.MkdirTemp(s.directory, "alone-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(alone)
		overlay, err := writeOverlay(alone, map[string][]byte{m.file.path: m.changed()})
		if err != nil {
			return err
		}
		binary = filepath.Join(alone, "tests")
		if err := build(ctx, p, overlay, binary); err != nil {
			return err
		}
	}
	for _, slow := range []bool{false, true} {
		r.Verdict, r.By, err = tryTests(ctx, p, binary, m, tests, slow, r.Verdict)
		if err != nil || r.Verdict == killed || r.Verdict == timedOut {
			return err
		}
	}
	return nil
}

// tryTests runs the slow tests or the others. Where there are none, the verdict stays the same.
func tryTests(ctx context.Context, p *testPackage, binary string, m *mutant, tests []*test, slow bool,
	before verdict,
) (verdict, string, error) {
	var names []string
	patience := 10 * time.Second
	for _, t := range tests {
		if t.took > quick == slow {
			names = append(names, t.name)
			patience += 3 * t.took
		}
	}
	if len(names) == 0 {
		return before, "", nil
	}
	verdict, output, err := runTests(ctx, p, binary, names, patience, m.number)
	if verdict != killed {
		return verdict, "", err
	}
	if failed := failedTest.FindStringSubmatch(output); failed != nil {
		return verdict, failed[1], nil
	}
	return verdict, "a panic, or a leak", nil
}

// report prints how many changes the tests noticed, and the changes that they did not notice.
func report(output io.Writer, chosen []*mutant, kept *results) error {
	const inAll = "all"
	counts := map[string]map[verdict]int{inAll: {}}
	var survivors []result
	for _, m := range chosen {
		r, _ := kept.of(m)
		directory := filepath.Dir(m.file.path)
		if counts[directory] == nil {
			counts[directory] = map[verdict]int{}
		}
		counts[directory][r.Verdict]++
		counts[inAll][r.Verdict]++
		if r.Verdict == survived || r.Verdict == unreached {
			survivors = append(survivors, r)
		}
	}
	for _, r := range survivors {
		fmt.Fprintf(output, "%s: %s: %s\n", r.Verdict, r.Place, r.Change)
	}
	table := tabwriter.NewWriter(output, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "changes\ttried\tkilled\ttimed out\tsurvived\tunreached\tnoticed\t\n")
	for _, directory := range slices.Sorted(maps.Keys(counts)) {
		count := counts[directory]
		tried := count[killed] + count[timedOut] + count[survived] + count[unreached]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%.1f %%\t\n", directory, tried, count[killed], count[timedOut],
			count[survived], count[unreached],
			100*float64(count[killed]+count[timedOut])/float64(tried))
	}
	return table.Flush()
}
