# The steps of Test-Hushport.ps1. Each can be run alone and again; each makes
# sure itself of what it needs, and says what it saw by checks.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')

# The TraceLogging provider Hushport. Its identifier is made from its name, as
# TraceLoggingProvider.h describes: SHA-1 over a fixed name space and the name
# in upper case, UTF-16BE.
$script:ProviderId = '{6b703f15-888e-524f-a16f-9e8d456e674a}'
$script:SessionName = 'hushport-test'

# Driver Verifier: /standard is 0x209BB; bit 2 is randomized low resources.
$script:LowResourceFlags = '0x209BF'
# It injects no faults in the first eight minutes after a start.
$script:FaultFreeMinutes = 9

# Ports on which nobody may listen, and the one on which the scan is controlled.
$script:ClosedTcp = '113,22222'
$script:ClosedUdp = '33333'
$script:ControlPort = 47017

# Test mode, the certificate, dumps, and a firewall that does not silence ports
# of its own accord. Takes effect with the next start of the machine.
function Invoke-PrepareStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'Windows 10 2004 or later' -Body {
        $build = [int](Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber
        if ($build -lt 19041) { throw "this is build $build" }
    }
    Invoke-Check -Name 'Secure Boot is off' -Body {
        $on = $false
        # Throws on a machine that has no such thing.
        try { $on = Confirm-SecureBootUEFI } catch { $on = $false }
        if ($on) { throw 'it is on, and test signatures do not count: turn it off in the settings of the VM' }
    }
    Invoke-Check -Name 'test signatures count' -Body {
        Invoke-Program -Path 'bcdedit.exe' -Arguments @('/set', 'testsigning', 'on')
    }
    foreach ($store in 'Root', 'TrustedPublisher') {
        Invoke-Check -Name "the certificate is in $store" -Body {
            $file = Join-Path -Path $Options.Package -ChildPath 'hushport-test.cer'
            Import-Certificate -FilePath $file -CertStoreLocation "Cert:\LocalMachine\$store"
        }
    }
    Invoke-Check -Name 'a crash leaves a kernel dump' -Body {
        $path = 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'
        Set-ItemProperty -Path $path -Name 'CrashDumpEnabled' -Value 2 -Type DWord
        Set-ItemProperty -Path $path -Name 'AutoReboot' -Value 1 -Type DWord
    }
    Invoke-Check -Name 'the firewall is off, and its own stealth mode with it' -Body {
        Set-NetFirewallProfile -All -Enabled False
    }
}

function Invoke-InstallStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'pnputil takes the package' -Body {
        $inf = Join-Path -Path $Options.Package -ChildPath 'hushport.inf'
        # 259: it is there already. 3010: a restart is asked for.
        Invoke-Program -Path 'pnputil.exe' -Arguments @('/add-driver', $inf, '/install') -Allowed @(0, 259, 3010)
    }
    Invoke-Check -Name 'the driver store has it once' -Body {
        Assert-Equal -Actual @(Get-PublishedName).Count -Expected 1 -What 'the number of packages'
    }
    Invoke-Check -Name 'the service runs from the driver store, on demand' -Body {
        $service = Get-DriverService
        if ($null -eq $service) { throw 'there is no service' }
        Assert-Equal -Actual $service.StartMode -Expected 'Manual' -What 'its start'
        if ($service.PathName -notlike '*\DriverStore\FileRepository\hushport.inf_*\hushport.sys') {
            throw "it runs from $($service.PathName)"
        }
    }
    Invoke-Check -Name 'Parameters has every value of the INF' -Body {
        $inf = Get-Content -Path (Join-Path -Path $Options.Package -ChildPath 'hushport.inf')
        $names = $inf | Where-Object { $_ -match '^HKR, Parameters, (\w+),' } | ForEach-Object { $Matches[1] }
        $key = Get-Item -Path (Get-ParametersPath)
        $missing = @($names | Where-Object { $key.Property -notcontains $_ })
        if ($missing.Count -gt 0) { throw "without $($missing -join ', ')" }
    }
}

