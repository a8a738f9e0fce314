// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// The metrics as Prometheus scrapes them.

package e2e

import (
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// scrape reads the metrics as Prometheus does.
func (m *mount) scrape(client *api.Client) (text, contentType string, err error) {
	response, err := client.Logical().ReadRawWithContext(m.t.Context(), m.path+"/metrics")
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	secrets.addShown(m.t.Name()+": the metrics", string(body))
	return string(body), response.Header.Get("Content-Type"), err
}

func TestPrometheusScrapesAMountWithATokenThatMayDoNothingElse(t *testing.T) {
	t.Parallel()
	m := newMount(t, nil)
	m.role("monitoring", "1h")
	m.read("monitoring")
	m.read("monitoring")
	scraper := m.clientFor(`path "MOUNT/metrics" { capabilities = ["read"] }`)
	text, contentType, err := m.scrape(scraper)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(contentType, "text/plain; version=0.0.4") {
		t.Error(contentType)
	}
	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
	for _, line := range []string{
		`vault_ncentral_token_reads_total{config="default",source="authenticate"} 1`,
		`vault_ncentral_token_reads_total{config="default",source="memory"} 1`,
		`vault_ncentral_config_state{config="default",state="ok"} 1`,
		`vault_ncentral_build_info{version="` + plugin.Version + `"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	if _, _, err := m.scrape(m.clientFor(`path "MOUNT/creds/*" { capabilities = ["read"] }`)); statusOf(err) != 403 {
		t.Errorf("a token without the policy got %v", err)
	}
}
