// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// An entry that cannot be read is an error of its own, and of nothing else.

package backend

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// exists returns what decides whether Vault asks its policies for create or update.
func (m *mount) exists(path string) bool {
	m.t.Helper()
	checked, found, err := m.backend.HandleExistenceCheck(context.Background(), &logical.Request{
		Operation: logical.CreateOperation, Path: path, Storage: m.storage,
	})
	if !checked || err != nil {
		m.t.Errorf("existence check of %s: %t %v", path, checked, err)
	}
	return found
}

// inDamagedBubble has the entries of those keys damaged, and a plugin that has seen none of them
// sound.
func inDamagedBubble(t *testing.T, keys []string, test func(m *mount)) {
	t.Helper()
	inBubble(t, nil, func(m *mount) {
		m.write("config/other", map[string]any{
			"url": m.server.URL, "user_api_token": m.AddUser("other"), "password_max_age": 0,
		})
		m.write("roles/other", map[string]any{"config": "other", "lease": false})
		m.expectLives(m.readRole("other"))
		m.expectLives(m.read(nil))
		for _, key := range keys {
			m.damage(key)
		}
		m.start()
		m.ResetCounts()
		m.sent()
		test(m)
	})
}

func TestAnUnreadableEntryIsAnErrorThatNamesItAndTheRemedy(t *testing.T) {
	inDamagedBubble(t, []string{"config/default", "role/other"}, func(m *mount) {
		for path, key := range map[string]string{
			"config/default": "config/default", "creds/monitoring": "config/default",
			"sessions/monitoring": "config/default",
			"roles/other":         "role/other", "creds/other": "role/other", "sessions/other": "role/other",
		} {
			m.fails(500, opRead, path, nil, "the stored entry "+key+" cannot be read: it is damaged", "delete it")
		}
	})
}

// Whoever may only create must not replace it, and whoever may update can.
func TestAnUnreadableEntryExists(t *testing.T) {
	inDamagedBubble(t, []string{"config/default", "role/monitoring"}, func(m *mount) {
		for _, path := range []string{"config/default", "roles/monitoring"} {
			if !m.exists(path) {
				t.Errorf("%s does not exist", path)
			}
		}
	})
}

func TestAnUnreadableEntryIsReplacedByAFullWriteAlone(t *testing.T) {
	inDamagedBubble(t, []string{"config/default", "role/monitoring"}, func(m *mount) {
		full := map[string]any{"url": m.server.URL, "user_api_token": m.token}
		for _, write := range []struct {
			operation logical.Operation
			path      string
			data      map[string]any
		}{
			{opPatch, "config/default", full},
			{opWrite, "config/default", map[string]any{"max_retries": 1}},
			{opWrite, "config/default", map[string]any{"url": m.server.URL}},
			{opPatch, "roles/monitoring", map[string]any{"config": "default"}},
			{opWrite, "roles/monitoring", map[string]any{"lease": false}},
		} {
			m.fails(
				400, write.operation, write.path, write.data,
				"cannot be read: it is damaged: restore it, write it again with all that a new one needs, or delete it",
			)
		}
		for path, data := range map[string]map[string]any{
			"config/default": full, "roles/monitoring": {"config": "default", "lease": false},
		} {
			if warnings := m.write(path, data); !strings.Contains(warnings, "the entry before could not be read") {
				t.Errorf("%s: %s", path, warnings)
			}
		}
		m.expectLives(m.read(nil))
	})
}

func TestAnUnreadableEntryIsDeleted(t *testing.T) {
	inDamagedBubble(t, []string{"config/default", "role/monitoring", "session/monitoring"}, func(m *mount) {
		for path, event := range map[string]string{
			"config/default": "ncentral/config-delete", "roles/monitoring": "ncentral/role-delete",
		} {
			m.delete(path)
			if m.exists(path) || m.must(opRead, path, nil) != nil {
				t.Errorf("%s is still there", path)
			}
			if !slices.ContainsFunc(m.sent(), func(told map[string]string) bool { return told["type"] == event }) {
				t.Errorf("%s: no event %s", path, event)
			}
		}
	})
}

// The sessions of a role that cannot be read can be ended as any others: it may be an incident.
func TestSessionsOfAnUnreadableRoleEnd(t *testing.T) {
	inDamagedBubble(t, []string{"role/monitoring"}, func(m *mount) {
		m.delete("sessions/monitoring")
		m.expectCalls(map[simulator.Endpoint]int{simulator.EndpointLogout: 1})
	})
}

// A role that cannot be read may name the config. It is said, and keeps no config from being
// deleted; one that can be read does.
func TestAnUnreadableRoleKeepsNoConfig(t *testing.T) {
	inDamagedBubble(t, []string{"role/damaged", "role/monitoring"}, func(m *mount) {
		warnings := m.delete("config/default")
		if !strings.Contains(warnings, "role/damaged") || !strings.Contains(warnings, "role/monitoring") {
			t.Error(warnings)
		}
		m.fails(400, opDelete, "config/other", nil, "other")
	})
}

