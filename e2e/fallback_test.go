// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Roles with a second user: what they take, what their readers get when the first user dies, and
// what outlives a restart.

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// secondUser is the user behind the config "second".
const secondUser = "second-user"

// foundWithin is how soon after a user's death no token of it is handed out any more: the engine
// asks after it once a minute.
const foundWithin = 70 * time.Second

// writeSecond writes the config "second", of another user of the same server.
func (m *mount) writeSecond() {
	m.t.Helper()
	m.write("config/second", with(with(m.config(), "user_api_token", m.AddUser(secondUser)), "verify", false))
}

// fallbackRole writes an unleased role that falls back to the config "second".
func (m *mount) fallbackRole(name string) {
	m.t.Helper()
	m.write("roles/"+name, map[string]any{"lease": false, "fallback_configs": "second"})
}

// expectFrom fails the test unless the token is the config's, of its user.
func (m *mount) expectFrom(config string, answer credentials) {
	m.t.Helper()
	user := map[string]string{"default": userName, "second": secondUser}[config]
	issued, _ := m.IssuedWith(answer.token)
	if answer.Data["config"] != config || issued.User != user {
		m.t.Errorf("a token of config %v and user %s, want one of %s", answer.Data["config"], issued.User, config)
	}
}

// authenticates are the calls of authenticate since then with that User-API token.
func (n *ncentral) authenticates(userAPIToken string, since time.Time) (count int) {
	for _, made := range n.Requests() {
		if made.Endpoint == simulator.EndpointAuthenticate && made.Secret == userAPIToken && !made.Time.Before(since) {
			count++
		}
	}
	return count
}

// A user that does not work is found by the tick, though its tokens live. Until then no reader gets
// an error, and from then on none gets its token.
func TestADeadUserIsFoundWithinAMinute(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	m.fallbackRole("unleased")
	m.write("roles/leased", map[string]any{"fallback_configs": []string{"second"}})
	m.write("roles/worker", map[string]any{"fallback_configs": "second", "credential_type": "dedicated"})
	for _, role := range []string{"unleased", "leased", "worker"} {
		m.expectFrom("default", m.read(role))
	}
	expirePassword(m)
	died := time.Now()
	eventually(t, foundWithin, func() error {
		if config := m.read("unleased").Data["config"]; config != "second" {
			return fmt.Errorf("a token of config %v", config)
		}
		return nil
	})
	found := time.Now()
	t.Logf("found %s after the user died", found.Sub(died).Round(time.Second))
	for range 10 {
		for _, role := range []string{"unleased", "leased", "worker"} {
			answer := m.read(role)
			m.expectFrom("second", answer)
			if !warns(answer.Warnings, `config "default" is out of service since`) {
				t.Errorf("no warning tells why: %q", answer.Warnings)
			}
		}
	}
	if tries := m.authenticates(m.userAPIToken, found); tries > 0 {
		t.Errorf("the dead user was tried %d times", tries)
	}
}

// What is known of the dead user outlives the processes: nobody asks N-central about it anew, and
// nobody is handed its tokens.
func TestAConfigOutOfServiceStaysOutOverRestarts(t *testing.T) {
	t.Parallel()
	server := startRaft(t)
	m := newMountOn(t, server, api.MountConfigInput{}, nil)
	m.writeSecond()
	m.fallbackRole("monitoring")
	m.write("roles/leased", map[string]any{"fallback_configs": "second"})
	m.read("monitoring")
	m.read("leased")
	expirePassword(m)
	second, leased := m.read("monitoring", "validate", "true"), m.read("leased")
	m.expectFrom("second", second)
	m.expectFrom("second", leased)
	out := m.outOfServiceSince()
	found := time.Now()
	m.ResetCounts()

	for _, step := range restarts(t, server) {
		if answer := m.readAfter(step, "monitoring"); answer.token != second.token {
			t.Errorf("after %s another token was answered, of config %v", step.name, answer.Data["config"])
		}
		if answer := m.read("leased"); answer.token != leased.token {
			t.Errorf("after %s another token was answered under a lease, of config %v", step.name,
				answer.Data["config"])
		}
		if since := m.outOfServiceSince(); since == nil || since != out {
			t.Errorf("after %s the config is out of service since %v, not %v", step.name, since, out)
		}
		m.expectCalls(nil)
	}
	if tries := m.authenticates(m.userAPIToken, found); tries > 0 {
		t.Errorf("the dead user was tried %d times", tries)
	}
}

