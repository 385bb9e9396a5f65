# Runs the plans. Every plan ends with a verdict.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'Files', 'Vm', 'Machine', 'Verifier', 'Trace', 'Scan', 'Conformance', 'Steps', 'State', 'Serial') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1")
}

$script:TaskName = 'HushportTest'
# After as many crashes the plan ends.
$script:MostCrashes = 3

# Runs one step. False if a prerequisite failed; then the plan ends. An unexpected
# error is one failure of the step.
function Invoke-Step {
    param(
        [Parameter(Mandatory)] [hashtable] $Entry,
        [Parameter(Mandatory)] [hashtable] $State,
        [int] $Place = -1
    )
    $label = Get-Label -Entry $Entry
    Set-CheckLabel -Label $label -Place $Place
    Write-Log -Text "== $label"
    Send-HostLine -Kind 'step' -Text $label
    $options = @{
        Package      = $State.Package
        Update       = $State.Update
        Cycles       = $State.Cycles
        ScanMinutes  = $State.ScanMinutes
        NoScan       = $State.NoScan
        Signed       = $State.Signed
        Since        = [datetime] $State.Since
        Label        = $label
        Under        = "$($Entry['Under'])"
        LowResources = ($Entry['Under'] -eq 'low-resources')
    }
    $command = Get-Command -Name "Invoke-$($Entry.Step)Step"
    $arguments = @{}
    if ($command.Parameters.ContainsKey('Options')) { $arguments.Options = $options }
    try {
        $null = & $command @arguments
    } catch [System.OperationCanceledException] {
        return $false
    } catch {
        Write-Log -Quiet -Text "$($_.ScriptStackTrace)"
        Add-CheckResult -Name 'the step comes to its end' -Failure "$($_.Exception.Message)"
    }
    $true
}

