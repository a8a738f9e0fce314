// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"context"
	"fmt"
	"time"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/store"
)

// source is a config that a role names, as it is now.
type source struct {
	config *store.Config       // nil: a fallback that does not exist or cannot be read
	out    *store.OutOfService // nil: in service; always so for the only config of a role
}

// sources are the configs that a role names, in the order in which they are tried. The first is the
// role's own config.
type sources []source

// definition returns the role and the configs that it names.
func (m *Manager) definition(ctx context.Context, name string) (*store.Role, sources, error) {
	role, err := m.store.Roles.Get(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if role == nil {
		return nil, nil, fmt.Errorf("%w %q", ErrUnknownRole, name)
	}
	found, err := m.sourcesOf(ctx, role)
	return role, found, err
}

// sourcesOf returns the configs that the role names, as they are now.
func (m *Manager) sourcesOf(ctx context.Context, role *store.Role) (sources, error) {
	first, err := m.firstSource(ctx, role)
	if err != nil {
		return nil, err
	}
	found := sources{first}
	for _, config := range role.FallbackConfigs {
		found = append(found, m.fallbackSource(ctx, config))
	}
	return found, nil
}

// firstSource returns the role's own config. It is an error if it does not exist.
func (m *Manager) firstSource(ctx context.Context, role *store.Role) (source, error) {
	config, err := m.store.Configs.Get(ctx, role.Config)
	if err != nil {
		return source{}, err
	}
	if config == nil {
		return source{}, fmt.Errorf("role %q: %w %q", role.Name, ErrUnknownConfig, role.Config)
	}
	if len(role.FallbackConfigs) == 0 {
		return source{config: config}, nil
	}
	return source{config: config, out: m.outOfService(ctx, config)}, nil
}

// fallbackSource returns a fallback config. One that does not exist or cannot be read is passed
// over, since the role has others. Hot reads do not ask storage for it again.
func (m *Manager) fallbackSource(ctx context.Context, name string) source {
	config, err := m.store.Configs.Named(ctx, name)
	if err != nil || config == nil {
		return source{}
	}
	return source{config: config, out: m.outOfService(ctx, config)}
}

// outOfService returns why that version of the config is out of service. It is nil if the config is
// in service, or if that cannot be read.
func (m *Manager) outOfService(ctx context.Context, config *store.Config) *store.OutOfService {
	out, err := m.store.OutOfService.Get(ctx, config.Name)
	if err != nil || !out.IsOf(config) {
		return nil
	}
	return out
}

// stillNames reports whether the role's sources are still these. Every hot read calls it, so it
// allocates nothing.
func (m *Manager) stillNames(ctx context.Context, role *store.Role, s sources) (bool, error) {
	first, err := m.firstSource(ctx, role)
	if err != nil || first != s[0] {
		return false, err
	}
	for i, config := range role.FallbackConfigs {
		if m.fallbackSource(ctx, config) != s[i+1] {
			return false, nil
		}
	}
	return true, nil
}

// hasFallback reports whether the role names more than its own config.
func (s sources) hasFallback() bool { return len(s) > 1 }

// named returns the config of that name, or nil if no tokens may come from it. A config with
// another url than the role's own config is passed over, since the readers of a role use one
// server.
func (s sources) named(name string) *source {
	for i := range s {
		if config := s[i].config; config != nil && config.Name == name && config.URL == s[0].config.URL {
			return &s[i]
		}
	}
	return nil
}

// inService returns the configs that tokens may come from now, in the order in which they are
// tried.
func (s sources) inService() []*store.Config {
	var configs []*store.Config
	for _, one := range s {
		if one.config != nil && one.config.URL == s[0].config.URL && one.out == nil {
			configs = append(configs, one.config)
		}
	}
	return configs
}

// preferred returns the config from which the next token is to come: the first in service, or the
// role's own if none is.
func (s sources) preferred() *store.Config {
	if configs := s.inService(); len(configs) > 0 {
		return configs[0]
	}
	return s[0].config
}

// inHand returns the session's token and its config, if the token may be handed out: it was
// obtained for the role and one of its configs as they are now, and its user is not known to fail.
// Otherwise it returns nil and the config from which the next token is to come.
func (s sources) inHand(role *store.Role, session *store.Session) (*store.Token, *store.Config) {
	if session != nil && session.Current != nil {
		one := s.named(session.Current.Config)
		if one != nil && session.Serves(one.config, role) && (one.out == nil || !one.out.UserFails) {
			return session.Current, one.config
		}
	}
	return nil, s.preferred()
}

// rank returns the place of the config in the order, or len(s) if it is not one of them.
func (s sources) rank(config string) int {
	for i := range s {
		if s[i].config != nil && s[i].config.Name == config {
			return i
		}
	}
	return len(s)
}

// warnings returns why a token of the config does not come from the role's own config, and which
// fallbacks are passed over.
func (s sources) warnings(role *store.Role, config *store.Config) []string {
	var warnings []string
	first := s[0]
	switch {
	case config == first.config:
	case first.out != nil:
		warnings = append(warnings, health.ForReader(first.config.Name, fmt.Sprintf(
			"this token comes from config %q: config %q is out of service since %s: %s",
			config.Name, first.config.Name, first.out.Since.UTC().Format(time.RFC3339), first.out.Reason)))
	default:
		warnings = append(warnings, fmt.Sprintf("this token comes from config %q: config %q is in service again, and "+
			"gives the next one", config.Name, first.config.Name))
	}
	for i, fallback := range role.FallbackConfigs {
		switch other := s[i+1].config; {
		case other == nil:
			warnings = append(warnings, fmt.Sprintf("fallback_configs: config %q is passed over: it does not exist, "+
				"or cannot be read", fallback))
		case other.URL != first.config.URL:
			warnings = append(warnings, fmt.Sprintf("fallback_configs: config %q is passed over: its url is another "+
				"than that of config %q", fallback, first.config.Name))
		}
	}
	return warnings
}
