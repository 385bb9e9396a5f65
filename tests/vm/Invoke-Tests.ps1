#Requires -Version 7.0
<#
.SYNOPSIS
Runs the Pester tests of this folder on any system: they play Windows.

.PARAMETER Name
Only this file, such as Plan.Tests.ps1.
#>
[CmdletBinding()]
param([string] $Name = '')

$ErrorActionPreference = 'Stop'
$pester = @(Get-Module -ListAvailable -Name 'Pester' | Where-Object { $_.Version -ge [version] '5.5' } | Sort-Object -Property Version)
if ($pester.Count -eq 0) {
    Write-Output 'no Pester 5.5 or later: Install-Module -Name Pester'
    exit 3
}
Import-Module -Name $pester[-1].Path
$configuration = New-PesterConfiguration
$configuration.Run.Path = Join-Path -Path $PSScriptRoot -ChildPath $Name
$configuration.Run.PassThru = $true
$configuration.Output.RenderMode = 'Plaintext'
$result = Invoke-Pester -Configuration $configuration
$failed = $result.FailedCount + $result.FailedBlocksCount + $result.FailedContainersCount
Write-Output "$($result.PassedCount) passed, $failed failed"
if ($failed -gt 0 -or $result.PassedCount -eq 0) { exit 1 }
