// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Command release puts the plugin for Linux, as GoReleaser has built it, into one OCI image, from
// which Vault and OpenBao take it. It writes the image beside the binaries, and pushes it if it is
// told a repository. It needs no container engine.
//
// It is a module of its own, with the tools that make a release, so that these are no requirement
// of the plugin.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func main() {
	repository := flag.String("push", "", "the `repository` to push to, such as registry.example.com/name")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: release [-push REPOSITORY] DIRECTORY-OF-GORELEASER")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *repository); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dist, repository string) error {
	version, err := versionOf(dist)
	if err != nil {
		return err
	}
	index, err := indexOf(dist, version)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := write(index, filepath.Join(dist, "image"), tagsOf(version)); err != nil {
		return err
	}
	fmt.Printf("image %s, tagged %v, is in %s\n", digest, tagsOf(version), filepath.Join(dist, "image"))
	if repository == "" {
		return nil
	}
	if err := push(index, repository, tagsOf(version)); err != nil {
		return err
	}
	fmt.Printf("pushed to %s\n", repository)
	return nil
}

// versionOf returns the version that GoReleaser gave to what it built, without a v.
func versionOf(dist string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dist, "metadata.json"))
	if err != nil {
		return "", err
	}
	var metadata struct{ Version string }
	if err := json.Unmarshal(content, &metadata); err != nil {
		return "", err
	}
	if metadata.Version == "" {
		return "", errors.New("metadata.json names no version")
	}
	return metadata.Version, nil
}

// tagsOf returns the tags of that version. OpenBao asks for the version as it was registered, with
// its v; Vault takes the v off.
func tagsOf(version string) []string { return []string{version, "v" + version} }

// write replaces the directory by one in the OCI image layout.
func write(index v1.ImageIndex, directory string, tags []string) error {
	if err := os.RemoveAll(directory); err != nil {
		return err
	}
	written, err := layout.Write(directory, empty.Index)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
		if err := written.AppendIndex(index, named); err != nil {
			return err
		}
	}
	return nil
}

// push pushes the image with each tag, as whoever docker login has made known.
func push(index v1.ImageIndex, repository string, tags []string) error {
	for _, tag := range tags {
		reference, err := name.NewTag(repository + ":" + tag)
		if err != nil {
			return err
		}
		if err := remote.WriteIndex(reference, index, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return err
		}
	}
	return nil
}
