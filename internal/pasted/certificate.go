// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"regexp"
	"strings"
	"unicode"
)

// dashes are what word processors and web pages turn hyphens into.
const dashes = `[-‐‑–—―]`

// privateKey matches the first or last line of a private key of any kind.
var privateKey = regexp.MustCompile(`(?i)` + dashes + `{2,} *(BEGIN|END) [^\r\n]{0,40}PRIVATE +KEY`)

// HoldsPrivateKey reports whether the text holds a private key, or one end of one. The key may be
// in UTF-16 behind certificates that are not, as where Windows appended it to a file.
func HoldsPrivateKey(text string) bool {
	return privateKey.MatchString(visible(text)) || privateKey.MatchString(visible(decoded(text)))
}

// visible returns the text without invisible characters, such as the NULs of UTF-16, and with plain
// spaces for other kinds of space.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r', r == '\n':
			return r
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, text)
}

// DiagnoseBundle says why a text is not a bundle of certificates. It returns nil where it does not
// recognise the mistake. The text has no byte order marks and has the line ends of Unix.
func DiagnoseBundle(bundle string) error {
	bundle = strings.TrimSpace(bundle)
	if strings.Contains(bundle, "-----BEGIN ") {
		return diagnose(bundle, pemMistakes)
	}
	return diagnose(bundle, nonPEMMistakes)
}

// pemMistakes are the mistakes in a text that has lines as a PEM file has.
var pemMistakes = []mistake{
	inUTF16,
	inAnotherEncoding,
	inJSON,
	{contains(`-----\`), "its line ends are written as a backslash and a letter: give it with real line ends, as jq " +
		"-r and echo -e print them, or let the command line read the file, as in FIELD=@FILE"},
	{
		looksLike(`-----END [^\n]*----------BEGIN `),
		"two of its certificates have no line end between them: put one there",
	},
	{
		looksLike(`-----BEGIN [A-Z0-9 ]+-----[ \t]*[^\s]`),
		"all of it is in one line, with spaces instead of line ends: have the command line read the file, as in " +
			"FIELD=@FILE",
	},
	inQuotes,
	{
		looksLike(`(?m)^[ \t]+-----(BEGIN|END) `),
		"its lines are indented, as YAML files have them: give it without the spaces before its lines",
	},
	{
		looksLike(`[^\n]-----BEGIN `),
		"there is text before -----BEGIN on its line: give the certificates alone, from -----BEGIN on",
	},
	{
		looksLike(`-----BEGIN (NEW )?CERTIFICATE REQUEST-----`),
		"it is a certificate request, not a certificate: give the certificate of the authority that signed " +
			"the server's",
	},
	{
		looksLike(`-----BEGIN ([A-Z0-9]+ )*PUBLIC KEY-----`),
		"it is a public key, not a certificate: give the certificate of the authority that signed the server's",
	},
	{
		looksLike(`-----BEGIN (PKCS7|PKCS #7 SIGNED DATA|CMS)-----`),
		"it is a PKCS #7 file: convert it to certificates, with openssl pkcs7 -print_certs -in FILE -out ca.pem",
	},
	{
		looksLike(`-----BEGIN (TRUSTED|X509) CERTIFICATE-----`),
		"it is a certificate in OpenSSL's own form: convert it to the usual one, with openssl x509 -in FILE " +
			"-out ca.pem",
	},
	{
		looksLike(`-----BEGIN X509 CRL-----`),
		"it is a list of revoked certificates: give the certificate of the authority that signed the server's",
	},
	{
		func(text string) bool { return !strings.Contains(text, "-----BEGIN CERTIFICATE-----") },
		"it holds no certificate, but something else in PEM form: give the certificate of the authority that signed " +
			"the server's",
	},
	{
		func(text string) bool { return moreOf(text, "BEGIN", "END") },
		"it is cut short: a line -----BEGIN CERTIFICATE----- has no line -----END CERTIFICATE----- after it",
	},
	{
		func(text string) bool { return moreOf(text, "END", "BEGIN") },
		"its beginning is missing: a line -----END CERTIFICATE----- has no line -----BEGIN CERTIFICATE----- before it",
	},
	masked,
	shortened,
	invisible,
}

// moreOf reports whether certificates have more of the one end than of the other.
func moreOf(bundle, one, other string) bool {
	const certificate = " CERTIFICATE-----"
	return strings.Count(bundle, "-----"+one+certificate) > strings.Count(bundle, "-----"+other+certificate)
}

// nonPEMMistakes are the mistakes in a text without such lines.
var nonPEMMistakes = []mistake{
	inUTF16,
	inAnotherEncoding,
	{isBinary, "it is a binary file, as certificates in DER form and PKCS #12 files are: convert it to PEM, with " +
		"openssl x509 -inform der -in FILE -out ca.pem, or openssl pkcs12 -nokeys -in FILE -out ca.pem"},
	{
		looksLike(`(?i)BEGIN (TRUSTED )?CERTIFICATE`),
		"its line BEGIN CERTIFICATE does not have five hyphens at each end, because a document made dashes of them: " +
			"give the file itself",
	},
	{
		contains("-----END CERTIFICATE-----"),
		"its beginning is missing: a line -----END CERTIFICATE----- has no line -----BEGIN CERTIFICATE----- before it",
	},
	{looksLike(`^eyJ[\w-]*\.[\w-]*\.`), "it is a token: give it as user_api_token, and give a certificate here"},
	webPage,
	inJSON,
	{
		func(text string) bool { return strings.Contains(decoded(text), "-----BEGIN ") },
		"it is the base64 of a PEM file: decode it first, with base64 -d",
	},
	{
		looksLike(`^MII[A-Za-z0-9+/=\s]{60,}$`),
		"it lacks the lines -----BEGIN CERTIFICATE----- and -----END CERTIFICATE----- around it: give the whole file",
	},
	placeholder,
	masked,
	shortened,
	inQuotes,
	namedFile,
	address,
	path,
	{
		looksLike(`^[\w./\\-]{1,100}$`),
		"it is one word and not a certificate: if it is the name of a file, put an @ before it, as in FIELD=@FILE",
	},
}
