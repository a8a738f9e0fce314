// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What people paste is taken, or told by its name.

package backend

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// pasted is one form in which people give a value, and what the engine tells of it; nothing where
// it takes it.
type pasted struct{ form, given, told string }

// inUTF16 is the text as Windows saves it under the name of Unicode.
func inUTF16(text string, bigEndian bool) string {
	var bytes []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		low, high := byte(unit), byte(unit>>8)
		if bigEndian {
			low, high = high, low
		}
		bytes = append(bytes, low, high)
	}
	return string(bytes)
}

// overJSON is the text as it reaches the engine: what is no UTF-8 is replaced on the way.
func overJSON(t *testing.T, text string) (arrived string) {
	t.Helper()
	sent, err := json.Marshal(text)
	if err == nil {
		err = json.Unmarshal(sent, &arrived)
	}
	if err != nil {
		t.Fatal(err)
	}
	return arrived
}

const (
	toldUTF16 = "it was saved as UTF-16, which Windows calls Unicode: save the file in ASCII, as PowerShell " +
		"does with -Encoding ascii"
	toldEncoding = "it begins with a byte order mark that was read in another encoding: save the file in ASCII, " +
		"as PowerShell does with -Encoding ascii"
	toldJSON    = "it is JSON: give the value alone, as jq -r prints it"
	toldWebPage = "it is a web page, such as a server sends when it wants a login or has nothing at that " +
		"address: read the page, and get the value again"
	toldPlaceholder = "it is a placeholder or a variable that nothing has filled in: give the value itself"
	toldMasked      = "it is masked, as secrets are in logs, forms and chats: copy it from where it was first shown"
	toldShortened   = "it is shortened with dots: give all of it"
	toldQuotes      = "it has quotation marks: give the value without them"
	toldURL         = "it is a URL: give it as url, and give the right value here"
	toldAt          = "it begins with an @, which names a file on a command line only: give the content of the file"
	toldPath        = "it is the path or the name of a file: put an @ before it, as in FIELD=@FILE, so that the " +
		"command line reads the file"
	toldHidden = "it has invisible characters, such as a zero-width or no-break space, which chats and web " +
		"pages put in: delete them, or copy it again from where it was first shown"
	toldBearer = "it has the word Bearer before it, as in a header: give the token alone"
	toldName   = "it has a name before it, as NAME=VALUE does: give the value alone, without quotation marks"
	toldSpaces = "it has spaces or line ends inside: give the token in one line, and nothing else"
	toldCut    = "it is cut short or damaged: copy all of it, from its first characters, which are eyJ, to its " +
		"last"
	toldOthers = "it has characters that no token has: give the token alone, with nothing before or after it"
	toldMore   = "there is more than the token: give the token alone, once, with nothing after it"
	toldPEM    = "it is a certificate or a key in PEM form: give the token that N-central's web UI showed when " +
		"it was generated"
	toldOneWord = "it is one word and not a token: if it is the name of a file, put an @ before it, as in " +
		"FIELD=@FILE"
	toldBase64 = "it is the base64 of a token: decode it first, with base64 -d"
	toldVault  = "it is a token of Vault or OpenBao: give the one that N-central's web UI showed when it was " +
		"generated"
	toldBackslash = "it has a backslash, as in a line end that JSON or YAML wrote: give the token alone"
	toldEmpty     = "it is empty: give the token that N-central's web UI showed when it was generated"
	toldNoText    = "it has bytes that are not text: give the token as text"
	toldNoJWT     = "it is not a JWT, which consists of three parts with dots between: give the token that " +
		"N-central's web UI showed when it was generated"
)

// pastedTokens are forms of a User-API token.
func pastedTokens(token, certificate string) []pasted {
	return slices.Concat(tokensInFiles(token), tokensInQuotesAndNames(token), tokensInPieces(token, certificate))
}

