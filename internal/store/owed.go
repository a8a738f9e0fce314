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
	// Key is the debt's place in storage.
	Key string `json:"-"`
	// Role is the one that the session was opened for, as the key tells.
	Role string `json:"-"`
	Origin
	AccessToken string    `json:"access_token"`
	DiesAt      time.Time `json:"dies_at"`
}

// PutOwed writes down that the role's token is still to be logged out, and answers the debt with its key. Debts lie by
// config and role, so that both can be counted without reading them.
func (s *Store) PutOwed(ctx context.Context, role string, debt Owed) (Owed, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return debt, fmt.Errorf("naming a logout owed: %w", err)
	}
	debt.Key = owedPrefix + debt.Config + "/" + role + "/" + id
	entry, err := logical.StorageEntryJSON(debt.Key, debt)
	if err != nil {
		return debt, fmt.Errorf("encoding a logout owed: %w", err)
	}
	if err := s.storage.Put(ctx, entry); err != nil {
		return debt, fmt.Errorf("writing a logout owed to storage: %w", err)
	}
	return debt, nil
}

// CountOwedOfRole says how many logouts are owed for the role, of whichever config.
func (s *Store) CountOwedOfRole(ctx context.Context, role string) (int, error) {
	configs, err := s.listOwed(ctx, "")
	if err != nil {
		return 0, err
	}
	return s.sumOwed(ctx, configs, func(config string) string { return config + role + "/" })
}

// CountOwedOfConfig says how many logouts are owed at the config's server, for whichever role.
func (s *Store) CountOwedOfConfig(ctx context.Context, config string) (int, error) {
	roles, err := s.listOwed(ctx, config+"/")
	if err != nil {
		return 0, err
	}
	return s.sumOwed(ctx, roles, func(role string) string { return config + "/" + role })
}

func (s *Store) sumOwed(ctx context.Context, names []string, folder func(name string) string) (sum int, err error) {
	for _, name := range names {
		ids, err := s.listOwed(ctx, folder(name))
		if err != nil {
			return 0, err
		}
		sum += len(ids)
	}
	return sum, nil
}

// ListOwed answers up to limit debts of each config, of all its roles.
func (s *Store) ListOwed(ctx context.Context, limit int) ([]Owed, error) {
	configs, err := s.listOwed(ctx, "")
	if err != nil {
		return nil, err
	}
	var debts []Owed
	for _, config := range configs {
		ofConfig, err := s.listOwedOf(ctx, config, limit)
		if err != nil {
			return nil, err
		}
		debts = append(debts, ofConfig...)
	}
	return debts, nil
}

func (s *Store) listOwedOf(ctx context.Context, config string, limit int) ([]Owed, error) {
	roles, err := s.listOwed(ctx, config)
	if err != nil {
		return nil, err
	}
	var debts []Owed
	for _, role := range roles {
		ids, err := s.listOwed(ctx, config+role)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if len(debts) == limit {
				return debts, nil
			}
			debt, err := s.owed(ctx, owedPrefix+config+role+id)
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

func (s *Store) listOwed(ctx context.Context, folder string) ([]string, error) {
	names, err := s.storage.List(ctx, owedPrefix+folder)
	if err != nil {
		return nil, fmt.Errorf("listing the logouts owed: %w", err)
	}
	return names, nil
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
	debt := &Owed{Key: key, Role: strings.Split(key, "/")[2]}
	if err := entry.DecodeJSON(debt); err != nil {
		return nil, fmt.Errorf("a stored logout owed cannot be read: %w", err)
	}
	return debt, nil
}
