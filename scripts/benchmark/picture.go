// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"text/template"
)

//go:embed picture.svg.tmpl
var pictureTemplate string

// picture is where everything in the picture lies, in pixels.
type picture struct {
	Width, Height int
	BarsLeft      int
	Machine       string
	Panels        []panel
}

// panel is the reads of one storage with so many clients.
type panel struct {
	X, Y  int
	Title string
	Bars  []bar
}

// bar is one kind of read.
type bar struct {
	Y     int
	Width int
	Class string // whose answers they are: constant, engine or kv
	Name  string
	Label string
}

const (
	panelWidth, barHeight = 560, 20
	barsLeft, longestBar  = 130, 180
	titleHeight           = 26
	marginTop, margin     = 48, 16
)

// draw draws the reads as bars: a column for each storage, a row for each number of clients, and one
// scale for all.
func draw(output io.Writer, r *report) error {
	var storages []string
	var clients []int
	most := 0.0
	for _, row := range r.Reads {
		if !slices.Contains(storages, row.Storage) {
			storages = append(storages, row.Storage)
		}
		if !slices.Contains(clients, row.Clients) {
			clients = append(clients, row.Clients)
		}
		most = max(most, row.Rate)
	}
	panelHeight := titleHeight + len(kinds)*barHeight + margin
	p := picture{
		Width: margin + len(storages)*panelWidth, Height: marginTop + len(clients)*panelHeight,
		BarsLeft: barsLeft, Machine: r.Machine,
	}
	for row, count := range clients {
		for column, storage := range storages {
			one := panel{
				X: margin + column*panelWidth, Y: marginTop + row*panelHeight,
				Title: fmt.Sprintf("%s, %s", storageNames[storage], counted(count, "client")),
			}
			for _, found := range r.Reads {
				if found.Storage == storage && found.Clients == count {
					one.Bars = append(one.Bars, barOf(found, len(one.Bars), most))
				}
			}
			p.Panels = append(p.Panels, one)
		}
	}
	parsed, err := template.New("picture").Funcs(template.FuncMap{"text": html.EscapeString}).Parse(pictureTemplate)
	if err != nil {
		return err
	}
	return parsed.Execute(output, p)
}

var storageNames = map[string]string{storageInMemory: "storage in memory", storageRaft: "Raft storage"}

func barOf(row readsRow, place int, most float64) bar {
	label := fmt.Sprintf("%.0f/s", row.Rate)
	if row.RateOfConstant != nil {
		label += fmt.Sprintf(", %.2f × constant", row.RateOfConstant.Median)
	}
	label += fmt.Sprintf(", p99 %.1f ms", row.P99)
	class := "engine"
	switch {
	case strings.HasPrefix(row.Kind, "constant"):
		class = "constant"
	case strings.HasPrefix(row.Kind, "kv"):
		class = "kv"
	}
	return bar{
		Y: titleHeight + place*barHeight, Width: int(row.Rate / most * longestBar), Class: class,
		Name: row.Kind, Label: label,
	}
}

func counted(count int, what string) string {
	if count == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", count, what)
}