// tokensInFiles are what files and the clipboard make of a token's characters.
func tokensInFiles(token string) []pasted {
	middle := len(token) / 2
	return []pasted{
		{"as N-central shows it", token, ""},
		{"with a line end after it (`echo`, Notepad, PowerShell's `Set-Content`)", token + "\r\n", ""},
		{"with spaces, tabs or empty lines around it", " \t\n" + token + " \u00a0\n\n", ""},
		{"with a UTF-8 byte order mark (PowerShell 5 with `-Encoding utf8`, Notepad)", "\ufeff" + token + "\r\n", ""},
		{
			"UTF-16 with a byte order mark (PowerShell 5 with `>`, Notepad's \"Unicode\")",
			"\xff\xfe" + inUTF16(token+"\r\n", false), toldUTF16,
		},
		{"UTF-16 big endian", "\xfe\xff" + inUTF16(token, true), toldUTF16},
		{"UTF-16 without a byte order mark", inUTF16(token, false), toldUTF16},
		{"a byte order mark that was read as Windows-1252", "ï»¿" + token, toldEncoding},
		{"nothing but NUL bytes, as a crash leaves a file", "\x00\x00\x00\x00", toldNoText},
		{"bytes of another file", "\x89PNG\r\n\x1a\n\xde\xad", toldNoText},
		{"with a zero-width space inside (chats, web pages)", token[:middle] + "\u200b" + token[middle:], toldHidden},
		{"with a zero-width space at its end", token + "\u200b", toldHidden},
		{"with a soft hyphen inside", token[:middle] + "\u00ad" + token[middle:], toldHidden},
		{"with a no-break space inside", token[:middle] + "\u00a0" + token[middle:], toldHidden},
		{"with what a terminal puts around pasted text", "\x1b[200~" + token + "\x1b[201~", toldHidden},
	}
}

// tokensInQuotesAndNames are a token with what stands around it elsewhere, and what stands in its
// place.
func tokensInQuotesAndNames(token string) []pasted {
	middle := len(token) / 2
	return []pasted{
		{"in ASCII quotes", `"` + token + `"`, toldQuotes},
		{"in single quotes", "'" + token + "'", toldQuotes},
		{"in typographic quotes (Word, Teams, Outlook)", "“" + token + "”", toldQuotes},
		{"in backticks (Slack, Markdown)", "`" + token + "`", toldQuotes},
		{"with one quotation mark left", token + `"`, toldQuotes},
		{"`Bearer TOKEN`", "Bearer " + token, toldBearer},
		{"`Authorization: Bearer TOKEN`", "Authorization: Bearer " + token, toldBearer},
		{"`NAME=TOKEN`, as a line of `.env`", "NCENTRAL_TOKEN=" + token, toldName},
		{"`export NAME='TOKEN'`", "export NCENTRAL_TOKEN='" + token + "'", toldName},
		{"`$env:NAME = \"TOKEN\"`", `$env:NCENTRAL_TOKEN = "` + token + `"`, toldName},
		{"`name: TOKEN`, as YAML has it", "user_api_token: " + token, toldName},
		{"a path, without the `@` before it", "/run/secrets/user-api-token", toldPath},
		{"a path of Windows", `C:\Users\Me\My Documents\token`, toldPath},
		{"a file's name with an ending", "user-api-token.txt", toldPath},
		{"a file's name without one", "user-api-token", toldOneWord},
		{"`@FILE` in a body of JSON, or in Terraform", "@user-api-token", toldAt},
		{"masked by a log or a form", "********", toldMasked},
		{"masked by GitHub in part", token[:middle] + "***", toldMasked},
		{"`[MASKED]`", "[MASKED]", toldMasked},
		{"shortened with dots", token[:8] + "…" + token[len(token)-4:], toldShortened},
		{"shortened with three full stops", token[:8] + "...", toldShortened},
		{"`<token>`", "<token>", toldPlaceholder},
		{"`your-token-here`", "your-token-here", toldPlaceholder},
		{"`changeme`", "changeme", toldPlaceholder},
		{"`${VAR}`, which nothing has replaced", "${NCENTRAL_TOKEN}", toldPlaceholder},
		{"`$VAR`", "$NCENTRAL_TOKEN", toldPlaceholder},
		{"`%VAR%`", "%NCENTRAL_TOKEN%", toldPlaceholder},
		{"`{{ var }}`", "{{ ncentral_token }}", toldPlaceholder},
		{"`null`, as `jq -r` prints what is not there", "null", toldPlaceholder},
		{"nothing, as of an empty variable or file", "\n", toldEmpty},
	}
}

