// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// A server is trusted as its config says, and in no other way.
func TestAServerIsTrustedAsItsConfigSays(t *testing.T) {
	listener := httptest.NewUnstartedServer(http.NotFoundHandler()) // its certificate is for example.com and 127.0.0.1
	listener.Config.ErrorLog = log.New(io.Discard, "", 0)
	listener.StartTLS()
	defer listener.Close()
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listener.Certificate().Raw}))
	for name, test := range map[string]struct {
		trust   store.Config
		trusted bool
	}{
		"by the system's authorities": {store.Config{}, false},
		"by its authority":            {store.Config{CACert: authority}, true},
		"under a name that it holds":  {store.Config{CACert: authority, TLSServerName: "example.com"}, true},
		"under another name":          {store.Config{CACert: authority, TLSServerName: "other.invalid"}, false},
		"whoever it is":               {store.Config{TLSSkipVerify: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			logger := hclog.NewNullLogger()
			registry := NewRegistry(store.New(&logical.InmemStorage{}, logger), events.NewSender(nil, logger), logger,
				"test", nil)
			defer registry.Close()
			config := storeConfig
			config.URL = listener.URL
			config.CACert, config.TLSServerName, config.TLSSkipVerify = test.trust.CACert, test.trust.TLSServerName,
				test.trust.TLSSkipVerify
			server, err := registry.Server(&config)
			if err != nil {
				t.Fatal(err)
			}
			failure, _ := server.Probe(t.Context(), "token")
			var callErr *ncentral.Error
			if !errors.As(failure, &callErr) || callErr.NotSent == test.trusted ||
				(callErr.Status == http.StatusNotFound) != test.trusted {
				t.Errorf("%+v", callErr)
			}
		})
	}
}
