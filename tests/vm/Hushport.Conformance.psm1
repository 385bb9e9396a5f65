# The conformance driver: it measures what the filter engine does where documents are
# open. This script tells it which probes come, sends those that a machine can send to
# itself, and keeps the answers as conformance.json.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Scan.psm1')

$script:Service = 'hushport-conformance'
$script:Parameters = "HKLM:\SYSTEM\CurrentControlSet\Services\$script:Service\Parameters"
# The steps, see tests/conformance/src/steps.rs. A probe with a step of its own is sent
# in that step.
$script:ContextStep = 2
$script:HoldStep = 3
$script:LastStep = 10
# The probes that were not sent.
$script:Unsent = @()
# Windows asks a closed TCP port three times, which takes two seconds.
$script:PatienceMilliseconds = 3000

function Invoke-ConformanceStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $file = Join-Path -Path $Options.Package -ChildPath "$script:Service.sys"
    $table = Join-Path -Path $Options.Package -ChildPath "$script:Service.json"
    if (-not ([System.IO.File]::Exists($file) -and [System.IO.File]::Exists($table))) {
        Write-Log -Text "not tested: conformance, for the package has no $script:Service.sys (cargo lab package --conformance)"
        return
    }
    # It would silence the probes.
    if ((Get-DriverState) -ne 'Absent') { Stop-Driver }
    $list = ConvertFrom-Json -InputObject (Read-Text -Path $table)
    $probes = @($list | ForEach-Object { $_ })
    try {
        Invoke-Check -Name 'the conformance driver starts' -Body {
            Install-ConformanceDriver -File $file -Probes $probes
            $null = Invoke-Program -Path 'sc.exe' -Arguments @('start', $script:Service)
            Wait-ConformanceStep -Number 1
        }
        if (Test-LastCheck) {
            Invoke-Check -Name 'it measures' -Body { Invoke-Measurement -Probes $probes -Addresses @(Get-LocalAddress) }
        }
        # A report that is not complete is kept, too.
        Invoke-Check -Name 'its report is kept' -Body { Save-ConformanceReport }
    } finally {
        Invoke-Check -Name 'the conformance driver is gone' -Body { Remove-ConformanceDriver }
    }
}

function Install-ConformanceDriver {
    param(
        [Parameter(Mandatory)] [string] $File,
        [Parameter(Mandatory)] [object[]] $Probes
    )
    # A run that was interrupted may have left one.
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('stop', $script:Service) -Allowed @(0, 1060, 1062)
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('delete', $script:Service) -Allowed @(0, 1060)
    $arguments = @('create', $script:Service, 'type=', 'kernel', 'start=', 'demand', 'binPath=', $File)
    $null = Invoke-Program -Path 'sc.exe' -Arguments $arguments
    $null = New-Item -Path $script:Parameters -Force
    $lines = [string[]] @($Probes | ForEach-Object { "$($_.name) $($_.protocol) $($_.port) $($_.role)" })
    $null = New-ItemProperty -Path $script:Parameters -Name 'Probes' -Value $lines -PropertyType 'MultiString' -Force
}

function Remove-ConformanceDriver {
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('stop', $script:Service) -Allowed @(0, 1060, 1062)
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('delete', $script:Service) -Allowed @(0, 1060)
}

function Wait-ConformanceStep {
    param([Parameter(Mandatory)] [int] $Number)
    $path = "$script:Parameters\Report"
    $reached = { [int] "0$(Get-RegistryValue -Path $path -Name 'Step')" -ge $Number }
    if (-not (Wait-Condition -Seconds 30 -Milliseconds 100 -Condition $reached)) {
        throw "it does not confirm step $Number within 30 s (Step is '$(Get-RegistryValue -Path $path -Name 'Step')')"
    }
}

function Set-ConformanceStep {
    param([Parameter(Mandatory)] [int] $Number)
    $null = New-ItemProperty -Path $script:Parameters -Name 'Step' -Value $Number -PropertyType 'DWord' -Force
    Wait-ConformanceStep -Number $Number
}

# Goes through the steps, and sends the probes of each.
function Invoke-Measurement {
    param(
        [Parameter(Mandatory)] [object[]] $Probes,
        [Parameter(Mandatory)] [AllowEmptyCollection()] [string[]] $Addresses
    )
    $run = @{ Probes = $Probes; Addresses = $Addresses; Listeners = @(); Flow = @() }
    $missing = @($Probes | Where-Object { $_.windows -eq 'second-machine' } | ForEach-Object { $_.name })
    $script:Unsent = $missing
    Write-Log -Text "not measurable without a second machine: $($missing -join ', ')"
    if ($Addresses.Count -eq 0) { Write-Log -Text 'not measured: every probe, for this machine has no address' }
    try {
        Open-Listener -Run $run
        Send-StepProbe -Run $run -Number 0
        Set-ConformanceStep -Number $script:ContextStep
        foreach ($socket in $run.Flow) { $socket.Close() }
        $run.Flow = @()
        for ($number = $script:HoldStep; $number -le $script:LastStep; $number++) {
            Set-ConformanceStep -Number $number
            Send-StepProbe -Run $run -Number $number
        }
    } finally {
        foreach ($socket in $run.Flow) { $socket.Close() }
        foreach ($listener in $run.Listeners) { if ($listener -is [System.Net.Sockets.UdpClient]) { $listener.Close() } else { $listener.Stop() } }
    }
}

