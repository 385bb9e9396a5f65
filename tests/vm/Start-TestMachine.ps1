#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
.SYNOPSIS
Begins the tests on a virtual machine that `cargo lab vm` runs.

.DESCRIPTION
The answer file runs it from the CD at the first logon. On a machine that was installed
before, run it once from there, elevated. It changes the machine as Test-Hushport.ps1
does, and the machine turns itself off at the end.

.PARAMETER Folder
The folder on the local disk to which scripts and package are copied.
#>
[CmdletBinding()]
param([string] $Folder = '')

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Serial', 'Guest') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
}

if (-not $Folder) { $Folder = Join-Path -Path $env:ProgramData -ChildPath 'hushport-machine' }
Set-ResultFolder -Path (Join-Path -Path $env:ProgramData -ChildPath 'hushport-test')
try {
    $description = Read-MachineDescription -Path (Join-Path -Path $PSScriptRoot -ChildPath 'machine.json')
    # From here on, lines are sent.
    Copy-DurableFile -Path (Join-Path -Path $PSScriptRoot -ChildPath 'machine.json') -Destination (Get-ResultPath -Name 'machine.json')
    Send-HostLine -Kind 'setup' -Text 'first-logon'
    Disable-Sleep
    Set-MachineAddress -Description $description
    Install-Machine -Medium (Split-Path -Path $PSScriptRoot -Parent) -Folder $Folder
} catch {
    Write-Log -Text "FAILED $($_.Exception.Message)"
    Send-HostLine -Kind 'lost' -Text "the tests do not begin: $($_.Exception.Message)"
    exit 1
}
