#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
.SYNOPSIS
Watches the plan on a virtual machine that `cargo lab vm` runs. A task starts it after
each start of the machine.
#>
[CmdletBinding()]
param()

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Serial', 'Guest') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
}

Set-ResultFolder -Path (Join-Path -Path $env:ProgramData -ChildPath 'hushport-test')
try {
    Invoke-Watch -Folder (Split-Path -Path $PSScriptRoot -Parent)
} catch {
    Write-Log -Text "FAILED $($_.Exception.Message)"
    Send-HostLine -Kind 'lost' -Text "the plan is not watched: $($_.Exception.Message)"
    exit 1
}
