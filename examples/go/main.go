// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// This program prints what N-central answers to a GET of each path, with tokens of the role
// "monitoring". VAULT_ADDR and VAULT_TOKEN say where Vault is and who asks.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/vault/api"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

//nolint:gosec // who runs it says which paths
func run(paths []string) error {
	vault, err := api.NewClient(nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport: &Transport{Vault: vault, Path: "ncentral/creds/monitoring"},
		Timeout:   2 * time.Minute,
	}
	for _, path := range paths {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, path, http.NoBody)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("%s: N-central answers %s", path, response.Status)
		}
		fmt.Println(string(body))
	}
	return nil
}
