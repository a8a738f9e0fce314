// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"
)

func TestPoliciesBoundWhoMayReadWhat(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.write("roles/a", map[string]any{})
	m.write("roles/b", map[string]any{})
	reader := m.clientFor(`path "MOUNT/creds/a" { capabilities = ["read"] }`)
	as := func(r request) request { r.client = reader; return r }
	answer := m.must(as(credsRequest("a")))
	if answer == nil || !m.AccessTokenLives(answer.Data["access_token"].(string)) {
		t.Error("the reader of creds/a got no live token")
	}
	for _, denied := range []request{
		credsRequest("b"),
		{operation: opWrite, path: "creds/a"},
		{operation: opList, path: "config"},
		{operation: opRead, path: "config/default"},
		{operation: opWrite, path: "config/default", body: m.config()},
		{operation: opPatch, path: "config/default", body: map[string]any{"max_retries": 1}},
		{operation: opDelete, path: "config/default"},
		{operation: opWrite, path: "config/default/check"},
		{operation: opList, path: "sessions"},
		{operation: opRead, path: "sessions/a"},
		{operation: opDelete, path: "sessions/a"},
		{operation: opRead, path: "roles/a"},
		{operation: opWrite, path: "roles/a", body: map[string]any{"lease": false}},
	} {
		m.fails(forbidden, as(denied))
	}
}

func TestEveryPathHasHelp(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	for path, part := range map[string]string{
		"":                     "N-central",
		"config":               "configs",
		"config/default":       "user_api_token",
		"config/default/check": "credential",
		"roles":                "roles",
		"roles/monitoring":     "Least privilege is one",
		"creds/monitoring":     "min_ttl",
		"sessions":             "sessions",
		"sessions/monitoring":  "Deleting logs all",
	} {
		help, err := m.client.HelpWithContext(t.Context(), m.path+"/"+path)
		if err != nil {
			t.Errorf("help on %q: %v", path, err)
			continue
		}
		expectPart(t, help.Help, part)
	}
}

func TestPluginReportsItsVersion(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	mounts, err := m.client.Sys().ListMountsWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mounted := mounts[m.path+"/"]
	if mounted == nil {
		t.Fatal("it is not mounted")
	}
	if mounted.RunningVersion != plugin.Version || mounted.PluginVersion != plugin.Version || mounted.RunningSha256 != plugin.SHA256 {
		t.Errorf("running version %q, plugin version %q, checksum %q, want %s and %s",
			mounted.RunningVersion, mounted.PluginVersion, mounted.RunningSha256, plugin.Version, plugin.SHA256)
	}
}

func TestMountsShareOnePluginProcessAndNothingElse(t *testing.T) {
	t.Parallel()
	one, two := newMount(t, nil), newMount(t, nil)
	one.role("monitoring", "0")
	two.role("monitoring", "0")
	first, second := one.read("monitoring"), two.read("monitoring")
	if first.token == second.token || first.Data["url"] == second.Data["url"] {
		t.Error("two mounts answer the same")
	}
	// Mounting starts another process for a moment, which is asked what the plugin is.
	eventually(t, 30*time.Second, func() error {
		pids, err := sharedServer.PluginPIDs()
		if err != nil || len(pids) != 1 {
			return fmt.Errorf("plugin processes %v, %v: want one", pids, err)
		}
		return nil
	})
	one.delete("sessions/monitoring")
	if two.read("monitoring").token != second.token {
		t.Error("ending one mount's session replaced the other's token")
	}
	one.expectNothingOf(t, two.ncentral)
	two.expectNothingOf(t, one.ncentral)
}
