// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// replicationStateStands is for how long an answer of core about the replication state is not asked
// for again.
const replicationStateStands = time.Second

// cachingSystemView returns the replication state from memory for a second. The framework asks for
// it at every request, and for a plugin each question is a call back to Vault's process.
type cachingSystemView struct {
	logical.SystemView
	last atomic.Pointer[replicationState]
}

type replicationState struct {
	state consts.ReplicationState
	at    time.Time
}

func (v *cachingSystemView) ReplicationState() consts.ReplicationState {
	last := v.last.Load()
	if last == nil || time.Since(last.at) > replicationStateStands {
		last = &replicationState{state: v.SystemView.ReplicationState(), at: time.Now()}
		v.last.Store(last)
	}
	return last.state
}