// outOfServiceSince is what status says of the config "default".
func (m *mount) outOfServiceSince() any {
	m.t.Helper()
	configs, _ := m.get("status")["configs"].(map[string]any)
	described, _ := configs["default"].(map[string]any)
	return described["out_of_service_since"]
}

// A consumer that compares answers sees a change in ttl alone, save with a new token. It comes back
// as often as it is told to, be it by ttl or by the end of its lease.
func TestRereadIntervalCapsWhatReadersWaitFor(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	body := map[string]any{"ttl": "20m", "reread_interval": "10s", "fallback_configs": "second"}
	m.write("roles/leased", body)
	m.write("roles/unleased", with(body, "lease", false))
	m.write("roles/rarely", with(with(body, "lease", false), "reread_interval", "2h"))

	answer := m.read("leased")
	m.expectToken(answer, 20*time.Minute)
	if answer.LeaseDuration != 10 || answer.Renewable {
		t.Errorf("lease_duration is %d, renewable %t", answer.LeaseDuration, answer.Renewable)
	}
	if _, err := m.client.Sys().RenewWithContext(t.Context(), answer.LeaseID, 3600); statusOf(err) != badRequest {
		t.Errorf("renewing the lease: %v, want 400", err)
	}
	if ttl := number(t, m.read("rarely").Data, "ttl"); ttl < 890 || ttl > 900 {
		t.Errorf("ttl is %d, want what is left of 900 until the rotation, which is earlier", ttl)
	}
	first := m.read("unleased")
	m.expectToken(first, 20*time.Minute)
	if ttl := number(t, first.Data, "ttl"); ttl != 10 {
		t.Errorf("ttl is %d, want 10", ttl)
	}
	if period := number(t, first.Data, "rotation_period"); period != 900 {
		t.Errorf("rotation_period is %d, want 900", period)
	}
	time.Sleep(1100 * time.Millisecond) // times are told in seconds
	second := m.read("unleased")
	expectSame(t, compared(first), compared(second))

	expirePassword(m)
	m.expectFrom("second", m.read("unleased", "validate", "true"))
	after := m.read("unleased")
	m.expectFrom("second", after)
	if after.token == first.token || number(t, after.Data, "ttl") != 10 {
		t.Errorf("after the user died ttl is %v", after.Data["ttl"])
	}
	expectSame(t, compared(after), compared(m.read("unleased")))
}

// compared is what a consumer compares of two answers.
func compared(answer credentials) map[string]any {
	data := maps.Clone(answer.Data)
	delete(data, "ttl")
	return redactedToken(data)
}

// TestBadFallbackConfigs writes each wrong list to a new role and to one that exists, as POST, as
// PATCH and by the command line.
func TestBadFallbackConfigs(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	elsewhere := newNCentral(t, nil)
	m.write("config/elsewhere", with(elsewhere.config(), "verify", false))
	var nine []string
	for number := range 9 {
		nine = append(nine, "spare-"+strconv.Itoa(number))
		m.write("config/"+nine[number], with(m.config(), "verify", false))
	}
	m.fallbackRole("known")
	m.ResetCounts()
	before := m.everything()
	for _, bad := range []struct {
		names []string
		told  string
	}{
		{[]string{"missing"}, `there is no config "missing"`},
		{[]string{"second", "missing"}, `there is no config "missing"`},
		{[]string{"default"}, `"default" is the role's own config`},
		{[]string{"second", "default"}, `"default" is the role's own config`},
		{[]string{"second", "second"}, `"second" is named twice`},
		{[]string{"elsewhere"}, `config "elsewhere" has another url than config "default"`},
		{nine, "9 configs are too many: 8 are allowed"},
		{[]string{"a/b"}, "fallback_configs"},
		{[]string{"a b"}, "fallback_configs"},
		{[]string{strings.Repeat("a", 300)}, "fallback_configs"},
	} {
		for _, value := range []any{bad.names, strings.Join(bad.names, ",")} {
			body := map[string]any{"fallback_configs": value}
			for _, r := range []request{
				{operation: opWrite, path: "roles/new", body: body},
				{operation: opWrite, path: "roles/known", body: body},
				{operation: opPatch, path: "roles/known", body: body},
			} {
				m.fails(badRequest, r, "fallback_configs", bad.told)
			}
		}
		given := "fallback_configs=" + strings.Join(bad.names, ",")
		printed, err := m.commandLine("", "write", m.path+"/roles/new", given)
		if err == nil {
			t.Errorf("the command line wrote %s", given)
		}
		expectPart(t, printed, bad.told)
	}
	// What turns a good list into a wrong one.
	m.fails(
		badRequest, request{operation: opPatch, path: "roles/known", body: map[string]any{"config": "second"}},
		"fallback_configs", "own config",
	)
	m.fails(
		badRequest, request{operation: opPatch, path: "roles/known", body: map[string]any{"config": "elsewhere"}},
		"fallback_configs", "another url",
	)
	expectSame(t, before, m.everything())
	m.write("roles/new", map[string]any{"fallback_configs": nine[:8]}) // as many as there may be
	m.expectCalls(nil)
	elsewhere.expectNothingOf(t, m.ncentral)
}

