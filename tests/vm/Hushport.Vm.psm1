# What the steps share: programs, checks, the service, the filter engine.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# The driver's objects in the filter engine: one callout for each layer, and
# the name that each carries.
$script:ObjectName = 'hushport'
$script:CalloutCount = 66

$script:ResultFolder = ''
$script:CheckLabel = ''

function Set-ResultFolder {
    param([Parameter(Mandatory)] [string] $Path)
    $null = New-Item -ItemType Directory -Path $Path -Force
    $script:ResultFolder = $Path
}

function Get-ResultPath {
    param([Parameter(Mandatory)] [string] $Name)
    Join-Path -Path $script:ResultFolder -ChildPath $Name
}

function Set-CheckLabel {
    param([Parameter(Mandatory)] [string] $Label)
    $script:CheckLabel = $Label
}

# A check's outcome, kept where a restart does not lose it.
function Add-CheckResult {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [string] $Failure = ''
    )
    $check = [ordered]@{
        Time    = (Get-Date).ToString('o')
        Step    = $script:CheckLabel
        Name    = $Name
        Failure = $Failure
    }
    Add-Content -Path (Get-ResultPath -Name 'checks.jsonl') -Value (ConvertTo-Json -InputObject $check -Compress)
    if ($Failure) {
        Write-Host "FAILED $($script:CheckLabel): ${Name}: $Failure"
    } else {
        Write-Host "ok $($script:CheckLabel): $Name"
    }
}

# A check fails where its body throws.
function Invoke-Check {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [scriptblock] $Body
    )
    $failure = ''
    try {
        $null = & $Body
    } catch {
        $failure = "$($_.Exception.Message)"
        if (-not $failure) { $failure = 'an error without a message' }
    }
    Add-CheckResult -Name $Name -Failure $failure
}

function Assert-Equal {
    param($Actual, $Expected, [string] $What = 'it')
    if ($Actual -ne $Expected) { throw "$What is $Actual, not $Expected" }
}

# Runs a program and gives back what it says; throws where its exit status is
# none of those allowed.
function Invoke-Program {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [string[]] $Arguments = @(),
        [int[]] $Allowed = @(0)
    )
    # What a program writes to its standard error is not an error to us.
    $ErrorActionPreference = 'Continue'
    $text = & $Path @Arguments 2>&1 | Out-String
    $status = $global:LASTEXITCODE
    if ($Allowed -notcontains $status) {
        throw "$Path $($Arguments -join ' '): exit status ${status}: $($text.Trim())"
    }
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

# Starts the driver; the service controller's exit status, 0 for success.
function Start-Driver {
    param([int[]] $Allowed = @(0))
    if ((Get-DriverState) -eq 'Running') { return 0 }
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('start', 'hushport') -Allowed $Allowed
    $global:LASTEXITCODE
}

function Stop-Driver {
    # 1062: it does not run.
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('stop', 'hushport') -Allowed @(0, 1062)
    $end = (Get-Date).AddSeconds(30)
    while ((Get-DriverState) -eq 'Stop Pending') {
        if ((Get-Date) -gt $end) { throw 'the driver does not stop' }
        Start-Sleep -Milliseconds 200
    }
}

function Get-ParametersPath {
    'HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'
}

# Sets a value and gives the driver the time to take it.
function Set-PolicyValue {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [AllowEmptyCollection()] $Value,
        [ValidateSet('DWord', 'MultiString', 'String')] [string] $Type = 'DWord'
    )
    $null = New-ItemProperty -Path (Get-ParametersPath) -Name $Name -Value $Value -PropertyType $Type -Force
    Start-Sleep -Seconds 2
}

# How many objects of one kind in the filter engine are the driver's.
function Measure-EngineObject {
    param([Parameter(Mandatory)] [ValidateSet('providers', 'subLayers', 'callouts', 'filters')] [string] $Kind)
    $file = Get-ResultPath -Name 'wfpstate.xml'
    $null = Invoke-Program -Path 'netsh.exe' -Arguments @('wfp', 'show', 'state', "file=$file")
    $state = New-Object -TypeName System.Xml.XmlDocument
    $state.Load($file)
    $path = "//$Kind/item[displayData/name[starts-with(., '$($script:ObjectName)')]]"
    $state.SelectNodes($path).Count
}

function Assert-EngineObject {
    param([Parameter(Mandatory)] [bool] $Present)
    $expected = [ordered]@{ providers = 0; subLayers = 0; callouts = 0; filters = 0 }
    if ($Present) {
        $expected = [ordered]@{ providers = 1; subLayers = 1; callouts = $script:CalloutCount }
    }
    foreach ($kind in $expected.Keys) {
        Assert-Equal -Actual (Measure-EngineObject -Kind $kind) -Expected $expected[$kind] -What "the number of $kind"
    }
}

# The name under which the driver store has the package: oem12.inf.
function Get-PublishedName {
    Get-WindowsDriver -Online |
        Where-Object { (Split-Path -Path $_.OriginalFileName -Leaf) -eq 'hushport.inf' } |
        ForEach-Object { $_.Driver }
}

# Crash dumps younger than a time.
function Get-CrashDump {
    param([Parameter(Mandatory)] [datetime] $Since)
    $folders = @((Join-Path -Path $env:SystemRoot -ChildPath 'Minidump'), $env:SystemRoot)
    Get-ChildItem -Path $folders -Filter '*.dmp' -File -ErrorAction SilentlyContinue |
        Where-Object { $_.LastWriteTime -gt $Since }
}

Export-ModuleMember -Function @(
    'Set-ResultFolder', 'Get-ResultPath', 'Set-CheckLabel', 'Add-CheckResult', 'Invoke-Check', 'Assert-Equal',
    'Invoke-Program', 'Get-DriverService', 'Get-DriverState', 'Start-Driver', 'Stop-Driver',
    'Get-ParametersPath', 'Set-PolicyValue', 'Measure-EngineObject', 'Assert-EngineObject',
    'Get-PublishedName', 'Get-CrashDump'
)
