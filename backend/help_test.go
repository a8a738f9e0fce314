// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"
	"testing"
)

// The command line breaks a wider line, and leaves a word or two of it on a line of their own.
func TestTheLinesOfADescriptionFitATerminal(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		for _, path := range m.backend.Paths {
			for line := range strings.SplitSeq(path.HelpDescription, "\n") {
				if len(line) > 80 {
					t.Errorf("%s: %s", path.Pattern, line)
				}
			}
		}
	})
}
