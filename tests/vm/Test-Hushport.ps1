#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
.SYNOPSIS
Tests hushport.sys on a fresh Windows test VM and writes a verdict.

.DESCRIPTION
Runs the steps in order. It restarts the machine when a step needs that, and
continues afterwards. The last line is: N passed, N failed. The results folder has
log.txt, checks.jsonl, verdict.txt, failures.txt, the output of Driver Verifier,
traces, the event log, and dumps.

It turns on test mode, trusts the certificate of the package, and turns the
firewall off. At the end it restores the former settings. Use a VM with a snapshot,
not a machine that is in use.

.PARAMETER Package
The folder that `cargo lab package` wrote.

.PARAMETER Results
The folder for the results, on a local disk. The scripts and the package are copied
into it, because the plan continues as SYSTEM, which has no mapped drives.

.PARAMETER Step
Runs only these steps, without a restart. Commas separate the names. The default is
all steps.

.PARAMETER Hosted
Runs the plan without a restart, for a machine that is in test mode already.

.PARAMETER Update
A second package with a higher version, for the step Update of -Hosted.

.PARAMETER NoScan
Skips the scan by another machine (scan.py).

.PARAMETER Signed
The package has a signature that Windows accepts without test mode. Test mode, the
certificate and Secure Boot are left alone.

.PARAMETER Keep
Does not remove the driver or restore the settings at the end.

.EXAMPLE
.\Test-Hushport.ps1 -Package C:\hushport

.EXAMPLE
powershell.exe -ExecutionPolicy Bypass -File .\Test-Hushport.ps1 -Package C:\hushport -Step Start,Cycle -Cycles 10
#>
[CmdletBinding()]
param(
    [string] $Package = $PSScriptRoot,
    [string] $Results = '',
    [string[]] $Step = @(),
    [ValidateRange(1, 100000)] [int] $Cycles = 100,
    [ValidateRange(1, 1440)] [int] $ScanMinutes = 30,
    [string] $Update = '',
    [switch] $Hosted,
    [switch] $NoScan,
    [switch] $Signed,
    [switch] $Keep
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
# In the order of their dependencies, so that each is loaded once.
foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Verifier', 'Trace', 'Scan', 'Conformance', 'Steps', 'State', 'Serial', 'Plan') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
}

# The full path. Throws if it is not on a local disk, because the plan continues as
# SYSTEM.
function Resolve-LocalPath {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    $full = Resolve-FullPath -Path $Path -Name $Name
    $network = $full.StartsWith('\\') -and $full -notmatch '^\\\\[?.]\\[A-Za-z]:'
    if (-not $network -and $full -match '^(?:\\\\[?.]\\)?([A-Za-z]):') {
        $letter = $Matches[1]
        $drive = Get-PSDrive -Name $letter -ErrorAction SilentlyContinue
        $network = "$((New-Object -TypeName System.IO.DriveInfo -ArgumentList "${letter}:\").DriveType)" -eq 'Network' -or
            ($null -ne $drive -and "$($drive.DisplayRoot)".StartsWith('\\'))
    }
    if ($network) { throw "-$Name $Path is on the network; give a folder on a local disk" }
    $full
}

function Resolve-FullPath {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    try {
        $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Path)
    } catch {
        throw "-$Name ${Path}: $($_.Exception.Message)"
    }
}

# Step names with commas between, because -File passes a list as one text.
function Get-StepList {
    $known = @(Get-StepName)
    foreach ($name in @(($Step -join ',') -split ',' | ForEach-Object { $_.Trim() } | Where-Object { $_ })) {
        $match = @($known | Where-Object { $_ -eq $name })
        if ($match.Count -eq 0) { throw "-Step ${name}: there is no such step; the steps are $($known -join ', ')" }
        @{ Step = $match[0] }
    }
}

# Copies scripts and packages to a folder that SYSTEM can read after a restart.
function Copy-Part {
    param(
        [Parameter(Mandatory)] [string] $From,
        [Parameter(Mandatory)] [string] $To,
        [Parameter(Mandatory)] [string[]] $Extensions
    )
    if ([System.IO.Path]::GetFullPath($From) -eq [System.IO.Path]::GetFullPath($To)) { return }
    $null = [System.IO.Directory]::CreateDirectory($To)
    foreach ($file in [System.IO.Directory]::GetFiles($From)) {
        $name = [System.IO.Path]::GetFileName($file)
        if ($Extensions -contains [System.IO.Path]::GetExtension($file) -and $name -notlike '*.Tests.ps1') {
            Copy-DurableFile -Path $file -Destination (Join-Path -Path $To -ChildPath $name)
        }
    }
}

