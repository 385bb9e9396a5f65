# The scans: by scan.py on another machine (Scan), or by this machine of its own
# addresses (LocalScan, Witness).
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Trace.psm1')

# Ports that must be closed, and the control port.
$script:ClosedTcp = @(113, 22222)
$script:ClosedUdp = @(33333)
$script:ControlPort = 47017
# After as many disconnects the step does not wait for the scanner again.
$script:MostHangUps = 3
# A request takes seconds. After this time without an answer the scanner is gone.
$script:AnswerMilliseconds = 300000
# Windows asks a closed TCP port three times, which takes two seconds.
$script:PatienceMilliseconds = 4000

# scan.py connects, and gets what to scan and what to expect.
function Invoke-ScanStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    if ($Options.NoScan) {
        Write-Log -Text 'not tested: the scan from the other end, as asked (-NoScan)'
        return
    }
    $null = Start-Driver
    Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
    $scanner = @{ Minutes = $Options.ScanMinutes; HangUps = 0; Client = $null; Listener = (New-ControlListener) }
    $scanner.Listener.Start()
    try {
        if (-not (Connect-Scanner -Scanner $scanner)) {
            $failure = "nobody came within $($Options.ScanMinutes) minutes, so nothing was scanned"
            Add-CheckResult -Name 'the scanner connects' -Failure $failure
            return
        }
        Invoke-ScanPhase -Scanner $scanner
    } finally {
        if ($null -ne $scanner.Client) { $scanner.Client.Close() }
        $scanner.Listener.Stop()
    }
}

# Listens on every address of both families.
function New-ControlListener {
    try {
        [System.Net.Sockets.TcpListener]::Create($script:ControlPort)
    } catch {
        # A machine without IPv6.
        New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList ([System.Net.IPAddress]::Any), $script:ControlPort
    }
}

# Waits for a scanner. The scan also probes the control port, so connections that are
# closed already are skipped.
function Connect-Scanner {
    param([Parameter(Mandatory)] [hashtable] $Scanner)
    if ($null -ne $Scanner.Client) { $Scanner.Client.Close() }
    $Scanner.Client = $null
    $until = (Get-Date).AddMinutes($Scanner.Minutes)
    $addresses = @(Get-LocalAddress | ForEach-Object { "$_" }) -join ', '
    Write-Log -Text ("waiting until $($until.ToString('HH:mm')) for: scan.py THIS-MACHINE --control $($script:ControlPort)" +
        " (this machine: $addresses)")
    while ($true) {
        while (-not $Scanner.Listener.Pending()) {
            if ((Get-Date) -gt $until) { return $false }
            Start-Sleep -Milliseconds 500
        }
        $client = $Scanner.Listener.AcceptTcpClient()
        $closed = $client.Client.Poll(1000, [System.Net.Sockets.SelectMode]::SelectRead) -and $client.Client.Available -eq 0
        if (-not $closed) { break }
        $client.Close()
    }
    $stream = $client.GetStream()
    $stream.ReadTimeout = $script:AnswerMilliseconds
    $Scanner.Client = $client
    $Scanner.Reader = New-Object -TypeName System.IO.StreamReader -ArgumentList $stream
    $Scanner.Writer = New-Object -TypeName System.IO.StreamWriter -ArgumentList $stream
    $Scanner.Writer.NewLine = "`n"
    $Scanner.Writer.AutoFlush = $true
    Write-Log -Text "the scanner is $($client.Client.RemoteEndPoint)"
    $true
}

# This machine's addresses of both families, without loopback and automatic private
# ones. Nothing if Windows does not list them.
function Get-LocalAddress {
    try { $all = @(Get-NetIPAddress) } catch { Write-Log -Quiet -Text "Get-NetIPAddress: $($_.Exception.Message)"; return }
    foreach ($entry in $all) {
        if ($null -eq $entry) { continue }
        $state = "$(Get-PropertyValue -InputObject $entry -Name 'AddressState')"
        if ($state -and @('Preferred', '4') -notcontains $state) { continue }
        $address = $null
        if (-not [System.Net.IPAddress]::TryParse("$($entry.IPAddress)", [ref] $address)) { continue }
        if ([System.Net.IPAddress]::IsLoopback($address) -or "$address" -like '169.254.*') { continue }
        $address
    }
}

