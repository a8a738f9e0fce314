// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"testing"
	"time"
)

func TestAClusterOutlivesItsActiveNode(t *testing.T) {
	binary, err := ServerBinary(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := StartCluster(t.Context(), Options{Binary: binary}, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	}()
	killed, err := cluster.Active(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	killed.Kill()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if active, err := cluster.Active(t.Context()); err == nil {
			if active == killed {
				t.Error("a node that was killed is active")
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no other node took over")
		}
	}
}
