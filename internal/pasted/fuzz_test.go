// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"slices"
	"strings"
	"testing"
)

const (
	aToken       = "eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJlLW9mLW5vYm9keQ"
	aCertificate = "-----BEGIN CERTIFICATE-----\nMIIBADCBs6ADAgECAgEBMAUGAytlcDAPMQ0wCwYDVQQDEwRmdXp6\n" +
		"-----END CERTIFICATE-----\n"
)

// around are texts that people paste along with a value.
var around = []string{
	"", "\ufeff", "\xff\xfe", "\ufffd\ufffd", "\x00", "ï»¿", " ", "\n", "\r\n", "\t", "\u00a0", "\u200b", "\u00ad",
	"\x1b[200~", `"`, "'", "`", "“", "”", "Bearer ", "NAME=", "NAME: ", "export NAME=", "$env:NAME = ",
	"@", "/", `\`, `\n`, "…", "...", "***", "<", ">", "${", "}", "{{ ", "%", `{"a":"`, "[", ".", ",", "--", "–",
	"https://", "hvs.", "# ",
}

func seed(f *testing.F, values ...string) {
	f.Helper()
	for _, value := range values {
		for _, before := range around {
			for _, after := range []string{"", before} {
				f.Add(before + value + after)
			}
		}
	}
}

// isOneOf reports whether the error is the message of one of the mistakes, and so holds nothing of
// the value.
func isOneOf(err error, mistakes []mistake) bool {
	return slices.ContainsFunc(mistakes, func(m mistake) bool { return m.message == err.Error() })
}

// FuzzParseUserAPIToken gives any text as a token. What is accepted is the given token, without the
// characters around it that a token cannot have.
func FuzzParseUserAPIToken(f *testing.F) {
	seed(f, aToken, aToken[:20], aToken[20:], aToken+aToken, strings.Join(strings.Split(aToken, ""), "\x00"), "token")
	f.Fuzz(func(t *testing.T, given string) {
		token, err := ParseUserAPIToken(given)
		switch {
		case err != nil:
			if token != "" || !isOneOf(err, tokenMistakes) {
				t.Errorf("%q, or an error with something of the value: %v", token, err)
			}
		case !strings.Contains(given, token) || strings.ContainsFunc(token, isNeverInJWT) ||
			strings.Count(token, ".") != 2:
			t.Errorf("%q was taken of %q", token, given)
		default:
			if again, err := ParseUserAPIToken(token); again != token || err != nil {
				t.Errorf("%q is not taken as it was taken: %v", token, err)
			}
		}
	})
}

// FuzzDiagnoseBundle gives any text as a bundle. A diagnosis is one of the known messages.
func FuzzDiagnoseBundle(f *testing.F) {
	seed(f, aCertificate, aCertificate+aCertificate, aCertificate[:50], aCertificate[50:],
		strings.ReplaceAll(aCertificate, "\n", " "),
		strings.ReplaceAll(aCertificate, "CERTIFICATE", "PRIVATE KEY"), "ca.pem", aToken)
	f.Fuzz(func(t *testing.T, given string) {
		if err := DiagnoseBundle(given); err != nil && !isOneOf(err, slices.Concat(pemMistakes, nonPEMMistakes)) {
			t.Errorf("something of the value is told: %v", err)
		}
		if line := "-----BEGIN EC PRIVATE KEY-----"; !HoldsPrivateKey(given+line) || !HoldsPrivateKey(line+given) {
			t.Error("a private key was not found")
		}
	})
}