// A fallback may stand at another server by now: writes of other fields of the role warn of it.
func TestAFallbackThatMovedDoesNotBlockOtherFields(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	m.fallbackRole("known")
	elsewhere := newNCentral(t, nil)
	m.write("config/second", with(elsewhere.config(), "verify", false))
	m.ResetCounts()
	const told = `config "second" has another url than config "default"`
	for _, r := range []request{
		{operation: opWrite, path: "roles/known", body: map[string]any{"min_ttl": "61s"}},
		{operation: opPatch, path: "roles/known", body: map[string]any{"min_ttl": "62s"}},
	} {
		if answer := m.must(r); answer == nil || !warns(answer.Warnings, told) {
			t.Errorf("%s of another field did not warn: %v", r.operation, answer)
		}
	}
	if minTTL := m.get("roles/known")["min_ttl"]; fmt.Sprint(minTTL) != "62" {
		t.Errorf("min_ttl is %v", minTTL)
	}
	for _, body := range []map[string]any{
		{"fallback_configs": []string{"second"}}, {"config": "default"}, {"config": nil},
	} {
		m.fails(badRequest, request{operation: opPatch, path: "roles/known", body: body}, "fallback_configs", told)
	}
	m.must(request{operation: opPatch, path: "roles/known", body: map[string]any{"fallback_configs": nil}})
	m.expectCalls(nil)
	elsewhere.expectNothingOf(t, m.ncentral)
}

func TestBadRereadInterval(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("known", "0")
	before := m.everything()
	for _, body := range []map[string]any{
		{"reread_interval": "9s"},
		{"reread_interval": 1},
		{"reread_interval": "-10s"},
		{"reread_interval": "10500ms"},
		{"reread_interval": "soon"},
		{"reread_interval": "1m", "credential_type": "dedicated", "lease": true},
	} {
		m.fails(badRequest, request{operation: opWrite, path: "roles/new", body: body}, "reread_interval")
		m.fails(badRequest, request{operation: opWrite, path: "roles/known", body: body}, "reread_interval")
		m.fails(badRequest, request{operation: opPatch, path: "roles/known", body: body}, "reread_interval")
	}
	expectSame(t, before, m.everything())
}

