// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package sessions

import (
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/internal/store"
)

// chain returns a role with the configs a, b and so on, of one server. It is called with what each
// of them is: in service, refused, failing (its user), elsewhere (another url), or gone.
func chain(t *testing.T, states ...string) (*store.Role, sources) {
	t.Helper()
	entries := newEntries(t)
	role := &store.Role{Config: "a", CredentialType: store.Shared}
	var found sources
	for i, state := range states {
		name := string(rune('a' + i))
		if i > 0 {
			role.FallbackConfigs = append(role.FallbackConfigs, name)
		}
		config := &store.Config{Name: name, URL: "https://one.example", UserAPIToken: name}
		one := source{config: config}
		switch state {
		case "refused", "failing":
			one.out = &store.OutOfService{Since: time.Now(), Reason: "of " + name, Kind: "kind of " + name}
			one.out.UserFails = state == "failing"
		case "elsewhere":
			config.URL = "https://two.example"
		case "gone":
			one.config = nil
		}
		entries.Configs.Keep(name, config) // which sets the fingerprint
		found = append(found, one)
	}
	entries.Roles.Keep("r", role)
	return role, found
}

func namesOf(configs []*store.Config) string {
	var names []string
	for _, config := range configs {
		names = append(names, config.Name)
	}
	return strings.Join(names, "")
}

// The first config that is in service and of the role's server gives the next token; if there is
// none, that is the role's own.
func TestWhichConfigGivesTheNextToken(t *testing.T) {
	for name, test := range map[string]struct {
		states    []string
		inService string
		preferred string
		allOut    string // those that the error names
	}{
		"one config":             {[]string{"in service"}, "a", "a", ""},
		"the first":              {[]string{"in service", "in service"}, "ab", "a", ""},
		"the second":             {[]string{"refused", "in service"}, "b", "b", ""},
		"beyond one that fails":  {[]string{"failing", "failing", "in service"}, "c", "c", ""},
		"beyond another server":  {[]string{"failing", "elsewhere", "in service"}, "c", "c", ""},
		"beyond one that is not": {[]string{"failing", "gone", "in service"}, "c", "c", ""},
		"none":                   {[]string{"failing", "refused"}, "", "a", "ab"},
		"none that counts":       {[]string{"failing", "gone", "elsewhere", "refused"}, "", "a", "ad"},
	} {
		t.Run(name, func(t *testing.T) {
			_, found := chain(t, test.states...)
			if got := namesOf(found.inService()); got != test.inService {
				t.Errorf("%q are in service, not %q", got, test.inService)
			}
			if got := found.preferred().Name; got != test.preferred {
				t.Errorf("the next token is of %q, not %q", got, test.preferred)
			}
			failure := found.allOut("r")
			if (failure != nil) != (test.allOut != "") {
				t.Fatal("all are out:", failure)
			}
			if failure == nil {
				return
			}
			var named string
			for _, out := range failure.Out {
				named += out.Config
				if !strings.Contains(failure.Error(), "of "+out.Config) {
					t.Errorf("the error does not give the reason of %q: %v", out.Config, failure)
				}
			}
			if named != test.allOut || !strings.Contains(failure.Error(), `role "r"`) || failure.kind() != "kind of a" {
				t.Errorf("the error names %q: %v", named, failure)
			}
		})
	}
	_, alone := chain(t, "failing")
	if failure := alone.allOut("r"); failure != nil {
		t.Error("a role without a fallback:", failure)
	}
}

// A token in hand is handed out while the role names its config, of the same server, and its user is
// not known to fail.
func TestWhichTokenInHandIsHandedOut(t *testing.T) {
	for name, test := range map[string]struct {
		states []string
		of     string
		change func(*store.Session)
		want   bool
	}{
		"of the first":                  {states: []string{"in service", "in service"}, of: "a", want: true},
		"of a fallback":                 {states: []string{"in service", "in service"}, of: "b", want: true},
		"of one that is refused":        {states: []string{"refused", "in service"}, of: "a", want: true},
		"of one whose user fails":       {states: []string{"failing", "in service"}, of: "a"},
		"of a fallback whose user does": {states: []string{"in service", "failing"}, of: "b"},
		"of one of another server":      {states: []string{"in service", "elsewhere"}, of: "b"},
		"of one that is gone":           {states: []string{"in service", "gone"}, of: "b"},
		"of one that is not named":      {states: []string{"in service", "in service"}, of: "z"},
		"of an earlier version": {
			states: []string{"in service", "in service"}, of: "a",
			change: func(s *store.Session) { s.ConfigFingerprint = "another" },
		},
		"of an earlier version of the role": {
			states: []string{"in service", "in service"}, of: "a",
			change: func(s *store.Session) { s.RoleFingerprint = "another" },
		},
		"none": {
			states: []string{"in service", "in service"}, of: "a",
			change: func(s *store.Session) { s.Current = nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			role, found := chain(t, test.states...)
			session := sessionOf(role, found, test.of)
			if test.change != nil {
				test.change(session)
			}
			token, config := found.inHand(role, session)
			if (token != nil) != test.want {
				t.Errorf("handed out: %t", token != nil)
			}
			if token == nil && config != found.preferred() || token != nil && config.Name != test.of {
				t.Error("the config:", config.Name)
			}
		})
	}
	role, found := chain(t, "in service")
	if token, _ := found.inHand(role, nil); token != nil {
		t.Error("a token of no session")
	}
}

