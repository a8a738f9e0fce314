#!/usr/bin/env python3
# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
"""N-central's REST API with tokens from Vault. Needs Python 3.8 or later, VAULT_ADDR and VAULT_TOKEN.

    ncentral.py PATH...    prints what N-central answers to a GET of each path
"""
import json
import os
import sys
import time
import urllib.error
import urllib.request


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the token along to wherever a redirect leads."""

    def redirect_request(self, *args):
        return None


_open = urllib.request.build_opener(_NoRedirect).open


class NCentral:
    def __init__(self, role, mount="ncentral"):
        self.path = f"{os.environ['VAULT_ADDR']}/v1/{mount}/creds/{role}"
        self.creds = None
        self.again_at = 0.0

    def _read(self, query=""):
        request = urllib.request.Request(self.path + query, headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]})
        try:
            with _open(request, timeout=70) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:  # the reason stands in the body
            raise RuntimeError(f"Vault answers {error.code}: {error.read().decode(errors='replace')}") from None
        for warning in answer["warnings"] or []:
            print("Vault warns:", warning, file=sys.stderr)
        self.creds = answer["data"]
        # Without a lease, ttl says when the engine replaces the token. Under one, come back well before its end.
        self.again_at = time.time() + self.creds.get("ttl", 0.7 * answer["lease_duration"])

    def get(self, path):
        if time.time() >= self.again_at:
            self._read()
        for attempt in (1, 2):
            request = urllib.request.Request(
                self.creds["url"] + path, headers={"Authorization": "Bearer " + self.creds["access_token"]})
            try:
                with _open(request, timeout=60) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code != 401 or attempt == 2:
                    raise
            self._read("?validate=true")  # the token ended early: have the engine validate it, and replace it


if __name__ == "__main__":
    ncentral = NCentral("monitoring")
    try:
        for each in sys.argv[1:]:
            print(json.dumps(ncentral.get(each)))
    except (OSError, RuntimeError) as failure:  # OSError: N-central's answer, or none at all
        sys.exit(str(failure))
