// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// sourcePackage is a package whose code is changed.
type sourcePackage struct {
	path      string // for imports
	directory string // below the root
	name      string
	files     []*sourceFile
	imports   types.Importer
}

// sourceFile is one of its files, except tests.
type sourceFile struct {
	path      string // below the root
	content   []byte
	positions *token.FileSet
	syntax    *ast.File
	mutants   []*mutant
}

func (f *sourceFile) offset(position token.Pos) int { return f.positions.Position(position).Offset }

func (f *sourceFile) at(offset int) token.Pos { return f.syntax.FileStart + token.Pos(offset) }

// mutantNumbers counts the changes of all packages. 0 is the unchanged code.
var mutantNumbers = 0

// load reads the packages and finds the possible changes.
func load(ctx context.Context, directories []string) ([]*sourcePackage, error) {
	var packages []*sourcePackage
	for _, directory := range directories {
		p, err := loadPackage(ctx, directory)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", directory, err)
		}
		packages = append(packages, p)
	}
	return packages, nil
}

func loadPackage(ctx context.Context, directory string) (*sourcePackage, error) {
	answer, err := goTool(ctx, "list", "-f", "{{.ImportPath}} {{.Name}}{{range .GoFiles}} {{.}}{{end}}", "./"+directory)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(string(answer))
	p := &sourcePackage{path: words[0], name: words[1], directory: directory}
	for _, name := range words[2:] {
		file := &sourceFile{path: filepath.Join(directory, name), positions: token.NewFileSet()}
		if file.content, err = os.ReadFile(file.path); err != nil {
			return nil, err
		}
		if file.syntax, err = parser.ParseFile(file.positions, file.path, file.content,
			parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		file.mutants = find(file)
		for _, m := range file.mutants {
			mutantNumbers++
			m.number = mutantNumbers
		}
		p.files = append(p.files, file)
	}
	p.imports, err = importsOf(ctx, directory)
	return p, err
}

// importsOf returns an importer for what the package imports, from the compiler's export data.
func importsOf(ctx context.Context, directory string) (types.Importer, error) {
	answer, err := goTool(ctx, "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./"+directory)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for line := range strings.Lines(string(answer)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("nothing is known of package %s", path)
		}
		return os.Open(files[path])
	}), nil
}

func goTool(ctx context.Context, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", arguments...)
	answer, err := command.Output()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(arguments, " "), err, ended.Stderr)
	}
	return answer, err
}

func (p *sourcePackage) mutants() (all []*mutant) {
	for _, file := range p.files {
		all = append(all, file.mutants...)
	}
	return all
}

// weave removes the changes that do not compile.
func (p *sourcePackage) weave() error {
	for {
		wrong, err := p.check()
		if err != nil {
			return err
		}
		if len(wrong) == 0 {
			break
		}
		for _, file := range p.files {
			file.mutants = slices.DeleteFunc(file.mutants, func(m *mutant) bool { return wrong[m] })
		}
	}
	for _, file := range p.files {
		var rest []*mutant
		for _, m := range file.mutants {
			if m.function != nil || p.compilesAlone(m) {
				rest = append(rest, m)
			}
		}
		file.mutants = rest
	}
	return nil
}

// check returns the changes to functions that do not compile. An error elsewhere is not caused by a
// change.
func (p *sourcePackage) check() (wrong map[*mutant]bool, err error) {
	wrong = map[*mutant]bool{}
	positions := token.NewFileSet()
	var parsed []*ast.File
	regions := map[string][]region{}
	for _, file := range p.files {
		text, woven := file.woven()
		regions[file.path] = woven
		syntax, err := parser.ParseFile(positions, file.path, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("weaving: %w", err)
		}
		parsed = append(parsed, syntax)
	}
	stray := error(nil)
	p.typeCheck(positions, parsed, func(failure types.Error) {
		at := positions.Position(failure.Pos)
		if m := regionAt(regions[at.Filename], at.Offset); m != nil {
			wrong[m] = true
		} else {
			stray = errors.Join(stray, failure)
		}
	})
	if len(wrong) > 0 {
		stray = nil // it may be a consequence of the others
	}
	return wrong, stray
}

func (p *sourcePackage) typeCheck(positions *token.FileSet, files []*ast.File, failed func(types.Error)) {
	config := types.Config{Importer: p.imports, Error: func(err error) {
		if failure, ok := errors.AsType[types.Error](err); ok {
			failed(failure)
		}
	}}
	_, _ = config.Check(p.path, positions, append(files, p.switchSyntax(positions)), nil) // each error went to failed
}

// compilesAlone reports whether a change to a declaration of the package compiles.
func (p *sourcePackage) compilesAlone(m *mutant) bool {
	positions := token.NewFileSet()
	var parsed []*ast.File
	for _, file := range p.files {
		content := file.content
		if file == m.file {
			content = m.changed()
		}
		syntax, err := parser.ParseFile(positions, file.path, content, parser.SkipObjectResolution)
		if err != nil {
			return false
		}
		parsed = append(parsed, syntax)
	}
	compiles := true
	p.typeCheck(positions, parsed, func(types.Error) { compiles = false })
	return compiles
}

