// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"
)

// Owed is a logout that could not be done yet. Debts are few and only the active node's tick pays them, so they are not
// kept in memory.
type Owed struct {
	// Key is the debt's place in storage, below the role's.
	Key string `json:"-"`
	Origin
	AccessToken string    `json:"access_token"`
	DiesAt      time.Time `json:"dies_at"`
}

// PutOwed writes down that the role's token is still to be logged out.
func (s *Store) PutOwed(ctx context.Context, role string, debt Owed) error {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return fmt.Errorf("naming a logout owed: %w", err)
	}
	entry, err := logical.StorageEntryJSON(owedPrefix+role+"/"+id, debt)
	if err != nil {
		return fmt.Errorf("encoding a logout owed: %w", err)
	}
	if err := s.storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("writing a logout owed to storage: %w", err)
	}
	return nil
}

// CountOwed says how many logouts are owed for the role.
func (s *Store) CountOwed(ctx context.Context, role string) (int, error) {
	ids, err := s.storage.List(ctx, owedPrefix+role+"/")
	if err != nil {
		return 0, fmt.Errorf("listing the logouts owed of %s: %w", role, err)
	}
	return len(ids), nil
}

// ListOwed answers up to limit debts, of all roles.
func (s *Store) ListOwed(ctx context.Context, limit int) ([]Owed, error) {
	roles, err := s.storage.List(ctx, owedPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing the logouts owed: %w", err)
	}
	var debts []Owed
	for _, role := range roles {
		ids, err := s.storage.List(ctx, owedPrefix+role)
		if err != nil {
			return nil, fmt.Errorf("listing the logouts owed of %s: %w", strings.TrimSuffix(role, "/"), err)
		}
		for _, id := range ids {
			if len(debts) == limit {
				return debts, nil
			}
			debt, err := s.owed(ctx, owedPrefix+role+id)
			if err != nil {
				return nil, err
			}
			if debt != nil {
				debts = append(debts, *debt)
			}
		}
	}
	return debts, nil
}

// DeleteOwed strikes a debt that ListOwed answered.
func (s *Store) DeleteOwed(ctx context.Context, debt Owed) error {
	if err := s.storage.Delete(ctx, debt.Key); err != nil {
		return fmt.Errorf("deleting a logout owed: %w", err)
	}
	return nil
}

func (s *Store) owed(ctx context.Context, key string) (*Owed, error) {
	entry, err := s.storage.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("reading a logout owed: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	debt := &Owed{Key: key}
	if err := entry.DecodeJSON(debt); err != nil {
		return nil, fmt.Errorf("a stored logout owed cannot be read: %w", err)
	}
	return debt, nil
}
