// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command vulnerabilities runs govulncheck on what the plugin links. It fails if the plugin calls
// what has a known vulnerability. What is in Go's standard library is mended by a newer Go, and by
// nothing in this repository, so that fails for a release alone.
//
// It is a module of its own, so that govulncheck is no requirement of the plugin.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
)

const plugin = "./cmd/vault-plugin-secrets-ncentral"

func main() {
	root := flag.String("root", "../..", "the `directory` of the repository")
	url := flag.String("db", "https://vuln.go.dev", "the `URL` of the vulnerability database")
	release := flag.Bool("release", false, "fail for the standard library too, and if there is no database")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *root, *url, *release); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output io.Writer, root, url string, release bool) error {
	source, err := findDatabase(ctx, url)
	if err != nil && !release {
		fmt.Fprintf(output, "NOT SEARCHED for known vulnerabilities: %v\n", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("known vulnerabilities cannot be searched for: %w", err)
	}
	fmt.Fprintf(output, "searching for known vulnerabilities in %s\n", source.described)
	found, err := search(ctx, root, source.url)
	if err != nil {
		return err
	}
	for _, vulnerability := range found {
		fmt.Fprintln(output, vulnerability)
	}
	return judge(found, release)
}

// judge returns an error if there is a vulnerability that must be mended first.
func judge(found []vulnerability, release bool) error {
	var inModules, inStandardLibrary int
	for _, vulnerability := range found {
		if vulnerability.module == standardLibrary {
			inStandardLibrary++
		} else {
			inModules++
		}
	}
	switch {
	case inModules > 0:
		return fmt.Errorf("the plugin calls what has %d known vulnerabilities: upgrade the modules", inModules)
	case inStandardLibrary > 0 && release:
		return fmt.Errorf("this Go has %d known vulnerabilities that the plugin calls: "+
			"build the release with a newer one", inStandardLibrary)
	}
	return nil
}

// search returns what the plugin calls.
func search(ctx context.Context, root, database string) ([]vulnerability, error) {
	scan := exec.CommandContext(ctx,
		"go", "tool", "govulncheck", "-C", root, "-format", "json", "-db", database, plugin)
	scan.Stderr = os.Stderr
	output, err := scan.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := scan.Start(); err != nil {
		return nil, err
	}
	found, readErr := read(output)
	_, _ = io.Copy(io.Discard, output) // so that it ends
	if err := scan.Wait(); err != nil {
		return nil, fmt.Errorf("govulncheck: %w", err)
	}
	return found, readErr
}
