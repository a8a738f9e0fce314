// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A Vault agent renders the tokens of a role, one after the other.

package e2e

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// tokensOverTwoRotations are how many tokens an agent renders one after the other while its token
// is rotated twice.
const tokensOverTwoRotations = 3

func TestAgentRendersAnUnleasedRole(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "20s")
	agent := startAgent(t, m, "monitoring")
	agent.expectLivingTokens(tokensOverTwoRotations)
	agent.stop()
	agent.expectReadsApart(func(answer *api.Secret) time.Duration {
		if answer.LeaseID != "" {
			t.Error("an unleased role answered a lease")
		}
		return time.Duration(number(t, answer.Data, "ttl")+1) * time.Second
	})
}

// On this server a rotation by refresh would end the token that the agent still shows.
func TestAgentRendersALeasedRole(t *testing.T) {
	t.Parallel()
	m := newMount(t, func(k *simulator.Knobs) { k.RefreshEndsPredecessor = true })
	m.write("roles/monitoring", map[string]any{"ttl": "30s"})
	agent := startAgent(t, m, "monitoring")
	agent.expectLivingTokens(tokensOverTwoRotations)
	agent.stop()
	agent.expectReadsApart(func(answer *api.Secret) time.Duration {
		if answer.LeaseID == "" || answer.Renewable {
			t.Errorf(
				"lease %t, renewable %t: want a lease that is not renewable", answer.LeaseID != "", answer.Renewable,
			)
		}
		return time.Duration(answer.LeaseDuration) * time.Second * 85 / 100
	})
}