// A role is changed beside a config that cannot be read: it exists.
func TestARoleOfAnUnreadableConfigIsWritten(t *testing.T) {
	inDamagedBubble(t, []string{"config/default"}, func(m *mount) {
		_, warnings := m.answer(opPatch, "roles/monitoring", map[string]any{"ttl": "20m"})
		if !strings.Contains(warnings, "config/default cannot be read") {
			t.Error(warnings)
		}
	})
}

// What cannot be read is listed, so that it can be found, and told of by a warning; all else goes
// on.
func TestAnswersGoOnAndSayWhatTheyLeaveOut(t *testing.T) {
	for key, leftOut := range map[string]map[string]string{
		"config/default":     {"config/": "config/default", "sessions/": "config/default", "status": "config/default"},
		"role/monitoring":    {"roles/": "role/monitoring", "sessions/": "role/monitoring"},
		"session/monitoring": {},
		"learnt/default":     {},
	} {
		t.Run(key, func(t *testing.T) {
			inDamagedBubble(t, []string{key}, func(m *mount) {
				for path, names := range map[string][]string{
					"config/": {"default", "other"}, "roles/": {"monitoring", "other"},
					"sessions/": {"monitoring", "other"},
				} {
					answer, warnings := m.answer(opList, path, nil)
					info, _ := answer["key_info"].(map[string]any)
					if !slices.Equal(answer["keys"].([]string), names) || info["other"] == nil {
						t.Errorf("LIST %s answers %v, %v", path, answer["keys"], info)
					}
					if named := leftOut[path]; (warnings == "") != (named == "") || !strings.Contains(warnings, named) {
						t.Errorf("LIST %s: %q", path, warnings)
					}
				}
				answer, warnings := m.answer(opRead, "status", nil)
				named := leftOut["status"]
				if answer["configs"].(map[string]any)["other"] == nil || (warnings == "") != (named == "") ||
					!strings.Contains(warnings, named) {
					t.Errorf("status: %v %q", answer, warnings)
				}
				metrics := m.metrics()
				if metrics["config_state{config=other,state=unknown}"] != 1 ||
					(metrics["unreadable_configs"] == 1) != (key == "config/default") {
					t.Errorf("metrics: %v", metrics)
				}
				m.Reboot()
				_, _ = m.backend.HandleRequest(context.Background(), &logical.Request{
					Operation: logical.RollbackOperation, Storage: m.storage,
				})
				m.expectLives(m.readRole("other")) // found dead and replaced by the tick
			})
		})
	}
}

// A role whose config is no more keeps no list from its answer: a role that cannot be read keeps no
// config, and may be restored after it.
func TestARoleWithoutAConfigKeepsNoListFromItsAnswer(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		if err := m.storage.Delete(context.Background(), "config/default"); err != nil {
			t.Fatal(err)
		}
		m.start()
		for _, path := range []string{"roles/", "sessions/"} {
			if keys := m.must(opList, path, nil)["keys"]; !slices.Equal(keys.([]string), []string{"monitoring"}) {
				t.Errorf("%s: %v", path, keys)
			}
		}
		m.fails(400, opRead, "creds/monitoring", nil, `unknown config "default"`)
		m.delete("sessions/monitoring")
	})
}

func TestStatusAndMetricsTellOfNothingWhereNothingCanBeRead(t *testing.T) {
	inDamagedBubble(t, []string{"config/default", "config/other"}, func(m *mount) {
		answer, warnings := m.answer(opRead, "status", nil)
		if len(answer["configs"].(map[string]any)) != 0 || strings.Count(warnings, "left out: ") != 2 {
			t.Errorf("%v %s", answer, warnings)
		}
		if unreadable := m.metrics()["unreadable_configs"]; unreadable != 2 {
			t.Error(unreadable)
		}
	})
}

// A stored config of which no client can be made is an error that names it, for readers of either
// kind.
func TestAConfigOfWhichNoClientCanBeMadeIsNamed(t *testing.T) {
	inDedicatedBubble(t, nil, func(m *mount) {
		entry, err := m.storage.Get(context.Background(), "config/default")
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := entry.DecodeJSON(&config); err != nil {
			t.Fatal(err)
		}
		config["ca_cert"] = "no certificate"
		entry, err = logical.StorageEntryJSON("config/default", config)
		if err != nil || m.storage.Put(context.Background(), entry) != nil {
			t.Fatal(err)
		}
		m.start()
		for _, path := range []string{"creds/monitoring", "creds/worker"} {
			m.fails(500, opRead, path, nil, `config "default"`)
		}
		m.expectCalls(nil)
	})
}

// Sessions that storage does not tell of are an error, and no sessions that are not there.
func TestSessionsThatStorageDoesNotTellOfAreAnError(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		m.start()
		m.storage.refusesReads.Store(new("session/"))
		m.fails(500, opRead, "sessions/monitoring", nil, "storage")
	})
}
