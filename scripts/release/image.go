// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// binaryName is the plugin's file. It lies in the root of the image, since OpenBao looks for it
// there.
const binaryName = "vault-plugin-secrets-ncentral"

// The platforms of the image. OpenBao on arm64 asks for the variant v8, and would find nothing if
// the image did not say so; whoever asks for none gets it too.
var platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64", Variant: "v8"},
}

// indexOf returns the image of all platforms. Nothing in it tells when or where it was made.
func indexOf(dist, version string) (v1.ImageIndex, error) {
	var index v1.ImageIndex = empty.Index
	for _, platform := range platforms {
		pattern := filepath.Join(dist, "plugin_"+platform.OS+"_"+platform.Architecture+"_*", binaryName)
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("there are %d files %s, not one: run goreleaser first", len(found), pattern)
		}
		image, err := imageOf(found[0], version, platform)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index, nil
}

// imageOf returns an image from scratch that holds the binary alone, and starts it.
func imageOf(binary, version string, platform v1.Platform) (v1.Image, error) {
	layer, err := layerOf(binary)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Config.Entrypoint = []string{"/" + binaryName}
	config.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    binaryName,
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "MPL-2.0",
	}
	return mutate.ConfigFile(image, config)
}

func layerOf(binary string) (v1.Layer, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	if err := writer.WriteHeader(&tar.Header{Name: binaryName, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := writer.Write(content); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}
