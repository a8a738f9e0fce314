// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

// PendingLogout is a logout that is owed. There are few, and only the active node's tick tries
// them, so memory keeps no copies.
type PendingLogout struct {
	// Key is the logout's key in storage. It names the config, the role and when the token expires,
	// so that logouts can be counted, and expired ones removed, without reading them.
	Key string `json:"-"`
	// Role is the role for which the session was opened. It comes from the key.
	Role string `json:"-"`
	Origin
	AccessToken  string    `json:"access_token"`
	GrantedUntil time.Time `json:"dies_at"`
}

// expiryDigits is the number of digits of the Unix time in a key. It is fixed, so that keys sort by
// expiry.
const expiryDigits = 12

// PutPendingLogout stores that the role's token is still to be logged out, and returns the pending
// logout with its key. If it fails, the entry may have been written all the same, and the returned
// key is that of the entry.
func (s *Store) PutPendingLogout(ctx context.Context, role string, logout PendingLogout) (PendingLogout, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return logout, fmt.Errorf("naming a logout owed: %w", err)
	}
	logout.Role = role
	logout.Key = fmt.Sprintf("%s%s/%s/%0*d-%s", owedPrefix, logout.Config, role, expiryDigits,
		max(logout.GrantedUntil.Unix(), 0), id)
	entry, err := encode(logout.Key, logout)
	if err != nil {
		return logout, fmt.Errorf("encoding a logout owed: %w", err)
	}
	if err := s.storage.Put(ctx, entry); err != nil {
		return logout, fmt.Errorf("writing a logout owed to storage: %w", err)
	}
	return logout, nil
}

// expiryOfID returns when the token of the logout expires, in Unix time. An id is the last part of
// a key. told is false if the id does not say.
func expiryOfID(id string) (seconds int64, told bool) {
	digits, _, _ := strings.Cut(id, "-")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	return seconds, err == nil && len(digits) == expiryDigits
}

// expiredBy reports whether the id says that the token of the logout had expired by then.
func expiredBy(id string, now time.Time) bool {
	seconds, told := expiryOfID(id)
	return told && seconds < now.Unix()
}

// ids returns the ids of the logouts in that folder, CONFIG/ROLE/, the earliest expiry first: those
// that have expired, or those that have not.
func (s *Store) ids(ctx context.Context, folder string, expired bool) ([]string, error) {
	all, err := s.listOwed(ctx, folder)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ids := slices.DeleteFunc(all, func(id string) bool { return expiredBy(id, now) != expired })
	slices.Sort(ids)
	return ids, nil
}

// CountOwedOfRole returns how many logouts are owed for the role, at the servers of all configs.
func (s *Store) CountOwedOfRole(ctx context.Context, role string) (int, error) {
	configs, err := s.listOwed(ctx, "")
	if err != nil {
		return 0, err
	}
	return s.sumOwed(ctx, configs, func(config string) string { return config + role + "/" })
}

// CountOwedOfConfig returns how many logouts are owed at the config's server, for all roles.
func (s *Store) CountOwedOfConfig(ctx context.Context, config string) (int, error) {
	roles, err := s.listOwed(ctx, config+"/")
	if err != nil {
		return 0, err
	}
	return s.sumOwed(ctx, roles, func(role string) string { return config + "/" + role })
}

// OwedUntil returns when the last of those tokens expires for which a logout is owed at the
// config's server, in whole seconds. It is zero if none is owed.
func (s *Store) OwedUntil(ctx context.Context, config string) (last time.Time, err error) {
	roles, err := s.listOwed(ctx, config+"/")
	if err != nil {
		return last, err
	}
	for _, role := range roles {
		ids, err := s.ids(ctx, config+"/"+role, false)
		if err != nil {
			return last, err
		}
		for _, id := range ids {
			if seconds, told := expiryOfID(id); told && time.Unix(seconds, 0).After(last) {
				last = time.Unix(seconds, 0).UTC()
			}
		}
	}
	return last, nil
}

