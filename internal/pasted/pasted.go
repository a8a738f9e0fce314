// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package pasted accepts what people paste, or load from files, as a token or a certificate. It
// accepts what is safe to accept. For anything else its errors say what was given and what to do,
// and quote nothing of it.
//
// Start with [ParseUserAPIToken], which returns a token or an error. [DiagnoseBundle] says why a
// text could not be parsed as certificates. [HoldsPrivateKey] finds a private key, which must not
// be stored.
//
// The tables of mistakes are in token.go and certificate.go. The first mistake that matches gives
// the message, so their order matters. docs/pasted.md lists the messages for users.
//
// The tests here are fuzz targets and edge cases; backend/pasted_test.go tests every message
// through the engine.
package pasted

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// byteOrderMark is what Windows writes before UTF-8. Where files were joined, it is also between
// them.
const byteOrderMark = "\ufeff"

// mistake is a kind of value that cannot be accepted, and the message about it.
type mistake struct {
	matches func(text string) bool
	message string
}

// diagnose returns the message of the first mistake that the text matches, and nil where it matches
// none.
func diagnose(text string, mistakes []mistake) error {
	for _, m := range mistakes {
		if m.matches(text) {
			return errors.New(m.message)
		}
	}
	return nil
}

// The mistakes that tokens and certificates have in common.
var (
	inUTF16 = mistake{isUTF16, "it was saved as UTF-16, which Windows calls Unicode: save the file in ASCII, as " +
		"PowerShell does with -Encoding ascii"}

	inAnotherEncoding = mistake{
		contains("\u00ef\u00bb\u00bf"),
		"it begins with a byte order mark that was read in another encoding: save the file in ASCII, as PowerShell " +
			"does with -Encoding ascii",
	}

	inJSON = mistake{isJSON, "it is JSON: give the value alone, as jq -r prints it"}

	webPage = mistake{
		looksLike(`(?i)^(<\?xml[^>]*>\s*)?<(!doctype|html|head|body)\b`),
		"it is a web page, such as a server sends when it wants a login or has nothing at that address: read the " +
			"page, and get the value again",
	}

	placeholder = mistake{
		isPlaceholder,
		"it is a placeholder or a variable that nothing has filled in: give the value itself",
	}

	masked = mistake{isMasked, "it is masked, as secrets are in logs, forms and chats: copy it from where it was " +
		"first shown"}

	shortened = mistake{looksLike(`…|\.\.\.`), "it is shortened with dots: give all of it"}

	inQuotes = mistake{
		looksLike(`^["'\x60` + quotes + `]|["'\x60` + quotes + `]$`),
		"it has quotation marks: give the value without them",
	}

	address = mistake{looksLike(`(?i)^https?:`), "it is a URL: give it as url, and give the right value here"}

	namedFile = mistake{
		looksLike(`^@`),
		"it begins with an @, which names a file on a command line only: give the content of the file",
	}

	path = mistake{isPath, "it is the path or the name of a file: put an @ before it, as in FIELD=@FILE, so that the " +
		"command line reads the file"}

	invisible = mistake{
		hasInvisible,
		"it has invisible characters, such as a zero-width or no-break space, which chats and web pages " +
			"put in: delete them, or copy it again from where it was first shown",
	}
)

// quotes are typographic quotation marks.
const quotes = "“”„‟‘’‚‛«»‹›＂＇「」『』′″"

func looksLike(pattern string) func(string) bool { return regexp.MustCompile(pattern).MatchString }

func contains(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

// isUTF16 reports whether the text is ASCII with a NUL beside each character, and at most a byte
// order mark besides. A mark that went through JSON has become two replacement characters.
func isUTF16(text string) bool {
	marks := strings.NewReplacer("\x00", "", byteOrderMark, "", "\ufffd", "", "\xff\xfe", "", "\xfe\xff", "")
	others := marks.Replace(text)
	return strings.Contains(text, "\x00") && others != "" && !strings.ContainsFunc(others, func(r rune) bool {
		return r > '~' || r < ' ' && !unicode.IsSpace(r)
	})
}

// isBinary reports whether the text has bytes that are not text, either unchanged or as JSON
// replaced them.
func isBinary(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\ufffd")
}

var beginsAsJSON = regexp.MustCompile(`^[\[{]\s*"`)

func isJSON(text string) bool {
	return beginsAsJSON.MatchString(text) ||
		strings.ContainsAny(text[:min(1, len(text))], "[{") && json.Valid([]byte(text))
}

var (
	inBrackets      = regexp.MustCompile(`^(<.*>|\[.*\]|\{.*\}|\(.*\)|%\w+%|@\w+@|__\w+__)$`)
	variable        = regexp.MustCompile(`^\$[\w:{(.]+|\$[{(]|\{\{|<%|#\{`)
	placeholderWord = regexp.MustCompile(`(?i)^(your|insert|paste|enter|put|replace|change|example|sample|dummy|` +
		`todo|tbd|fixme|null|nil|none|undefined|true|false|n/a|empty)([-_ ]?\w+)*$|[-_ ]here$`)
)

func isPlaceholder(text string) bool {
	return !isMasked(text) && (inBrackets.MatchString(text) || variable.MatchString(text) ||
		placeholderWord.MatchString(text))
}

// maskPattern matches the words and signs that replace a secret.
var maskPattern = regexp.MustCompile(`(?i)[*•●∗█■]|^[x#_]{3,}$|` +
	`^\W*(masked|redacted|hidden|filtered|protected|sensitive( value)?|known after apply)\W*$`)

func isMasked(text string) bool { return maskPattern.MatchString(text) }

var (
	beginsAsPath = regexp.MustCompile(`(?i)^(~?/|\.{1,2}[/\\]|[a-z]:[/\\]|\\\\|file:|\$home/)`)
	endsAsFile   = regexp.MustCompile(`(?i)[^.]\.(txt|jwt|token|tok|pem|crt|cer|cert|der|key|` +
		`json|ya?ml|env|p7b|p7c|p12|pfx)$`)
)

func isPath(text string) bool {
	return !strings.ContainsAny(text, "\r\n") && (beginsAsPath.MatchString(text) || endsAsFile.MatchString(text))
}

// invisibleLetters are letters and marks that print as nothing, although unicode.IsPrint accepts
// them.
var invisibleLetters = []*unicode.RangeTable{unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector}

// hasInvisible reports whether the text has an invisible character other than plain white space.
func hasInvisible(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("\t\r\n", r) && !unicode.IsPrint(r) || unicode.In(r, invisibleLetters...)
	})
}

// decoded returns the text decoded from base64, and "" where it is not base64.
func decoded(text string) string {
	text = strings.TrimRight(strings.Join(strings.Fields(text), ""), "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if raw, err := encoding.DecodeString(text); err == nil {
			return string(raw)
		}
	}
	return ""
}
