// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package docs reads the documents of the repository. Tests run their commands, and hold them
// against the code that they tell of.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Block is a fenced block of a page.
type Block struct {
	Page     string // its path below the root of the repository
	Line     int    // of the fence that begins it
	Language string
	Text     string // without the indentation that the fence has

	// The marker in the line before, <!-- run: Procedure/Step -->, names what runs the commands. Server is
	// set where it ends with "on Vault" or "on OpenBao": then no other server takes them.
	Procedure, Step, Server string
	// Excerpt is the block of text that follows: a part of what the commands print.
	Excerpt string
}

// languageOfExcerpts is that of a block which shows what the commands before it print.
const languageOfExcerpts = "text"

var (
	fence  = regexp.MustCompile("^( *)```(.*)$")
	marker = regexp.MustCompile(`^ *<!-- run: ([\w-]+)/([\w-]+)(?: on (Vault|OpenBao))? -->$`)
)

// Pages returns the paths of all documents below the root.
func Pages(root string) ([]string, error) {
	var pages []string
	for _, pattern := range []string{"*.md", "deploy/*.md", "docs/*.md", "examples/*/README.md"} {
		found, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			return nil, err
		}
		pages = append(pages, found...)
	}
	return pages, nil
}

// Blocks returns the blocks of all documents below the root, page by page in their order.
func Blocks(root string) ([]Block, error) {
	pages, err := Pages(root)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, page := range pages {
		content, err := fs.ReadFile(os.DirFS(root), page)
		if err != nil {
			return nil, err
		}
		found, err := blocksOf(page, strings.Split(string(content), "\n"))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, found...)
	}
	return blocks, nil
}

func blocksOf(page string, lines []string) ([]Block, error) {
	var blocks []Block
	for i, end := 0, -1; i < len(lines); i++ {
		opening := fence.FindStringSubmatch(lines[i])
		if opening == nil {
			continue
		}
		length := slices.Index(lines[i+1:], opening[1]+"```")
		if length < 0 {
			return nil, fmt.Errorf("%s:%d: the block has no end of the same indentation", page, i+1)
		}
		block := Block{Page: page, Line: i + 1, Language: opening[2]}
		for _, line := range lines[i+1 : i+1+length] {
			block.Text += strings.TrimPrefix(line, opening[1]) + "\n"
		}
		if i > 0 {
			if found := marker.FindStringSubmatch(lines[i-1]); found != nil {
				block.Procedure, block.Step, block.Server = found[1], found[2], found[3]
			}
		}
		switch last := len(blocks) - 1; {
		case block.Language != languageOfExcerpts:
			blocks = append(blocks, block)
		case last < 0 || end != i-2 || lines[i-1] != "" || blocks[last].Procedure == "":
			return nil, fmt.Errorf("%s:%d: the block of text follows no commands that a test runs", page, i+1)
		default:
			blocks[last].Excerpt = block.Text
		}
		i += 1 + length
		end = i
	}
	return blocks, nil
}