# Requests in order, each with a script that changes the driver before. Also: the
# machine's IPv6 addresses.
function Get-ScanPhase {
    param([AllowEmptyString()] [string] $Also = '')
    $closed = "tcp=$($script:ClosedTcp -join ',') udp=$($script:ClosedUdp -join ',') open=$($script:ControlPort)$Also"
    @(
        @{ Name = 'off: closed ports answer'; Request = "answered $closed"
            Set = { Set-PolicyValue -Name 'Mode' -Value 0 } }
        @{ Name = 'audit: closed ports answer'; Request = "answered $closed"
            Set = { Set-PolicyValue -Name 'Mode' -Value 1 } }
        @{ Name = 'enforce: closed ports are silent'; Request = "silent $closed"
            Set = { Set-PolicyValue -Name 'Mode' -Value 2 } }
        @{ Name = 'a value refused: the last good policy stays'; Request = "silent $closed"
            Set = { Set-PolicyValue -Name 'Mode' -Value 7 } }
        @{ Name = 'exempt: that port answers'; Request = "answered tcp=$($script:ClosedTcp[0])$Also"
            Set = {
                Set-PolicyValue -Name 'Mode' -Value 2
                Set-PolicyValue -Name 'ExemptPorts' -Value @("$($script:ClosedTcp[0])") -Type MultiString
            } }
        @{ Name = 'exempt: the others do not'
            Request = "silent tcp=$($script:ClosedTcp[1]) udp=$($script:ClosedUdp -join ',')$Also"; Set = { $null } }
        @{ Name = 'stopped: closed ports answer'; Request = "answered $closed"
            Set = {
                Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
                Stop-Driver
            } }
        @{ Name = 'started: closed ports are silent'; Request = "silent $closed"; Set = { $null = Start-Driver } }
    )
}

function Invoke-ScanPhase {
    param([Parameter(Mandatory)] [hashtable] $Scanner)
    $addresses = @(Get-LocalAddress)
    $six = @($addresses | Where-Object { $_.AddressFamily -eq 'InterNetworkV6' } | ForEach-Object { ("$_" -split '%')[0] })
    $also = ''
    $phases = @()
    if ($six.Count -gt 0) {
        $also = " also=$($six -join ',')"
        $phases += @{ Name = 'the scanner reaches IPv6, too'; Request = "families$also"; Set = { $null } }
    } elseif ($addresses.Count -gt 0) {
        Add-CheckResult -Name 'the scanner reaches IPv6, too' -Failure 'this machine has no IPv6 address: IPv6 is not tested'
    } else {
        Write-Log -Text "not tested: the other family, for this machine's addresses are not known"
    }
    $phases += @(Get-ScanPhase -Also $also)
    for ($phase = 0; $phase -lt $phases.Count; $phase++) {
        $null = & $phases[$phase].Set
        if (-not (Request-Scan -Scanner $Scanner -Phase $phases[$phase])) {
            Write-Log -Text "not tested: $(@($phases[$phase..($phases.Count - 1)] | ForEach-Object { $_.Name }) -join '; ')"
            $null = Start-Driver
            Set-PolicyValue -Name 'Mode' -Value 2
            Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
            return
        }
    }
    try { $Scanner.Writer.WriteLine('done') } catch { Write-Log -Quiet -Text "done: $($_.Exception.Message)" }
}

# Requests one scan. If the scanner hangs up, that is one failure, and the next
# connection gets the request again. Returns whether a scanner is connected.
function Request-Scan {
    param(
        [Parameter(Mandatory)] [hashtable] $Scanner,
        [Parameter(Mandatory)] [hashtable] $Phase
    )
    while ($true) {
        $answer = $null
        try {
            $Scanner.Writer.WriteLine($Phase.Request)
            $answer = $Scanner.Reader.ReadLine()
        } catch {
            Write-Log -Quiet -Text "$($Phase.Request): $($_.Exception.Message)"
        }
        if ($null -ne $answer) {
            $failure = ''
            if ($answer -ne 'ok') { $failure = "the scanner answered '$answer' to the request '$($Phase.Request)'" }
            Add-CheckResult -Name $Phase.Name -Failure $failure
            return $true
        }
        $Scanner.HangUps++
        $failure = "it hung up at the request '$($Phase.Request)'"
        Write-Log -Text "the scanner hung up at the request '$($Phase.Request)'"
        $again = $false
        if ($Scanner.HangUps -ge $script:MostHangUps) {
            $failure += ", for the $($Scanner.HangUps). time"
        } else {
            $again = Connect-Scanner -Scanner $Scanner
            if (-not $again) { $failure += ", and nobody came within $($Scanner.Minutes) minutes" }
        }
        Add-CheckResult -Name 'the scanner stays' -Failure $failure
        if (-not $again) { return $false }
    }
}

