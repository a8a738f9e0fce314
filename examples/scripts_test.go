// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestJenkins(t *testing.T) {
	code := expectBalanced(t, "jenkins/Jenkinsfile", groovy)
	for _, part := range []string{
		"withVault(configuration: vaultConfiguration, vaultSecrets: vaultSecrets)", "engineVersion: 1",
	} {
		if !strings.Contains(code, part) {
			t.Errorf("the pipeline has no %q", part)
		}
	}
	if strings.Contains(regexp.MustCompile(`(?s)'''.*?'''`).ReplaceAllString(code, ""), `"`) {
		t.Error("a string in double quotes has Groovy put secrets into the command")
	}
}

// Windows PowerShell 5.1 reads a file without a byte order mark in the system's own code page, and
// knows nothing of what came later.
func TestPowerShellIsOfVersionFive(t *testing.T) {
	script := read(t, "powershell/NCentral.ps1")
	if at := strings.IndexFunc(script, func(r rune) bool { return r > 126 }); at >= 0 {
		t.Errorf("it is not plain ASCII from here: %.20q", script[at:])
	}
	code := expectBalanced(t, "powershell/NCentral.ps1", powershell)
	for _, later := range []string{
		"??", "?.", "?[", "&&", "||", " ? ", "-SkipHttpErrorCheck", "-StatusCodeVariable", "-SkipCertificateCheck",
		"-Authentication", "-AsHashtable", "-Parallel", "clean {", "-HttpVersion",
	} {
		if strings.Contains(code, later) {
			t.Errorf("%q is of a later version", later)
		}
	}
	defined := regexp.MustCompile(`(?m)^function ([A-Z][a-z]+-\w+)`).FindAllStringSubmatch(code, -1)
	commands := []string{"Set-StrictMode", "Invoke-RestMethod", "ConvertTo-Json", "Write-Warning"}
	for _, function := range defined {
		commands = append(commands, function[1])
	}
	for _, called := range regexp.MustCompile(`(?:^|[^-\w])([A-Z][a-z]+-[A-Z]\w+)`).FindAllStringSubmatch(code, -1) {
		if !slices.Contains(commands, called[1]) {
			t.Errorf("it calls %s", called[1])
		}
	}
	if !strings.Contains(code, "-Validate") || strings.Contains(code, "expires_at") {
		t.Error("it does not validate after a 401, or takes expires_at, of which versions make different things")
	}
}

// language is how strings and comments look.
type language struct {
	comments map[string]string // how they end, by how they begin
	strings  []string          // what begins and ends them, the longest first
	escape   byte
}

var (
	groovy = language{
		comments: map[string]string{"//": "\n", "/*": "*/"}, strings: []string{"'''", `"""`, "'", `"`}, escape: '\\',
	}
	powershell = language{
		comments: map[string]string{"<#": "#>", "#": "\n"}, strings: []string{"'", `"`}, escape: '`',
	}
)

// expectBalanced fails the test unless strings, comments and brackets end, and returns the code
// without comments.
func expectBalanced(t *testing.T, name string, l language) (code string) {
	t.Helper()
	text := read(t, name)
	closing := map[byte]byte{'(': ')', '[': ']', '{': '}'}
	var open []byte
	var kept strings.Builder
next:
	for at := 0; at < len(text); {
		rest := text[at:]
		for _, begin := range slices.Backward(slices.Sorted(maps.Keys(l.comments))) {
			if !strings.HasPrefix(rest, begin) {
				continue
			}
			length := strings.Index(rest, l.comments[begin])
			if length < 0 {
				t.Fatalf("%s: a comment does not end: %.40q", name, rest)
			}
			at += length + len(l.comments[begin])
			kept.WriteByte('\n')
			continue next
		}
		for _, quote := range l.strings {
			if !strings.HasPrefix(rest, quote) {
				continue
			}
			end := endOfString(rest, quote, l.escape)
			if end < 0 || len(quote) == 1 && strings.Contains(rest[:end], "\n") {
				t.Fatalf("%s: a string does not end: %.40q", name, rest)
			}
			kept.WriteString(rest[:end])
			at += end
			continue next
		}
		switch c := text[at]; {
		case closing[c] != 0:
			open = append(open, closing[c])
		case strings.IndexByte(")]}", c) >= 0:
			if len(open) == 0 || open[len(open)-1] != c {
				t.Fatalf("%s: a %c too many before %.40q", name, c, rest)
			}
			open = open[:len(open)-1]
		}
		kept.WriteByte(text[at])
		at++
	}
	if len(open) > 0 {
		t.Errorf("%s: there is no %q at the end", name, open)
	}
	return kept.String()
}

func endOfString(text, quote string, escape byte) int {
	for at := len(quote); at < len(text); at++ {
		switch {
		case text[at] == escape && quote != "'":
			at++
		case strings.HasPrefix(text[at:], quote):
			return at + len(quote)
		}
	}
	return -1
}

func TestN8n(t *testing.T) {
	type parameters struct {
		Method, URL, Authentication, GenericAuthType string
		SendHeaders, SendBody                        bool
		SpecifyBody, JSONBody                        string
		HeaderParameters                             struct {
			Parameters []struct{ Name, Value string }
		}
		Rule       any
		Conditions any
		Options    struct {
			Redirect struct {
				Redirect struct{ FollowRedirects *bool }
			}
			Response struct {
				Response struct{ FullResponse, NeverError bool }
			}
			Timeout int
		}
	}
	var workflow struct {
		Name  string
		Nodes []struct {
			ID, Name, Type string
			TypeVersion    float64
			Position       [2]int
			Parameters     parameters
			Credentials    map[string]struct{ ID, Name string }
		}
		Connections map[string]struct {
			Main [][]struct {
				Node, Type string
				Index      int
			}
		}
		Settings struct {
			ExecutionOrder, SaveDataErrorExecution, SaveDataSuccessExecution string
			SaveManualExecutions                                             *bool
		}
		Active  bool
		PinData map[string]any
		Tags    []string
	}
	text := read(t, "n8n/workflow.json")
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&workflow); err != nil {
		t.Fatal(err)
	}
	reached, ids := map[string]bool{workflow.Nodes[0].Name: true}, map[string]bool{}
	for _, node := range workflow.Nodes {
		if !reached[node.Name] || ids[node.ID] {
			t.Errorf("node %q is not reached from those before it, or has the id of another", node.Name)
		}
		ids[node.ID] = true
		for _, branch := range workflow.Connections[node.Name].Main {
			for _, to := range branch {
				reached[to.Node] = true
			}
		}
		follow := node.Parameters.Options.Redirect.Redirect.FollowRedirects
		if node.Parameters.URL != "" && (follow == nil || *follow) {
			t.Errorf("node %q follows redirects, and sends its token along", node.Name)
		}
	}
	if len(reached) != len(workflow.Nodes) {
		t.Errorf("connections lead to nodes that are not there: %v", reached)
	}
	for _, named := range regexp.MustCompile(`\$\('([^']+)'\)`).FindAllStringSubmatch(text, -1) {
		if !reached[named[1]] {
			t.Errorf("an expression names the node %q", named[1])
		}
	}
	saved := workflow.Settings
	if saved.SaveDataErrorExecution != "none" || saved.SaveDataSuccessExecution != "none" ||
		saved.SaveManualExecutions == nil || *saved.SaveManualExecutions {
		t.Error("n8n keeps the tokens in its database")
	}
}
