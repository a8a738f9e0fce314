// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// mutant is one change to the code: a new text between two offsets of a file.
type mutant struct {
	number   int
	file     *sourceFile
	function *ast.FuncDecl // the function of the change; nil for a declaration of the package
	from, to int
	text     string
	key      string // it stays the same while the code around the change does
}

// place returns the position of the change as file:line:column.
func (m *mutant) place() string {
	position := m.file.positions.Position(m.file.at(m.from))
	return fmt.Sprintf("%s:%d:%d", m.file.path, position.Line, position.Column)
}

// describe describes the change in one line.
func (m *mutant) describe() string {
	short := func(text string) string {
		text = strings.Join(strings.Fields(text), " ")
		if runes := []rune(text); len(runes) > 100 {
			text = string(runes[:97]) + "..."
		}
		return "`" + text + "`"
	}
	before := string(m.file.content[m.from:m.to])
	switch {
	case strings.TrimSpace(m.text) == "":
		return short(before) + " is left out"
	case before == "":
		return short(m.text) + " is put in"
	}
	return short(before) + " becomes " + short(m.text)
}

// finder finds the possible changes to a file.
type finder struct {
	file     *sourceFile
	function *ast.FuncDecl
	found    []*mutant
}

// find returns every change to the file that is worth trying. Some of them do not compile.
func find(file *sourceFile) []*mutant {
	f := &finder{file: file}
	for _, declaration := range file.syntax.Decls {
		switch declaration := declaration.(type) {
		case *ast.FuncDecl:
			if declaration.Body != nil && declaration.Name.Name != "init" {
				f.function = declaration
				f.inspect(declaration.Body, declaration)
			}
		case *ast.GenDecl:
			if declaration.Tok == token.VAR || declaration.Tok == token.CONST {
				f.function = nil
				f.inspect(declaration, declaration)
			}
		}
	}
	return f.found
}

// inspect visits a declaration. It keeps track of the result types for the return statements.
func (f *finder) inspect(node, whole ast.Node) {
	var results []*ast.FieldList
	if f.function != nil {
		results = append(results, f.function.Type.Results)
	}
	first := len(f.found)
	var visit func(ast.Node) bool
	visit = func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncLit:
			results = append(results, node.Type.Results)
			ast.Inspect(node.Body, visit)
			results = results[:len(results)-1]
			return false
		case *ast.ReturnStmt:
			f.returns(node, results[len(results)-1])
		case ast.Stmt:
			f.statement(node)
		case ast.Expr:
			return f.expression(node)
		}
		return true
	}
	ast.Inspect(node, visit)
	for _, m := range f.found[first:] {
		start := f.file.offset(whole.Pos())
		text := f.file.content[start:f.file.offset(whole.End())]
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d-%d\n%s\n%s", f.file.path, m.from-start, m.to-start, m.text, text))
		m.key = hex.EncodeToString(sum[:8])
	}
}

func (f *finder) add(from, to token.Pos, text string) {
	f.found = append(f.found, &mutant{
		file: f.file, function: f.function, from: f.file.offset(from), to: f.file.offset(to), text: text,
	})
}

func (f *finder) replace(node ast.Node, text string) { f.add(node.Pos(), node.End(), text) }

func (f *finder) text(node ast.Node) string {
	return string(f.file.content[f.file.offset(node.Pos()):f.file.offset(node.End())])
}

// statement changes what is done: conditions always or never hold, loops never run, statements are
// left out.
func (f *finder) statement(node ast.Stmt) {
	switch node := node.(type) {
	case *ast.IfStmt:
		f.condition(node.Cond)
	case *ast.ForStmt:
		if node.Cond != nil {
			f.replace(node.Cond, "("+f.text(node.Cond)+") && false")
		}
		f.insertBreak(node.Body)
	case *ast.RangeStmt:
		f.insertBreak(node.Body)
	case *ast.BlockStmt:
		f.leaveOut(node.List)
	case *ast.CaseClause:
		f.leaveOut(node.Body)
	case *ast.CommClause:
		f.leaveOut(node.Body)
	case *ast.SwitchStmt:
		f.cases(node)
	case *ast.IncDecStmt:
		other := map[token.Token]string{token.INC: "--", token.DEC: "++"}[node.Tok]
		f.add(node.TokPos, node.End(), other)
	case *ast.BranchStmt:
		if other := map[token.Token]string{token.BREAK: "continue", token.CONTINUE: "break"}[node.Tok]; other != "" {
			f.add(node.Pos(), node.Pos()+token.Pos(len(node.Tok.String())), other)
		}
	case *ast.AssignStmt:
		if other := otherAssignments[node.Tok]; other != "" {
			f.add(node.TokPos, node.TokPos+2, other)
		}
	}
}

// condition makes a condition always true, and always false. Its operands are still evaluated, so
// that the variables in it remain in use.
func (f *finder) condition(condition ast.Expr) {
	f.replace(condition, "("+f.text(condition)+") || true")
	f.replace(condition, "("+f.text(condition)+") && false")
}

// cases makes each case of a switch without a value always match, and never match.
func (f *finder) cases(node *ast.SwitchStmt) {
	if node.Tag != nil {
		return
	}
	for _, clause := range node.Body.List {
		for _, condition := range clause.(*ast.CaseClause).List {
			f.condition(condition)
		}
	}
}

