#Requires -Version 5.1
# Copyright (c) The vault-plugin-secrets-ncentral authors
# SPDX-License-Identifier: MPL-2.0

<#
.SYNOPSIS
Prints what N-central answers to a GET of each path, with tokens that it reads from Vault.

.DESCRIPTION
Signs in to Vault with AppRole: set VAULT_ADDR, VAULT_ROLE_ID and VAULT_SECRET_ID in the environment. For a script of your own, copy
the functions, and call Invoke-NCentral.

.EXAMPLE
.\NCentral.ps1 '/api/service-orgs?pageSize=1'
#>
[CmdletBinding()]
param([Parameter(ValueFromRemainingArguments = $true)] [string[]] $Path)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'

# Windows PowerShell 5.1 on an older system may offer TLS 1.0 only.
if ($PSVersionTable.PSVersion.Major -lt 6) {
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
}

$script:Vault = @{ Token = $null; EndsAt = [DateTimeOffset]::MinValue }
$script:NCentral = @{ Role = 'monitoring'; Token = $null; Url = $null; AgainAt = [DateTimeOffset]::MinValue }

# Get-Status returns the status of a failed call, or 0 if there was no answer.
function Get-Status($Failure) {
    $exception = $Failure.Exception
    if ($exception.PSObject.Properties['Response'] -and $exception.Response) { return [int] $exception.Response.StatusCode }
    return 0
}

# Invoke-Vault says in its error what Vault answered, which Invoke-RestMethod keeps apart.
function Invoke-Vault([string] $Method, [string] $Path, $Body) {
    $call = @{ Method = $Method; Uri = "$($env:VAULT_ADDR)/v1/$Path"; UseBasicParsing = $true; TimeoutSec = 70; Headers = @{} }
    if ($script:Vault.Token) { $call.Headers['X-Vault-Token'] = $script:Vault.Token }
    if ($null -ne $Body) { $call.Body = ($Body | ConvertTo-Json); $call.ContentType = 'application/json' }
    try { return Invoke-RestMethod @call }
    catch { throw "Vault: $Path`: $($_.Exception.Message) $($_.ErrorDetails)" }
}

function Connect-Vault {
    $script:Vault.Token = $null
    $answer = Invoke-Vault 'Post' 'auth/approle/login' @{ role_id = $env:VAULT_ROLE_ID; secret_id = $env:VAULT_SECRET_ID }
    $script:Vault.Token = $answer.auth.client_token
    $script:Vault.EndsAt = [DateTimeOffset]::UtcNow.AddSeconds($answer.auth.lease_duration * 0.9)
}

function Update-NCentralToken([switch] $Validate) {
    if ([DateTimeOffset]::UtcNow -ge $script:Vault.EndsAt) { Connect-Vault }
    $query = ''
    if ($Validate) { $query = '?validate=true' }
    $answer = Invoke-Vault 'Get' "ncentral/creds/$($script:NCentral.Role)$query"
    foreach ($warning in $answer.warnings) { if ($warning) { Write-Warning $warning } }
    # Without a lease, ttl says when the engine replaces the token. Under one, come back well before its end.
    $seconds = $answer.lease_duration * 0.7
    if ($answer.data.PSObject.Properties['ttl']) { $seconds = $answer.data.ttl }
    $script:NCentral.Token = $answer.data.access_token
    $script:NCentral.Url = $answer.data.url
    $script:NCentral.AgainAt = [DateTimeOffset]::UtcNow.AddSeconds($seconds)
}

function Invoke-NCentral([string] $Path, [string] $Method = 'Get', $Body) {
    if ([DateTimeOffset]::UtcNow -ge $script:NCentral.AgainAt) { Update-NCentralToken }
    for ($attempt = 1; ; $attempt++) {
        $call = @{ Method = $Method; Uri = "$($script:NCentral.Url)$Path"; UseBasicParsing = $true; TimeoutSec = 60 }
        $call.Headers = @{ Authorization = "Bearer $($script:NCentral.Token)" }
        $call.MaximumRedirection = 0
        if ($null -ne $Body) { $call.Body = ($Body | ConvertTo-Json -Depth 10); $call.ContentType = 'application/json' }
        try { return Invoke-RestMethod @call }
        catch {
            if ((Get-Status $_) -ne 401 -or $attempt -gt 1) { throw }
        }
        Update-NCentralToken -Validate # the token ended early: have the engine validate it, and replace it
    }
}

foreach ($each in $Path) { Invoke-NCentral $each | ConvertTo-Json -Depth 10 }
