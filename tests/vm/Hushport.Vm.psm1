# Functions for all steps: checks, programs, the service, the filter engine.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')

# The driver's objects in the filter engine: one callout for each layer, and the
# prefix of their names.
$script:ObjectName = 'hushport'
$script:CalloutCount = 66

$script:CheckLabel = ''
$script:CheckPlace = -1
$script:LastPassed = $true
# Checks that could not be written to checks.jsonl.
$script:Unwritten = @()
# The number of lines in checks.jsonl; -1 if it is not known yet.
$script:Written = -1

# Place is the step's number in the plan, for Hushport.Plan.psm1.
function Set-CheckLabel {
    param(
        [Parameter(Mandatory)] [string] $Label,
        [int] $Place = -1
    )
    $script:CheckLabel = $Label
    $script:CheckPlace = $Place
}

# Writes a check's outcome to the console, to log.txt and to checks.jsonl.
function Add-CheckResult {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [AllowEmptyString()] [string] $Failure = ''
    )
    $line = ConvertTo-Line -Text $Failure
    $check = [ordered]@{
        Time    = (Get-Date).ToString('o')
        Step    = $script:CheckLabel
        Name    = $Name
        Failure = $line
        Place   = $script:CheckPlace
    }
    if ($line) {
        Write-Log -Text "FAILED $($script:CheckLabel): ${Name}: $line"
        if ($Failure.Trim() -ne $line) { Write-Log -Quiet -Text "in full: $Failure" }
    } else {
        Write-Log -Text "ok $($script:CheckLabel): $Name"
    }
    try {
        Add-DurableLine -Path (Get-ResultPath -Name 'checks.jsonl') -Text (ConvertTo-Json -InputObject $check -Compress)
        if ($script:Written -ge 0) { $script:Written++ }
    } catch {
        Write-Log -Text "checks.jsonl cannot be written: $(ConvertTo-Line -Text $_.Exception.Message)"
        $script:Unwritten += New-Object -TypeName PSObject -Property $check
    }
}

function Clear-CheckResult {
    $script:Unwritten = @()
    $script:Written = 0
    [System.IO.File]::Delete((Get-ResultPath -Name 'checks.jsonl'))
    [System.IO.File]::Delete((Get-ResultPath -Name 'failures.txt'))
    [System.IO.File]::Delete((Get-ResultPath -Name 'verdict.txt'))
}

# The checks on the disk, and the number of torn or zero-filled lines.
function Read-CheckResult {
    $result = @{ Checks = @(); Torn = 0 }
    $file = Get-ResultPath -Name 'checks.jsonl'
    if ([System.IO.File]::Exists($file)) {
        foreach ($line in (Read-Text -Path $file).Split("`n")) {
            if (-not $line) { continue }
            $check = ConvertFrom-Record -Text $line
            if ($null -ne $check -and $null -ne $check.PSObject.Properties['Failure']) {
                $result.Checks += $check
            } else {
                $result.Torn++
            }
        }
    }
    $result
}

# Removes torn lines from checks.jsonl, so that the next line is separate. Returns
# their number.
function Repair-CheckFile {
    $result = Read-CheckResult
    if ($result.Torn -gt 0) {
        $lines = @($result.Checks | ForEach-Object { (ConvertTo-Json -InputObject $_ -Compress) + "`n" })
        Write-DurableFile -Path (Get-ResultPath -Name 'checks.jsonl') -Text ($lines -join '')
    }
    $script:Written = $result.Checks.Count
    $result.Torn
}

# The number of results in checks.jsonl, without reading it each time.
function Measure-CheckResult {
    if ($script:Written -lt 0) { $script:Written = (Read-CheckResult).Checks.Count }
    $script:Written
}

# All checks of this plan, also those that could not be written.
function Get-CheckResult {
    @((Read-CheckResult).Checks) + @($script:Unwritten)
}

# Runs a check, which fails if its body throws. A failed prerequisite
# (-Required) ends the step: Invoke-Step of Hushport.Plan.psm1 catches this.
function Invoke-Check {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [scriptblock] $Body,
        [switch] $Required
    )
    $failure = ''
    try {
        $null = & $Body
    } catch {
        $failure = "$($_.Exception.Message)"
        if (-not $failure.Trim()) { $failure = "an error without a message, of type $($_.Exception.GetType().Name)" }
    }
    Add-CheckResult -Name $Name -Failure $failure
    $script:LastPassed = -not $failure
    if ($failure -and $Required) {
        throw (New-Object -TypeName System.OperationCanceledException -ArgumentList $Name)
    }
}

