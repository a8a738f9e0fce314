# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0

variable "ncentral_url" {
  description = "Base URL of the N-central server, without a slash at its end."
  type        = string
}

variable "ca_cert" {
  description = "Certificates to trust, in PEM form, if N-central has a private one."
  type        = string
  default     = ""
}

variable "user_api_token" {
  description = "The User-API token of the N-central user. It is stored in Terraform's state."
  type        = string
  sensitive   = true
}

variable "password_changed_at" {
  description = "When the N-central user's password was last set: RFC 3339, in UTC."
  type        = string
}
