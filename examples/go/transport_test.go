// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// A request that got a 401 is sent again as it was, with its path, its query and its body.
func TestARepeatedRequestIsTheSame(t *testing.T) {
	var got []string
	ncentral := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprint(r.Method, " ", r.RequestURI, " ", string(body), " ",
			r.Header.Get("Authorization")))
		if len(got) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer ncentral.Close()
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := "first"
		if r.URL.RawQuery == "validate=true" {
			token = "second"
		}
		fmt.Fprintf(w, `{"data": {"access_token": %q, "url": %q, "ttl": 3000}}`, token, ncentral.URL+"/base")
	}))
	defer vault.Close()
	client, err := api.NewClient(&api.Config{Address: vault.URL})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/a%2Fb?c=d",
		strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: &Transport{Vault: client, Path: "ncentral/creds/monitoring"}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	want := []string{
		"POST /base/api/a%2Fb?c=d body Bearer first", "POST /base/api/a%2Fb?c=d body Bearer second",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