# Whether the previous check passed. If not, dependent checks are skipped.
function Test-LastCheck {
    $script:LastPassed
}

function Assert-Equal {
    param($Actual, $Expected, [string] $What = 'it')
    if ($Actual -ne $Expected) { throw "$What is $Actual, not $Expected" }
}

# Tests a condition repeatedly until it holds. Returns whether it holds. The number
# of tests is bounded, not the time, because the clock may jump.
function Wait-Condition {
    param(
        [Parameter(Mandatory)] [scriptblock] $Condition,
        [Parameter(Mandatory)] [int] $Seconds,
        [int] $Milliseconds = 500
    )
    $questions = [int] ($Seconds * 1000 / $Milliseconds)
    for ($question = 0; $question -lt $questions; $question++) {
        if (& $Condition) { return $true }
        Start-Sleep -Milliseconds $Milliseconds
    }
    [bool] (& $Condition)
}

# ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_NO_SYSTEM_RESOURCES
function Get-MemoryStatus {
    8, 14, 1450
}

# The meaning of exit statuses of programs that start drivers.
function Get-StatusMeaning {
    param([Parameter(Mandatory)] [int] $Status)
    $meanings = @{
        2    = 'a file is missing'
        5    = 'access is denied'
        8    = 'no memory'
        14   = 'no memory'
        31   = "the driver's start routine failed"
        317  = 'a code that Windows cannot translate'
        577  = 'Windows refuses the signature: test signing is not in force, Secure Boot is on, or the certificate is missing'
        1058 = 'the service is disabled'
        1060 = 'there is no such service'
        1072 = 'the service is marked for deletion'
        1275 = 'Windows blocks the driver'
        1450 = 'no system resources'
    }
    if ($meanings.ContainsKey($Status)) { return $meanings[$Status] }
    ''
}

# Runs a program and returns its output. Throws if its exit status is not allowed.
# The whole output goes to log.txt.
function Invoke-Program {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [AllowEmptyString()] [string[]] $Arguments = @(),
        [int[]] $Allowed = @(0)
    )
    # Output on standard error is not an error.
    $ErrorActionPreference = 'Continue'
    $global:LASTEXITCODE = 0
    $lines = @(& $Path @Arguments 2>&1 | ForEach-Object { "$_" })
    $status = $global:LASTEXITCODE
    $text = $lines -join [System.Environment]::NewLine
    $command = "$Path $($Arguments -join ' ')"
    if (($Allowed -notcontains $status) -or $text.Length -lt 2000) {
        Write-Log -Quiet -Text "$command (exit status $status)$([System.Environment]::NewLine)$text"
    }
    if ($Allowed -notcontains $status) {
        $said = ConvertTo-Line -Text "$(Get-StatusMeaning -Status $status) $text" -Longest 240
        throw "${command}: exit status ${status}: $said"
    }
    # Writing the log may have changed it.
    $global:LASTEXITCODE = $status
    $text
}

function Get-DriverService {
    Get-CimInstance -ClassName Win32_SystemDriver -Filter "Name = 'hushport'"
}

function Get-DriverState {
    $service = Get-DriverService
    if ($null -eq $service) { return 'Absent' }
    $service.State
}

# Starts the driver. Returns the exit status of the service controller, 0 for success.
function Start-Driver {
    param([int[]] $Allowed = @(0))
    if ((Get-DriverState) -eq 'Running') { return 0 }
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('start', 'hushport') -Allowed (@($Allowed) + 1056)
    $status = $global:LASTEXITCODE
    # 1056: it runs already.
    if ($status -eq 1056) { return 0 }
    $status
}

function Stop-Driver {
    # 1062: it does not run.
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('stop', 'hushport') -Allowed @(0, 1062)
    if (-not (Wait-Condition -Seconds 30 -Milliseconds 200 -Condition { (Get-DriverState) -ne 'Stop Pending' })) {
        throw 'the driver does not stop within 30 s'
    }
}

function Get-ParametersPath {
    'HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'
}

# Sets a value, and waits so that the driver can apply it.
function Set-PolicyValue {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [AllowEmptyCollection()] $Value,
        [ValidateSet('DWord', 'MultiString', 'String')] [string] $Type = 'DWord'
    )
    $null = New-ItemProperty -Path (Get-ParametersPath) -Name $Name -Value $Value -PropertyType $Type -Force
    Start-Sleep -Seconds 2
}

