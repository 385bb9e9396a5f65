# The steps of Test-Hushport.ps1, without the scans. Each step can be run alone and
# repeatedly. It checks its prerequisites, and reports by checks.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Package.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Machine.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Verifier.psm1')

# Driver Verifier fails allocations from one minute after the start of the machine,
# as EnableLowResources sets. One more minute for safety.
$script:FaultFreeSeconds = 120

# First checks prerequisites. Then sets test mode, certificate and dumps, and turns
# off the firewall, which silences ports, too. Takes effect at the next start of the
# machine.
function Invoke-PrepareStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Required -Name 'Windows 10 2004 or later' -Body {
        $build = [int](Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber
        if ($build -lt 19041) { throw "this is build $build; 19041 or later is needed" }
    }
    if (-not $Options.Signed) { Assert-TestModePossible }
    Invoke-Check -Required -Name 'the present settings are recorded' -Body {
        Save-FoundSetting -Package $Options.Package -Signed:$Options.Signed
    }
    if (-not $Options.Signed) {
        Invoke-Check -Required -Name 'test signatures count' -Body {
            $set = @('/set', 'testsigning', 'on')
            if ((Get-TestSigning) -ne 'on') { Invoke-Program -Path 'bcdedit.exe' -Arguments $set }
        }
        Import-PackageCertificate -Package $Options.Package
    }
    Invoke-Check -Name 'a crash leaves a kernel dump' -Body { Set-CrashSetting }
    Invoke-Check -Name 'the firewall is off, and its own stealth mode with it' -Body {
        Set-NetFirewallProfile -All -Enabled False
    }
}

# Whether test mode can be turned on.
function Assert-TestModePossible {
    Invoke-Check -Required -Name 'Secure Boot is off' -Body {
        $on = $false
        # Throws on a machine without Secure Boot.
        try { $on = Confirm-SecureBootUEFI } catch { $on = $false }
        if ($on) { throw 'it is on, and Windows then loads no test-signed driver: turn it off in the settings of the VM' }
    }
    Invoke-Check -Required -Name 'BitLocker does not guard the boot settings' -Body {
        if ((Get-TestSigning) -ne 'on' -and (Test-Encryption)) {
            throw ("the system drive is encrypted, and Windows would ask for the recovery key: run 'manage-bde -protectors " +
                "-disable C: -RebootCount 0', then this again, and 'manage-bde -protectors -enable C:' at the end")
        }
    }
}

function Import-PackageCertificate {
    param([Parameter(Mandatory)] [string] $Package)
    foreach ($store in 'Root', 'TrustedPublisher') {
        Invoke-Check -Required -Name "the certificate is in $store" -Body {
            $file = Get-PackageCertificate -Path $Package
            Import-Certificate -FilePath $file -CertStoreLocation "Cert:\LocalMachine\$store"
        }
    }
}

# For a machine that cannot be restarted. It must be in test mode already.
function Invoke-HostedPrepareStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Required -Name 'test signing is on already' -Body {
        Assert-Equal -Actual (Get-TestSigning) -Expected 'on' -What 'test signing'
    }
    Invoke-Check -Required -Name 'the present settings are recorded' -Body { Save-FoundSetting -Package $Options.Package }
    Import-PackageCertificate -Package $Options.Package
}

function Invoke-InstallStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Add-DriverPackage -Package $Options.Package
    Invoke-Check -Required -Name 'the driver store has it once' -Body {
        Assert-Equal -Actual @(Get-PublishedName).Count -Expected 1 -What 'the number of packages'
    }
    Invoke-Check -Required -Name 'the service is there' -Body { Install-DriverService -Package $Options.Package }
    Invoke-Check -Name 'the service runs from the driver store, on demand' -Body {
        $service = Get-DriverService
        Assert-Equal -Actual $service.StartMode -Expected 'Manual' -What 'its start'
        if ($service.PathName -notlike '*\DriverStore\FileRepository\hushport.inf_*\hushport.sys') {
            throw "it runs from $($service.PathName)"
        }
    }
    Invoke-Check -Name 'Parameters has every value of the INF' -Body {
        $inf = (Read-Text -Path (Join-Path -Path $Options.Package -ChildPath 'hushport.inf')) -split '\r?\n'
        $names = $inf | Where-Object { $_ -match '^HKR, Parameters, (\w+),' } | ForEach-Object { $Matches[1] }
        $key = Get-Item -Path (Get-ParametersPath)
        $missing = @($names | Where-Object { $key.Property -notcontains $_ })
        if ($missing.Count -gt 0) { throw "without $($missing -join ', ')" }
    }
}

function Add-DriverPackage {
    param([Parameter(Mandatory)] [string] $Package)
    Invoke-Check -Required -Name 'pnputil takes the package' -Body {
        $inf = Join-Path -Path $Package -ChildPath 'hushport.inf'
        # 259: it exists already. 3010: a restart is needed.
        Invoke-Program -Path 'pnputil.exe' -Arguments @('/add-driver', $inf, '/install') -Allowed @(0, 259, 3010)
    }
}

