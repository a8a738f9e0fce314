// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Help, version and processes of the plugin.

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestEveryPathHasHelp(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	for path, part := range map[string]string{
		"":                     "N-central",
		"config":               "configs",
		"config/default":       "user_api_token",
		"config/default/check": "credential",
		"roles":                "roles",
		"roles/monitoring":     "For least privilege",
		"creds/monitoring":     "min_ttl",
		"sessions":             "sessions",
		"sessions/monitoring":  "Deleting logs all",
		"status":               "no new tokens can be obtained",
	} {
		help, err := m.client.HelpWithContext(t.Context(), m.path+"/"+path)
		if err != nil {
			t.Errorf("help on %q: %v", path, err)
			continue
		}
		expectPart(t, help.Help, part)
		for line := range strings.Lines(help.Help) {
			if len(strings.TrimRight(line, "\n")) > 80 || strings.Contains(line, "<no ") {
				t.Errorf("help on %q has a line that is too wide, or says nothing: %s", path, line)
			}
		}
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
	if mounted.RunningVersion != plugin.Version || mounted.PluginVersion != plugin.Version ||
		mounted.RunningSha256 != plugin.SHA256 {
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
		if err == nil && len(pids) != 1 {
			return fmt.Errorf("plugin processes %v: want one", pids)
		}
		return err
	})
	one.delete("sessions/monitoring")
	if two.read("monitoring").token != second.token {
		t.Error("ending one mount's session replaced the other's token")
	}
	one.expectNothingOf(t, two.ncentral)
	two.expectNothingOf(t, one.ncentral)
}