// tokensInPieces are a token in another form, broken, cut or joined, and what is none.
func tokensInPieces(token, certificate string) []pasted {
	middle := len(token) / 2
	cut := strings.LastIndex(token, ".")
	return []pasted{
		{"JSON around it", `{"token": "` + token + `"}`, toldJSON},
		{"JSON around it that is cut off", `{"token": "` + token, toldJSON},
		{
			"a web page, saved instead of it",
			"<!DOCTYPE html>\n<html lang=en><title>Login</title>\n<p>Bearer of news</html>\n", toldWebPage,
		},
		{"a line end written as `\\n`", token + `\n`, toldBackslash},
		{"the base64 of it (a Kubernetes Secret)", base64.StdEncoding.EncodeToString([]byte(token)), toldBase64},
		{"broken into two lines", token[:middle] + "\n" + token[middle:], toldSpaces},
		{"with a space inside", token[:middle] + " " + token[middle:], toldSpaces},
		{"with a word before it", "token " + token, toldSpaces},
		{"with a comma or semicolon after it", token + ";", toldOthers},
		{"with a full stop after it", token + ".", toldMore},
		{"pasted twice", token + token, toldMore},
		{"with characters too many at its end", token + "AAAA", toldMore},
		{"without its last characters", token[:len(token)-5], toldCut},
		{"without its last part", token[:cut], toldCut},
		{"without its first characters", token[4:], toldCut},
		{"with a part missing inside", token[:10] + token[18:], toldCut},
		{"a token of Vault's", "hvs." + strings.Repeat("A", 90), toldVault},
		{"the URL", "https://ncentral.example.com", toldURL},
		{"a certificate", certificate, toldPEM},
		{"something else", "ncentral.example.com", toldNoJWT},
	}
}

// pastedCertificates are forms of ca_cert.
func pastedCertificates(certificate, token string) []pasted {
	// of returns the certificate as another kind of PEM.
	of := func(kind string) string { return strings.ReplaceAll(certificate, " CERTIFICATE-", " "+kind+"-") }
	block, _ := pem.Decode([]byte(certificate))
	return slices.Concat(
		certificatesInFiles(certificate, block.Bytes), otherPEM(certificate, of), brokenPEM(certificate),
		certificatesInQuotesAndNames(certificate, token, block.Bytes),
	)
}

// certificatesInFiles are certificates as files hold them.
func certificatesInFiles(certificate string, der []byte) []pasted {
	return []pasted{
		{"a certificate in PEM form", certificate, ""},
		{"several, with text between", "# one\n" + certificate + "# two\n" + certificate, ""},
		{"with the line ends of Windows", strings.ReplaceAll(certificate, "\n", "\r\n"), ""},
		{"with white space around it", "\n " + certificate + "\n\n", ""},
		{"with a UTF-8 byte order mark", "\ufeff" + certificate, ""},
		{"two files joined, each with a byte order mark", "\ufeff" + certificate + "\ufeff" + certificate, ""},
		{"nothing: the system's authorities", "\n", ""},
		{"UTF-16 (PowerShell 5 with `>`)", "\xff\xfe" + inUTF16(certificate, false), toldUTF16},
		{"a byte order mark that was read as Windows-1252", "ï»¿" + certificate, toldEncoding},
		{
			"DER, or PKCS #12", string(der),
			"it is a binary file, as certificates in DER form and PKCS #12 files are: convert it to PEM, with " +
				"openssl x509 -inform der -in FILE -out ca.pem, or openssl pkcs12 -nokeys -in FILE -out ca.pem",
		},
	}
}

