# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# Vault Agent runs a program with the token in its environment, and restarts it at each new token. Start it in the directory that
# holds role-id, secret-id and the program, with VAULT_ADDR set.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  exit_on_retry_failure = true
}

env_template "NCENTRAL_TOKEN" {
  contents             = "{{ with secret \"ncentral/creds/monitoring\" }}{{ .Data.access_token }}{{ end }}"
  error_on_missing_key = true
}

env_template "NCENTRAL_URL" {
  contents             = "{{ with secret \"ncentral/creds/monitoring\" }}{{ .Data.url }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["./app"]
  restart_on_secret_changes = "always"
}
