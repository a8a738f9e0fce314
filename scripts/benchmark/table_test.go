// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	var output bytes.Buffer
	err := printTable(&output, "On a machine.", []*figures{
		{kind: "unleased", constant: []float64{3000, 1000, 2000}, engine: []float64{3300, 500, 2000}},
		{kind: "leased", constant: []float64{100, 200}, engine: []float64{50, 150}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `On a machine.
                    reads/s  median   min   max
         constant, unleased    2000  1000  3000
           engine, unleased    2000   500  3300
           constant, leased     150   100   200
             engine, leased     100    50   150
  engine/constant, unleased    1.00  0.50  1.10
    engine/constant, leased    0.62  0.50  0.75
`
	if difference := cmp.Diff(want, output.String()); difference != "" {
		t.Errorf("the table (-want +got):\n%s", difference)
	}
}