# Scans this machine's own addresses. Windows' stealth mode does not apply to
# loopback, so its firewall changes nothing.
function Invoke-LocalScanStep {
    $addresses = @(Get-LocalAddress)
    Invoke-Check -Name 'this machine has addresses of both families' -Body {
        foreach ($family in 'InterNetwork', 'InterNetworkV6') {
            if (@($addresses | Where-Object { $_.AddressFamily -eq $family }).Count -eq 0) { throw "none of $family" }
        }
    }
    $null = Start-Driver
    Set-PolicyValue -Name 'ExemptLoopback' -Value 0
    foreach ($firewall in 'False', 'True') {
        Invoke-Check -Name "Windows Firewall: $firewall" -Body { Set-NetFirewallProfile -All -Enabled $firewall }
        Stop-Driver
        Assert-PortState -Name "stopped, firewall ${firewall}: closed ports answer" -Addresses $addresses -Expected 'answered'
        $null = Start-Driver
        foreach ($mode in 0, 1, 2) {
            Set-PolicyValue -Name 'Mode' -Value $mode
            $expected = 'answered'
            if ($mode -eq 2) { $expected = 'silent' }
            $name = "mode $mode, firewall ${firewall}: closed ports are $expected"
            Assert-PortState -Name $name -Addresses $addresses -Expected $expected
        }
    }
    Set-PolicyValue -Name 'ExemptLoopback' -Value 1
}

function Assert-PortState {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [AllowEmptyCollection()] [System.Net.IPAddress[]] $Addresses,
        [Parameter(Mandatory)] [string] $Expected
    )
    Invoke-Check -Name $Name -Body {
        $faults = @()
        foreach ($probe in @(Get-Probe -Addresses $Addresses)) {
            $state = Get-PortState -Probe $probe
            if ($state -ne $Expected) { $faults += "$($probe.Protocol) $($probe.Address) port $($probe.Port) is $state" }
        }
        if ($faults.Count -gt 0) { throw ($faults -join '; ') }
    }
}

function Get-Probe {
    param([Parameter(Mandatory)] [AllowEmptyCollection()] [System.Net.IPAddress[]] $Addresses)
    foreach ($address in $Addresses) {
        foreach ($port in $script:ClosedTcp) { @{ Protocol = 'TCP'; Address = $address; Port = $port } }
        foreach ($port in $script:ClosedUdp) { @{ Protocol = 'UDP'; Address = $address; Port = $port } }
    }
}

# `open`, `answered` (a reset or an ICMP error came), `silent`, or the error.
function Get-PortState {
    param([Parameter(Mandatory)] [hashtable] $Probe)
    $type = @{ TCP = 'Stream'; UDP = 'Dgram' }[$Probe.Protocol]
    $arguments = @($Probe.Address.AddressFamily, $type, $Probe.Protocol)
    $socket = New-Object -TypeName System.Net.Sockets.Socket -ArgumentList $arguments
    try {
        $wait = $socket.BeginConnect($Probe.Address, $Probe.Port, $null, $null)
        if (-not $wait.AsyncWaitHandle.WaitOne($script:PatienceMilliseconds)) { return 'silent' }
        $socket.EndConnect($wait)
        if ($Probe.Protocol -eq 'TCP') { return 'open' }
        $socket.ReceiveTimeout = $script:PatienceMilliseconds
        $null = $socket.Send([byte[]] @(0x68, 0x75, 0x73, 0x68))
        $null = $socket.Receive((New-Object -TypeName byte[] -ArgumentList 2048))
        'open'
    } catch {
        $cause = $_.Exception.GetBaseException()
        if ($cause -isnot [System.Net.Sockets.SocketException]) { throw }
        switch ("$($cause.SocketErrorCode)") {
            { @('ConnectionRefused', 'ConnectionReset') -contains $_ } { 'answered' }
            { @('TimedOut', 'WouldBlock') -contains $_ } { 'silent' }
            default { "an error: $_" }
        }
    } finally {
        $socket.Dispose()
    }
}

