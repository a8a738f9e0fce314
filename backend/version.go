// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package backend

import (
	_ "embed"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

//go:embed VERSION
var version string

// commit is set by the linker in a release. A release has no stamp of go build's own: that holds
// the tag too, so the same commit would give other bytes once it is tagged.
var commit string

// Version returns the engine's version in the form vX.Y.Z. Vault compares it with the version under
// which the plugin is registered.
func Version() string { return strings.TrimSpace(version) }

// Build returns the version, the commit and the Go version that this program was built from.
func Build() string {
	return fmt.Sprintf("%s, commit %s, %s", Version(), builtFrom(debug.ReadBuildInfo()), runtime.Version())
}

// builtFrom returns the commit that the linker was told, else the one that go build stamped.
func builtFrom(info *debug.BuildInfo, stamped bool) string {
	if commit != "" {
		return commit
	}
	if !stamped {
		return "unknown"
	}
	revision, dirty := "unknown", ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			revision = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			dirty = "-dirty"
		}
	}
	return revision + dirty
}