function Invoke-StartStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Stop-Driver
    Invoke-Check -Name 'it starts' -Body {
        Start-Driver
        Assert-Equal -Actual (Get-DriverState) -Expected 'Running' -What 'its state'
    }
    Invoke-Check -Name 'its objects are in the filter engine' -Body { Assert-EngineObject -Present $true }
    Invoke-Check -Name 'it stops' -Body {
        Stop-Driver
        Assert-Equal -Actual (Get-DriverState) -Expected 'Stopped' -What 'its state'
    }
    Invoke-Check -Name 'its objects are gone' -Body { Assert-EngineObject -Present $false }
    Invoke-Check -Name 'it starts again' -Body { Start-Driver }
}

# Every value is changed while the driver runs, also to what it must refuse.
# What the changes do is what the scan looks at.
function Invoke-PolicyStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $null = Start-Driver
    Invoke-Check -Name 'it runs through changes of its values' -Body {
        foreach ($mode in 0, 1, 2) { Set-PolicyValue -Name 'Mode' -Value $mode }
        Set-PolicyValue -Name 'ExemptPorts' -Value @('113', '8000-8100', '53/udp') -Type MultiString
        Set-PolicyValue -Name 'ExemptPrefixes' -Value @('192.0.2.0/24', '2001:db8::/32') -Type MultiString
        Assert-Equal -Actual (Get-DriverState) -Expected 'Running' -What 'its state'
    }
    Invoke-Check -Name 'it runs through values that it refuses' -Body {
        Set-PolicyValue -Name 'Mode' -Value 7
        Set-PolicyValue -Name 'Mode' -Value 'two' -Type String
        Set-PolicyValue -Name 'ExemptPorts' -Value @('70000', 'ssh', '9-1') -Type MultiString
        Assert-Equal -Actual (Get-DriverState) -Expected 'Running' -What 'its state'
    }
    Invoke-Check -Name 'it runs without values, and takes them back' -Body {
        foreach ($name in 'Mode', 'ExemptPorts', 'ExemptPrefixes') {
            Remove-ItemProperty -Path (Get-ParametersPath) -Name $name
        }
        Start-Sleep -Seconds 2
        Set-PolicyValue -Name 'Mode' -Value 2
        Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
        Set-PolicyValue -Name 'ExemptPrefixes' -Value ([string[]] @()) -Type MultiString
        Assert-Equal -Actual (Get-DriverState) -Expected 'Running' -What 'its state'
    }
}

# Captures what the driver reports while it starts, runs and stops.
function Invoke-TraceStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $log = Get-ResultPath -Name 'hushport.etl'
    $stop = @('stop', $script:SessionName, '-ets')
    # A session of an earlier run that was cut short; there may be none.
    try { $null = Invoke-Program -Path 'logman.exe' -Arguments $stop } catch { Write-Verbose -Message "$_" }
    Invoke-Check -Name 'a trace session starts' -Body {
        $start = @('start', $script:SessionName, '-p', $script:ProviderId, '0xffffffffffffffff', '5')
        Invoke-Program -Path 'logman.exe' -Arguments ($start + @('-o', $log, '-ets'))
    }
    Stop-Driver
    $null = Start-Driver
    Set-PolicyValue -Name 'Mode' -Value 1
    Set-PolicyValue -Name 'Mode' -Value 2
    Stop-Driver
    Invoke-Check -Name 'the trace session stops' -Body { Invoke-Program -Path 'logman.exe' -Arguments $stop }
    Invoke-Check -Name 'the driver said something' -Body {
        $events = @(Get-WinEvent -Path $log -Oldest | Where-Object { "{$($_.ProviderId)}" -eq $script:ProviderId })
        if ($events.Count -eq 0) { throw 'not one event' }
    }
    $null = Start-Driver
}