func (s *Store) sumOwed(ctx context.Context, names []string, folder func(name string) string) (sum int, err error) {
	for _, name := range names {
		ids, err := s.ids(ctx, folder(name), false)
		if err != nil {
			return 0, err
		}
		sum += len(ids)
	}
	return sum, nil
}

// ListPendingLogouts returns up to limit logouts of each config that have not expired. The roles of
// a config take turns, and the earliest expiry of each comes first. It returns those that could be
// read even if there is an error, which may be several joined ones.
func (s *Store) ListPendingLogouts(ctx context.Context, limit int) ([]PendingLogout, error) {
	configs, err := s.listOwed(ctx, "")
	var logouts []PendingLogout
	for _, config := range configs {
		keys, listErr := s.keysInTurn(ctx, config, limit)
		err = errors.Join(err, listErr)
		for _, key := range keys {
			if ctx.Err() != nil {
				return logouts, errors.Join(err, ctx.Err())
			}
			logout, readErr := s.owed(ctx, key)
			err = errors.Join(err, readErr)
			if logout != nil {
				logouts = append(logouts, *logout)
			}
		}
	}
	return logouts, err
}

// keysInTurn returns up to limit keys of the config's logouts: one of each role, then a second of
// each, and so on.
func (s *Store) keysInTurn(ctx context.Context, config string, limit int) (keys []string, err error) {
	roles, err := s.listOwed(ctx, config)
	if err != nil {
		return nil, err
	}
	var queues [][]string
	for _, role := range roles {
		ids, err := s.ids(ctx, config+role, false)
		if err != nil {
			return nil, err
		}
		for i := range ids {
			ids[i] = owedPrefix + config + role + ids[i]
		}
		queues = append(queues, ids)
	}
	for turn := 0; len(queues) > 0; turn++ {
		queues = slices.DeleteFunc(queues, func(queue []string) bool { return turn >= len(queue) })
		for _, queue := range queues {
			keys = append(keys, queue[turn])
		}
	}
	return keys[:min(limit, len(keys))], nil
}

// DeleteExpiredLogouts removes the logouts whose tokens have expired, without reading them.
func (s *Store) DeleteExpiredLogouts(ctx context.Context) error {
	configs, err := s.listOwed(ctx, "")
	if err != nil {
		return err
	}
	for _, config := range configs {
		roles, err := s.listOwed(ctx, config)
		if err != nil {
			return err
		}
		for _, role := range roles {
			ids, err := s.ids(ctx, config+role, true)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := s.DeletePendingLogout(ctx, PendingLogout{Key: owedPrefix + config + role + id}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *Store) listOwed(ctx context.Context, folder string) ([]string, error) {
	names, err := s.storage.List(ctx, owedPrefix+folder)
	if err != nil {
		return nil, fmt.Errorf("listing the logouts owed: %w", err)
	}
	return names, nil
}

// DeletePendingLogout removes a logout that ListPendingLogouts or PutPendingLogout returned.
func (s *Store) DeletePendingLogout(ctx context.Context, logout PendingLogout) error {
	if err := s.storage.Delete(ctx, logout.Key); err != nil {
		return fmt.Errorf("deleting a logout owed: %w", err)
	}
	return nil
}

// owed returns the logout of that key, or nil if it was removed in the meantime. A logout that
// cannot be read is removed, since it could never be tried.
func (s *Store) owed(ctx context.Context, key string) (*PendingLogout, error) {
	entry, err := s.storage.Get(ctx, key)
	switch {
	case err == nil && entry == nil:
		return nil, nil
	case err != nil && !tellsOfDamage(err):
		return nil, fmt.Errorf("reading a logout owed: %w", err)
	}
	parts := strings.Split(key, "/")
	logout := &PendingLogout{Key: key, Role: parts[len(parts)-2]}
	if err == nil {
		err = decode(entry, logout)
	}
	if err != nil {
		s.logger.Error("a stored logout owed cannot be read and is removed: the session lives until it expires",
			"key", key, "error", reasonOf(err))
		return nil, s.DeletePendingLogout(ctx, PendingLogout{Key: key})
	}
	return logout, nil
}
