// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// What a release consists of, as GoReleaser has made it. make release-snapshot runs this test.

package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var lineOfSums = regexp.MustCompile(`(?m)^([0-9a-f]{64}) {2}(\S+)$`)

// sumsOf returns the checksums of the release, by file.
func sumsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, line := range lineOfSums.FindAllStringSubmatch(string(readFile(t, path)), -1) {
		sums[line[2]] = line[1]
	}
	return sums
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// unzip returns the files of an archive.
func unzip(t *testing.T, content []byte) map[string][]byte {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, file := range archive.File {
		opened, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[file.Name], err = io.ReadAll(opened); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestAReleaseHasTheArchiveTheChecksumsAndTheSBOMOfEveryPlatform(t *testing.T) {
	dist := os.Getenv("RELEASE_DIST")
	if dist == "" {
		t.Skip("no release was made: make release-snapshot makes one, and runs this test")
	}
	version := strings.TrimSpace(string(readFile(t, filepath.Join(root, "backend", "VERSION"))))
	release := binaryName + "_" + strings.TrimPrefix(version, "v") + "_"
	sums := sumsOf(t, filepath.Join(dist, release+"SHA256SUMS"))
	var want []string
	for _, system := range []string{"linux", "darwin", "windows", "freebsd"} {
		for _, architecture := range []string{"amd64", "arm64"} {
			name, ending := release+system+"_"+architecture, ""
			if system == "windows" {
				ending = ".exe"
			}
			want = append(want, name+ending, name+".zip", name+".cdx.json")
			packed := readFile(t, filepath.Join(dist, name+".zip"))
			bill := readFile(t, filepath.Join(dist, name+".cdx.json"))
			files := unzip(t, packed)
			if len(files) != 2 || !bytes.Equal(files["LICENSE"], readFile(t, filepath.Join(root, "LICENSE"))) {
				t.Errorf("%s.zip has %v", name, slices.Collect(maps.Keys(files)))
			}
			binary := files[binaryName+ending]
			if sums[name+ending] != sumOf(binary) || sums[name+".zip"] != sumOf(packed) ||
				sums[name+".cdx.json"] != sumOf(bill) {
				t.Errorf("%s: the checksums are not those of its files", name)
			}
			expectBuild(t, binary, bill, system, architecture, version)
		}
	}
	if got := slices.Sorted(maps.Keys(sums)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("the checksums are of %v, want %v", got, want)
	}
}

// expectBuild holds a binary against its platform, and its bill of materials against the binary.
func expectBuild(t *testing.T, binary, bill []byte, system, architecture, version string) {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	if settings["GOOS"] != system || settings["GOARCH"] != architecture || settings["CGO_ENABLED"] != "0" {
		t.Errorf("%s on %s is built for %v", system, architecture, settings)
	}
	var listed struct {
		Metadata struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(bill, &listed); err != nil {
		t.Fatal(err)
	}
	if of := listed.Metadata.Component; of.Name != info.Main.Path || of.Version != version {
		t.Errorf("%s on %s: the SBOM is of %+v, not of %s %s", system, architecture, of, info.Main.Path, version)
	}
	has := map[string]bool{}
	for _, component := range listed.Components {
		has[component.Name+"@"+component.Version] = true
	}
	for _, module := range info.Deps {
		if !has[module.Path+"@"+module.Version] {
			t.Errorf("%s on %s: the SBOM lacks %s %s", system, architecture, module.Path, module.Version)
		}
	}
	if !has["std@"+info.GoVersion] {
		t.Errorf("%s on %s: the SBOM lacks the standard library of %s", system, architecture, info.GoVersion)
	}
}
