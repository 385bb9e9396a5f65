#Requires -Version 5.1
#Requires -RunAsAdministrator
<#
.SYNOPSIS
Takes a fresh Windows test VM from nothing to a verdict on hushport.sys.

.DESCRIPTION
Goes through the steps in order, restarting the machine where a step asks for
it, and goes on by itself afterwards. Ends with one line: N passed, N failed.
What it saw is in the result folder: log.txt, checks.jsonl, verdict.txt, what
Driver Verifier said, the trace, the event log, and dumps if there were any.

It turns on test mode, trusts the package's certificate and turns the firewall
off: for a VM with a snapshot, not for a machine that somebody uses.

.PARAMETER Package
The folder that `cargo lab package` wrote.

.PARAMETER Step
Only these steps, now, without a restart. Without it, all of them.

.PARAMETER NoScan
Leaves out the scan from the other end (scan.py).

.EXAMPLE
.\Test-Hushport.ps1 -Package C:\hushport

.EXAMPLE
.\Test-Hushport.ps1 -Package C:\hushport -Step Start, Cycle -Cycles 10
#>
[CmdletBinding()]
param(
    [string] $Package = $PSScriptRoot,
    [string] $Results = (Join-Path -Path $env:ProgramData -ChildPath 'hushport-test'),
    [ValidateSet('Prepare', 'Install', 'Start', 'Policy', 'Trace', 'Cycle', 'Scan', 'EnableStandard', 'Query',
        'EnableLowResources', 'DisableVerifier', 'Collect', 'Remove')]
    [string[]] $Step = @(),
    [ValidateRange(1, 100000)] [int] $Cycles = 100,
    [ValidateRange(1, 1440)] [int] $ScanMinutes = 30,
    [switch] $NoScan
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1') -Force
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Steps.psm1') -Force

$script:TaskName = 'HushportTest'

# What is done in which order; a restart follows where it says so.
function Get-Plan {
    $plan = @(@{ Step = 'Prepare'; Restart = $true }, @{ Step = 'Install' })
    foreach ($name in 'Start', 'Policy', 'Trace', 'Cycle', 'Scan') { $plan += @{ Step = $name } }
    $plan += @{ Step = 'EnableStandard'; Restart = $true }
    foreach ($name in 'Start', 'Policy', 'Trace', 'Cycle', 'Scan', 'Query') {
        $plan += @{ Step = $name; Under = 'standard' }
    }
    $plan += @{ Step = 'EnableLowResources'; Restart = $true }
    foreach ($name in 'Cycle', 'Query') { $plan += @{ Step = $name; Under = 'low-resources' } }
    $plan += @{ Step = 'DisableVerifier'; Restart = $true }
    foreach ($name in 'Collect', 'Remove') { $plan += @{ Step = $name } }
    $plan
}

function Invoke-Step {
    param(
        [Parameter(Mandatory)] [hashtable] $Entry,
        [Parameter(Mandatory)] [hashtable] $State
    )
    $label = $Entry.Step
    if ($Entry.ContainsKey('Under')) { $label = "$($Entry.Step)-$($Entry.Under)" }
    Set-CheckLabel -Label $label
    Write-Host "== $label"
    $options = @{
        Package      = $State.Package
        Cycles       = $State.Cycles
        ScanMinutes  = $State.ScanMinutes
        NoScan       = $State.NoScan
        Since        = [datetime] $State.Since
        Label        = $label
        LowResources = ($label -like '*-low-resources')
    }
    # Whatever a step did not foresee is a failure of that step, not the end.
    try {
        $null = & "Invoke-$($Entry.Step)Step" -Options $options
    } catch {
        Add-CheckResult -Name 'the step comes to its end' -Failure "$($_.Exception.Message)"
    }
}

function Get-FirstState {
    @{
        Next        = 0
        Running     = $false
        Since       = (Get-Date).ToString('o')
        Package     = (Resolve-Path -Path $Package).Path
        Cycles      = $Cycles
        ScanMinutes = $ScanMinutes
        NoScan      = [bool] $NoScan
    }
}

function Save-State {
    param([Parameter(Mandatory)] [hashtable] $State)
    Set-Content -Path (Get-ResultPath -Name 'state.json') -Value (ConvertTo-Json -InputObject $State)
}

# Where an earlier run stopped, or the beginning.
function Read-State {
    $file = Get-ResultPath -Name 'state.json'
    if (-not (Test-Path -Path $file)) { return Get-FirstState }
    $saved = Get-Content -Path $file -Raw | ConvertFrom-Json
    $state = @{}
    foreach ($property in $saved.PSObject.Properties) { $state[$property.Name] = $property.Value }
    $state
}

# Goes on by itself after the next start of the machine.
function Register-Continuation {
    $command = "-NoProfile -ExecutionPolicy Bypass -File `"$PSCommandPath`" -Results `"$Results`""
    $action = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $command
    $trigger = New-ScheduledTaskTrigger -AtStartup
    $principal = New-ScheduledTaskPrincipal -UserId 'SYSTEM' -LogonType ServiceAccount -RunLevel Highest
    # A step may take longer than the three days that are the default.
    $settings = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([timespan]::Zero)
    $null = Register-ScheduledTask -TaskName $script:TaskName -Action $action -Trigger $trigger `
        -Principal $principal -Settings $settings -Force
}

function Unregister-Continuation {
    if (Get-ScheduledTask -TaskName $script:TaskName -ErrorAction SilentlyContinue) {
        Unregister-ScheduledTask -TaskName $script:TaskName -Confirm:$false
    }
}

# Counts the checks of this run and says the closing line.
function Write-Verdict {
    $lines = @(Get-Content -Path (Get-ResultPath -Name 'checks.jsonl'))
    $checks = @($lines | ForEach-Object { ConvertFrom-Json -InputObject $_ })
    $failed = @($checks | Where-Object { $_.Failure })
    foreach ($check in $failed) { Write-Host "FAILED $($check.Step): $($check.Name): $($check.Failure)" }
    $line = "$($checks.Count - $failed.Count) passed, $($failed.Count) failed"
    Set-Content -Path (Get-ResultPath -Name 'verdict.txt') -Value $line
    Write-Host $line
    $failed.Count
}

function Invoke-Plan {
    $state = Read-State
    $plan = @(Get-Plan)
    if ($state.Next -eq 0 -and -not $state.Running) { Clear-Check }
    if ($state.Running) {
        # The machine went down in the middle of a step.
        Set-CheckLabel -Label $plan[$state.Next].Step
        Add-CheckResult -Name 'the machine stays up' -Failure 'it restarted during this step'
        $state.Next++
    }
    Register-Continuation
    while ($state.Next -lt $plan.Count) {
        $entry = $plan[$state.Next]
        $state.Running = $true
        Save-State -State $state
        Invoke-Step -Entry $entry -State $state
        $state.Running = $false
        $state.Next++
        Save-State -State $state
        if ($entry.ContainsKey('Restart')) {
            Restart-Computer -Force
            # The machine goes down in a while; nothing else may begin.
            Start-Sleep -Seconds 600
        }
    }
    Unregister-Continuation
    Remove-Item -Path (Get-ResultPath -Name 'state.json')
    Write-Verdict
}

function Clear-Check {
    $null = New-Item -ItemType File -Path (Get-ResultPath -Name 'checks.jsonl') -Force
}

Set-ResultFolder -Path $Results
$null = Start-Transcript -Path (Get-ResultPath -Name 'log.txt') -Append
try {
    if ($Step.Count -gt 0) {
        Clear-Check
        $state = Get-FirstState
        foreach ($name in $Step) { Invoke-Step -Entry @{ Step = $name } -State $state }
        $failures = Write-Verdict
    } else {
        $failures = Invoke-Plan
    }
} finally {
    $null = Stop-Transcript
}
if ($failures -gt 0) { exit 1 }
