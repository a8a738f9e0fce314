// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"testing"
	"time"
)

// What is stored is about one version of a config, and says since when it is out and why.
func TestAConfigIsOutOfServiceInOneVersion(t *testing.T) {
	now := time.Now()
	out := &OutOfService{ConfigWrittenAt: now.UTC().Round(0), Since: now, Reason: "r"}
	for name, test := range map[string]struct {
		out    *OutOfService
		config *Config
		want   bool
	}{
		"this version":     {out, &Config{WrittenAt: now}, true},
		"a later version":  {out, &Config{WrittenAt: now.Add(1)}, false},
		"nothing is known": {nil, &Config{WrittenAt: now}, false},
	} {
		if got := test.out.IsOf(test.config); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	for name, test := range map[string]struct {
		out      OutOfService
		complete bool
	}{
		"all of it":   {*out, true},
		"no time":     {OutOfService{Reason: "r"}, false},
		"no reason":   {OutOfService{Since: now}, false},
		"not a thing": {OutOfService{}, false},
	} {
		if err := test.out.prepare("a"); (err == nil) != test.complete {
			t.Errorf("%s: %v", name, err)
		}
	}
}
