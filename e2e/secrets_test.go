// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Whatever the servers of a run write down is searched for secrets.

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// secrets are those of the whole run. All that a server leaves behind is searched for them when it
// ends, and all answers when the run ends.
var secrets secretsOfRun

type secretsOfRun struct {
	mutex      sync.Mutex
	simulators []*simulator.Simulator
	typed      []string
	shown      []shownText
}

// shownText is what an answer showed, save for the token that it was there to hand out.
type shownText struct{ where, text string }

// addSimulator has all searched for what the simulator has issued and will issue.
func (s *secretsOfRun) addSimulator(simulated *simulator.Simulator) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.simulators = append(s.simulators, simulated)
}

// addTyped has all searched for what somebody gave as a secret, be it right or wrong: every string
// in the value.
func (s *secretsOfRun) addTyped(value any) {
	switch value := value.(type) {
	case string:
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.typed = append(s.typed, value)
	case []string:
		for _, element := range value {
			s.addTyped(element)
		}
	case []any:
		for _, element := range value {
			s.addTyped(element)
		}
	case map[string]any:
		for _, element := range value {
			s.addTyped(element)
		}
	}
}

func (s *secretsOfRun) addShown(where, text string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.shown = append(s.shown, shownText{where, text})
}

// searcher returns one that knows the secrets as they are now.
func (s *secretsOfRun) searcher() *searcher {
	s.mutex.Lock() // not for long, since tests that run beside this one add to them
	simulators, typed := slices.Clone(s.simulators), slices.Clone(s.typed)
	s.mutex.Unlock()
	all := newSearcher()
	// A token of nobody: what others have in common with it is no secret.
	all.add("User-API token", simulator.New(simulator.DefaultKnobs()).AddUser(userName))
	for _, simulated := range simulators {
		for _, issued := range simulated.Issued() {
			all.add("access token", issued.Access)
			all.add("refresh token", issued.Refresh)
		}
		for _, secret := range simulated.Secrets() {
			all.add("User-API token", secret) // the others are known already
		}
	}
	for _, secret := range typed {
		all.addVariant("secret that was typed", secret)
	}
	return all
}

// searchShown looks through all answers of the run.
func (s *secretsOfRun) searchShown() error {
	all := s.searcher()
	var found error
	for _, shown := range s.shown {
		found = errors.Join(found, all.search(shown.where, []byte(shown.text)))
	}
	return found
}

// expectNoSecrets sees to it that the run fails where the answer or error holds a secret in any
// place but access_token.
func (m *mount) expectNoSecrets(r request, secret *api.Secret, err error) {
	secrets.addTyped(r.body["user_api_token"])
	var text strings.Builder
	if err != nil {
		text.WriteString(err.Error())
	}
	if secret != nil {
		rest := maps.Clone(secret.Data)
		delete(rest, "access_token")
		encoded, encodingErr := json.Marshal([]any{rest, secret.Warnings, secret.LeaseID})
		if encodingErr != nil {
			m.t.Error(encodingErr)
		}
		text.Write(encoded)
	}
	secrets.addShown(fmt.Sprintf("%s: the answer to %s %s", m.t.Name(), r.operation, r.path), text.String())
}

// endServer ends a server and looks through all that it leaves behind: its log, in which the
// plugin's standard error is, its audit log and its storage. The files stay where there is
// something in them that should not be.
func endServer(server *testbed.Server) error {
	server.Shutdown()
	if err := secrets.searcher().searchDirectory(server.Directory); err != nil {
		return err
	}
	if err := inspectLog(server.LogFile); err != nil { // which quotes the log
		return err
	}
	return server.Stop()
}

// inspectLog looks for a data race or a panic of the plugin in the log of a server.
func inspectLog(path string) error {
	log, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, trouble := range []string{"WARNING: DATA RACE", "panic: "} {
		if at := bytes.Index(log, []byte(trouble)); at >= 0 {
			return fmt.Errorf("%s\n%s", path, log[at:min(len(log), at+4000)])
		}
	}
	return nil
}

