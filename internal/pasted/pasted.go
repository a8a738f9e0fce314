// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Package pasted takes what people paste, or load from files, as a token or a certificate. What is safe to take is taken.
// Of everything else it tells what it is and what to do, and quotes nothing of it.
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

// byteOrderMark is what Windows puts before UTF-8. Where files were joined it stands between them too.
const byteOrderMark = "\ufeff"

// form is a form in which a value cannot be taken, and what is told of it.
type form struct {
	is   func(text string) bool
	told string
}

// tell returns what is told of the first of the forms that the text has, nil where it has none.
func tell(text string, forms []form) error {
	for _, f := range forms {
		if f.is(text) {
			return errors.New(f.told)
		}
	}
	return nil
}

// The forms that a token and a certificate have in common.
var (
	inUTF16 = form{isUTF16, "it was saved as UTF-16, which Windows calls Unicode: save the file in ASCII, as PowerShell does with -Encoding ascii"}

	inAnotherEncoding = form{contains("\u00ef\u00bb\u00bf"), "it begins with a byte order mark that was read in another encoding: save the file in ASCII, as PowerShell does with -Encoding ascii"}

	inJSON = form{isJSON, "it is JSON: give the value alone, as jq -r prints it"}

	webPage = form{looksLike(`(?i)^(<\?xml[^>]*>\s*)?<(!doctype|html|head|body)\b`), "it is a web page, such as a server sends when it wants a login or has nothing at that address: read the page, and get the value again"}

	placeholder = form{isPlaceholder, "it is a placeholder or a variable that nothing has filled in: give the value itself"}

	masked = form{isMasked, "it is masked, as logs, forms and chats show secrets: take it from where it was first shown"}

	shortened = form{looksLike(`…|\.\.\.`), "it is shortened with dots: give the whole of it"}

	inQuotes = form{looksLike(`^["'\x60` + quotes + `]|["'\x60` + quotes + `]$`), "it has quotation marks: give the value without them"}

	address = form{looksLike(`(?i)^https?:`), "it is a URL: give that as url, and here what the field is for"}

	namedFile = form{looksLike(`^@`), "it begins with an @, which names a file on a command line only: give the content of the file"}

	path = form{isPath, "it is the path or the name of a file: put an @ before it, as in FIELD=@FILE, to have the command line read the file"}

	hidden = form{hasHidden, "it has invisible characters, such as a zero-width or no-break space, which chats and web pages put in: delete them, or copy it again from where it was first shown"}
)

// quotes are the typographic ones.
const quotes = "“”„‟‘’‚‛«»‹›＂＇「」『』′″"

func looksLike(pattern string) func(string) bool { return regexp.MustCompile(pattern).MatchString }

func contains(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

// isUTF16 reports whether the text is ASCII with a NUL beside each character, and nothing but a byte order mark besides.
// Where the mark went through JSON, two replacement characters are left of it.
func isUTF16(text string) bool {
	others := strings.NewReplacer("\x00", "", byteOrderMark, "", "\ufffd", "", "\xff\xfe", "", "\xfe\xff", "").Replace(text)
	return strings.Contains(text, "\x00") && others != "" && !strings.ContainsFunc(others, func(r rune) bool {
		return r > '~' || r < ' ' && !unicode.IsSpace(r)
	})
}

// isBinary reports whether the text has bytes that are none: as they were, or as JSON replaced them.
func isBinary(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\ufffd")
}

var beginsAsJSON = regexp.MustCompile(`^[\[{]\s*"`)

func isJSON(text string) bool {
	return beginsAsJSON.MatchString(text) || strings.ContainsAny(text[:min(1, len(text))], "[{") && json.Valid([]byte(text))
}

var (
	inBrackets  = regexp.MustCompile(`^(<.*>|\[.*\]|\{.*\}|\(.*\)|%\w+%|@\w+@|__\w+__)$`)
	variable    = regexp.MustCompile(`^\$[\w:{(.]+|\$[{(]|\{\{|<%|#\{`)
	standsForIt = regexp.MustCompile(`(?i)^(your|insert|paste|enter|put|replace|change|example|sample|dummy|todo|tbd|fixme|null|nil|none|undefined|true|false|n/a|empty)([-_ ]?\w+)*$|[-_ ]here$`)
)

func isPlaceholder(text string) bool {
	return !isMasked(text) && (inBrackets.MatchString(text) || variable.MatchString(text) || standsForIt.MatchString(text))
}

// inTheStead are the words and signs that stand in a secret's place.
var inTheStead = regexp.MustCompile(`(?i)[*•●∗█■]|^[x#_]{3,}$|^\W*(masked|redacted|hidden|filtered|protected|sensitive( value)?|known after apply)\W*$`)

func isMasked(text string) bool { return inTheStead.MatchString(text) }

var (
	beginsAsPath = regexp.MustCompile(`(?i)^(~?/|\.{1,2}[/\\]|[a-z]:[/\\]|\\\\|file:|\$home/)`)
	endsAsFile   = regexp.MustCompile(`(?i)[^.]\.(txt|jwt|token|tok|pem|crt|cer|cert|der|key|json|ya?ml|env|p7b|p7c|p12|pfx)$`)
)

func isPath(text string) bool {
	return !strings.ContainsAny(text, "\r\n") && (beginsAsPath.MatchString(text) || endsAsFile.MatchString(text))
}

// unseen are letters and marks that print as nothing, which unicode.IsPrint takes for graphic.
var unseen = []*unicode.RangeTable{unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector}

// hasHidden reports whether something in the text cannot be seen that is no plain white space.
func hasHidden(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("\t\r\n", r) && !unicode.IsPrint(r) || unicode.In(r, unseen...)
	})
}

// decoded returns what the text is the base64 of, empty where it is that of nothing.
func decoded(text string) string {
	text = strings.TrimRight(strings.Join(strings.Fields(text), ""), "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if raw, err := encoding.DecodeString(text); err == nil {
			return string(raw)
		}
	}
	return ""
}