# Registers a task that continues the plan after the next start of the machine, also
# on battery power: a VM on a laptop shows the battery of the host.
function Register-Continuation {
    param([Parameter(Mandatory)] [hashtable] $Request)
    $command = "-NoProfile -ExecutionPolicy Bypass -File `"$($Request.Script)`" -Results `"$($Request.Results)`""
    $action = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $command
    $trigger = New-ScheduledTaskTrigger -AtStartup
    $principal = New-ScheduledTaskPrincipal -UserId 'SYSTEM' -LogonType ServiceAccount -RunLevel Highest
    # A step may take longer than the three days that are the default.
    $settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
        -ExecutionTimeLimit ([timespan]::Zero)
    $null = Register-ScheduledTask -TaskName $script:TaskName -Action $action -Trigger $trigger `
        -Principal $principal -Settings $settings -Force
}

function Unregister-Continuation {
    if (Get-ScheduledTask -TaskName $script:TaskName -ErrorAction SilentlyContinue) {
        Unregister-ScheduledTask -TaskName $script:TaskName -Confirm:$false
    }
}

# After a start of the machine the task may run before the Base Filtering Engine
# and before the network.
function Wait-Machine {
    param([Parameter(Mandatory)] [hashtable] $State)
    $engine = { "$((Get-Service -Name 'BFE').Status)" -eq 'Running' }
    $address = { @(Get-LocalAddress).Count -gt 0 }
    $conditions = [ordered]@{ 'the Base Filtering Engine runs' = $engine }
    if (-not $State.NoScan) { $conditions['this machine has an address'] = $address }
    foreach ($name in $conditions.Keys) {
        try {
            if (-not (Wait-Condition -Seconds 120 -Milliseconds 1000 -Condition $conditions[$name])) {
                Write-Log -Text "after two minutes still not: $name"
            }
        } catch {
            Write-Log -Text "not known: $name ($(ConvertTo-Line -Text $_.Exception.Message))"
        }
    }
}

# Restarts the machine. Returns only if that failed, with the reason.
function Restart-Machine {
    Write-Log -Text ('the machine restarts, and the plan goes on by itself; to look on: Get-Content ' +
        "'$(Get-ResultPath -Name 'log.txt')' -Encoding UTF8 -Tail 5 -Wait")
    $before = Get-StartTime
    Send-HostLine -Kind 'restart' -Text 'now'
    try {
        Restart-Computer -Force
    } catch {
        return "$($_.Exception.Message)"
    }
    # The machine shuts down soon; nothing else may begin.
    Start-Sleep -Seconds 600
    if ((Get-StartTime) -ne $before) { return '' }
    'it is still up ten minutes after the restart was asked for'
}

function Get-StartTime {
    try { "$((Get-CimInstance -ClassName Win32_OperatingSystem).LastBootUpTime.Ticks)" } catch { '' }
}

# The step in which the machine went down has failed. The plan continues with the
# next step; after a crash in Start, or the third crash, with Collect.
function Resume-Plan {
    param(
        [Parameter(Mandatory)] [hashtable] $State,
        [Parameter(Mandatory)] [hashtable[]] $Plan
    )
    $collect = Get-CollectPlace -Plan $Plan
    Set-CheckLabel -Label 'Plan'
    $null = @(Save-CrashDump -Since ([datetime] $State.Since))
    if (-not $State.Running -or $State.Next -ge $Plan.Count) { return }
    $entry = $Plan[$State.Next]
    Set-CheckLabel -Label (Get-Label -Entry $entry) -Place $State.Next
    Add-CheckResult -Name 'the machine stays up' -Failure 'it restarted during this step'
    $State.Running = $false
    $State.Crashes++
    if ($entry.Step -eq 'Remove' -and $State.Removals -eq 0) {
        # The settings must be restored: try once more.
        $State.Removals++
        return
    }
    $State.Next++
    if ($State.Next -lt $collect -and ($entry.Step -eq 'Start' -or $State.Crashes -ge $script:MostCrashes)) {
        Write-NotTested -Entries $Plan[$State.Next..($Plan.Count - 1)]
        $State.Next = $collect
    }
}

# Continues the plan. Returns the number of failed checks, or -1 if the machine is
# about to restart.
function Invoke-Plan {
    param([Parameter(Mandatory)] [hashtable] $Request)
    $plan = @(Get-Plan)
    $state = Read-State -Request $Request
    if ($null -ne $state) {
        if (Test-OtherProcess -Mark "$($state.Process)") {
            Write-Log -Text "this plan runs already, in process $(("$($state.Process)" -split '@')[0]); see log.txt"
            return 1
        }
        Write-Log -Text ("going on with the plan that began on $($state.Since); " +
            "to begin anew, delete state.json* in $($Request.Results)")
        Resume-Plan -State $state -Plan $plan
        Wait-Machine -State $state
    } else {
        $state = Get-FirstState -Request $Request
        Clear-CheckResult
    }
    $state.Process = Get-ProcessMark
    # Save the state before the task exists, because the task needs it.
    $saved = Save-State -State $state
    if ($saved -and $state.Next -lt $plan.Count) { $saved = Register-Task -Request $Request }
    $collect = Get-CollectPlace -Plan $plan
    if (-not $saved -and $state.Next -lt $collect) {
        Write-NotTested -Entries $plan[$state.Next..($plan.Count - 1)]
        $state.Next = $collect
    }
    $null = Invoke-Remainder -State $state -Plan $plan
    Complete-Plan
}

# Ends a plan that cannot continue: collects, restores, and writes the verdict.
function Stop-Plan {
    param([Parameter(Mandatory)] [hashtable] $Request)
    $plan = @(Get-Plan)
    $state = Get-FirstState -Request $Request
    $state.Since = Get-LostBeginning -Checks @(Get-CheckResult)
    $state.Next = Get-CollectPlace -Plan $plan
    $null = Invoke-Remainder -State $state -Plan $plan
    Complete-Plan
}

function Register-Task {
    param([Parameter(Mandatory)] [hashtable] $Request)
    try {
        Register-Continuation -Request $Request
        return $true
    } catch {
        Set-CheckLabel -Label 'Plan'
        Add-CheckResult -Name 'the plan can go on after a restart' -Failure "$($_.Exception.Message)"
        return $false
    }
}

function Invoke-Remainder {
    param(
        [Parameter(Mandatory)] [hashtable] $State,
        [Parameter(Mandatory)] [hashtable[]] $Plan
    )
    $collect = Get-CollectPlace -Plan $Plan
    while ($State.Next -lt $Plan.Count) {
        $entry = $Plan[$State.Next]
        $State.Running = $true
        $null = Save-State -State $State
        $good = $true
        if ($entry.Step -eq 'Remove' -and $State.Keep) {
            Write-Log -Text 'the machine stays as it is (-Keep); to put it back: -Step Remove'
        } else {
            $good = Invoke-Step -Entry $entry -State $State -Place $State.Next
        }
        $State.Running = $false
        $State.Next++
        if ((Save-State -State $State) -and $good -and $entry.ContainsKey('Restart')) {
            $failure = Restart-Machine
            if ($failure) {
                Add-CheckResult -Name 'the machine restarts' -Failure $failure
                $good = $false
            }
        } elseif ($entry.ContainsKey('Restart')) {
            $good = $false
        }
        if (-not $good -and $State.Next -lt $collect) {
            Write-NotTested -Entries $Plan[$State.Next..($Plan.Count - 1)]
            $State.Next = $collect
        }
    }
}

# First writes the verdict, then deletes the task, and the state last.
function Complete-Plan {
    $null = Save-Verdict
    Set-CheckLabel -Label 'Plan'
    try {
        Unregister-Continuation
    } catch {
        Add-CheckResult -Name 'the scheduled task is gone' -Failure "$($_.Exception.Message)"
    }
    $failures = Write-Verdict
    Remove-State
    $failures
}

# Runs a plan without a restart, or single steps. Returns the number of failures.
function Invoke-List {
    param(
        [Parameter(Mandatory)] [hashtable] $Request,
        [Parameter(Mandatory)] [hashtable[]] $Plan
    )
    Clear-CheckResult
    $state = Get-FirstState -Request $Request
    for ($place = 0; $place -lt $Plan.Count; $place++) {
        $entry = $Plan[$place]
        if ($entry.Step -eq 'Remove' -and $state.Keep) { continue }
        if (Invoke-Step -Entry $entry -State $state) { continue }
        if ($place + 1 -ge $Plan.Count) { break }
        $rest = @($Plan[($place + 1)..($Plan.Count - 1)])
        Write-NotTested -Entries $rest
        foreach ($last in @($rest | Where-Object { @('Collect', 'Remove') -contains $_.Step })) {
            if ($last.Step -eq 'Remove' -and $state.Keep) { continue }
            $null = Invoke-Step -Entry $last -State $state
        }
        break
    }
    Write-Verdict
}

# The closing line, counted from every check.
function Save-Verdict {
    $checks = @(Get-CheckResult)
    $failed = @($checks | Where-Object { $_.Failure })
    $line = "$($checks.Count - $failed.Count) passed, $($failed.Count) failed"
    $failures = @($failed | ForEach-Object { "$($_.Step): $($_.Name): $($_.Failure)`n" }) -join ''
    try {
        Write-DurableFile -Path (Get-ResultPath -Name 'verdict.txt') -Text "$line`n"
        Write-ResultText -Name 'failures.txt' -Text $failures
    } catch {
        Write-Log -Text "the verdict cannot be written: $($_.Exception.Message)"
    }
    @{ Line = $line; Failed = $failed.Count }
}

function Write-Verdict {
    $verdict = Save-Verdict
    Write-Log -Text "results: $(Split-Path -Path (Get-ResultPath -Name 'log.txt') -Parent)"
    Write-Log -Text $verdict.Line
    $verdict.Failed
}

Export-ModuleMember -Function @(
    'Invoke-Plan', 'Stop-Plan', 'Invoke-List', 'Write-Verdict', 'Unregister-Continuation'
)