# Compares with pktmon, the packet monitor of Windows: it must show a drop for each
# probe that has an event Silenced.
function Invoke-WitnessStep {
    foreach ($name in 'pktmon.etl', 'pktmon.txt', 'witness.txt') { [System.IO.File]::Delete((Get-ResultPath -Name $name)) }
    $null = Start-Driver
    Set-PolicyValue -Name 'ExemptLoopback' -Value 0
    Set-PolicyValue -Name 'Mode' -Value 2
    Invoke-Check -Name 'pktmon and our events agree on the probes' -Body {
        Start-TraceSession -Name 'witness'
        Start-PacketMonitor
        foreach ($probe in @(Get-Probe -Addresses @(Get-LocalAddress))) { $null = Get-PortState -Probe $probe }
        Stop-PacketMonitor
        Stop-TraceSession
        $trace = ConvertTo-Trace -Name 'witness'
        Compare-Witness -Trace $trace -Text (Read-Text -Path (Get-ResultPath -Name 'pktmon.txt'))
    }
    Set-PolicyValue -Name 'ExemptLoopback' -Value 1
}

function Start-PacketMonitor {
    $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('filter', 'remove')
    foreach ($port in @($script:ClosedTcp) + @($script:ClosedUdp)) {
        $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('filter', 'add', "hushport-$port", '-p', "$port")
    }
    $start = @('start', '--capture', '--comp', 'all', '--pkt-size', '128', '--file-name', (Get-ResultPath -Name 'pktmon.etl'))
    $null = Invoke-Program -Path 'pktmon.exe' -Arguments $start
}

function Stop-PacketMonitor {
    $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('stop')
    $etl = Get-ResultPath -Name 'pktmon.etl'
    $text = Get-ResultPath -Name 'pktmon.txt'
    try {
        $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('etl2txt', $etl, '--out', $text)
    } catch {
        # The name of the command in Windows 10 2004.
        $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('format', $etl, '--out', $text)
    }
    Copy-ResultText -Path $text -Name 'pktmon.txt'
    $null = Invoke-Program -Path 'pktmon.exe' -Arguments @('filter', 'remove')
}

# Writes both lists to witness.txt. Throws if they differ.
function Compare-Witness {
    param(
        [Parameter(Mandatory)] [hashtable] $Trace,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    $drops = @(Get-PacketDrop -Text $Text)
    $account = @()
    $wrong = @()
    foreach ($port in @($script:ClosedTcp) + @($script:ClosedUdp)) {
        $silenced = @($Trace.Events | Where-Object {
                $_.Name -eq 'Silenced' -and $_.Fields.ContainsKey('Local') -and $_.Fields.Local -match ":$port$"
            })
        $dropped = @($drops | Where-Object { $_.Port -eq $port })
        $account += "port ${port}: $($silenced.Count) events Silenced, $($dropped.Count) drops of pktmon"
        $account += $silenced | ForEach-Object { "  event $($_.Fields.Layer) $($_.Fields.Local)" }
        $account += $dropped | ForEach-Object { "  pktmon component $($_.Component), reason $($_.Reason)" }
        if ($silenced.Count -eq 0 -or $dropped.Count -eq 0) { $wrong += $account[-1 - $silenced.Count - $dropped.Count] }
    }
    Write-ResultText -Name 'witness.txt' -Text (($account -join "`n") + "`n")
    if ($wrong.Count -gt 0) { throw ($wrong -join '; ') }
}

# Drops of probes in pktmon's text: a line with the reason, then one with the packet.
function Get-PacketDrop {
    param([Parameter(Mandatory)] [AllowEmptyString()] [string] $Text)
    $ports = (@($script:ClosedTcp) + @($script:ClosedUdp)) -join '|'
    $lines = @($Text -split '\r?\n')
    for ($at = 0; $at -lt $lines.Count; $at++) {
        if ($lines[$at] -notmatch '(?i)\bDrop') { continue }
        $reason = ''
        if ($lines[$at] -match '(?i)DropReason\s+([^,]+)') { $reason = $Matches[1].Trim() }
        $component = ''
        if ($lines[$at] -match '(?i)Component\s+(\d+)') { $component = $Matches[1] }
        $packet = $lines[$at]
        if ($at + 1 -lt $lines.Count) { $packet += ' ' + $lines[$at + 1] }
        if ($packet -match "> \S*?\.($ports)\b") {
            @{ Port = [int] $Matches[1]; Reason = $reason; Component = $component }
        }
    }
}

Export-ModuleMember -Function @(
    'Invoke-ScanStep', 'Invoke-LocalScanStep', 'Invoke-WitnessStep', 'Get-PortState', 'Get-LocalAddress',
    'Compare-Witness', 'Get-PacketDrop'
)