# A registry value, or nothing if it does not exist.
function Get-RegistryValue {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    try { $key = Get-ItemProperty -Path $Path -Name $Name } catch { return $null }
    if ($null -eq $key) { return $null }
    if ($key -is [System.Collections.IDictionary]) { return $key[$Name] }
    $property = $key.PSObject.Properties[$Name]
    if ($null -eq $property) { return $null }
    $property.Value
}

# A property of an object, or nothing if it does not exist.
function Get-PropertyValue {
    param(
        [Parameter(Mandatory)] $InputObject,
        [Parameter(Mandatory)] [string] $Name
    )
    $property = $InputObject.PSObject.Properties[$Name]
    if ($null -eq $property) { return $null }
    $property.Value
}

# Writes the state of the filter engine and reads it. netsh appends a second root
# element to the document, and does not escape names.
function Get-EngineState {
    $file = Get-ResultPath -Name 'wfpstate.xml'
    [System.IO.File]::Delete($file)
    $null = Invoke-Program -Path 'netsh.exe' -Arguments @('wfp', 'show', 'state', "file=$file")
    if (-not [System.IO.File]::Exists($file)) { throw "netsh wfp show state did not write $file" }
    ConvertTo-EngineState -Text (Read-Text -Path $file)
}

function ConvertTo-EngineState {
    param([Parameter(Mandatory)] [AllowEmptyString()] [string] $Text)
    $begin = $Text.IndexOf('<wfpstate', [System.StringComparison]::Ordinal)
    $end = $Text.IndexOf('</wfpstate>', [System.StringComparison]::Ordinal)
    if ($begin -lt 0 -or $end -lt $begin) {
        throw "netsh wfp show state wrote no whole <wfpstate> element ($($Text.Length) characters)"
    }
    $xml = $Text.Substring($begin, $end - $begin) + '</wfpstate>'
    $xml = $xml -replace '&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);)', '&amp;'
    $xml = $xml -replace '<(?![/!?A-Za-z])', '&lt;'
    $xml = $xml -replace '[\x00-\x08\x0B\x0C\x0E-\x1F]', ''
    $state = New-Object -TypeName System.Xml.XmlDocument
    $state.LoadXml($xml)
    $state
}

# The number of objects of one kind whose names begin with a text. An empty text
# counts all.
function Measure-EngineObject {
    param(
        [Parameter(Mandatory)] [ValidateSet('providers', 'subLayers', 'callouts', 'filters')] [string] $Kind,
        [System.Xml.XmlDocument] $State = (Get-EngineState),
        [AllowEmptyString()] [string] $Name = $script:ObjectName
    )
    $State.SelectNodes("//$Kind/item[displayData/name[starts-with(., '$Name')]]").Count
}

function Assert-EngineObject {
    param([Parameter(Mandatory)] [bool] $Present)
    $expected = [ordered]@{ providers = 0; subLayers = 0; callouts = 0; filters = 0 }
    if ($Present) {
        $expected = [ordered]@{ providers = 1; subLayers = 1; callouts = $script:CalloutCount }
    }
    $state = Get-EngineState
    $wrong = @()
    foreach ($kind in $expected.Keys) {
        $count = Measure-EngineObject -State $state -Kind $kind
        if ($count -ne $expected[$kind]) { $wrong += "the number of $kind is $count, not $($expected[$kind])" }
    }
    if ($wrong.Count -gt 0) { throw ($wrong -join '; ') }
}

# Names of the package in the driver store, such as oem12.inf.
function Get-PublishedName {
    Get-WindowsDriver -Online |
        Where-Object { ($_.OriginalFileName -split '[\\/]')[-1] -eq 'hushport.inf' } |
        ForEach-Object { $_.Driver }
}

Export-ModuleMember -Function @(
    'Set-CheckLabel', 'Add-CheckResult', 'Clear-CheckResult', 'Read-CheckResult', 'Repair-CheckFile',
    'Measure-CheckResult', 'Get-CheckResult', 'Invoke-Check', 'Test-LastCheck', 'Assert-Equal', 'Wait-Condition',
    'Get-MemoryStatus', 'Get-StatusMeaning', 'Invoke-Program', 'Get-DriverService', 'Get-DriverState', 'Start-Driver',
    'Stop-Driver', 'Get-ParametersPath',
    'Set-PolicyValue', 'Get-RegistryValue', 'Get-PropertyValue', 'Get-EngineState', 'ConvertTo-EngineState',
    'Measure-EngineObject', 'Assert-EngineObject', 'Get-PublishedName'
)
