// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"

	"github.com/golang-jwt/jwt/v5"
)

// ParseUserAPIToken returns the token without the white space and byte order marks around it. Its
// errors say what was given instead of a token.
func ParseUserAPIToken(given string) (string, error) {
	token := strings.TrimFunc(given, func(r rune) bool { return unicode.IsSpace(r) || string(r) == byteOrderMark })
	if isWholeJWT(token) {
		return token, nil
	}
	return "", diagnose(token, tokenMistakes)
}

// tokenMistakes are the mistakes in place of a token. Those that contain others come first; the
// last one matches every text.
var tokenMistakes = []mistake{
	{
		func(text string) bool { return text == "" },
		"it is empty: give the token that N-central's web UI showed when it was generated",
	},
	inUTF16,
	inAnotherEncoding,
	{isBinary, "it has bytes that are not text: give the token as text"},
	webPage,
	{contains("-----BEGIN "), "it is a certificate or a key in PEM form: give the token that N-central's web UI " +
		"showed when it was generated"},
	{looksLike(`(?i)\bbearer\b`), "it has the word Bearer before it, as in a header: give the token alone"},
	inJSON,
	{isBase64OfJWT, "it is the base64 of a token: decode it first, with base64 -d"},
	masked,
	shortened,
	path,
	address,
	{
		looksLike(`^((export|set|setx|const|let|var)\s+|\$(env:)?|--?)?[A-Za-z_][\w.-]*\s*[=:]`),
		"it has a name before it, as NAME=VALUE does: give the value alone, without quotation marks",
	},
	placeholder,
	inQuotes,
	namedFile,
	{
		looksLike(`^(hv[sbr]|[sbr])\.[\w-]{20,}$`),
		"it is a token of Vault or OpenBao: give the one that N-central's web UI showed when it was generated",
	},
	invisible,
	{contains(`\`), "it has a backslash, as in a line end that JSON or YAML wrote: give the token alone"},
	{looksLike(`\s`), "it has spaces or line ends inside: give the token in one line, and nothing else"},
	{
		func(text string) bool { return strings.ContainsFunc(text, isNeverInJWT) },
		"it has characters that no token has: give the token alone, with nothing before or after it",
	},
	{isOverlong, "there is more than the token: give the token alone, once, with nothing after it"},
	{
		looksLike(`^eyJ|^[\w-]{16,}\.[\w-]{20,}$|\.[\w-]{16,}\.[\w-]{20,}$`),
		"it is cut short or damaged: copy all of it, from its first characters, which are eyJ, to its last",
	},
	{
		looksLike(`^[\w-]{1,100}(\.[\w-]*)?$`),
		"it is one word and not a token: if it is the name of a file, put an @ before it, as in FIELD=@FILE",
	},
	{
		func(string) bool { return true },
		"it is not a JWT, which consists of three parts with dots between: give the token that N-central's web UI " +
			"showed when it was generated",
	},
}

// isWholeJWT reports whether the text is a JWT, whoever signed it, whose signature has the length
// that its algorithm gives.
func isWholeJWT(text string) bool {
	if strings.ContainsFunc(text, isNeverInJWT) { // the decoder would skip line ends
		return false
	}
	algorithm, signature, isJWT := partsOfJWT(text)
	length, known := signatureLengths[algorithm]
	return isJWT && len(signature) > 0 && (!known || len(signature) == length)
}

func isNeverInJWT(r rune) bool {
	return r != '-' && r != '.' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
}

var signatureLengths = map[string]int{
	"HS256": 32, "HS384": 48, "HS512": 64,
	"ES256": 64, "ES384": 96, "ES512": 132,
	"EdDSA": 64,
}

func partsOfJWT(text string) (algorithm string, signature []byte, isJWT bool) {
	parsed, parts, err := jwt.NewParser().ParseUnverified(text, &jwt.MapClaims{})
	if err != nil && !errors.Is(err, jwt.ErrTokenUnverifiable) || parsed == nil {
		return "", nil, false
	}
	signature, err = base64.RawURLEncoding.DecodeString(parts[len(parts)-1])
	algorithm, _ = parsed.Header["alg"].(string)
	return algorithm, signature, err == nil
}

// isOverlong reports whether something follows what would be a token.
func isOverlong(text string) bool {
	parts := strings.Split(text, ".")
	if !strings.HasPrefix(text, "eyJ") || len(parts) < 3 {
		return false
	}
	algorithm, _, isJWT := partsOfJWT(parts[0] + "." + parts[1] + ".AA")
	length, known := signatureLengths[algorithm]
	return isJWT && (len(parts) > 3 || known && len(parts[2]) > base64.RawURLEncoding.EncodedLen(length))
}

func isBase64OfJWT(text string) bool {
	inside := strings.TrimSpace(decoded(text))
	return strings.HasPrefix(inside, "eyJ") && strings.Count(inside, ".") == 2
}
