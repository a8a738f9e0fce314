#!/usr/bin/env node
// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// N-central's REST API with tokens from Vault. Needs Node.js 18 or later, VAULT_ADDR and VAULT_TOKEN.
//
//     ncentral.mjs PATH...    prints what N-central answers to a GET of each path
import { pathToFileURL } from 'node:url';

export class NCentral {
  constructor(role, mount = 'ncentral') {
    this.path = `${process.env.VAULT_ADDR}/v1/${mount}/creds/${role}`;
    this.againAt = 0;
  }

  async read(query = '') {
    const response = await fetch(this.path + query, { headers: { 'X-Vault-Token': process.env.VAULT_TOKEN } });
    const answer = await response.json();
    if (!response.ok) throw new Error(`Vault answers ${response.status}: ${(answer.errors ?? []).join('; ')}`);
    for (const warning of answer.warnings ?? []) console.warn('Vault warns:', warning);
    // Without a lease, ttl says when the engine replaces the token. Under one, come back well before its end.
    this.againAt = Date.now() + 1000 * (answer.data.ttl ?? 0.7 * answer.lease_duration);
    this.creds = answer.data;
  }

  // All calls that wait for the same read share it.
  readOnce(query) {
    this.reading ??= this.read(query).finally(() => { this.reading = undefined; });
    return this.reading;
  }

  async get(path) {
    if (Date.now() >= this.againAt) await this.readOnce();
    for (let attempt = 1; ; attempt++) {
      const { url, access_token: token } = this.creds;
      const response = await fetch(url + path, { headers: { Authorization: `Bearer ${token}` }, redirect: 'error' });
      if (response.ok) return response.json();
      if (response.status !== 401 || attempt === 2) throw new Error(`${path}: N-central answers ${response.status}`);
      // The token ended early: have the engine validate it, and replace it.
      if (token === this.creds.access_token) await this.readOnce('?validate=true');
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const ncentral = new NCentral('monitoring');
  try {
    for (const path of process.argv.slice(2)) console.log(JSON.stringify(await ncentral.get(path)));
  } catch (error) {
    console.error(error.cause ? `${error.message}: ${error.cause.message}` : error.message);
    process.exitCode = 1;
  }
}
