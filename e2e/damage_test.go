// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A flipped bit on the disk stays where it is.

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// TestAFlippedBitStaysWhereItIs damages entries on the disk of a server that does not run. Vault's
// seal finds that before the engine sees it; the engine is to take it for damage all the same, and
// not for an outage.
func TestAFlippedBitStaysWhereItIs(t *testing.T) {
	t.Parallel()
	server := startRaft(t)
	m := newMountOn(t, server, api.MountConfigInput{}, nil)
	for _, role := range []string{"damaged", "damaged-session", "sound"} {
		m.role(role, "0")
	}
	ended, sound := m.read("damaged-session"), m.read("sound")

	server.Kill()
	for _, key := range []string{"role/damaged", "session/damaged-session", "learnt/default"} {
		flipBits(t, server, key)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		_, err := m.tryRead("sound")
		return err
	})
	if answer := m.read("sound"); answer.token != sound.token {
		t.Error("a role beside it has another token")
	}
	if answer := m.read("damaged-session"); answer.token == ended.token || !m.AccessTokenLives(answer.token) {
		t.Error("a session that cannot be read was read")
	}
	m.fails(http.StatusInternalServerError, request{operation: opRead, path: "roles/damaged"},
		"the stored entry role/damaged cannot be read: it is damaged")
}

// flipBits flips a bit in each copy of the value that the server's database has of the entry. In
// its file, a value stands behind its key.
func flipBits(t *testing.T, server *testbed.Server, key string) {
	t.Helper()
	path := filepath.Join(server.Directory, "raft", "vault.db")
	database, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What is stored begins with the number of the key that seals it, which is 1, in four bytes.
	places := regexp.MustCompile(`logical/[0-9a-f-]{36}/`+regexp.QuoteMeta(key)+`\x00\x00\x00\x01`).FindAllIndex(
		database, -1,
	)
	if len(places) == 0 {
		t.Fatalf("%s is not in the database", key)
	}
	for _, place := range places {
		database[place[1]+40] ^= 1
	}
	if err := os.WriteFile(path, database, 0o600); err != nil {
		t.Fatal(err)
	}
}