// part is a part of a secret that is looked for: short enough to be in a secret that was cut, and
// long enough to stand nowhere by chance.
type part [16]byte

// searcher finds secrets, whole or in part, as they are and in the forms that they could be written
// in unseen.
type searcher struct {
	known map[string]bool
	parts map[part]string // of what it is a part, or common
	sieve []bool          // whether a part may begin so: much faster to look into, for there are many
}

// common is what the searcher says of a part that several secrets have, like the beginning of a
// JWT, as of any other text: it is no secret.
const common = ""

func newSearcher() *searcher {
	return &searcher{known: map[string]bool{}, parts: map[part]string{}, sieve: make([]bool, 1<<sieveBits)}
}

const sieveBits = 22

// beginning is the place in the sieve of what begins so.
func beginning(content []byte) uint64 {
	return binary.LittleEndian.Uint64(content) * 0x9E3779B97F4A7C15 >> (64 - sieveBits)
}

// add has the secret searched for, save for what it has in common with others.
func (s *searcher) add(kind, secret string) {
	if s.known[secret] {
		return
	}
	s.known[secret] = true
	for piece, of := range partsOf(kind, secret) {
		if _, ok := s.parts[piece]; ok {
			of = common
		}
		s.put(piece, of)
	}
}

// addVariant has a secret searched for that may be another with a mistake in it. It comes after
// those.
func (s *searcher) addVariant(kind, secret string) {
	for piece, of := range partsOf(kind, secret) {
		if _, ok := s.parts[piece]; !ok {
			s.put(piece, of)
		}
	}
}

func (s *searcher) put(piece part, of string) {
	s.parts[piece] = of
	s.sieve[beginning(piece[:])] = true
}

// partsOf returns the parts of all forms of a secret. One that is shorter than a part has none.
func partsOf(kind, secret string) map[part]string {
	parts := map[part]string{}
	for _, form := range formsOf(secret) {
		for start := 0; start+len(part{}) <= len(form.text); start += form.step {
			parts[part([]byte(form.text[start:start+len(part{})]))] = kind + form.name
		}
	}
	return parts
}

// form is a way to write a secret. Parts are taken at every so many characters of it.
type form struct {
	name string
	text string
	step int
}

func formsOf(secret string) []form {
	const coarse = 32
	if len(secret) < len(part{}) {
		return nil
	}
	forms := []form{
		{"", secret, 1},
		{" in hexadecimal", hex.EncodeToString([]byte(secret)), coarse},
		{" in hexadecimal", strings.ToUpper(hex.EncodeToString([]byte(secret))), coarse},
		{" as Go prints bytes", strings.Trim(fmt.Sprint([]byte(secret)), "[]"), coarse},
	}
	// What stands before the secret in an encoded text moves it by no, one or two of three bytes.
	// The characters at either end also depend on what is beside the secret.
	for before, mixed := range []int{0, 2, 3} {
		encoded := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("-", before) + secret))
		forms = append(forms, form{" in base64", encoded[mixed : len(encoded)-1], coarse})
	}
	return forms
}

// search returns an error that names each kind of secret in the content, and where the first is.
func (s *searcher) search(name string, content []byte) error {
	counts, first := map[string]int{}, map[string]int{}
	for offset := 0; offset+len(part{}) <= len(content); offset++ {
		if !s.sieve[beginning(content[offset:])] {
			continue
		}
		if of := s.parts[part(content[offset:])]; of != common {
			if counts[of] == 0 {
				first[of] = offset
			}
			counts[of]++
		}
	}
	var found error
	for _, of := range slices.Sorted(maps.Keys(counts)) {
		found = errors.Join(
			found, fmt.Errorf("%s: %s, at offset %d and %d times in all", name, of, first[of], counts[of]),
		)
	}
	return found
}

// searchDirectory is search for all files below the directory.
func (s *searcher) searchDirectory(directory string) error {
	var found error
	return errors.Join(filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found = errors.Join(found, s.search(path, content))
		return nil
	}), found)
}