// otherPEM is what stands beside certificates, or instead of them, in PEM form.
func otherPEM(certificate string, of func(kind string) string) []pasted {
	const key = "it holds a private key, which everyone who may read this config would see: leave the key out and " +
		"give the certificates alone"
	return []pasted{
		{"with its private key", certificate + of("PRIVATE KEY"), key},
		{
			"with its private key in UTF-16 (PowerShell 5 with `>>`)", certificate + inUTF16(of("PRIVATE KEY"), false),
			key,
		},
		{
			"with its private key, no-break spaces in its lines",
			certificate + strings.ReplaceAll(of("PRIVATE KEY"), " ", "\u00a0"), key,
		},
		{"a private key alone", of("RSA PRIVATE KEY"), key},
		{
			"the base64 of a file with a private key",
			base64.StdEncoding.EncodeToString([]byte(certificate + of("PRIVATE KEY"))), key,
		},
		{
			"a certificate request (CSR)", of("CERTIFICATE REQUEST"),
			"it is a certificate request, not a certificate: give the certificate of the authority that signed the " +
				"server's",
		},
		{"a public key", of("PUBLIC KEY"), "it is a public key, not a certificate: give the certificate of the " +
			"authority that signed the server's"},
		{"PKCS #7", of("PKCS7"), "it is a PKCS #7 file: convert it to certificates, with openssl pkcs7 -print_certs " +
			"-in FILE -out ca.pem"},
		{
			"`TRUSTED CERTIFICATE`", of("TRUSTED CERTIFICATE"),
			"it is a certificate in OpenSSL's own form: convert it to the usual one, with openssl x509 -in FILE " +
				"-out ca.pem",
		},
		{
			"a revocation list", of("X509 CRL"),
			"it is a list of revoked certificates: give the certificate of the authority that signed the server's",
		},
		{
			"other PEM", of("DH PARAMETERS"),
			"it holds no certificate, but something else in PEM form: give the certificate of the authority that " +
				"signed the server's",
		},
	}
}

// brokenPEM are certificates that are cut, joined or in lines of another form.
func brokenPEM(certificate string) []pasted {
	const (
		cut  = "it is cut short: a line -----BEGIN CERTIFICATE----- has no line -----END CERTIFICATE----- after it"
		tail = "its beginning is missing: a line -----END CERTIFICATE----- has no line -----BEGIN CERTIFICATE----- " +
			"before it"
		line = "all of it is in one line, with spaces instead of line ends: have the command line read the file, " +
			"as in FIELD=@FILE"
	)
	half := certificate[:len(certificate)/2]
	return []pasted{
		{"cut short", half, cut},
		{"the second one cut short", certificate + half, cut},
		{"without its first lines", certificate[40:], tail},
		{"the first one without its first lines", certificate[40:] + certificate, tail},
		{
			"damaged inside", strings.Replace(certificate, "\nMI", "\n??", 1),
			"the PEM bundle holds a certificate that is damaged or cut short",
		},
		{
			"something else than a certificate inside",
			"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
			"certificate 1 of the PEM bundle cannot be read: x509: malformed certificate",
		},
		{
			"indented, as in YAML", "  " + strings.ReplaceAll(certificate, "\n", "\n  "),
			"its lines are indented, as YAML files have them: give it without the spaces before its lines",
		},
		{
			"in one line, with `\\n`", strings.ReplaceAll(certificate, "\n", `\n`),
			"its line ends are written as a backslash and a letter: give it with real line ends, as jq -r and echo " +
				"-e print them, or let the command line read the file, as in FIELD=@FILE",
		},
		{"in one line, with spaces", strings.ReplaceAll(certificate, "\n", " "), line},
		{"in one line, with nothing between", strings.ReplaceAll(certificate, "\n", ""), line},
		{
			"two files joined without a line end", strings.TrimSpace(certificate) + certificate,
			"two of its certificates have no line end between them: put one there",
		},
	}
}

