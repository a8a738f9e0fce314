#!/usr/bin/env python3
# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
"""N-central's REST API with tokens from Vault. Needs hvac and requests, VAULT_ADDR and VAULT_TOKEN.

    ncentral.py PATH...    prints what N-central answers to a GET of each path
"""
import json
import sys
import time

import hvac
import requests


class NCentral:
    def __init__(self, role, mount="ncentral"):
        self.vault = hvac.Client()
        self.path = f"{mount}/creds/{role}"
        self.creds = None
        self.again_at = 0.0

    def _read(self, query=""):
        answer = self.vault.read(self.path + query)
        for warning in answer["warnings"] or []:
            print("Vault warns:", warning, file=sys.stderr)
        self.creds = answer["data"]
        # Without a lease, ttl says when the engine replaces the token. Under one, come back well before its end.
        self.again_at = time.time() + self.creds.get("ttl", 0.7 * answer["lease_duration"])

    def get(self, path):
        if time.time() >= self.again_at:
            self._read()
        for attempt in (1, 2):
            response = requests.get(
                self.creds["url"] + path, timeout=60, allow_redirects=False,
                headers={"Authorization": "Bearer " + self.creds["access_token"]})
            if response.status_code != 401 or attempt == 2:
                response.raise_for_status()
                return response.json()
            self._read("?validate=true")  # the token ended early: have the engine validate it, and replace it


if __name__ == "__main__":
    ncentral = NCentral("monitoring")
    try:
        for each in sys.argv[1:]:
            print(json.dumps(ncentral.get(each)))
    except (requests.RequestException, hvac.exceptions.VaultError) as failure:
        sys.exit(str(failure))
