// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A secret is found in each form in which it could be written.

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// TestASecretIsFoundInEachOfItsForms plants a secret, in a file of its own for each way in which it
// could be written.
func TestASecretIsFoundInEachOfItsForms(t *testing.T) {
	t.Parallel()
	simulated := simulator.New(simulator.DefaultKnobs())
	secret, other := simulated.AddUser("one"), simulated.AddUser("other")
	all := newSearcher()
	all.add("User-API token", secret)
	all.add("User-API token", other)

	parts := strings.Split(secret, ".")
	for name, written := range map[string]string{
		"whole":                    secret,
		"claims":                   parts[1],
		"signature":                parts[2],
		"last 20 characters":       secret[len(secret)-20:],
		"part of the signature":    parts[2][7:27],
		"base64":                   base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 for URLs":          base64.URLEncoding.EncodeToString([]byte(secret)),
		"base64, one byte before":  base64.StdEncoding.EncodeToString([]byte(" " + secret)),
		"base64, two bytes before": base64.StdEncoding.EncodeToString([]byte("  " + secret)),
		"base64 of a header": base64.StdEncoding.EncodeToString(
			[]byte("Authorization: Bearer " + secret + "\r\n"),
		),
		"base64 of the claims":      base64.StdEncoding.EncodeToString([]byte(parts[1])),
		"base64 of the signature":   base64.StdEncoding.EncodeToString([]byte("." + parts[2])),
		"hexadecimal":               fmt.Sprintf("%x", secret),
		"hexadecimal in upper case": fmt.Sprintf("%X", secret),
		"bytes":                     fmt.Sprint([]byte(secret)),
		"JSON":                      fmt.Sprintf("{%q:%q}\n", "token", secret),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			directory := t.TempDir()
			path := filepath.Join(directory, "raft", "vault.db")
			before := strings.Repeat("\x00", 5000)
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(before+written+before), 0o600); err != nil {
				t.Fatal(err)
			}
			err := all.searchDirectory(directory)
			if err == nil {
				t.Fatal("it is not found")
			}
			for _, told := range []string{path, "User-API token", "at offset 5"} {
				if !strings.Contains(err.Error(), told) {
					t.Errorf("the error does not tell of %q", told)
				}
			}
			if strings.Contains(err.Error(), written) {
				t.Error("the error tells the secret")
			}
		})
	}
}

func TestWhatIsNoSecretIsNotFound(t *testing.T) {
	t.Parallel()
	simulated := simulator.New(simulator.DefaultKnobs())
	one, two := simulated.AddUser("one"), simulated.AddUser("two")
	all := newSearcher()
	all.add("User-API token", one)
	all.add("User-API token", two)
	header, _, _ := strings.Cut(one, ".")
	harmlessTexts := []string{"", "short", header, fingerprint(one), one[len(one)-15:]}
	for before := range 3 { // a certificate may hold the name too
		issuer := strings.Repeat(" ", before) + `"iss":"ncentral-simulator",`
		harmlessTexts = append(harmlessTexts, base64.StdEncoding.EncodeToString([]byte(issuer)))
	}
	for _, harmless := range harmlessTexts {
		if all.search("text", []byte(harmless)) != nil {
			t.Errorf("a secret is found in %d characters that have none", len(harmless))
		}
	}
}

func TestSecretsThatWereTypedAreFound(t *testing.T) {
	t.Parallel()
	var run secretsOfRun
	simulated := simulator.New(simulator.DefaultKnobs())
	run.addSimulator(simulated)
	issued, noJWT := simulated.AddUser("one"), rand.Text()
	mistyped := withTypo(issued)
	run.addTyped(map[string]any{"tokens": []any{mistyped, []string{noJWT}}, "number": 12345})
	for _, secret := range []string{issued, mistyped, noJWT} {
		run.addShown("an answer", "it is not "+secret)
		if err := run.searchShown(); err == nil || !strings.HasPrefix(err.Error(), "an answer: ") {
			t.Errorf("%v, want that it is in the answer", err)
		}
		run.shown = nil
	}
	err := run.searcher().search("text", []byte(mistyped[len(mistyped)-20:]))
	if err == nil || !strings.Contains(err.Error(), "typed") {
		t.Errorf("%v, want what only the mistyped secret has", err)
	}
}

// withTypo returns the token with one character of its signature changed.
func withTypo(token string) string {
	at := len(token) - 10
	if token[at] == 'A' {
		return token[:at] + "B" + token[at+1:]
	}
	return token[:at] + "A" + token[at+1:]
}