// certificatesInQuotesAndNames are certificates with what stands around them elsewhere, and what
// stands in their place.
func certificatesInQuotesAndNames(certificate, token string, der []byte) []pasted {
	return []pasted{
		{"in quotes", `"` + strings.TrimSpace(certificate) + `"`, toldQuotes},
		{
			"`NAME=` before it", "CA_CERT=" + certificate,
			"there is text before -----BEGIN on its line: give the certificates alone, from -----BEGIN on",
		},
		{
			"with dashes for its hyphens (Word, Outlook)", strings.ReplaceAll(certificate, "--", "–"),
			"its line BEGIN CERTIFICATE does not have five hyphens at each end, because a document made dashes of " +
				"them: give the file itself",
		},
		{"with a zero-width space inside", strings.Replace(certificate, "\nMI", "\nM\u200bI", 1), toldHidden},
		{"JSON around it", `{"ca": "` + strings.ReplaceAll(certificate, "\n", `\n`) + `"}`, toldJSON},
		{"a web page, saved instead of it", "<html>\n<body>404 Not Found</body>\n</html>\n", toldWebPage},
		{
			"the base64 of the file", base64.StdEncoding.EncodeToString([]byte(certificate)),
			"it is the base64 of a PEM file: decode it first, with base64 -d",
		},
		{
			"without its first and last line", base64.StdEncoding.EncodeToString(der),
			"it lacks the lines -----BEGIN CERTIFICATE----- and -----END CERTIFICATE----- around it: give the " +
				"whole file",
		},
		{"a path, without the `@` before it", "/etc/ssl/certs/ca.pem", toldPath},
		{
			"a file's name without an ending", "our-ca",
			"it is one word and not a certificate: if it is the name of a file, put an @ before it, as in FIELD=@FILE",
		},
		{"`@FILE` in a body of JSON, or in Terraform", "@ca.pem", toldAt},
		{"`${VAR}`, which nothing has replaced", "${CA_CERT}", toldPlaceholder},
		{"masked", "****", toldMasked},
		{"the User-API token", token, "it is a token: give it as user_api_token, and give a certificate here"},
		{"the URL", "https://ncentral.example.com", toldURL},
		{
			"something else", "see the ticket",
			"no whole certificate in PEM form found: it begins with a line -----BEGIN CERTIFICATE----- and ends " +
				"with a line -----END CERTIFICATE-----",
		},
	}
}

// TestWhatIsPastedIsTakenOrToldByItsName holds the engine's answers to each form, and the tables of
// docs/pasted.md to them.
func TestWhatIsPastedIsTakenOrToldByItsName(t *testing.T) {
	page, err := os.ReadFile("../docs/pasted.md")
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, nil, func(m *mount) {
		certificate, _ := bundle(t)
		for field, forms := range map[string][]pasted{
			"user_api_token": pastedTokens(m.token, certificate), "ca_cert": pastedCertificates(certificate, m.token),
		} {
			var table strings.Builder
			for _, form := range forms {
				m.expectTold(field, form)
				answer := "taken"
				if form.told != "" {
					answer = "`" + form.told + "`"
				}
				fmt.Fprintf(&table, "| %s | %s |\n", form.form, answer)
			}
			if !strings.Contains(string(page), "|\n|---|---|\n"+table.String()+"\n") {
				t.Errorf("docs/pasted.md does not have these rows of %s:\n%s", field, table.String())
			}
		}
	})
}

// expectTold writes the value, which must be taken, or refused without anything of it in the error,
// and then not stored.
func (m *mount) expectTold(field string, form pasted) {
	m.t.Helper()
	data := map[string]any{"user_api_token": m.token}
	data[field] = overJSON(m.t, form.given)
	if form.told == "" {
		m.write("config/default", data)
		return
	}
	before := m.stored()["config/default"]
	text, code := m.failure(opWrite, "config/default", data)
	if code != 400 || text != field+": "+form.told {
		m.t.Errorf("%s, %s: %d %s, want %s", field, form.form, code, text, form.told)
	}
	if m.stored()["config/default"] != before {
		m.t.Errorf("%s, %s: stored all the same", field, form.form)
	}
}

// bundle makes a certificate in PEM form, with the key beside it, as in one file with all.
func bundle(t *testing.T) (certificate, withKey string) {
	t.Helper()
	made, pemOf, err := simulator.NewCertificate("ncentral.example.com")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemOf), string(pemOf) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}