# Loads and unloads. Under low resources a start may be refused for want of
# memory, but in order: nothing is left, and the next may succeed.
function Invoke-CycleStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $refusals = @()
    if ($Options.LowResources) {
        Wait-FaultInjection
        # ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_NO_SYSTEM_RESOURCES
        $refusals = @(8, 14, 1450)
    }
    $count = @{ Started = 0; Refused = 0 }
    Invoke-Check -Name "$($Options.Cycles) times loaded and unloaded" -Body {
        for ($cycle = 0; $cycle -lt $Options.Cycles; $cycle++) {
            Stop-Driver
            $status = Start-Driver -Allowed (@(0) + $refusals)
            if ($status -eq 0) { $count.Started++ } else { $count.Refused++ }
        }
    }
    Write-Host "started $($count.Started), refused for want of memory $($count.Refused)"
    Invoke-Check -Name 'nothing is left in the filter engine' -Body {
        Stop-Driver
        Assert-EngineObject -Present $false
    }
}

function Wait-FaultInjection {
    $started = (Get-CimInstance -ClassName Win32_OperatingSystem).LastBootUpTime
    $until = $started.AddMinutes($script:FaultFreeMinutes)
    while ((Get-Date) -lt $until) { Start-Sleep -Seconds 5 }
}

# The other end, scan.py, connects and is told what to scan and what to expect.
function Invoke-ScanStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    if ($Options.NoScan) {
        Write-Host 'no scan, as asked'
        return
    }
    $null = Start-Driver
    Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
    $any = [System.Net.IPAddress]::Any
    $listener = New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList $any, $script:ControlPort
    $listener.Start()
    try {
        $client = Wait-Scanner -Listener $listener -Minutes $Options.ScanMinutes
        if ($null -eq $client) {
            Add-CheckResult -Name 'the scanner connects' -Failure "nobody came within $($Options.ScanMinutes) minutes"
            return
        }
        $stream = $client.GetStream()
        $scanner = @{
            Reader = New-Object -TypeName System.IO.StreamReader -ArgumentList $stream
            Writer = New-Object -TypeName System.IO.StreamWriter -ArgumentList $stream
        }
        $scanner.Writer.NewLine = "`n"
        $scanner.Writer.AutoFlush = $true
        Invoke-ScanPhase -Scanner $scanner
        $scanner.Writer.WriteLine('done')
        $client.Close()
    } finally {
        $listener.Stop()
    }
}

function Wait-Scanner {
    param(
        [Parameter(Mandatory)] [System.Net.Sockets.TcpListener] $Listener,
        [Parameter(Mandatory)] [int] $Minutes
    )
    Write-Host "waiting for: scan.py THIS-MACHINE --control $($script:ControlPort)"
    $until = (Get-Date).AddMinutes($Minutes)
    while (-not $Listener.Pending()) {
        if ((Get-Date) -gt $until) { return $null }
        Start-Sleep -Milliseconds 500
    }
    $Listener.AcceptTcpClient()
}

function Invoke-ScanPhase {
    param([Parameter(Mandatory)] [hashtable] $Scanner)
    $closed = "tcp=$($script:ClosedTcp) udp=$($script:ClosedUdp) open=$($script:ControlPort)"
    Set-PolicyValue -Name 'Mode' -Value 0
    Request-Scan -Scanner $Scanner -Name 'off: closed ports answer' -Request "answered $closed"
    Set-PolicyValue -Name 'Mode' -Value 1
    Request-Scan -Scanner $Scanner -Name 'audit: closed ports answer' -Request "answered $closed"
    Set-PolicyValue -Name 'Mode' -Value 2
    Request-Scan -Scanner $Scanner -Name 'enforce: closed ports are silent' -Request "silent $closed"
    Set-PolicyValue -Name 'Mode' -Value 7
    Request-Scan -Scanner $Scanner -Name 'a value refused: the last good policy stays' -Request "silent $closed"
    Set-PolicyValue -Name 'Mode' -Value 2
    Set-PolicyValue -Name 'ExemptPorts' -Value @('113') -Type MultiString
    Request-Scan -Scanner $Scanner -Name 'exempt: that port answers' -Request 'answered tcp=113'
    Request-Scan -Scanner $Scanner -Name 'exempt: the others do not' -Request 'silent tcp=22222'
    Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
    Stop-Driver
    Request-Scan -Scanner $Scanner -Name 'stopped: closed ports answer' -Request "answered $closed"
    $null = Start-Driver
    Request-Scan -Scanner $Scanner -Name 'started: closed ports are silent' -Request "silent $closed"
}