# Public reports differ on whether pnputil runs the DefaultInstall section of a
# driver without a device. If it does not, InstallHinfSection does; Windows passes
# that on to DiInstallDriver.
function Install-DriverService {
    param([Parameter(Mandatory)] [string] $Package)
    $present = { (Get-DriverState) -ne 'Absent' }
    if (Wait-Condition -Seconds 10 -Condition $present) {
        Write-Log -Text 'pnputil /add-driver /install made the service'
        return
    }
    $section = "DefaultInstall.NT$(Get-PackageArchitecture -Path $Package)"
    $inf = Join-Path -Path $Package -ChildPath 'hushport.inf'
    $arguments = @('setupapi.dll,InstallHinfSection', $section, '128', $inf)
    $null = Invoke-Program -Path 'rundll32.exe' -Arguments $arguments
    if (-not (Wait-Condition -Seconds 10 -Condition $present)) {
        throw "neither pnputil /add-driver /install nor InstallHinfSection $section made the service; see setupapi.dev.log"
    }
    Write-Log -Text "pnputil only staged the package; InstallHinfSection $section made the service"
}

function Invoke-StartStep {
    Stop-Driver
    Invoke-Check -Required -Name 'it starts' -Body {
        Start-Driver
        Assert-Equal -Actual (Get-DriverState) -Expected 'Running' -What 'its state'
    }
    Invoke-Check -Name 'its objects are in the filter engine' -Body { Assert-EngineObject -Present $true }
    Invoke-Check -Name 'it stops' -Body {
        Stop-Driver
        Assert-Equal -Actual (Get-DriverState) -Expected 'Stopped' -What 'its state'
    }
    Invoke-Check -Name 'its objects are gone' -Body { Assert-EngineObject -Present $false }
    Invoke-Check -Required -Name 'it starts again' -Body { Start-Driver }
}

# Changes every value while the driver runs, also to values that it must refuse. The
# scan checks the effects.
function Invoke-PolicyStep {
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

# Loads and unloads. Under low resources a start may fail without memory. Then
# nothing may be left, and the next start may succeed.
function Invoke-CycleStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $refusals = @()
    $before = 0
    if ($Options.LowResources) {
        Wait-FaultInjection
        $refusals = @(Get-MemoryStatus)
        $before = Read-InjectedFault
    }
    $count = @{ Started = 0; Refused = 0 }
    Invoke-Check -Name "$($Options.Cycles) times loaded and unloaded" -Body {
        for ($cycle = 0; $cycle -lt $Options.Cycles; $cycle++) {
            Stop-Driver
            $status = Start-Driver -Allowed (@(0) + $refusals)
            if ($status -eq 0) { $count.Started++ } else { $count.Refused++ }
        }
    }
    Write-Log -Text "started $($count.Started), refused for want of memory $($count.Refused)"
    if ($Options.LowResources) {
        Invoke-Check -Name 'allocations failed, a start was refused, and a start succeeded' -Body {
            Assert-InjectedFault -Before $before -After (Read-InjectedFault) -Count $count
        }
    }
    Invoke-Check -Name 'nothing is left in the filter engine' -Body {
        Stop-Driver
        Assert-EngineObject -Present $false
    }
}

# Throws if the cycles tested nothing.
function Assert-InjectedFault {
    param(
        [Parameter(Mandatory)] [int64] $Before,
        [Parameter(Mandatory)] [int64] $After,
        [Parameter(Mandatory)] [hashtable] $Count
    )
    $missing = @()
    if ($Before -lt 0 -or $After -lt 0) {
        $missing += "verifier /query does not show the number of faults injected"
    } elseif ($After -le $Before) {
        $missing += "Driver Verifier injected no fault (faults injected: $Before before, $After after)"
    }
    if ($Count.Refused -eq 0) { $missing += 'no start was refused' }
    if ($Count.Started -eq 0) { $missing += 'no start succeeded' }
    if ($missing.Count -gt 0) { throw "nothing was tested: $($missing -join '; ')" }
}

function Wait-FaultInjection {
    $seconds = $script:FaultFreeSeconds
    try {
        $started = (Get-CimInstance -ClassName Win32_OperatingSystem).LastBootUpTime
        $seconds -= [int] ((Get-Date) - $started).TotalSeconds
    } catch {
        Write-Log -Quiet -Text "the start of the machine is unknown: $($_.Exception.Message)"
    }
    if ($seconds -gt 0) {
        Write-Log -Text "waiting until Driver Verifier injects faults"
        Start-Sleep -Seconds ([System.Math]::Min($seconds, $script:FaultFreeSeconds))
    }
}