# Checks a package and copies it. Returns its new path.
function Import-Package {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    Set-CheckLabel -Label 'Package'
    $faults = @(Get-PackageFault -Path $Path -Signed:$Signed)
    if ($faults.Count -gt 0) {
        Add-CheckResult -Name "the $Name is whole" -Failure ($faults -join '; ')
        return ''
    }
    $copy = Get-ResultPath -Name $Name
    Copy-Part -From $Path -To $copy -Extensions '.sys', '.inf', '.cat', '.cer', '.pdb', '.json'
    $copy
}

# Checks that are possible before anything on the machine is changed.
function Get-Request {
    $folder = $Results
    if (-not $folder) { $folder = Join-Path -Path $env:ProgramData -ChildPath 'hushport-test' }
    $folder = Resolve-LocalPath -Path $folder -Name 'Results'
    @{
        Results     = $folder
        Steps       = @(Get-StepList)
        Package     = Resolve-FullPath -Path $Package -Name 'Package'
        Update      = ''
        Cycles      = $Cycles
        ScanMinutes = $ScanMinutes
        NoScan      = [bool] $NoScan
        Signed      = [bool] $Signed
        Keep        = [bool] $Keep
        Script      = Join-Path -Path (Join-Path -Path $folder -ChildPath 'scripts') -ChildPath 'Test-Hushport.ps1'
        # The task runs the copy, without a package.
        FromTask    = $PSScriptRoot -eq (Join-Path -Path $folder -ChildPath 'scripts') -and $Package -eq $PSScriptRoot
    }
}

# Copies everything into the results folder. Returns whether all is there.
function Initialize-Run {
    param([Parameter(Mandatory)] [hashtable] $Request)
    Clear-CheckResult
    # Some steps need no package.
    $needed = @('Prepare', 'HostedPrepare', 'Install', 'Conformance', 'Update')
    $names = @($Request.Steps | ForEach-Object { $_.Step })
    if ($names.Count -eq 0 -or @($names | Where-Object { $needed -contains $_ }).Count -gt 0) {
        $Request.Package = Import-Package -Path $Request.Package -Name 'package'
        if (-not $Request.Package) { return $false }
    }
    if ($Update) {
        $Request.Update = Import-Package -Path (Resolve-FullPath -Path $Update -Name 'Update') -Name 'update'
        if (-not $Request.Update) { return $false }
    }
    Copy-Part -From $PSScriptRoot -To (Split-Path -Path $Request.Script -Parent) -Extensions '.ps1', '.psm1'
    $true
}

# Returns the number of failures.
function Invoke-Request {
    param([Parameter(Mandatory)] [hashtable] $Request)
    $underWay = Test-Path -Path (Get-ResultPath -Name 'state.json*')
    if ($underWay -and ($Hosted -or $Request.Steps.Count -gt 0)) {
        Write-Log -Text "FAILED a plan is under way in $($Request.Results): let it end, or delete state.json* there"
        return 1
    }
    if ($underWay) {
        $Request.Package = Get-ResultPath -Name 'package'
        return Invoke-Plan -Request $Request
    }
    if ($Request.FromTask -and -not $Hosted -and $Request.Steps.Count -eq 0) {
        # A task without a plan must not begin a new plan.
        Unregister-Continuation
        Write-Log -Text 'no plan is under way'
        return 0
    }
    if (-not (Initialize-Run -Request $Request)) { return Write-Verdict }
    if ($Request.Steps.Count -gt 0) { return Invoke-List -Request $Request -Plan $Request.Steps }
    if ($Hosted) { return Invoke-List -Request $Request -Plan @(Get-HostedPlan) }
    Invoke-Plan -Request $Request
}

try {
    $request = Get-Request
    Set-ResultFolder -Path $request.Results
} catch {
    Write-Host "FAILED $($_.Exception.Message)"
    exit 2
}
try {
    $failures = Invoke-Request -Request $request
} catch {
    # An unexpected error: the task must be deleted, and a verdict must be written.
    Write-Log -Quiet -Text "$($_.ScriptStackTrace)"
    Set-CheckLabel -Label 'Plan'
    Add-CheckResult -Name 'the plan comes to its end' -Failure "$($_.Exception.Message)"
    $failures = if ($Hosted -or $request.Steps.Count -gt 0) { Write-Verdict } else { Stop-Plan -Request $request }
}
if ($failures -ne 0) { exit 1 }
