// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Every sample request of docs/api.md works as it stands, and is answered with the fields that the
// page shows.

package e2e

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-ncentral/docs"
	"vault-plugin-secrets-ncentral/internal/simulator"
)

// apiPage follows docs/api.md.
type apiPage struct {
	*procedure
	samples []docs.Block // the blocks of JSON on the page
}

func followAPI(t *testing.T, blocks []docs.Block) {
	needs(t, "curl")
	p := &apiPage{startProcedure(t, blocks, serverOptions()), samplesOf(t, blocks[0].Page)}
	// An answer of 400 and above is to fail the block.
	p.file(".curlrc", "silent\nfail-with-body\n")
	p.userAPIToken = p.AddUserExpiring(userName, 365*24*time.Hour)
	p.send("write-config")
	p.must(request{operation: opPatch, path: "config/default", body: map[string]any{"password_max_age": nil}})
	p.send("patch-config")
	p.step("patch-config-cli")
	p.expectShown("read-config")
	p.expectShown("list-configs")
	p.clear()
	p.send("delete-config")
	p.restore()
	p.expectShown("check")
	p.step("report")

	p.writeSecond()
	p.send("write-role")
	p.send("patch-role")
	p.step("patch-role-cli")
	p.write("roles/monitoring", map[string]any{"fallback_configs": "second"})
	p.expectShown("read-role")
	p.expectShown("list-roles")
	p.send("delete-role")
	p.write("roles/monitoring", map[string]any{})

	p.expectShown("read-creds")
	p.showsTokens("read-creds-with")
	p.showsTokens("read-creds-cli")
	p.expectShown("read-sessions")
	p.expectShown("list-sessions")
	p.send("end-sessions")
	p.failOnce()
	p.expectShown("read-status")
	p.send("read-metrics")
	p.end()
}

func samplesOf(t *testing.T, page string) []docs.Block {
	t.Helper()
	return slices.DeleteFunc(readBlocks(t), func(block docs.Block) bool {
		return block.Page != page || block.Language != "json"
	})
}

// clear deletes the roles, so that the config can be deleted.
func (p *apiPage) clear() {
	p.t.Helper()
	p.delete("roles/monitoring")
	p.delete("roles/worker")
}

// restore writes what clear and the step after it deleted.
func (p *apiPage) restore() {
	p.t.Helper()
	p.write("config/default", p.config())
	p.write("roles/monitoring", map[string]any{})
	p.write("roles/worker", map[string]any{"credential_type": "dedicated"})
}

// failOnce has the only config's status tell of a call that failed, and of one that has succeeded
// since.
func (p *apiPage) failOnce() {
	p.t.Helper()
	p.write("roles/reporting", map[string]any{"fallback_configs": ""})
	p.delete("config/second")
	p.write("config/default", map[string]any{
		"password_changed_at": time.Now().Format(time.RFC3339), "password_max_age": "90d",
	})
	p.FailNext(simulator.EndpointAuthenticate, 1, simulator.Failure{Kind: simulator.FailureStatus, Status: 503})
	p.fails(serviceUnavailable, credsRequest("worker"))
	p.must(request{operation: opWrite, path: "config/default/check"})
}

// send makes the request of the next block, with the payload that the page shows above it.
func (p *apiPage) send(name string) {
	p.t.Helper()
	p.putPayload()
	p.step(name)
}

// putPayload puts the sample payload where the next block looks for it. What only an example can
// have in it is replaced by what works here.
func (p *apiPage) putPayload() {
	p.t.Helper()
	if !strings.Contains(p.left[0].Text, "@payload.json") {
		return
	}
	above := slices.IndexFunc(p.samples, func(sample docs.Block) bool { return sample.Line > p.left[0].Line }) - 1
	var payload map[string]any
	if err := json.Unmarshal([]byte(p.samples[above].Text), &payload); err != nil {
		p.t.Fatal(err)
	}
	for name, value := range p.config() {
		if text, isText := payload[name].(string); isText && text != "" {
			payload[name] = value
		}
	}
	encoded, err := json.Marshal(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	p.file("payload.json", string(encoded))
}

// expectShown makes the request of the next block, and holds the fields of the answer against the
// sample below it.
func (p *apiPage) expectShown(name string) {
	p.t.Helper()
	line := p.left[0].Line
	output := p.showsTokens(name)
	below := slices.IndexFunc(p.samples, func(sample docs.Block) bool { return sample.Line > line })
	shown, answered := fieldsOf(p.t, p.samples[below].Text), fieldsOf(p.t, output)
	for _, field := range slices.Sorted(maps.Keys(answered)) {
		if !shown[field] {
			p.t.Errorf("%s answers %s, which the page does not show", name, field)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(shown)) {
		if !answered[field] {
			p.t.Errorf("%s does not answer %s, which the page shows", name, field)
		}
	}
}

// fieldsOf returns the names of all fields below data, with what is above each.
func fieldsOf(t *testing.T, answer string) map[string]bool {
	t.Helper()
	var decoded struct{ Data map[string]any }
	if err := json.Unmarshal([]byte(answer), &decoded); err != nil {
		t.Fatalf("%v:\n%s", err, answer)
	}
	fields := map[string]bool{}
	var add func(above string, value any)
	add = func(above string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for name, below := range value {
				fields[above+"."+name] = true
				add(above+"."+name, below)
			}
		case []any:
			for _, element := range value {
				add(above, element)
			}
		}
	}
	add("data", decoded.Data)
	return fields
}
