// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"os"
	"testing"
)

func TestThePictureIsThatOfItsText(t *testing.T) {
	text, err := os.ReadFile(textFile)
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := draw(t.Context(), string(text))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(pictureFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(drawn, kept) {
		t.Error("docs/flow.svg is not what docs/flow.d2 says: run make picture")
	}
	if !bytes.Contains(kept, []byte("prefers-color-scheme:dark")) {
		t.Error("the picture has no colours for dark mode")
	}
}
