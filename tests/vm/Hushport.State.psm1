# The plans, and the state that lets a plan continue after restarts and crashes.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'Files', 'Vm', 'Machine') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1")
}

$script:StateFile = 'state.json'
# Steps that do not test the driver.
$script:NoTests = @('EnableStandard', 'EnableLowResources', 'DisableVerifier', 'Settings', 'Query', 'Collect', 'Remove')

# The steps in order, and the restarts between them.
function Get-Plan {
    $plan = @(@{ Step = 'Prepare'; Restart = $true }, @{ Step = 'Install' })
    foreach ($name in 'Start', 'Conformance', 'Policy', 'Trace', 'Cycle', 'Scan') { $plan += @{ Step = $name } }
    $plan += @{ Step = 'EnableStandard'; Restart = $true }
    foreach ($name in 'Settings', 'Start', 'Policy', 'Trace', 'Cycle', 'Scan', 'Query') {
        $plan += @{ Step = $name; Under = 'standard' }
    }
    $plan += @{ Step = 'EnableLowResources'; Restart = $true }
    foreach ($name in 'Settings', 'Cycle', 'Query') { $plan += @{ Step = $name; Under = 'low-resources' } }
    $plan += @{ Step = 'DisableVerifier'; Restart = $true }
    $plan += @{ Step = 'Settings'; Under = 'off' }
    foreach ($name in 'Collect', 'Remove') { $plan += @{ Step = $name } }
    $plan
}

# The plan without a restart, for a machine that is in test mode already.
function Get-HostedPlan {
    foreach ($name in 'HostedPrepare', 'Install', 'Start', 'Conformance', 'Policy', 'Trace', 'Cycle', 'LocalScan', 'Witness', 'Update') {
        @{ Step = $name }
    }
    @{ Step = 'VolatileVerifier' }
    foreach ($name in 'Start', 'Cycle') { @{ Step = $name; Under = 'volatile' } }
    foreach ($name in 'Collect', 'Remove') { @{ Step = $name } }
}

# The names of all steps.
function Get-StepName {
    @(Get-Plan) + @(Get-HostedPlan) | ForEach-Object { $_.Step } | Select-Object -Unique
}

function Get-Label {
    param([Parameter(Mandatory)] [hashtable] $Entry)
    if ($Entry.ContainsKey('Under')) { return "$($Entry.Step)-$($Entry.Under)" }
    $Entry.Step
}

function Get-CollectPlace {
    param([Parameter(Mandatory)] [hashtable[]] $Plan)
    for ($place = 0; $place -lt $Plan.Count; $place++) { if ($Plan[$place].Step -eq 'Collect') { return $place } }
}

# Logs the parts of a plan that are not run.
function Write-NotTested {
    param([Parameter(Mandatory)] [AllowEmptyCollection()] [hashtable[]] $Entries)
    $groups = [ordered]@{}
    foreach ($entry in $Entries) {
        if ($script:NoTests -contains $entry.Step) { continue }
        $under = "$($entry['Under'])"
        if (-not $groups.Contains($under)) { $groups[$under] = @() }
        $groups[$under] += $entry.Step
    }
    $parts = foreach ($under in $groups.Keys) {
        $names = $groups[$under] -join ', '
        if ($under) { "under Driver Verifier ($under): $names" } else { $names }
    }
    if ($parts) { Write-Log -Text "not tested: $(@($parts) -join '; ')" }
}

function Get-FirstState {
    param([Parameter(Mandatory)] [hashtable] $Request)
    @{
        Next        = 0
        Running     = $false
        Process     = ''
        Since       = (Get-Date).ToString('o')
        Package     = $Request.Package
        Update      = $Request.Update
        Cycles      = $Request.Cycles
        ScanMinutes = $Request.ScanMinutes
        NoScan      = $Request.NoScan
        Signed      = $Request.Signed
        Keep        = $Request.Keep
        Checks      = 0
        Crashes     = 0
        Removals    = 0
    }
}

# Whether a state is plausible.
function Test-State {
    param([Parameter(Mandatory)] [hashtable] $Record)
    $request = @{ Package = ''; Update = ''; Cycles = 1; ScanMinutes = 1; NoScan = $false; Signed = $false; Keep = $false }
    foreach ($name in (Get-FirstState -Request $request).Keys) {
        if (-not $Record.ContainsKey($name)) { return $false }
    }
    if ($Record.Running -isnot [bool] -or $Record.NoScan -isnot [bool] -or $Record.Signed -isnot [bool] -or $Record.Keep -isnot [bool]) { return $false }
    foreach ($name in 'Next', 'Cycles', 'ScanMinutes', 'Checks', 'Crashes', 'Removals') {
        if ($Record[$name] -isnot [int] -and $Record[$name] -isnot [long]) { return $false }
    }
    try { $null = [datetime] $Record.Since } catch { return $false }
    $Record.Next -ge 0 -and $Record.Next -le @(Get-Plan).Count
}

