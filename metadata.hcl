# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# What HashiCorp's listing of Vault integrations shows. The fields are those of
# https://github.com/hashicorp/integration-template. HashiCorp decides on the identifier when it registers the integration.

integration {
  name        = "N-able N-central"
  description = "A secrets engine that keeps the User-API tokens of N-able N-central, and hands out short-lived access tokens for its REST API."
  identifier  = "vault/vault-plugin-secrets-ncentral"

  license {
    type = "MPL-2.0"
  }

  docs {
    process_docs    = true
    readme_location = "./README.md"
  }
}
