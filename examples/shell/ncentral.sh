#!/bin/sh
# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# ncentral.sh PATH prints what N-central answers to a GET of the path, with a token of the role "monitoring".
# It needs curl 7.76 or later, jq, VAULT_ADDR and VAULT_TOKEN.
set -eu

# Tokens go to curl on standard input: anyone on the host can read the command line.
read_creds() {
	answer=$(printf 'X-Vault-Token: %s' "$VAULT_TOKEN" |
		curl -sS --fail-with-body -H @- "$VAULT_ADDR/v1/ncentral/creds/monitoring$1") || {
		printf '%s\n' "$answer" | jq -r '.errors[]?' >&2
		exit 1
	}
	printf '%s' "$answer" | jq -r '.warnings[]?' >&2
}

call() {
	printf '%s' "$answer" | jq -r '"Authorization: Bearer " + .data.access_token' |
		curl -sS -H @- -w '\n%{http_code}' "$(printf '%s' "$answer" | jq -r .data.url)$1"
}

read_creds ''
output=$(call "$1")
status=${output##*
}
if [ "$status" = 401 ]; then # the token ended early: have the engine validate it, and replace it
	read_creds '?validate=true'
	output=$(call "$1")
	status=${output##*
}
fi
printf '%s\n' "${output%
*}"
if [ "$status" -ge 400 ]; then
	echo "$1: N-central answers $status" >&2
	exit 1
fi