// changed returns the whole file with the change.
func (m *mutant) changed() []byte {
	return slices.Concat(m.file.content[:m.from], []byte(m.text), m.file.content[m.to:])
}

// region is the place of a change in a woven file.
type region struct {
	from, to int
	mutant   *mutant
}

func regionAt(regions []region, offset int) *mutant {
	for _, r := range regions {
		if r.from <= offset && offset < r.to {
			return r.mutant
		}
	}
	return nil
}

// woven returns the file with a changed copy of a function at its end for each change to a
// function. The function itself calls the copy whose number is on.
func (f *sourceFile) woven() (text []byte, regions []region) {
	byFunction := map[*ast.FuncDecl][]*mutant{}
	for _, m := range f.mutants {
		if m.function != nil {
			byFunction[m.function] = append(byFunction[m.function], m)
		}
	}
	var woven, copies bytes.Buffer
	written := 0
	for _, declaration := range f.syntax.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || byFunction[function] == nil {
			continue
		}
		header, call := f.callable(function)
		start, body := f.offset(function.Pos()), f.offset(function.Body.Lbrace)
		woven.Write(f.content[written:start])
		woven.WriteString(header + "{ switch mutantOn {")
		for _, m := range byFunction[function] {
			fmt.Fprintf(&woven, "case %d: %s;", m.number, fmt.Sprintf(call, m.number))
		}
		woven.WriteString("};")
		written = body + 1

		for _, m := range byFunction[function] {
			copies.WriteString("\n")
			from := copies.Len()
			copies.Write(m.copy())
			regions = append(regions, region{from: from, to: copies.Len(), mutant: m})
		}
	}
	woven.Write(f.content[written:])
	for i := range regions {
		regions[i].from += woven.Len()
		regions[i].to += woven.Len()
	}
	woven.Write(copies.Bytes())
	return woven.Bytes(), regions
}

// copy returns the changed function under a name of its own.
func (m *mutant) copy() []byte {
	f := m.file
	name, end := f.offset(m.function.Name.End()), f.offset(m.function.End())
	return slices.Concat(
		f.content[f.offset(m.function.Pos()):name], fmt.Appendf(nil, "_mutant%d", m.number),
		f.content[name:m.from], []byte(m.text), f.content[m.to:end], []byte("\n"),
	)
}

// callable returns the function's header with a name for every parameter, and the call of a copy
// with %d for its number.
func (f *sourceFile) callable(function *ast.FuncDecl) (header, call string) {
	start, body := f.offset(function.Pos()), f.offset(function.Body.Lbrace)
	text := f.content[start:body]
	var edited bytes.Buffer
	written, unnamed := 0, 0
	nameAll := func(fields *ast.FieldList) (names []string) {
		if fields == nil {
			return nil
		}
		for _, field := range fields.List {
			for _, name := range field.Names {
				given := name.Name
				if given == "_" {
					unnamed++
					given = fmt.Sprintf("mutantArgument%d", unnamed)
					edited.Write(text[written : f.offset(name.Pos())-start])
					edited.WriteString(given)
					written = f.offset(name.End()) - start
				}
				names = append(names, given)
			}
			if len(field.Names) == 0 {
				unnamed++
				given := fmt.Sprintf("mutantArgument%d", unnamed)
				edited.Write(text[written : f.offset(field.Type.Pos())-start])
				edited.WriteString(given + " ")
				written = f.offset(field.Type.Pos()) - start
				names = append(names, given)
			}
		}
		return names
	}
	receiver := nameAll(function.Recv)
	arguments := nameAll(function.Type.Params)
	edited.Write(text[written:])

	call = function.Name.Name + "_mutant%d"
	if len(receiver) > 0 {
		call = receiver[0] + "." + call
	}
	if function.Type.TypeParams != nil {
		call += "[" + strings.Join(namesOf(function.Type.TypeParams), ", ") + "]"
	}
	call += "(" + strings.Join(arguments, ", ")
	if isVariadic(function.Type) {
		call += "..."
	}
	call += ")"
	if function.Type.Results == nil {
		return edited.String(), call + "; return"
	}
	return edited.String(), "return " + call
}

func namesOf(fields *ast.FieldList) (names []string) {
	for _, field := range fields.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

func isVariadic(function *ast.FuncType) bool {
	if len(function.Params.List) == 0 {
		return false
	}
	_, variadic := function.Params.List[len(function.Params.List)-1].Type.(*ast.Ellipsis)
	return variadic
}

// switchSource returns the file that turns one of the woven changes on.
func (p *sourcePackage) switchSource() []byte {
	return fmt.Appendf(nil, `package %s

import (
	"os"
	"strconv"
)

var mutantOn = func() int { number, _ := strconv.Atoi(os.Getenv(%q)); return number }()
`, p.name, mutantVariable)
}

const (
	mutantVariable = "MUTANT"
	switchFile     = "mutant_switch.go"
)

func (p *sourcePackage) switchSyntax(positions *token.FileSet) *ast.File {
	syntax, err := parser.ParseFile(positions, switchFile, p.switchSource(), parser.SkipObjectResolution)
	if err != nil {
		panic(err) // the text is the same for all packages except for the name
	}
	return syntax
}
