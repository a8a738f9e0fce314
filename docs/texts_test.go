// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// speakingPackages are those whose texts reach people, as errors, warnings, reasons, messages of
// check or log lines.
var speakingPackages = []string{
	"backend", "paths", "internal/events", "internal/health", "internal/ncentral", "internal/pasted",
	"internal/sessions", "internal/store", "internal/upstream",
}

// textsHeading begins the part of operations.md that lists the texts: in each table, one text a
// row, in its first cell.
const textsHeading = "## What the engine says"

var (
	verb     = regexp.MustCompile(`%[-+#0]*[\d.]*[a-zA-Z]`)
	variable = regexp.MustCompile(`…( ?…)+`)
	word     = regexp.MustCompile(`\pL[\pL\d_'-]*`)
	firstRow = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

// TestOperationsListsEveryText holds the list against the source, both ways: who pastes an error
// into the page's search is to find it, and what is found is to be said by the engine still.
func TestOperationsListsEveryText(t *testing.T) {
	said, listed := textsOfSource(t), textsOfDocument(t)
	for text, place := range said {
		if !slices.Contains(listed, text) {
			t.Errorf("operations.md does not list the text of %s:\n%s", place, text)
		}
	}
	for i, text := range listed {
		if said[text] == "" {
			t.Errorf("operations.md lists what the engine does not say:\n%s", text)
		}
		if slices.Contains(listed[:i], text) {
			t.Errorf("operations.md lists twice:\n%s", text)
		}
	}
}

func textsOfDocument(t *testing.T) []string {
	t.Helper()
	document, err := os.ReadFile("operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(document), "\n"+textsHeading+"\n")
	if !found {
		t.Fatalf("operations.md has no heading %q", textsHeading)
	}
	var texts []string
	for line := range strings.Lines(part) {
		if row := firstRow.FindStringSubmatch(line); row != nil {
			texts = append(texts, row[1])
		}
	}
	return texts
}

// textsOfSource answers every text of the speaking packages, and where it stands.
func textsOfSource(t *testing.T) map[string]string {
	t.Helper()
	positions := token.NewFileSet()
	var files []*ast.File
	for _, directory := range speakingPackages {
		paths, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(directory), "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s has no source: %v", directory, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(positions, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	source := source{constants: constantsOf(files), texts: map[string]string{}}
	for _, file := range files {
		source.pkg = file.Name.Name
		ast.Inspect(file, func(node ast.Node) bool {
			if isNoText(node) {
				return false
			}
			text, isAll := source.textOf(node)
			if isSentence(text) {
				source.texts[text] = positions.Position(node.Pos()).String()
			}
			return !isAll
		})
	}
	return source.texts
}

// source is what the speaking packages hold.
type source struct {
	pkg       string            // the package that is being read
	constants map[string]string // the string constants, by package and name
	texts     map[string]string // and where they stand
}

func constantsOf(files []*ast.File) map[string]string {
	constants := map[string]string{}
	for _, file := range files {
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			for i := 0; ok && i < len(spec.Values); i++ {
				if value, isString := unquoted(spec.Values[i]); isString {
					constants[file.Name.Name+"."+spec.Names[i].Name] = value
				}
			}
			return true
		})
	}
	return constants
}

// constant answers the value of a string constant.
func (s source) constant(node ast.Expr) (value string, isConstant bool) {
	name := fullName(node)
	if !strings.Contains(name, ".") {
		name = s.pkg + "." + name
	}
	value, isConstant = s.constants[name]
	return value, isConstant
}

// isNoText says whether no literal below the node is a text of the engine: imports, constants and
// tags of fields; what Vault shows as help, which is all that a function answers of the framework's
// types; what is looked for, not said; what is logged below the level of a warning.
func isNoText(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.StructType:
		return true
	case *ast.GenDecl:
		return node.Tok == token.IMPORT || node.Tok == token.CONST
	case *ast.FuncDecl:
		return answersFramework(node.Type.Results)
	case *ast.FuncLit:
		return answersFramework(node.Type.Results)
	case *ast.CallExpr:
		switch called := fullName(node.Fun); called {
		case "strings.Count", "strings.Contains", "strings.ContainsAny", "regexp.MustCompile", "looksLike", "contains":
			return true
		default:
			return strings.HasSuffix(called, "ogger.Info") || strings.HasSuffix(called, "ogger.Debug")
		}
	}
	return false
}

// fullName answers a name with what stands before its dots.
func fullName(node ast.Expr) string {
	switch node := node.(type) {
	case *ast.Ident:
		return node.Name
	case *ast.SelectorExpr:
		return fullName(node.X) + "." + node.Sel.Name
	}
	return ""
}

func answersFramework(results *ast.FieldList) bool {
	found := false
	if results != nil {
		ast.Inspect(results, func(node ast.Node) bool {
			name, ok := node.(*ast.SelectorExpr)
			if ok && fmt.Sprint(name.X) == "framework" {
				found = true
			}
			return !found
		})
	}
	return found
}

// textOf answers what an expression of literals says, with "…" for what varies, and whether that is
// all of the expression. A text over several lines, or one that ends with a full stop, is help.
func (s source) textOf(node ast.Node) (text string, isAll bool) {
	switch node := node.(type) {
	case *ast.CallExpr:
		for i, argument := range node.Args {
			if format, isString := unquoted(argument); isString && verb.MatchString(format) {
				return clean(s.formatted(format, node.Args[i+1:])), false // the arguments may hold texts too
			}
		}
	case ast.Expr:
		raw, isString := unquoted(node)
		if strings.Contains(raw, "\n") || strings.HasSuffix(raw, ".") || verb.MatchString(raw) {
			return "", isString
		}
		return clean(raw), isString
	}
	return "", false
}

// formatted puts the constants among the arguments in their verbs' places.
func (s source) formatted(format string, arguments []ast.Expr) string {
	next := -1
	return verb.ReplaceAllStringFunc(format, func(found string) string {
		next++
		if next < len(arguments) {
			if value, isConstant := s.constant(arguments[next]); isConstant {
				return value
			}
		}
		if found == "%q" {
			return `"…"`
		}
		return "…"
	})
}

// unquoted answers the string that a literal is, or a sum with one, in which "…" stands for the
// rest.
func unquoted(node ast.Expr) (text string, isString bool) {
	switch node := node.(type) {
	case *ast.BinaryExpr:
		left, inLeft := unquoted(node.X)
		right, inRight := unquoted(node.Y)
		if node.Op == token.ADD && (inLeft || inRight) {
			return cmp.Or(left, "…") + cmp.Or(right, "…"), true
		}
	case *ast.BasicLit:
		if node.Kind == token.STRING {
			text, err := strconv.Unquote(node.Value)
			return text, err == nil
		}
	}
	return "", false
}

// clean writes a text as the document does.
func clean(text string) string {
	return strings.Trim(variable.ReplaceAllString(text, "…"), " .:;…")
}

// isSentence says whether the text has two words of its own at least. What has fewer only passes on
// what another says.
func isSentence(text string) bool {
	return len(word.FindAllString(text, 2)) == 2 && strings.Contains(text, " ")
}