func (f *finder) insertBreak(body *ast.BlockStmt) {
	f.add(body.Lbrace+1, body.Lbrace+1, " if true { break };")
}

func (f *finder) leaveOut(statements []ast.Stmt) {
	for _, statement := range statements {
		switch statement := statement.(type) {
		case *ast.ExprStmt:
			if !isChatter(statement) {
				f.replace(statement, "")
			}
		case *ast.AssignStmt:
			if statement.Tok != token.DEFINE {
				f.replace(statement, "")
			}
		case *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.IncDecStmt:
			f.replace(statement, "")
		case *ast.BranchStmt:
			f.replace(statement, "")
		}
	}
}

// isChatter reports whether the statement writes a log line that nobody needs.
func isChatter(statement *ast.ExprStmt) bool {
	call, ok := statement.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	called, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (called.Sel.Name == "Debug" || called.Sel.Name == "Info")
}

// returns changes what is returned: nil instead of an error, and the opposite of a bool.
func (f *finder) returns(node *ast.ReturnStmt, results *ast.FieldList) {
	types := flatten(results)
	if len(types) != len(node.Results) {
		return
	}
	for i, result := range node.Results {
		name, _ := types[i].(*ast.Ident)
		switch text := f.text(result); {
		case name == nil || text == "nil" || text == "true" || text == "false":
		case name.Name == "error":
			f.replace(result, "error(nil)")
		case name.Name == "bool":
			f.condition(result)
		}
	}
}

// flatten returns one type for each value.
func flatten(fields *ast.FieldList) (types []ast.Expr) {
	if fields == nil {
		return nil
	}
	for _, field := range fields.List {
		for range max(len(field.Names), 1) {
			types = append(types, field.Type)
		}
	}
	return types
}

// otherAssignments are the opposites of assignment operators.
var otherAssignments = map[token.Token]string{
	token.ADD_ASSIGN: "-=", token.SUB_ASSIGN: "+=", token.MUL_ASSIGN: "/=", token.QUO_ASSIGN: "*=",
}

// otherOperators are the replacements of an operator: its neighbour at the boundary, and its
// opposite.
var otherOperators = map[token.Token][]string{
	token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"}, token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.EQL: {"!="}, token.NEQ: {"=="},
	token.ADD: {"-"}, token.SUB: {"+"}, token.MUL: {"/"}, token.QUO: {"*"}, token.REM: {"*"},
	token.LAND: {"||"}, token.LOR: {"&&"},
	token.AND: {"|"}, token.OR: {"&"}, token.SHL: {">>"}, token.SHR: {"<<"},
}

// expression changes what is computed. It reports whether to look at the parts of the expression
// too.
func (f *finder) expression(node ast.Expr) (deeper bool) {
	switch node := node.(type) {
	case *ast.BinaryExpr:
		for _, other := range otherOperators[node.Op] {
			f.add(node.OpPos, node.OpPos+token.Pos(len(node.Op.String())), other)
		}
		f.operands(node)
	case *ast.UnaryExpr:
		if node.Op == token.NOT || node.Op == token.SUB {
			f.add(node.OpPos, node.X.Pos(), "")
		}
	case *ast.BasicLit:
		if node.Kind == token.INT {
			f.integer(node)
		}
	case *ast.Ident:
		if other := map[string]string{"true": "false", "false": "true"}[node.Name]; other != "" {
			f.replace(node, other)
		}
	case *ast.CallExpr:
		f.call(node)
	case *ast.CompositeLit:
		f.fields(node)
	case *ast.ArrayType, *ast.StructType, *ast.InterfaceType, *ast.FuncType:
		return false
	}
	return true
}

// operands leaves out one side of a condition.
func (f *finder) operands(node *ast.BinaryExpr) {
	neutral := map[token.Token]string{token.LAND: " || true", token.LOR: " && false"}[node.Op]
	if neutral == "" {
		return
	}
	for _, operand := range []ast.Expr{node.X, node.Y} {
		f.replace(operand, "(("+f.text(operand)+")"+neutral+")")
	}
}

func (f *finder) integer(node *ast.BasicLit) {
	value, err := strconv.ParseInt(node.Value, 0, 64)
	if err != nil {
		return
	}
	f.replace(node, strconv.FormatInt(value+1, 10))
	if value > 1 {
		f.replace(node, strconv.FormatInt(value-1, 10))
	}
}

// call exchanges min and max, and leaves out what append appends.
func (f *finder) call(node *ast.CallExpr) {
	called, ok := node.Fun.(*ast.Ident)
	if !ok || len(node.Args) == 0 {
		return
	}
	switch called.Name {
	case "min":
		f.replace(called, "max")
	case "max":
		f.replace(called, "min")
	case "append":
		if len(node.Args) > 1 {
			f.replace(node, f.text(node.Args[0]))
		}
	}
}

// fields leaves out each named field of a literal.
func (f *finder) fields(node *ast.CompositeLit) {
	if _, isMap := node.Type.(*ast.MapType); isMap {
		return
	}
	for i, element := range node.Elts {
		if _, named := element.(*ast.KeyValueExpr); !named {
			continue
		}
		switch {
		case i+1 < len(node.Elts):
			f.add(element.Pos(), node.Elts[i+1].Pos(), "")
		case i > 0:
			f.add(node.Elts[i-1].End(), element.End(), "")
		default:
			f.add(element.Pos(), node.Rbrace, "")
		}
	}
}
