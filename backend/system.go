// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// replicationStateStands is how long the replication state is used before Vault is asked for it
// again.
const replicationStateStands = time.Second

// cachingSystemView keeps the replication state for a second. The framework asks for it at each
// request, and a plugin must call Vault's process for it.
type cachingSystemView struct {
	logical.SystemView
	last atomic.Pointer[replicationState] // nil until it was asked for
}

type replicationState struct {
	state consts.ReplicationState
	at    time.Time
}

// ReplicationState returns what this node is in its cluster.
func (v *cachingSystemView) ReplicationState() consts.ReplicationState {
	last := v.last.Load()
	if last == nil || time.Since(last.at) > replicationStateStands {
		last = &replicationState{state: v.SystemView.ReplicationState(), at: time.Now()}
		v.last.Store(last)
	}
	return last.state
}
