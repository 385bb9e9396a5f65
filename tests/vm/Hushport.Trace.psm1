# The step Trace: what the driver reports by ETW while it starts, runs and stops.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')

# The TraceLogging provider Hushport. Its identifier is made from its name, as
# TraceLoggingProvider.h describes: SHA-1 over a fixed name space and the name in
# upper case, UTF-16BE.
$script:ProviderId = '{6b703f15-888e-524f-a16f-9e8d456e674a}'
$script:SessionName = 'hushport-test'

function Invoke-TraceStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $name = 'hushport'
    if ($Options.Under) { $name = "hushport-$($Options.Under)" }
    Stop-Driver
    Invoke-Check -Name 'a trace session starts' -Body { Start-TraceSession -Name $name }
    if (-not (Test-LastCheck)) {
        Write-Log -Text 'not tested: what the driver reports'
        $null = Start-Driver
        return
    }
    $null = Start-Driver
    Set-PolicyValue -Name 'Mode' -Value 1
    Set-PolicyValue -Name 'Mode' -Value 2
    Stop-Driver
    Invoke-Check -Name 'the trace session stops' -Body { Stop-TraceSession }
    if (Test-LastCheck) {
        Invoke-Check -Name 'it reports its start, each policy and its stop, in order' -Body {
            Assert-Trace -Trace (ConvertTo-Trace -Name $name)
        }
    }
    $null = Start-Driver
}

# Starts a session that writes NAME.etl. The files of an earlier run are deleted
# first: a stale one must not pass.
function Start-TraceSession {
    param([Parameter(Mandatory)] [string] $Name)
    # Stops the session of an aborted run, if there is one.
    try { Stop-TraceSession } catch { Write-Verbose -Message "$_" }
    foreach ($extension in 'etl', 'xml') { [System.IO.File]::Delete((Get-ResultPath -Name "$Name.$extension")) }
    $start = @('start', $script:SessionName, '-p', $script:ProviderId, '0xffffffffffffffff', '5',
        '-bs', '1024', '-nb', '64', '64', '-o', (Get-ResultPath -Name "$Name.etl"), '-ets')
    $null = Invoke-Program -Path 'logman.exe' -Arguments $start
}

function Stop-TraceSession {
    $null = Invoke-Program -Path 'logman.exe' -Arguments @('stop', $script:SessionName, '-ets')
}

# The driver's events, oldest first: each with Name and a table Fields. Lost is
# the number of events that the session lost.
function ConvertTo-Trace {
    param([Parameter(Mandatory)] [string] $Name)
    $log = Get-ResultPath -Name "$Name.etl"
    $xml = Get-ResultPath -Name "$Name.xml"
    [System.IO.File]::Delete($xml)
    $null = Invoke-Program -Path 'tracerpt.exe' -Arguments @($log, '-o', $xml, '-of', 'XML', '-y')
    if (-not [System.IO.File]::Exists($xml)) { throw "tracerpt did not write $xml" }
    $text = Read-Text -Path $xml
    $document = New-Object -TypeName System.Xml.XmlDocument
    $document.LoadXml(($text -replace '[\x00-\x08\x0B\x0C\x0E-\x1F]', ''))
    # All files of the results folder are UTF-8, tracerpt's may be UTF-16.
    Write-ResultText -Name "$Name.xml" -Text ($text -replace '(<\?xml[^>]*encoding=")UTF-16(")', '${1}UTF-8$2')
    $trace = @{ Events = @(); Lost = 0 }
    foreach ($node in $document.SelectNodes("//*[local-name()='Event']")) {
        $fields = @{}
        foreach ($data in $node.SelectNodes(".//*[local-name()='EventData']//*[@Name]")) {
            $fields[$data.GetAttribute('Name')] = $data.InnerText.Trim()
        }
        $provider = $node.SelectSingleNode(".//*[local-name()='Provider'][@Guid]")
        if ($null -ne $provider -and $provider.GetAttribute('Guid') -eq $script:ProviderId) {
            $trace.Events += @{ Name = (Get-EventName -Node $node); Fields = $fields }
        } else {
            foreach ($count in 'EventsLost', 'BuffersLost') {
                if ($fields[$count] -match '^\d+$') { $trace.Lost += [int64] $fields[$count] }
            }
        }
    }
    $trace
}

# tracerpt writes the name of a TraceLogging event as the task.
function Get-EventName {
    param([Parameter(Mandatory)] [System.Xml.XmlNode] $Node)
    foreach ($element in 'EventName', 'Task') {
        $found = $Node.SelectSingleNode(".//*[local-name()='RenderingInfo']/*[local-name()='$element']")
        if ($null -ne $found -and $found.InnerText.Trim()) { return $found.InnerText.Trim() }
    }
    ''
}

# Throws if the trace does not have Started, PolicyApplied with Mode 1, PolicyApplied
# with Mode 2, and Stopped, in this order.
function Assert-Trace {
    param([Parameter(Mandatory)] [hashtable] $Trace)
    if ($Trace.Lost -gt 0) { throw "the session lost $($Trace.Lost) events or buffers" }
    if ($Trace.Events.Count -eq 0) { throw 'the trace has no event of the driver' }
    $expected = @(
        @{ Name = 'Started' }
        @{ Name = 'PolicyApplied'; Mode = 1 }
        @{ Name = 'PolicyApplied'; Mode = 2 }
        @{ Name = 'Stopped' }
    )
    $next = 0
    foreach ($report in $Trace.Events) {
        if ($next -lt $expected.Count -and (Test-TraceEvent -Report $report -Expected $expected[$next])) { $next++ }
    }
    if ($next -lt $expected.Count) {
        $missing = $expected[$next].Name
        if ($expected[$next].ContainsKey('Mode')) { $missing += " with Mode $($expected[$next].Mode)" }
        $seen = @($Trace.Events | ForEach-Object {
                if ($_.Fields.ContainsKey('Mode')) { "$($_.Name) Mode $($_.Fields.Mode)" } else { $_.Name }
            })
        throw "no $missing in its place among: $($seen -join ', ')"
    }
}

function Test-TraceEvent {
    param(
        [Parameter(Mandatory)] [hashtable] $Report,
        [Parameter(Mandatory)] [hashtable] $Expected
    )
    if ($Report.Name -ne $Expected.Name) { return $false }
    if (-not $Expected.ContainsKey('Mode')) { return $true }
    # Decimal or hexadecimal.
    $Report.Fields.ContainsKey('Mode') -and $Report.Fields.Mode -match "^(0x)?0*$($Expected.Mode)$"
}

Export-ModuleMember -Function @(
    'Invoke-TraceStep', 'Start-TraceSession', 'Stop-TraceSession', 'ConvertTo-Trace', 'Assert-Trace'
)