// Whoever sits at a command line finds what there is, sees which config serves, and can go back.
func TestTwoUsersAtTheCommandLine(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	shows := func(input string, parts []string, arguments ...string) {
		t.Helper()
		printed, err := m.commandLine(input, arguments...)
		if err != nil {
			t.Errorf("vault %s: %v\n%s", strings.Join(arguments, " "), err, printed)
		}
		for _, part := range parts {
			if !strings.Contains(withoutSpace(printed), withoutSpace(part)) { // lines are broken anywhere
				t.Errorf("vault %s does not show %q:\n%s", strings.Join(arguments, " "), part, printed)
			}
		}
	}
	role := m.path + "/roles/monitoring"
	m.write("config/third", with(m.config(), "verify", false))
	for _, given := range [][]string{
		{"fallback_configs=second,third"},
		{"fallback_configs=second, third"},
		{"fallback_configs=second", "fallback_configs=third"},
	} {
		shows("", nil, append([]string{"write", role}, given...)...)
		expectSame(t, []any{"second", "third"}, m.get("roles/monitoring")["fallback_configs"])
		shows("", nil, "write", role, "fallback_configs=")
		expectSame(t, []any{}, m.get("roles/monitoring")["fallback_configs"])
	}
	shows("", nil, "write", role, "fallback_configs=second", "reread_interval=1m", "lease=false")
	shows("", []string{"fallback_configs", "[second]", "reread_interval"}, "read", role)
	shows("", []string{"fallback_configs (slice)", "reread_interval (duration", "fallback_configs=second"},
		"path-help", role)
	m.read("monitoring")
	for _, serving := range []string{"default", "second"} {
		shows("", []string{"serving_config", serving}, "list", "-detailed", m.path+"/roles")
		shows("", []string{"serving_config", serving}, "read", m.path+"/sessions/monitoring")
		info := keyInfo(t, m.must(request{operation: opList, path: "roles"}), "monitoring")
		expectSame(t, []any{"default", serving}, []any{info["config"], info["serving_config"]})
		expirePassword(m)
		m.read("monitoring", "validate", "true")
	}
	shows("", []string{"second"}, "read", "-field=config", m.path+"/creds/monitoring")

	printed, err := m.commandLine("", "delete", m.path+"/config/second")
	if err == nil || !strings.Contains(printed, "monitoring") || !strings.Contains(printed, "Code: 400") {
		t.Errorf("a config that a role falls back to was deleted, or the error does not name the role: %v\n%s", err,
			printed)
	}
	shows(`{"fallback_configs": null, "reread_interval": null}`, nil, "patch", role, "-")
	entry := m.get("roles/monitoring")
	expectSame(t, []any{[]any{}, "0"}, []any{entry["fallback_configs"], fmt.Sprint(entry["reread_interval"])})
	shows("", []string{"can no longer be logged out"}, "delete", m.path+"/config/second")
}

func TestTheWriterOfARoleNeedsNoRightOnItsConfigs(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.writeSecond()
	writer := m.clientFor(`path "MOUNT/roles/*" { capabilities = ["create", "read", "update", "patch", "delete"] }`)
	list := map[string]any{"fallback_configs": []string{"second"}}
	m.allows(
		writer,
		request{operation: opWrite, path: "roles/monitoring", body: list},
		request{operation: opWrite, path: "roles/monitoring", body: list},
		request{operation: opPatch, path: "roles/monitoring", body: list},
		request{operation: opPatch, path: "roles/monitoring", body: map[string]any{"fallback_configs": nil}},
		request{operation: opPatch, path: "roles/monitoring", body: map[string]any{"reread_interval": "1m"}},
	)
	m.denies(
		writer,
		request{operation: opList, path: "config"},
		request{operation: opRead, path: "config/second"},
		request{operation: opWrite, path: "config/second", body: m.config()},
		request{operation: opWrite, path: "config/second/check"},
		request{operation: opDelete, path: "config/second"},
		request{operation: opRead, path: "status"},
		credsRequest("monitoring"),
	)
}

// Those who generate clients or forms from the document find a list of names.
func TestOpenAPIDocumentTellsOfTwoUsers(t *testing.T) {
	t.Parallel()
	sent := func(operation, media string) openapi3.Schemas {
		return declared[operation].RequestBody.Value.Content[media].Schema.Value.Properties
	}
	answered := func(operation string) openapi3.Schemas {
		return declared[operation].Responses.Status(http.StatusOK).Value.Content[jsonBody].Schema.Value.Properties
	}
	for method, properties := range map[string]openapi3.Schemas{
		"POST":  sent("POST roles/{name}", jsonBody),
		"PATCH": sent("PATCH roles/{name}", mergePatch),
		"GET":   answered("GET roles/{name}"),
	} {
		names, interval := properties["fallback_configs"], properties["reread_interval"]
		if names == nil || !names.Value.Type.Is("array") || !names.Value.Items.Value.Type.Is("string") {
			t.Errorf("%s: fallback_configs is not declared as a list of names", method)
		}
		if interval == nil || interval.Value.Type == nil {
			t.Errorf("%s: reread_interval is not declared", method)
		}
	}
	info := answered("GET roles/")["key_info"].Value.AdditionalProperties.Schema.Value
	if serving := info.Properties["serving_config"]; serving == nil || !serving.Value.Type.Is("string") {
		t.Error("LIST: serving_config is not declared")
	}
}
