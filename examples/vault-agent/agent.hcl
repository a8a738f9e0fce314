# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# Vault Agent keeps ncentral.json up to date. Start it in the directory that holds role-id and secret-id, with VAULT_ADDR set.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

# A service manager restarts it then, which is better than an agent that has given up.
template_config {
  exit_on_retry_failure = true
}

# Only these two fields: ttl differs at every read, and the file would change each time.
template {
  destination          = "ncentral.json"
  perms                = "0600"
  error_on_missing_key = true

  contents = <<-EOT
    {{ with secret "ncentral/creds/monitoring" -}}
    {"url": {{ .Data.url | toJSON }}, "access_token": {{ .Data.access_token | toJSON }}}
    {{- end }}
  EOT
}
