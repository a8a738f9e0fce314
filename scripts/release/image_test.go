// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What servers find in the image, over a registry in this process.

package main

import (
	"archive/tar"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// builtFor returns a directory such as GoReleaser leaves, for those architectures. Each binary
// holds the name of its own.
func builtFor(t *testing.T, architectures ...string) string {
	t.Helper()
	dist := t.TempDir()
	write := func(file, content string) {
		path := filepath.Join(dist, file)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err := errors.Join(err, os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("metadata.json", `{"version":"1.2.3"}`)
	for _, architecture := range architectures {
		write("plugin_linux_"+architecture+"_v1/"+binaryName, architecture)
	}
	return dist
}

// filesOf returns the files of an image, as OpenBao extracts them.
func filesOf(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	extracted := mutate.Extract(image)
	defer extracted.Close()
	files := map[string]string{}
	for archive := tar.NewReader(extracted); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg || header.FileInfo().Mode() != 0o755 {
			t.Errorf("%s: type %c, mode %s", header.Name, header.Typeflag, header.FileInfo().Mode())
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(content)
	}
}

// Vault asks for the tag without v, OpenBao for the one with it, and on arm64 for the variant.
func TestServersFindTheirBinaryUnderBothTags(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/test/plugin"
	if err := run(builtFor(t, "amd64", "arm64"), repository); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1.2.3", "v1.2.3"} {
		reference, err := name.ParseReference(repository + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		for _, platform := range []v1.Platform{
			{OS: "linux", Architecture: "amd64"},
			{OS: "linux", Architecture: "arm64"},
			{OS: "linux", Architecture: "arm64", Variant: "v8"},
		} {
			image, err := remote.Image(reference, remote.WithPlatform(platform))
			if err != nil {
				t.Fatalf("%s for %s: %v", tag, platform, err)
			}
			files := filesOf(t, image)
			if len(files) != 1 || files[binaryName] != platform.Architecture {
				t.Errorf("%s for %s has %v", tag, platform, files)
			}
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(config.Config.Entrypoint, []string{"/" + binaryName}) || config.Config.User != "" ||
				config.Config.Labels["org.opencontainers.image.version"] != "1.2.3" {
				t.Errorf("%s for %s: %+v", tag, platform, config.Config)
			}
		}
	}
}

func TestTheSameBinariesGiveTheSameImageUnderBothTags(t *testing.T) {
	var digests []v1.Hash
	for range 2 {
		dist := builtFor(t, "arm64", "amd64")
		for range 2 { // the second time, over what the first has left
			if err := run(dist, ""); err != nil {
				t.Fatal(err)
			}
		}
		written, err := layout.ImageIndexFromPath(filepath.Join(dist, "image"))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := written.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for _, tagged := range manifest.Manifests {
			tags = append(tags, tagged.Annotations["org.opencontainers.image.ref.name"])
			digests = append(digests, tagged.Digest)
		}
		if !slices.Equal(tags, []string{"1.2.3", "v1.2.3"}) {
			t.Errorf("tags %v", tags)
		}
	}
	if slices.ContainsFunc(digests, func(digest v1.Hash) bool { return digest != digests[0] }) {
		t.Errorf("the digests differ: %v", digests)
	}
}

func TestNoImageLacksAPlatform(t *testing.T) {
	if err := run(builtFor(t, "amd64"), ""); err == nil || !strings.Contains(err.Error(), "plugin_linux_arm64") {
		t.Errorf("without the binary for arm64: %v", err)
	}
}
