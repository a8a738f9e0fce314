# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# consul-template keeps ncentral.json up to date. Set VAULT_ADDR, and keep a living Vault token in the file vault-token.

vault {
  vault_agent_token_file = "vault-token"
  renew_token            = false

  # For ever: the default gives up after twelve.
  retry {
    attempts = 0
  }
}

# Only these two fields: ttl differs at every read, and the file would change each time.
template {
  destination          = "ncentral.json"
  perms                = 0600
  error_on_missing_key = true

  contents = <<-EOT
    {{ with secret "ncentral/creds/monitoring" -}}
    {"url": {{ .Data.url | toJSON }}, "access_token": {{ .Data.access_token | toJSON }}}
    {{- end }}
  EOT
}
