#!/usr/bin/env bash
# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# Runs every fuzz target of the module for the time given, one after the other: go test fuzzes one at a time. What a target
# finds lies below testdata/fuzz beside it, to be committed with the mend.
set -euo pipefail
time="${1:?usage: scripts/fuzz.sh TIME, such as 5s}"
cd "$(dirname "$0")/.."

targets=0
while IFS=: read -r file target; do
	echo "== $target in ${file%/*}"
	go test "./${file%/*}" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s
	targets=$((targets + 1))
done < <(git grep -E '^func Fuzz[A-Za-z]+' -- '*_test.go' | sed -E 's/^([^:]+):func (Fuzz[A-Za-z]+).*/\1:\2/')
echo "$targets fuzz targets ran for $time each"
[ "$targets" -gt 0 ]
