// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"regexp"
	"strings"
	"unicode"
)

const (
	redacted = "[redacted]"

	maxDetailCharacters = 200

	// A shorter part of a token may appear in a message by chance, and reveals little.
	secretPartLength = 12
)

var (
	messageID = regexp.MustCompile(`^\s*\[ID=[^\]]*\]\s*`)

	// tokenLike matches tokens that this call did not send, also in base64 and in URLs.
	tokenLike = regexp.MustCompile(`eyJ[A-Za-z0-9_.=-]{5,}|[A-Za-z0-9_.+/=%~-]{40,}`)
)

// filter makes text from a server safe for errors and logs: one line of at most 200 printable
// characters, without any part of the given secrets or of anything else that looks like a token.
func filter(text string, secrets ...string) string {
	text = messageID.ReplaceAllString(text, "")
	text = strings.Map(printable, text)
	for _, secret := range secrets {
		text = redactParts(text, secret)
	}
	text = strings.TrimSpace(tokenLike.ReplaceAllLiteralString(text, redacted))
	if characters := []rune(text); len(characters) > maxDetailCharacters {
		text = string(characters[:maxDetailCharacters])
	}
	return text
}

// printable drops characters that could split a token invisibly, before tokens are searched for.
func printable(character rune) rune {
	switch {
	case unicode.IsSpace(character):
		return ' '
	case unicode.IsPrint(character):
		return character
	}
	return -1
}

// redactParts replaces the secret and every part of it that has secretPartLength bytes or more.
func redactParts(text, secret string) string {
	width := min(secretPartLength, len(secret))
	parts := make(map[string]bool)
	for start := range len(secret) - width + 1 {
		parts[secret[start:start+width]] = true
	}
	hidden := make([]bool, len(text))
	for start := range len(text) - width + 1 {
		if parts[text[start:start+width]] {
			for i := start; i < start+width; i++ {
				hidden[i] = true
			}
		}
	}
	var shown strings.Builder
	for i := range len(text) {
		switch {
		case !hidden[i]:
			shown.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			shown.WriteString(redacted)
		}
	}
	return shown.String()
}
