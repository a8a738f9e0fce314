# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0
#
# The engine with one config, one role, and a policy for those who read its tokens. The plugin is registered already.
# Values are written as they read back, so that a second plan is empty: seconds, RFC 3339, true and not "true".

terraform {
  required_version = ">= 1.11"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.11"
    }
  }
}

resource "vault_mount" "ncentral" {
  path = "ncentral"
  type = "ncentral"
}

resource "vault_generic_endpoint" "config" {
  path                 = "${vault_mount.ncentral.path}/config/default"
  ignore_absent_fields = true # user_api_token is never read back, and more is read than is written

  data_json = jsonencode({
    url                   = var.ncentral_url
    ca_cert               = var.ca_cert
    user_api_token        = trimspace(var.user_api_token)
    user_api_token_sha256 = sha256(trimspace(var.user_api_token)) # is read back, so a write that failed is seen
    password_changed_at   = var.password_changed_at
    password_max_age      = 90 * 24 * 3600
    request_timeout       = 15
  })
}

resource "vault_generic_endpoint" "monitoring" {
  depends_on           = [vault_generic_endpoint.config] # is written after it, and deleted before it
  path                 = "${vault_mount.ncentral.path}/roles/monitoring"
  ignore_absent_fields = true

  data_json = jsonencode({
    config  = "default"
    ttl     = 3600
    min_ttl = 600
    lease   = false
  })
}

resource "vault_policy" "reader" {
  name   = "ncentral-monitoring"
  policy = <<-EOT
    path "${vault_mount.ncentral.path}/creds/monitoring" {
      capabilities = ["read", "update"]
    }
  EOT
}