function Request-Scan {
    param(
        [Parameter(Mandatory)] [hashtable] $Scanner,
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [string] $Request
    )
    Invoke-Check -Name $Name -Body {
        $Scanner.Writer.WriteLine($Request)
        $answer = $Scanner.Reader.ReadLine()
        if ($answer -ne 'ok') { throw "$answer" }
    }
}

function Invoke-EnableStandardStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'Driver Verifier, standard flags, from the next start on' -Body {
        # 2: with the next start.
        Invoke-Program -Path 'verifier.exe' -Arguments @('/standard', '/driver', 'hushport.sys') -Allowed @(0, 2)
    }
}

function Invoke-EnableLowResourcesStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'Driver Verifier with low resources, from the next start on' -Body {
        $arguments = @('/flags', $script:LowResourceFlags, '/driver', 'hushport.sys')
        Invoke-Program -Path 'verifier.exe' -Arguments $arguments -Allowed @(0, 2)
    }
}

function Invoke-DisableVerifierStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'Driver Verifier off, from the next start on' -Body {
        Invoke-Program -Path 'verifier.exe' -Arguments @('/reset') -Allowed @(0, 2)
    }
}

# What Driver Verifier says about the driver that it watches.
function Invoke-QueryStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $null = Start-Driver -Allowed @(0, 8, 14, 1450)
    Invoke-Check -Name 'Driver Verifier watches the driver' -Body {
        $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/query')
        Set-Content -Path (Get-ResultPath -Name "verifier-$($Options.Label).txt") -Value $text
        if ($text -notmatch 'hushport\.sys') { throw 'it does not name hushport.sys' }
    }
}

function Invoke-CollectStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'no crash' -Body {
        $dumps = @(Get-CrashDump -Since $Options.Since)
        foreach ($dump in $dumps) { Copy-Item -Path $dump.FullName -Destination (Get-ResultPath -Name $dump.Name) }
        if ($dumps.Count -gt 0) { throw "$($dumps.Name -join ', ')" }
    }
    Invoke-Check -Name 'the event log is kept' -Body {
        $log = Get-ResultPath -Name 'System.evtx'
        Invoke-Program -Path 'wevtutil.exe' -Arguments @('epl', 'System', $log, '/ow:true')
    }
    Invoke-Check -Name 'the log of installations is kept' -Body {
        $log = Join-Path -Path $env:SystemRoot -ChildPath 'INF\setupapi.dev.log'
        Copy-Item -Path $log -Destination (Get-ResultPath -Name 'setupapi.dev.log')
    }
    Invoke-Check -Name 'the settings of Driver Verifier are kept' -Body {
        $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/querysettings')
        Set-Content -Path (Get-ResultPath -Name 'verifier-settings.txt') -Value $text
    }
}

function Invoke-RemoveStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'the package is removed' -Body {
        if ((Get-DriverState) -ne 'Absent') { Stop-Driver }
        foreach ($name in @(Get-PublishedName)) {
            $arguments = @('/delete-driver', $name, '/uninstall')
            Invoke-Program -Path 'pnputil.exe' -Arguments $arguments -Allowed @(0, 3010)
        }
        Assert-Equal -Actual @(Get-PublishedName).Count -Expected 0 -What 'the number of packages'
    }
    Invoke-Check -Name 'nothing is left in the filter engine' -Body { Assert-EngineObject -Present $false }
    Invoke-Check -Name 'the firewall is on again' -Body { Set-NetFirewallProfile -All -Enabled True }
}

Export-ModuleMember -Function 'Invoke-*Step'
