// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	namedFile  = regexp.MustCompile(
		"`((?:backend|cmd|deploy|docs|e2e|examples|internal|paths|scripts)/[\\w./*-]+\\.\\w+)`",
	)
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInLinks = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)
	codeBlock  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

func TestWhatTheDocumentsPointToExists(t *testing.T) {
	pages, err := Pages("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		page = filepath.Join("..", page)
		content := readPage(t, page)
		for _, link := range linkTarget.FindAllStringSubmatch(content, -1) {
			expectTarget(t, page, link[1])
		}
		for _, named := range namedFile.FindAllStringSubmatch(content, -1) {
			if found, err := filepath.Glob(filepath.Join("..", named[1])); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", page, named[1])
			}
		}
	}
}

func expectTarget(t *testing.T, page, target string) {
	t.Helper()
	if strings.Contains(target, "://") {
		return
	}
	path, anchor, _ := strings.Cut(target, "#")
	linked := page
	if path != "" {
		linked = filepath.Join(filepath.Dir(page), path)
	}
	if _, err := os.Stat(linked); err != nil {
		t.Errorf("%s links to %s, which does not exist", page, target)
		return
	}
	if anchor != "" && !slices.Contains(anchorsOf(readPage(t, linked)), anchor) {
		t.Errorf("%s links to %s: there is no such heading", page, target)
	}
}

// readPage returns a page without its blocks of code, in which nothing is a link.
func readPage(t *testing.T, page string) string {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return codeBlock.ReplaceAllString(string(content), "")
}

// anchorsOf returns the names under which a page's headings can be linked to.
func anchorsOf(content string) []string {
	var anchors []string
	for _, found := range heading.FindAllStringSubmatch(content, -1) {
		name := notInLinks.ReplaceAllString(strings.ToLower(found[1]), "")
		anchors = append(anchors, strings.ReplaceAll(name, " ", "-"))
	}
	return anchors
}
