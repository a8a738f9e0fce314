# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# A token for the time of one run, in neither state nor plan.

terraform {
  required_version = ">= 1.11"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.11"
    }
  }
}

ephemeral "vault_generic_endpoint" "ncentral" {
  path         = "ncentral/creds/monitoring"
  data_json    = jsonencode({ min_ttl = "20m" }) # the run must not take longer
  write_fields = ["access_token", "url"]
}

resource "terraform_data" "report" {
  provisioner "local-exec" {
    command = <<-EOT
      printf 'Authorization: Bearer %s' "$NCENTRAL_TOKEN" | curl -fsS -H @- "$NCENTRAL_URL/api/service-orgs?pageSize=1"
    EOT

    environment = {
      NCENTRAL_TOKEN = ephemeral.vault_generic_endpoint.ncentral.write_data["access_token"]
      NCENTRAL_URL   = ephemeral.vault_generic_endpoint.ncentral.write_data["url"]
    }
  }
}
