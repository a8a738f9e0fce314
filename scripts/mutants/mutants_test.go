// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"go/importer"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sourceOf returns a package of one file.
func sourceOf(t *testing.T, code string) *sourcePackage {
	t.Helper()
	file := &sourceFile{path: "some/file.go", content: []byte("package some\n" + code), positions: token.NewFileSet()}
	var err error
	if file.syntax, err = parser.ParseFile(file.positions, file.path, file.content,
		parser.SkipObjectResolution); err != nil {
		t.Fatal(err)
	}
	file.mutants = find(file)
	for i, m := range file.mutants {
		m.number = i + 1
	}
	return &sourcePackage{path: "some", name: "some", files: []*sourceFile{file}, imports: importer.Default()}
}

// changesOf returns descriptions of the changes to the code that compile.
func changesOf(t *testing.T, code string) (changes []string) {
	t.Helper()
	p := sourceOf(t, code)
	if err := p.weave(); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.mutants() {
		changes = append(changes, m.describe())
	}
	return changes
}

func TestChanges(t *testing.T) {
	for name, test := range map[string]struct {
		code string
		want []string
	}{
		"condition": {"func f(a int) { if a < 2 { panic(a) } }", []string{
			"`a < 2` becomes `(a < 2) || true`", "`a < 2` becomes `(a < 2) && false`", "`<` becomes `<=`",
			"`<` becomes `>=`",
			"`2` becomes `3`", "`2` becomes `1`", "`panic(a)` is left out",
		}},
		"operands": {"func f(a, b bool) bool { return a && !b }", []string{
			"`a && !b` becomes `(a && !b) || true`", "`a && !b` becomes `(a && !b) && false`", "`&&` becomes `||`",
			"`a` becomes `((a) || true)`", "`!b` becomes `((!b) || true)`", "`!` is left out",
		}},
		"errors": {
			"func f(err error) (int, error) { return len(err.Error()), err }",
			[]string{"`err` becomes `error(nil)`"},
		},
		"loops": {"func f(all []int) (sum int) { for _, one := range all { if one == 0 { break }; sum += one }; " +
			"return sum }", []string{
			"`if true { break };` is put in", "`sum += one` is left out", "`one == 0` becomes `(one == 0) || true`",
			"`one == 0` becomes `(one == 0) && false`", "`==` becomes `!=`", "`0` becomes `1`", "`break` is left out",
			"`break` becomes `continue`", "`+=` becomes `-=`",
		}},
		"cases": {"func f(a int) int { switch { case a > 0: return 1; default: return -a } }", []string{
			"`a > 0` becomes `(a > 0) || true`", "`a > 0` becomes `(a > 0) && false`", "`>` becomes `>=`",
			"`>` becomes `<=`",
			"`0` becomes `1`", "`1` becomes `2`", "`-` is left out",
		}},
		"what is answered by a function within": {"func f() func() bool { return func() bool { return g() } }\nvar g " +
			"= func() bool { return true }", []string{
			"`g()` becomes `(g()) || true`", "`g()` becomes `(g()) && false`", "`true` becomes `false`",
		}},
		"calls": {"func f(all []int, a int) []int { defer g(); return append(all, min(a, len(all))) " +
			"}\nfunc g() {}", []string{
			"`defer g()` is left out", "`append(all, min(a, len(all)))` becomes `all`",
			"`min` becomes `max`",
		}},
		"fields": {
			"type t struct { a, b int }\nfunc f(a, b int) t { return t{a: a, b: b} }",
			[]string{"`a: a,` is left out", "`, b: b` is left out"},
		},
		"what does not compile": {"func f(a, b string) string { return a + b }", nil},
		"a constant": {"const most = 5 * 2\nvar _ = most", []string{
			"`*` becomes `/`", "`5` becomes `6`", "`5` becomes `4`", "`2` becomes `3`", "`2` becomes `1`",
		}},
		"an index that would be out of range": {"var all = [2]int{}\nfunc f() int { return all[1] }", nil},
	} {
		if difference := cmp.Diff(test.want, changesOf(t, test.code)); difference != "" {
			t.Errorf("%s (-want +got):\n%s", name, difference)
		}
	}
}

func TestWovenFunctionsCallTheCopyThatIsOn(t *testing.T) {
	p := sourceOf(t, `
type box[T any] struct{ held T }

func (*box[T]) set(_ int, more ...T) (done bool) { return len(more) > 0 }

func first[K comparable, V any](m map[K]V, key K) { delete(m, key) }
`)
	if err := p.weave(); err != nil {
		t.Fatal(err)
	}
	woven, regions := p.files[0].woven()
	for _, want := range []string{
		"func (mutantArgument1 *box[T]) set(mutantArgument2 int, more ...T) (done bool) { switch mutantOn {case 1: " +
			"return mutantArgument1.set_mutant1(mutantArgument2, more...);",
		"func (*box[T]) set_mutant1(_ int, more ...T) (done bool) { return (len(more) > 0) || true }",
		"case 6: first_mutant6[K, V](m, key); return;};",
		"func first_mutant6[K comparable, V any](m map[K]V, key K) {  }",
	} {
		if !strings.Contains(string(woven), want) {
			t.Errorf("%q is not in\n%s", want, woven)
		}
	}
	for _, r := range regions {
		if text := string(woven[r.from:r.to]); !strings.HasPrefix(text, "func ") ||
			strings.Count(text, "_mutant") != 1 {
			t.Errorf("a region holds another text than a copy: %q", text)
		}
	}
}

func TestKeysAreOfTheCodeAround(t *testing.T) {
	keys := func(code string) map[string]bool {
		all := map[string]bool{}
		for _, m := range sourceOf(t, code).mutants() {
			all[m.key] = true
		}
		return all
	}
	const function = "func f(a int) bool { return a < 2 }\n"
	before, moved, changed := keys(function), keys("// A comment.\n\n"+function),
		keys("func f(a int) bool { return a > 2 }\n")
	if len(before) != 6 {
		t.Errorf("%d changes have different keys", len(before))
	}
	if difference := cmp.Diff(before, moved); difference != "" {
		t.Errorf("a function that moved has other keys (-before +after):\n%s", difference)
	}
	for key := range changed {
		if before[key] {
			t.Error("a change to a function that was rewritten has its old key")
		}
	}
}

func TestReach(t *testing.T) {
	p := sourceOf(t, "\nfunc f(a bool) {\n\tif a {\n\t\tpanic(a)\n\t}\n}\n")
	s := &suite{blocks: map[string]map[block]bool{}}
	enters, panics, other := &test{}, &test{}, &test{}
	for t1, profile := range map[*test][3]string{
		enters: {"1", "0", "0"}, panics: {"1", "1", "0"},
		other: {"0", "0", "1"},
	} {
		t1.reach = map[string][]block{}
		content := "mode: set\n" + modulePath + "/some/file.go:3.16,4.7 1 " + profile[0] + "\n" +
			modulePath + "/some/file.go:4.7,6.3 1 " + profile[1] + "\n" + modulePath + "/some/other.go:1.1,2.2 1 " +
			profile[2] + "\n"
		if err := s.readProfile([]byte(content), t1); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range p.mutants() {
		isPanic := strings.HasPrefix(m.describe(), "`panic")
		if !s.reaches(panics, m) || s.reaches(enters, m) == isPanic || s.reaches(other, m) {
			t.Errorf("%s %s: reached by the wrong tests", m.place(), m.describe())
		}
	}
	if err := s.readProfile([]byte("nonsense\n"), enters); err == nil {
		t.Error("a profile of nonsense is read")
	}
}
