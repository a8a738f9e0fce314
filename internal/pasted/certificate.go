// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"regexp"
	"strings"
	"unicode"
)

// dashes are what five hyphens become where a document makes its own of them.
const dashes = `[-‐‑–—―]`

// privateKey is a line at either end of a private key, whichever kind of key it is.
var privateKey = regexp.MustCompile(`(?i)` + dashes + `{2,} *(BEGIN|END) [^\r\n]{0,40}PRIVATE +KEY`)

// HoldsPrivateKey reports whether the text has a private key in it, or an end of one. Where Windows appends to a file, the key
// may be in UTF-16 behind certificates that are not.
func HoldsPrivateKey(text string) bool {
	return privateKey.MatchString(visible(text)) || privateKey.MatchString(visible(decoded(text)))
}

// visible returns the text without what cannot be seen, such as the NULs of UTF-16, and with plain spaces for others.
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

// DiagnoseBundle tells what a text is that was refused as a bundle of certificates, nil where it has no name for it. The
// text is without byte order marks and has the line ends of Unix.
func DiagnoseBundle(bundle string) error {
	bundle = strings.TrimSpace(bundle)
	if strings.Contains(bundle, "-----BEGIN ") {
		return tell(bundle, insteadOfBundle)
	}
	return tell(bundle, withoutPEM)
}

// insteadOfBundle are the forms of what has lines as a PEM file has.
var insteadOfBundle = []form{
	inUTF16,
	inAnotherEncoding,
	inJSON,
	{contains(`-----\`), "its line ends are written as backslashes with letters: give it with line ends, as jq -r and echo -e print them, or have the command line read the file, as in FIELD=@FILE"},
	{looksLike(`-----END [^\n]*----------BEGIN `), "two of its certificates have no line end between them: put one there"},
	{looksLike(`-----BEGIN [A-Z0-9 ]+-----[ \t]*[^\s]`), "all of it is in one line, with spaces instead of line ends: have the command line read the file, as in FIELD=@FILE"},
	inQuotes,
	{looksLike(`(?m)^[ \t]+-----(BEGIN|END) `), "its lines are indented, as YAML files have them: give it without the spaces before its lines"},
	{looksLike(`[^\n]-----BEGIN `), "something stands before -----BEGIN in its line: give the certificates alone, from that line on"},
	{looksLike(`-----BEGIN (NEW )?CERTIFICATE REQUEST-----`), "it is a certificate request, not a certificate: give the certificate of the authority that signed the server's"},
	{looksLike(`-----BEGIN ([A-Z0-9]+ )*PUBLIC KEY-----`), "it is a public key, not a certificate: give the certificate of the authority that signed the server's"},
	{looksLike(`-----BEGIN (PKCS7|PKCS #7 SIGNED DATA|CMS)-----`), "it is a PKCS #7 file: make certificates of it, with openssl pkcs7 -print_certs -in FILE -out ca.pem"},
	{looksLike(`-----BEGIN (TRUSTED|X509) CERTIFICATE-----`), "it is a certificate in OpenSSL's own form: convert it to the usual one, with openssl x509 -in FILE -out ca.pem"},
	{looksLike(`-----BEGIN X509 CRL-----`), "it is a list of revoked certificates: give the certificate of the authority that signed the server's"},
	{func(text string) bool { return !strings.Contains(text, "-----BEGIN CERTIFICATE-----") }, "it holds no certificate, but something else in PEM form: give the certificate of the authority that signed the server's"},
	{func(text string) bool { return moreOf(text, "BEGIN", "END") }, "it is cut short: a line -----BEGIN CERTIFICATE----- has no line -----END CERTIFICATE----- after it"},
	{func(text string) bool { return moreOf(text, "END", "BEGIN") }, "its beginning is missing: a line -----END CERTIFICATE----- has no line -----BEGIN CERTIFICATE----- before it"},
	masked,
	shortened,
	hidden,
}

// moreOf reports whether more certificates have the one end than the other.
func moreOf(bundle, one, other string) bool {
	const certificate = " CERTIFICATE-----"
	return strings.Count(bundle, "-----"+one+certificate) > strings.Count(bundle, "-----"+other+certificate)
}

// withoutPEM are the forms of what has no such line.
var withoutPEM = []form{
	inUTF16,
	inAnotherEncoding,
	{isBinary, "it is a binary file, as certificates in DER form and PKCS #12 files are: make PEM of it, with openssl x509 -inform der -in FILE -out ca.pem, or openssl pkcs12 -nokeys -in FILE -out ca.pem"},
	{looksLike(`(?i)BEGIN (TRUSTED )?CERTIFICATE`), "its line BEGIN CERTIFICATE does not have five hyphens at each end, because a document made dashes of them: give the file itself"},
	{contains("-----END CERTIFICATE-----"), "its beginning is missing: a line -----END CERTIFICATE----- has no line -----BEGIN CERTIFICATE----- before it"},
	{looksLike(`^eyJ[\w-]*\.[\w-]*\.`), "it is a token: give that as user_api_token, and here a certificate"},
	webPage,
	inJSON,
	{func(text string) bool { return strings.Contains(decoded(text), "-----BEGIN ") }, "it is the base64 of a PEM file: decode it first, with base64 -d"},
	{looksLike(`^MII[A-Za-z0-9+/=\s]{60,}$`), "it lacks the lines -----BEGIN CERTIFICATE----- and -----END CERTIFICATE----- around it: give the whole file"},
	placeholder,
	masked,
	shortened,
	inQuotes,
	namedFile,
	address,
	path,
	{looksLike(`^[\w./\\-]{1,100}$`), "it is one word and not a certificate: if it is the name of a file, put an @ before it, as in FIELD=@FILE"},
}
