// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"time"
)

// databaseModule has the entries of Go's vulnerability database, so that they can be had wherever
// modules can.
const databaseModule = "golang.org/x/vulndb@latest"

// database is where govulncheck finds its entries, and what to say of it.
type database struct{ url, described string }

// findDatabase returns the database of that URL, else the newest one that is served as a module.
func findDatabase(ctx context.Context, url string) (database, error) {
	unreachable := reach(ctx, url)
	if unreachable == nil {
		return database{url: url, described: url}, nil
	}
	module, err := download(ctx)
	if err != nil {
		return database{}, fmt.Errorf("%w; nor is the database to be had as a module: %w", unreachable, err)
	}
	return database{
		url:       "file://" + filepath.ToSlash(filepath.Join(module.Dir, "data", "osv")),
		described: fmt.Sprintf("golang.org/x/vulndb %s, since %s cannot be reached", module.Version, url),
	}, nil
}

func reach(ctx context.Context, url string) error {
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/index/db.json", http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

type module struct{ Version, Dir, Error string }

func download(ctx context.Context) (module, error) {
	output, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", databaseModule).Output()
	var downloaded module
	if decodeErr := json.NewDecoder(bytes.NewReader(output)).Decode(&downloaded); decodeErr != nil {
		return module{}, fmt.Errorf("go mod download %s: %w", databaseModule, err)
	}
	if downloaded.Error != "" {
		return module{}, fmt.Errorf("go mod download: %s", downloaded.Error)
	}
	return downloaded, err
}