# Whether the state is on the disk now.
function Save-State {
    param([Parameter(Mandatory)] [hashtable] $State)
    $State.Checks = Measure-CheckResult
    try {
        Save-Record -Name $script:StateFile -Record $State
        return $true
    } catch {
        Add-CheckResult -Name 'the state is saved' -Failure "$($_.Exception.Message)"
        return $false
    }
}

# The state of the current plan, corrected if the disk has lost a part. $null if there
# is no plan.
function Read-State {
    param([Parameter(Mandatory)] [hashtable] $Request)
    $read = Read-Record -Name $script:StateFile -Test { param($record) Test-State -Record $record }
    if (-not $read.Found) { return $null }
    $state = $read.Value
    $plan = @(Get-Plan)
    $lost = @()
    if ($read.Lost) { $lost += 'state.json is torn or gone' }
    $torn = Repair-CheckFile
    if ($torn -gt 0) { $lost += "checks.jsonl has $torn torn lines" }
    $checks = @(Get-CheckResult)
    if ($null -eq $state) {
        # The position in the plan is unknown: collect, restore, and end.
        $state = Get-FirstState -Request $Request
        $state.Since = Get-LostBeginning -Checks $checks
        $state.Next = Get-CollectPlace -Plan $plan
    } else {
        # ConvertFrom-Json of PowerShell 7 converts the text to a date.
        $state.Since = ([datetime] $state.Since).ToString('o')
        if ($checks.Count -lt $state.Checks) { $lost += "checks.jsonl has $($checks.Count) of $($state.Checks) results" }
        $last = Get-LastPlace -Checks $checks
        if ($last -gt $state.Next -or ($last -eq $state.Next -and -not $state.Running)) {
            $lost += 'state.json is older than checks.jsonl'
            $state.Next = $last
            $state.Running = $true
        }
    }
    if ($lost.Count -gt 0) {
        Set-CheckLabel -Label 'State'
        Add-CheckResult -Name 'every result is kept' -Failure "a result was lost: $($lost -join ', ')"
    }
    $state
}

function Get-LastPlace {
    param([Parameter(Mandatory)] [AllowEmptyCollection()] [object[]] $Checks)
    $last = -1
    foreach ($check in $Checks) {
        $place = Get-PropertyValue -InputObject $check -Name 'Place'
        if ($null -ne $place -and $place -gt $last -and $place -lt @(Get-Plan).Count) { $last = [int] $place }
    }
    $last
}

# The time when a plan began, if its state is lost.
function Get-LostBeginning {
    param([Parameter(Mandatory)] [AllowEmptyCollection()] [object[]] $Checks)
    $found = (Read-FoundSetting).Value
    if ($null -ne $found -and $found.ContainsKey('Since')) { return ([datetime] $found.Since).ToString('o') }
    if ($Checks.Count -gt 0) { return ([datetime] $Checks[0].Time).ToString('o') }
    (Get-Date).AddDays(-1).ToString('o')
}

# Identifies this process: its number and its start time.
function Get-ProcessMark {
    param([int] $Id = $PID)
    try {
        $process = [System.Diagnostics.Process]::GetProcessById($Id)
        "$Id@$($process.StartTime.ToUniversalTime().Ticks)"
    } catch {
        ''
    }
}

function Test-OtherProcess {
    param([Parameter(Mandatory)] [AllowEmptyString()] [string] $Mark)
    if ($Mark -notmatch '^(\d+)@\d+$' -or $Mark -eq (Get-ProcessMark)) { return $false }
    $Mark -eq (Get-ProcessMark -Id ([int] $Matches[1]))
}

# Deletes the state, so that the next run begins a new plan.
function Remove-State {
    Remove-Record -Name $script:StateFile
}

Export-ModuleMember -Function @(
    'Get-Plan', 'Get-HostedPlan', 'Get-StepName', 'Get-Label', 'Get-CollectPlace', 'Write-NotTested',
    'Get-FirstState', 'Save-State', 'Read-State', 'Get-LostBeginning', 'Get-ProcessMark', 'Test-OtherProcess',
    'Remove-State'
)
