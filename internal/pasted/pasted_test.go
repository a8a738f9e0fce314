// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestWhatCannotBeSeenIsTold puts each of these characters into a token and into a certificate.
// People see nothing wrong with either.
func TestWhatCannotBeSeenIsTold(t *testing.T) {
	const characters = "\u00a0\u00ad\u034f\u115f\u1160\u17b4\u180b\u180e\u200b\u200d\u2060\u2065\u3164" +
		"\ufe00\ufe0e\ufe0f\uffa0\U000e0041\U000e0100"
	for _, unseen := range characters {
		inToken := aToken[:9] + string(unseen) + aToken[9:]
		if _, err := ParseUserAPIToken(inToken); err == nil || err.Error() != invisible.message {
			t.Errorf("%U in a token: %v", unseen, err)
		}
		inCertificate := strings.Replace(aCertificate, "MII", "M"+string(unseen)+"II", 1)
		if err := DiagnoseBundle(inCertificate); err == nil || err.Error() != invisible.message {
			t.Errorf("%U in a certificate: %v", unseen, err)
		}
	}
}

// TestPrivateKeyIsFoundInEitherBase64 has a key after characters that the two alphabets of base64
// write differently.
func TestPrivateKeyIsFoundInEitherBase64(t *testing.T) {
	file := "# ???>>>~~~\n-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----\n"
	for alphabet, encoding := range map[string]*base64.Encoding{"+/": base64.StdEncoding, "-_": base64.URLEncoding} {
		encoded := encoding.EncodeToString([]byte(file))
		if !strings.ContainsAny(encoded, alphabet) {
			t.Fatalf("%s has none of %s in it", encoded, alphabet)
		}
		if !HoldsPrivateKey(encoded) {
			t.Errorf("the key was not found in %s", encoded)
		}
	}
}

// TestOnlyATokenIsToldToBeOneInBase64 gives the base64 of other texts too: a host name also has
// dots, and the header of a token begins as a token does.
func TestOnlyATokenIsToldToBeOneInBase64(t *testing.T) {
	const told = "it is the base64 of a token: decode it first, with base64 -d"
	for inside, isToken := range map[string]bool{
		aToken: true, aToken + "\n": true,
		"n-central.example.com": false, strings.Split(aToken, ".")[0]: false,
	} {
		_, err := ParseUserAPIToken(base64.StdEncoding.EncodeToString([]byte(inside)))
		if err == nil || (err.Error() == told) != isToken {
			t.Errorf("the base64 of %q: %v", inside, err)
		}
	}
}