// sessionOf returns a session of the role with a token of the config of that name, an hour old.
func sessionOf(role *store.Role, found sources, config string) *store.Session {
	issued := time.Now().Add(-time.Hour)
	session := &store.Session{
		RoleFingerprint: role.Fingerprint(),
		Current: &store.Token{
			Origin: store.Origin{Config: config, URL: "https://one.example"}, AccessToken: "t", IssuedAt: issued,
		},
		LastReadAt: issued.Add(time.Minute),
	}
	for _, one := range found {
		if one.config != nil && one.config.Name == config {
			session.ConfigFingerprint = one.config.Fingerprint()
			session.Current.URL = one.config.URL
		}
	}
	return session
}

// A token is replaced at once if it was read, its user fails, and another config is in service.
func TestWhichTokensAreReplacedAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		states []string
		of     string
		change func(*snapshot)
		want   bool
	}{
		"its user fails":           {states: []string{"failing", "in service"}, of: "a", want: true},
		"its user, of a fallback":  {states: []string{"in service", "failing"}, of: "b", want: true},
		"it is refused":            {states: []string{"refused", "in service"}, of: "a"},
		"it is in service":         {states: []string{"in service", "in service"}, of: "a"},
		"no other is in service":   {states: []string{"failing", "refused"}, of: "a"},
		"there is no other":        {states: []string{"failing"}, of: "a"},
		"of one that is not named": {states: []string{"failing", "in service"}, of: "z"},
		"there is no session": {
			states: []string{"failing", "in service"}, of: "a",
			change: func(s *snapshot) { s.session = nil },
		},
		"there is no token": {
			states: []string{"failing", "in service"}, of: "a",
			change: func(s *snapshot) { s.session.Current = nil },
		},
		"it may be handed out": {
			states: []string{"failing", "in service"}, of: "a",
			change: func(s *snapshot) { s.token = s.session.Current },
		},
		"nobody read it": {
			states: []string{"failing", "in service"}, of: "a",
			change: func(s *snapshot) { s.session.LastReadAt = s.session.Current.IssuedAt.Add(-1) },
		},
		"it was read as it was issued": {
			states: []string{"failing", "in service"}, of: "a", want: true,
			change: func(s *snapshot) { s.session.LastReadAt = s.session.Current.IssuedAt },
		},
	} {
		t.Run(name, func(t *testing.T) {
			role, found := chain(t, test.states...)
			snap := &snapshot{
				state: &roleState{role: "r"}, role: role, sources: found, session: sessionOf(role, found, test.of),
			}
			if test.change != nil {
				test.change(snap)
			}
			if got := snap.isDisplaced(); got != test.want {
				t.Errorf("replaced at once: %t", got)
			}
		})
	}
}

// Readers are told why a token does not come from the role's own config, and which fallbacks are
// passed over.
func TestWhatReadersAreToldOfTheConfigs(t *testing.T) {
	for name, test := range map[string]struct {
		states string
		of     int
		want   []string
	}{
		"nothing":                {"in service, in service", 0, nil},
		"the first is out":       {"refused, in service", 1, []string{`config "a" is out of service since`}},
		"the first is back":      {"in service, in service", 1, []string{`config "a" is in service again`}},
		"the first, though out":  {"refused, in service", 0, nil},
		"one is gone":            {"in service, gone", 0, []string{`config "b" is passed over: it does not exist`}},
		"one is elsewhere":       {"in service, elsewhere", 0, []string{`config "b" is passed over: its url`}},
		"each that is passed by": {"in service, gone, elsewhere", 0, []string{`"b" is passed`, `"c" is passed`}},
	} {
		t.Run(name, func(t *testing.T) {
			role, found := chain(t, strings.Split(test.states, ", ")...)
			warnings := found.warnings(role, found[test.of].config)
			if len(warnings) != len(test.want) {
				t.Error("the warnings:", warnings)
			}
			for _, want := range test.want {
				tells := func(warning string) bool { return strings.Contains(warning, want) }
				if !slices.ContainsFunc(warnings, tells) {
					t.Errorf("no warning tells of %q: %v", want, warnings)
				}
			}
		})
	}
}

func TestTheRankOfAConfigIsItsPlaceInTheOrder(t *testing.T) {
	_, found := chain(t, "in service", "gone", "in service")
	for config, want := range map[string]int{"a": 0, "b": 3, "c": 2, "z": 3} {
		if got := found.rank(config); got != want {
			t.Errorf("%s has the rank %d, want %d", config, got, want)
		}
	}
}

// A snapshot is made anew as soon as one of the role's configs is another, or is out of service.
func TestASnapshotKnowsWhatEachConfigIsNow(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		for what, change := range map[string]func(*Manager){
			"is out": func(m *Manager) {
				m.store.OutOfService.Keep(name,
					&store.OutOfService{ConfigWrittenAt: m.started, Since: m.started, Reason: "r"})
			},
			"is written": func(m *Manager) {
				m.store.Configs.Keep(name, &store.Config{URL: "https://one.example", UserAPIToken: "another"})
			},
		} {
			m := newTestManager(t)
			for _, config := range []string{"a", "b", "c"} {
				m.store.Configs.Keep(config,
					&store.Config{URL: "https://one.example", UserAPIToken: config, WrittenAt: m.started})
			}
			m.store.Roles.Keep("r", &store.Role{
				Config: "a", FallbackConfigs: []string{"b", "c"}, CredentialType: store.Shared,
			})
			before, err := m.snapshot(t.Context(), "r")
			if err != nil {
				t.Fatal(err)
			}
			if same, err := m.snapshot(t.Context(), "r"); err != nil || same != before {
				t.Error("without a change, there is another snapshot:", err)
			}
			change(m)
			if after, err := m.snapshot(t.Context(), "r"); err != nil || after == before {
				t.Errorf("config %s %s, and the snapshot is the one from before: %v", name, what, err)
			}
		}
	}
}
