// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Picture draws docs/flow.svg from its text, docs/flow.d2. It is a module of its own, which keeps
// what draws out of go.mod.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"oss.terrastruct.com/d2/d2graph"
	"oss.terrastruct.com/d2/d2layouts/d2dagrelayout"
	"oss.terrastruct.com/d2/d2lib"
	"oss.terrastruct.com/d2/d2renderers/d2svg"
	"oss.terrastruct.com/d2/d2themes/d2themescatalog"
	"oss.terrastruct.com/d2/lib/log"
	"oss.terrastruct.com/d2/lib/textmeasure"
)

// The text and the picture, below this module's directory.
const (
	textFile    = "../../docs/flow.d2"
	pictureFile = "../../docs/flow.svg"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	text, err := os.ReadFile(textFile)
	if err != nil {
		return err
	}
	picture, err := draw(ctx, string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(pictureFile, picture, 0o644)
}

// draw returns the picture as SVG, in colours that follow the reader's light or dark mode.
func draw(ctx context.Context, text string) ([]byte, error) {
	ctx = log.With(ctx, slog.New(slog.DiscardHandler))
	ruler, err := textmeasure.NewRuler()
	if err != nil {
		return nil, err
	}
	padding, isWithoutVersion := int64(16), true
	look := &d2svg.RenderOpts{
		Pad: &padding, ThemeID: &d2themescatalog.NeutralDefault.ID, DarkThemeID: &d2themescatalog.DarkMauve.ID,
		OmitVersion: &isWithoutVersion,
	}
	layout := func(string) (d2graph.LayoutGraph, error) { return d2dagrelayout.DefaultLayout, nil }
	diagram, _, err := d2lib.Compile(ctx, text, &d2lib.CompileOptions{Ruler: ruler, LayoutResolver: layout}, look)
	if err != nil {
		return nil, err
	}
	return d2svg.Render(diagram, look)
}
