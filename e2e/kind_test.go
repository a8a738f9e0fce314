// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Where Vault and OpenBao differ.

package e2e

import (
	"context"
	"time"

	"vault-plugin-secrets-ncentral/scripts/testbed"
)

// kind is what the tests must know of the server that they run on. All else holds on both kinds.
type kind struct {
	// name is what the pages call it.
	name string
	// dropsOfDocument says that its OpenAPI document drops what plugins say of maps, and of PATCH.
	// By the source of OpenBao 2.6, PATCH is there.
	dropsOfDocument bool
	// answersOnStandbys says that a standby answers an unleased read of a token in hand itself.
	// Vault's does so in its Enterprise edition only.
	answersOnStandbys bool
	// standbyLag is for how long a standby may answer by what was stored before.
	standbyLag time.Duration
	// standbysMayFailToRevoke says that a standby may fail to revoke a lease. By the source of
	// OpenBao 2.6, it hands that on.
	standbysMayFailToRevoke bool
	// auditsInOtherOrder says that the fields of its audit log are in another order than Vault's,
	// which the runbook shows.
	auditsInOtherOrder bool
}

// serverKind is the kind of the server that the tests run on. Set by TestMain.
var serverKind kind

func kindOf(ctx context.Context, binary string) kind {
	if testbed.IsOpenBao(ctx, binary) {
		return kind{
			name:                    "OpenBao",
			dropsOfDocument:         true,
			answersOnStandbys:       true,
			standbyLag:              time.Second,
			standbysMayFailToRevoke: true,
			auditsInOtherOrder:      true,
		}
	}
	return kind{name: "Vault"}
}