# The number that a probe has under a name, or 0.
function Get-ProbeNumber {
    param(
        [Parameter(Mandatory)] $Probe,
        [Parameter(Mandatory)] [string] $Name
    )
    [int] (Get-PropertyValue -InputObject $Probe -Name $Name)
}

function Open-Listener {
    param([Parameter(Mandatory)] [hashtable] $Run)
    foreach ($probe in $Run.Probes) {
        # A connection of this machine ends at this machine.
        if (-not (Get-ProbeNumber -Probe $probe -Name 'listen') -and $probe.send -ne 'connect') { continue }
        foreach ($address in $Run.Addresses) {
            $end = New-Object -TypeName System.Net.IPEndPoint -ArgumentList ([System.Net.IPAddress] $address), ([int] $probe.port)
            if ($probe.protocol -eq 17) {
                $Run.Listeners += New-Object -TypeName System.Net.Sockets.UdpClient -ArgumentList $end
                continue
            }
            $listener = New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList $end
            $listener.Start()
            $Run.Listeners += $listener
        }
    }
}

# Sends the probes of a step to one address of each family.
function Send-StepProbe {
    param(
        [Parameter(Mandatory)] [hashtable] $Run,
        [Parameter(Mandatory)] [int] $Number
    )
    $chosen = [ordered]@{}
    foreach ($address in $Run.Addresses) {
        $family = "$(([System.Net.IPAddress] $address).AddressFamily)"
        if (-not $chosen.Contains($family)) { $chosen[$family] = $address }
    }
    $suffixes = @{ InterNetwork = 'V4'; InterNetworkV6 = 'V6' }
    foreach ($probe in $Run.Probes) {
        if ((Get-ProbeNumber -Probe $probe -Name 'step') -ne $Number -or $probe.windows -eq 'second-machine') { continue }
        foreach ($family in $suffixes.Keys) {
            # Flow contexts and the classify that waits are measured at the IPv4 layer.
            if ('flow', 'held' -contains $probe.role -and $family -ne 'InterNetwork') { continue }
            if (-not $chosen.Contains($family)) {
                $script:Unsent += "$($probe.name)/$($suffixes[$family])"
                continue
            }
            try {
                Send-Probe -Run $Run -Probe $probe -Address $chosen[$family]
            } catch {
                $script:Unsent += "$($probe.name)/$($suffixes[$family])"
                Write-Log -Text "not measured: $($probe.name) to $($chosen[$family]) ($(ConvertTo-Line -Text $_.Exception.Message))"
            }
        }
    }
}

function Send-Probe {
    param(
        [Parameter(Mandatory)] [hashtable] $Run,
        [Parameter(Mandatory)] $Probe,
        [Parameter(Mandatory)] [string] $Address
    )
    $parsed = [System.Net.IPAddress] $Address
    $end = New-Object -TypeName System.Net.IPEndPoint -ArgumentList $parsed, ([int] $Probe.port)
    $bytes = [System.Text.Encoding]::ASCII.GetBytes('12345678')
    $kinds = @{ udp = 'Dgram', 17; protocol = 'Raw', [int] $Probe.protocol; nothing = @() }
    $kind = @('Stream', 6)
    if ($kinds.ContainsKey("$($Probe.send)")) { $kind = @($kinds["$($Probe.send)"]) }
    if ($kind.Count -eq 0) { return }
    $arguments = @($parsed.AddressFamily, [System.Net.Sockets.SocketType] $kind[0], [System.Net.Sockets.ProtocolType] $kind[1])
    $socket = New-Object -TypeName System.Net.Sockets.Socket -ArgumentList $arguments
    try {
        if ($kind[0] -ne 'Stream') {
            $null = $socket.SendTo($bytes, $end)
            return
        }
        $pending = $socket.BeginConnect($end, $null, $null)
        $null = $pending.AsyncWaitHandle.WaitOne($script:PatienceMilliseconds)
        if (-not $socket.Connected) { return }
        if ($Probe.send -eq 'syn') { return }
        $null = $socket.Send($bytes)
        $null = $socket.Send($bytes)
        if ($Probe.role -eq 'flow') {
            # It stays until its contexts have been dealt with.
            $Run.Flow += $socket
            $socket = $null
            Start-Sleep -Milliseconds 200
        }
    } finally {
        if ($null -ne $socket) { $socket.Close() }
    }
}

# Writes the values of the driver, and what the machine says of itself.
function Save-ConformanceReport {
    $path = "$script:Parameters\Report"
    $values = [ordered]@{}
    foreach ($name in @((Get-Item -Path $path).Property | Sort-Object)) {
        $values[$name] = Get-RegistryValue -Path $path -Name $name
    }
    $profiles = @(Get-NetConnectionProfile | ForEach-Object { "$($_.InterfaceIndex) $($_.NetworkCategory)" })
    $report = [ordered]@{
        format  = 'hushport-conformance 1'
        windows = [ordered]@{
            build    = "$((Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber)"
            profiles = $profiles
        }
        unsent  = @($script:Unsent)
        values  = $values
    }
    Write-ResultText -Name 'conformance.json' -Text (ConvertTo-Json -InputObject $report -Depth 6)
}

Export-ModuleMember -Function 'Invoke-ConformanceStep'
