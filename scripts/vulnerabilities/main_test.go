// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// findings are what govulncheck writes of one vulnerability: an entry, and traces to it at the
// level of the module, of the package and of functions.
func findings(module string, called bool) string {
	const id = "GO-1"
	vulnerable := `{"module":"` + module + `","version":"v1.0.0"`
	text := `{"osv":{"id":"` + id + `","summary":"Summary of ` + id + `"}}
{"finding":{"osv":"` + id + `","fixed_version":"v1.0.1","trace":[` + vulnerable + `}]}}
{"finding":{"osv":"` + id + `","fixed_version":"v1.0.1","trace":[` + vulnerable + `,"package":"p"}]}}
`
	if !called {
		return text
	}
	return text + strings.Repeat(`{"finding":{"osv":"`+id+`","fixed_version":"v1.0.1","trace":[`+vulnerable+
		`,"package":"p","function":"F","position":{"filename":"p.go","line":1}},{"module":"plugin","function":"call",`+
		`"position":{"filename":"call.go","line":7}},{"module":"plugin","function":"main"}]}}`+"\n", 2)
}

func TestOnlyWhatIsCalledIsHeldAgainstThePlugin(t *testing.T) {
	const inModule, inLibrary = "upgrade the modules", "build the release with a newer one"
	for name, test := range map[string]struct {
		output           string
		found            int
		ordinary, strict string // the error, for a release
	}{
		"nothing":                      {`{"config":{}}`, 0, "", ""},
		"a module, not called":         {findings("example.com/m", false), 0, "", ""},
		"a module, called":             {findings("example.com/m", true), 1, inModule, inModule},
		"the standard library, called": {findings(standardLibrary, true), 1, "", inLibrary},
		"both": {
			findings(standardLibrary, true) + findings("example.com/m", true), 2, inModule, inModule,
		},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := read(strings.NewReader(test.output))
			if err != nil || len(found) != test.found {
				t.Fatalf("%v, %v", found, err)
			}
			for release, want := range map[bool]string{false: test.ordinary, true: test.strict} {
				err := judge(found, release)
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("release %t: %v, want %q", release, err, want)
				}
			}
			for _, vulnerability := range found {
				for _, part := range []string{"GO-1: Summary of GO-1", "fixed in v1.0.1", "call.go:7"} {
					if !strings.Contains(vulnerability.String(), part) {
						t.Errorf("%q is not in %s", part, vulnerability)
					}
				}
			}
		})
	}
}

func TestOutputThatIsCutOffIsNoResult(t *testing.T) {
	output := findings("example.com/m", true)
	if _, err := read(strings.NewReader(output[:len(output)-9])); err == nil {
		t.Error("it counts as all of it")
	}
}

func TestTheDatabaseIsTheOneThatAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path != "/index/db.json" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	if found, err := findDatabase(t.Context(), server.URL); err != nil || found.url != server.URL {
		t.Errorf("%+v, %v", found, err)
	}
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOMODCACHE", t.TempDir())
	var output strings.Builder
	if err := run(t.Context(), &output, ".", server.URL+"/nowhere", false); err != nil ||
		!strings.HasPrefix(output.String(), "NOT SEARCHED") {
		t.Errorf("without a database: %q, %v", output.String(), err)
	}
	if err := run(t.Context(), &output, ".", server.URL+"/nowhere", true); err == nil {
		t.Error("a release counts as searched without a database")
	}
}