# Installs a package with a higher version. Values of the administrator stay.
function Invoke-UpdateStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    if (-not $Options.Update) {
        Write-Log -Text 'not tested: the update, for there is no second package (-Update)'
        return
    }
    $null = Start-Driver
    Set-PolicyValue -Name 'Mode' -Value 1
    Set-PolicyValue -Name 'ExemptPorts' -Value @('8000-8100') -Type MultiString
    Stop-Driver
    $before = (Get-DriverService).PathName
    Add-DriverPackage -Package $Options.Update
    Invoke-Check -Name 'the service runs from the new package' -Body {
        if (Wait-Condition -Seconds 10 -Condition { (Get-DriverService).PathName -ne $before }) { return }
        $section = "DefaultInstall.NT$(Get-PackageArchitecture -Path $Options.Update)"
        $inf = Join-Path -Path $Options.Update -ChildPath 'hushport.inf'
        $arguments = @('setupapi.dll,InstallHinfSection', $section, '128', $inf)
        $null = Invoke-Program -Path 'rundll32.exe' -Arguments $arguments
        if (-not (Wait-Condition -Seconds 10 -Condition { (Get-DriverService).PathName -ne $before })) {
            throw "it still runs from $before"
        }
        Write-Log -Text "pnputil only staged the update; InstallHinfSection $section installed it"
    }
    Invoke-Check -Name 'the values survive the update' -Body {
        Assert-Equal -Actual (Get-RegistryValue -Path (Get-ParametersPath) -Name 'Mode') -Expected 1 -What 'Mode'
        $ports = @(Get-RegistryValue -Path (Get-ParametersPath) -Name 'ExemptPorts') -join ','
        Assert-Equal -Actual $ports -Expected '8000-8100' -What 'ExemptPorts'
    }
    Invoke-Check -Name 'the new driver starts' -Body { Start-Driver }
    Set-PolicyValue -Name 'Mode' -Value 2
    Set-PolicyValue -Name 'ExemptPorts' -Value ([string[]] @()) -Type MultiString
}

function Invoke-CollectStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    Invoke-Check -Name 'no crash' -Body {
        $traces = @(Save-CrashDump -Since $Options.Since) + @(Get-CrashEvent -Since $Options.Since)
        if ($traces.Count -gt 0) { throw "$($traces -join ', ')" }
    }
    Invoke-Check -Name 'the event log is kept' -Body {
        $log = Get-ResultPath -Name 'System.evtx'
        Invoke-Program -Path 'wevtutil.exe' -Arguments @('epl', 'System', $log, '/ow:true')
    }
    Invoke-Check -Name 'the log of installations is kept' -Body {
        $log = Join-Path -Path $env:SystemRoot -ChildPath 'INF\setupapi.dev.log'
        Copy-ResultText -Path $log -Name 'setupapi.dev.log'
    }
    Invoke-Check -Name 'the settings of Driver Verifier are kept' -Body {
        Write-ResultText -Name 'verifier-settings.txt' -Text (Read-VerifierSetting).Text
    }
}

function Invoke-RemoveStep {
    Invoke-Check -Name 'the package is removed' -Body {
        if ((Get-DriverState) -ne 'Absent') { Stop-Driver }
        foreach ($name in @(Get-PublishedName)) {
            $arguments = @('/delete-driver', $name, '/uninstall')
            Invoke-Program -Path 'pnputil.exe' -Arguments $arguments -Allowed @(0, 3010)
        }
        Assert-Equal -Actual @(Get-PublishedName).Count -Expected 0 -What 'the number of packages'
    }
    Invoke-Check -Name 'the service is gone' -Body { Remove-DriverService }
    Invoke-Check -Name 'nothing is left in the filter engine' -Body { Assert-EngineObject -Present $false }
    Invoke-Check -Name 'Driver Verifier does not watch the driver from the next start on' -Body {
        if ((Read-VerifierSetting).Watched) {
            $null = Invoke-Program -Path 'verifier.exe' -Arguments @('/reset') -Allowed @(0, 2)
        }
    }
    Restore-FoundSetting
}

# Deletes a service that is left. That is a failure in any case.
function Remove-DriverService {
    if (Wait-Condition -Seconds 10 -Condition { (Get-DriverState) -eq 'Absent' }) { return }
    $service = Get-DriverService
    $null = Invoke-Program -Path 'sc.exe' -Arguments @('delete', 'hushport') -Allowed @(0, 1060, 1072)
    $after = 'sc.exe delete removed it'
    if (-not (Wait-Condition -Seconds 10 -Condition { (Get-DriverState) -eq 'Absent' })) {
        $after = 'sc.exe delete did not remove it either: restart the machine'
    }
    throw "pnputil left the service, $($service.State), with $($service.PathName); $after"
}

Export-ModuleMember -Function 'Invoke-*Step', 'Add-DriverPackage', 'Assert-InjectedFault'
