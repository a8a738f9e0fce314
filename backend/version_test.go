// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which commit a build says it is of.

package backend

import (
	"regexp"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestABuildSaysItsVersionCommitAndGo(t *testing.T) {
	form := regexp.MustCompile(`^v\d+\.\d+\.\d+(-[\w.]+)?, commit .+, ` + regexp.QuoteMeta(runtime.Version()) + `$`)
	if got := Build(); !form.MatchString(got) {
		t.Errorf("%q", got)
	}
}

func TestTheCommitIsTheLinkersElseTheStampedOne(t *testing.T) {
	stamp := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "GOOS", Value: "linux"},
			{Key: "vcs.revision", Value: "stamped"},
			{Key: "vcs.modified", Value: modified},
		}}
	}
	for name, test := range map[string]struct {
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		"neither":             {"", nil, "unknown"},
		"no stamp":            {"", &debug.BuildInfo{}, "unknown"},
		"a stamp":             {"", stamp("false"), "stamped"},
		"of a changed tree":   {"", stamp("true"), "stamped-dirty"},
		"the linker":          {"linked", nil, "linked"},
		"the linker, a stamp": {"linked", stamp("true"), "linked"},
	} {
		t.Run(name, func(t *testing.T) {
			before := commit
			t.Cleanup(func() { commit = before })
			commit = test.linked
			if got := builtFrom(test.info, test.info != nil); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
