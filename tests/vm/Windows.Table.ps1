# Mocks every command and cmdlet that the scripts use, on a small model of the machine
# ($global:Machine). If Windows behaves otherwise, correct one row.
#
# A row answers one command. Command is its name, When matches its arguments, and
# Fault is a fault that a test must enable. Do changes the model and returns Text and
# Status (default 0). The first matching row answers. Source is the source of the
# output's form, or `guess`.
[Diagnostics.CodeAnalysis.SuppressMessageAttribute('PSAvoidOverwritingBuiltInCmdlets', '',
    Justification = 'Playing the cmdlets of Windows is what this file is for.')]
param()

function global:New-Machine {
    param([Parameter(Mandatory)] [string] $Root)
    $null = New-Item -ItemType Directory -Force -Path "$Root/Windows/INF"
    [System.IO.File]::WriteAllText("$Root/Windows/INF/setupapi.dev.log", "[Device Install Log]`n")
    $env:SystemRoot = "$Root/Windows"
    $env:ProgramData = "$Root/ProgramData"
    $now = [datetime] '2026-11-29T09:00:00Z'
    $global:Machine = @{
        Root = $Root; Now = $now; BootTime = $now; Restarting = $false; Boots = 0
        Calls = 0; CrashAt = 0; Faults = @{}; Commands = New-Object -TypeName System.Collections.Generic.List[string]
        Build = '22631'; SecureBoot = $false; Encrypted = $false
        TestSigning = 'absent'; No = 'No'; Yes = 'Yes'
        Certificates = @{}; Service = $null; Store = @(); NextOem = 12
        Registry = @{ 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl' = @{ CrashDumpEnabled = 7; AutoReboot = 1 } }
        Firewall = [ordered]@{ Domain = 'True'; Private = 'False'; Public = 'True' }
        Verifier = @{ Flags = 0; Driver = ''; NextFlags = 0; NextDriver = ''; Injected = 0 }
        Session = $null; LastSession = $null; Inf = ''; Events = @(); Task = $null; Starts = 0; Scanner = $false
        Addresses = @(); Conformance = ''
        WatchTask = $null; Adapter = 'Up'; Process = $null; Off = $false; OnSleep = $null
    }
}

# Starts the machine again.
function global:Start-MachineAgain {
    $machine = $global:Machine
    $machine.Boots++
    $machine.Restarting = $false
    $machine.Now = $machine.Now.AddMinutes(1)
    $machine.BootTime = $machine.Now
    $machine.Verifier.Flags = $machine.Verifier.NextFlags
    $machine.Verifier.Driver = $machine.Verifier.NextDriver
    $machine.Verifier.Injected = 0
    $machine.Session = $null
    if ($machine.Service) { $machine.Service.State = 'Stopped' }
}

# The machine goes down at once. Nothing after this call runs.
function global:Stop-MachineNow {
    $global:Machine.Restarting = $true
    exit 99
}

# Writes the file of netsh wfp show state: UTF-8 with a mark, and a second root.
function global:Write-EngineState {
    param([Parameter(Mandatory)] [string] $Path)
    $ours = $global:Machine.Service -and $global:Machine.Service.State -eq 'Running'
    if ($global:Machine.Faults['objects stay']) { $ours = $true }
    $item = { param($key, $name) "<item><$key>{0}</$key><displayData><name>$name</name><description/></displayData></item>" }
    $callouts = @(& $item 'calloutKey' 'Tom & Jerry <v1> 入站传输')
    if ($ours) { $callouts += 1..66 | ForEach-Object { & $item 'calloutKey' "hushport $_" } }
    $sublayers = @(& $item 'subLayerKey' 'another product')
    $providers = @(& $item 'providerKey' 'Microsoft Corporation')
    if ($ours) { $sublayers += & $item 'subLayerKey' 'hushport'; $providers += & $item 'providerKey' 'hushport' }
    $text = "<?xml version=`"1.0`" encoding=`"UTF-8`" standalone=`"yes`"?>`n<wfpstate>`n" +
        "<layers numItems=`"1`"><item><layer/><callouts numItems=`"$($callouts.Count)`">$($callouts -join '')</callouts>" +
        "<filters numItems=`"0`"/></item></layers>`n" +
        "<providers numItems=`"$($providers.Count)`">$($providers -join '')</providers>`n" +
        "<subLayers numItems=`"$($sublayers.Count)`">$($sublayers -join '')</subLayers>`n</wfpstate>`n" +
        "<firewallState>`n`t<dynamicKeywordAddresses/>`n</firewallState>`n"
    $text = $text -replace '<v1>', 'v1'
    [System.IO.File]::WriteAllText($Path, $text, (New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $true))
}

function global:Add-TraceEvent {
    param([string] $Name, [hashtable] $Fields = @{})
    if ($global:Machine.Session) { $global:Machine.Session.Events += @{ Name = $Name; Fields = $Fields } }
}

# The events of a session, as tracerpt -of XML writes them.
function global:Write-TraceXml {
    param([Parameter(Mandatory)] [string] $Path, [Parameter(Mandatory)] [hashtable] $Session)
    $space = 'xmlns="http://schemas.microsoft.com/win/2004/08/events/event"'
    $lost = 0
    if ($global:Machine.Faults['events lost']) { $lost = 7 }
    $text = "<Events>`n<Event $space><System><Provider Name=`"MSNT_SystemTrace`" " +
        "Guid=`"{68fdd900-4a3e-11d1-84f4-0000f80464e3}`"/></System><EventData><Data Name=`"EventsLost`">$lost</Data></EventData>" +
        '<RenderingInfo Culture="de-DE"><Task>EventTrace</Task></RenderingInfo></Event>'
    foreach ($report in $Session.Events) {
        $data = @($report.Fields.Keys | ForEach-Object { "<Data Name=`"$_`">$($report.Fields[$_])</Data>" }) -join ''
        $text += "<Event $space><System><Provider Name=`"Hushport`" Guid=`"{6b703f15-888e-524f-a16f-9e8d456e674a}`"/>" +
            "</System><EventData>$data</EventData><RenderingInfo Culture=`"de-DE`"><Level>Informationen </Level>" +
            "<Task>$($report.Name)</Task></RenderingInfo></Event>"
    }
    [System.IO.File]::WriteAllText($Path, "$text</Events>", [System.Text.Encoding]::Unicode)
}

$global:ConformanceKey = 'HKLM:\SYSTEM\CurrentControlSet\Services\hushport-conformance\Parameters'

$script:Done = { @{ Text = 'The command completed successfully.' } }
$script:Errors = 'Microsoft Learn, System Error Codes (0-1699)'
$script:MessageTable = 'the message table of verifier.exe.mui, a public listing; the order of its lines is a guess'

$script:Rows = @(
    # bcdedit
    @{ Command = 'bcdedit.exe'; When = '^/set testsigning on'; Fault = 'test signing refused'; Source = 'public reports of Secure Boot'
        Do = { @{ Status = 1; Text = "An error has occurred setting the element data.`r`nThe value is protected by Secure Boot policy and cannot be modified or deleted." } } }
    @{ Command = 'bcdedit.exe'; When = '^/set testsigning (on|off)'; Source = 'Microsoft Learn, BCDEdit /set'
        Do = { param($m, $words) $m.TestSigning = @{ on = $m.Yes; off = $m.No }[$words[2]]; @{ Text = 'The operation completed successfully.' } } }
    @{ Command = 'bcdedit.exe'; When = '^/deletevalue testsigning'; Source = 'Microsoft Learn, BCDEdit /deletevalue'
        Do = { param($m) $m.TestSigning = 'absent'; @{ Text = 'The operation completed successfully.' } } }
    @{ Command = 'bcdedit.exe'; When = '^/enum'; Source = 'Microsoft Learn, BCDEdit /enum, example'
        Do = { param($m)
            $text = "Windows Boot Loader`r`n-------------------`r`nidentifier              {current}`r`ndevice                  partition=C:"
            if ($m.TestSigning -ne 'absent') { $text += "`r`ntestsigning             $($m.TestSigning)" }
            @{ Text = "$text`r`nnx                      OptIn" } } }

    # pnputil, rundll32
    @{ Command = 'pnputil.exe'; When = '^/add-driver'; Fault = 'pnputil refuses'; Source = 'Microsoft Learn, PnPUtil Examples; the sentence: public reports'
        Do = { @{ Status = 2; Text = "Microsoft PnP Utility`r`n`r`nFailed to add driver package: The hash for the file is not present in the specified catalog file.`r`n`r`nTotal driver packages:  1`r`nAdded driver packages:  0" } } }
    @{ Command = 'pnputil.exe'; When = '^/add-driver'; Fault = 'pnputil only stages'; Source = 'public reports contradict each other on this'
        Do = { param($m, $words) Add-StoredPackage -Inf $words[1]; @{ Text = 'Driver package added successfully.' } } }
    @{ Command = 'pnputil.exe'; When = '^/add-driver'; Source = 'Microsoft Learn, PnPUtil Examples'
        Do = { param($m, $words) Add-StoredPackage -Inf $words[1]; New-DriverService
            @{ Text = "Microsoft PnP Utility`r`n`r`nAdding driver package:  hushport.inf`r`nDriver package added successfully.`r`nPublished Name:         oem12.inf`r`n`r`nTotal driver packages:  1`r`nAdded driver packages:  1" } } }
    @{ Command = 'pnputil.exe'; When = '^/delete-driver'; Fault = 'service stays'; Source = 'guess'
        Do = { param($m, $words) $m.Store = @($m.Store | Where-Object { $_.Driver -ne $words[1] }); @{ Text = 'Driver package deleted successfully.' } } }
    @{ Command = 'pnputil.exe'; When = '^/delete-driver'; Source = 'Microsoft Learn, PnPUtil Examples; that the service goes with it: guess'
        Do = { param($m, $words) $m.Store = @($m.Store | Where-Object { $_.Driver -ne $words[1] })
            if ($m.Store.Count -eq 0) { $m.Service = $null }
            @{ Text = "Microsoft PnP Utility`r`n`r`nDriver package deleted successfully." } } }
    @{ Command = 'rundll32.exe'; When = '^setupapi.dll,InstallHinfSection'; Fault = 'no section'; Source = 'guess'; Do = { @{ Text = '' } } }
    @{ Command = 'rundll32.exe'; When = '^setupapi.dll,InstallHinfSection DefaultInstall.NT(amd64|arm64) 128 '
        Source = 'Microsoft Learn, InstallHinfSectionW'; Do = { New-DriverService; @{ Text = '' } } }

    # sc
    @{ Command = 'sc.exe'; When = '^create hushport-conformance type= kernel start= demand binPath= '; Source = 'Microsoft Learn, sc.exe create'
        Do = { param($m) $m.Conformance = 'Stopped'; @{ Text = '[SC] CreateService SUCCESS' } } }
    @{ Command = 'sc.exe'; When = '^start hushport-conformance'; Fault = 'conformance refused'; Source = $script:Errors
        Do = { @{ Status = 577; Text = "[SC] StartService FAILED 577:`r`n`r`nWindows cannot verify the digital signature for this file." } } }
    @{ Command = 'sc.exe'; When = '^start hushport-conformance'; Source = 'Microsoft Learn, sc.exe start'
        Do = { param($m) $m.Conformance = 'Running'
            $m.Registry["$global:ConformanceKey\Report"] = @{ 'Step' = 1; 'refused-probes' = 0 }
            @{ Text = 'STATE : 4 RUNNING' } } }
    @{ Command = 'sc.exe'; When = '^(stop|delete) hushport-conformance'; Source = 'Microsoft Learn, sc.exe; 1060, 1062: System Error Codes'
        Do = { param($m, $words)
            if (-not $m.Conformance) { return @{ Status = 1060; Text = '[SC] OpenService FAILED 1060: The specified service does not exist as an installed service.' } }
            if ($words[0] -eq 'delete') {
                $m.Conformance = ''
                foreach ($key in @($m.Registry.Keys -like "$global:ConformanceKey*")) { $m.Registry.Remove($key) }
                return @{ Text = '[SC] DeleteService SUCCESS' }
            }
            if ($m.Conformance -ne 'Running') { return @{ Status = 1062; Text = '[SC] ControlService FAILED 1062: The service has not been started.' } }
            $m.Conformance = 'Stopped'
            @{ Text = 'STATE : 3 STOP_PENDING' } } }
    @{ Command = 'sc.exe'; When = '^start hushport'; Fault = 'start 577'; Source = $script:Errors
        Do = { @{ Status = 577; Text = "[SC] StartService FAILED 577:`r`n`r`nWindows cannot verify the digital signature for this file." } } }
    @{ Command = 'sc.exe'; When = '^start hushport'; Fault = 'start 31'; Source = $script:Errors
        Do = { @{ Status = 31; Text = "[SC] StartService FAILED 31:`r`n`r`nA device attached to the system is not functioning." } } }
    @{ Command = 'sc.exe'; When = '^start hushport'; Fault = 'start 317'; Source = $script:Errors
        Do = { @{ Status = 317; Text = "[SC] StartService FAILED 317:`r`n`r`nThe system cannot find message text for message number 0x%1 in the message file for %2." } } }
    @{ Command = 'sc.exe'; When = '^start hushport'; Fault = 'start crashes'; Source = 'guess'; Do = { Stop-MachineNow } }
    @{ Command = 'sc.exe'; When = '^start hushport'; Source = 'Microsoft Learn, sc.exe start; 1450 under low resources: System Error Codes'
        Do = { param($m) Start-PlayedDriver } }
    @{ Command = 'sc.exe'; When = '^stop hushport'; Source = 'Microsoft Learn, sc.exe stop; 1060, 1062: System Error Codes'
        Do = { param($m)
            if (-not $m.Service) { return @{ Status = 1060; Text = '[SC] OpenService FAILED 1060: The specified service does not exist as an installed service.' } }
            if ($m.Service.State -ne 'Running') { return @{ Status = 1062; Text = '[SC] ControlService FAILED 1062: The service has not been started.' } }
            Add-TraceEvent -Name 'Stopped' -Fields @{ UptimeMs = 5 }
            $m.Service.State = 'Stopped'
            @{ Text = 'STATE : 3 STOP_PENDING' } } }
    @{ Command = 'sc.exe'; When = '^delete hushport'; Source = 'Microsoft Learn, sc.exe delete'
        Do = { param($m) $m.Service = $null; @{ Text = '[SC] DeleteService SUCCESS' } } }

    # Driver Verifier
    @{ Command = 'verifier.exe'; When = '^/(standard|volatile|dif|reset)'; Fault = 'verifier does nothing'; Source = 'guess'; Do = { @{ Status = 2 } } }
    @{ Command = 'verifier.exe'; When = '^/(volatile|dif)'; Fault = 'no verifier'; Source = 'guess'; Do = { @{ Status = 1; Text = 'Error' } } }
    @{ Command = 'verifier.exe'; When = '^/volatile'; Fault = 'no volatile'; Source = 'Microsoft has announced that /volatile goes; the text is a guess'
        Do = { @{ Status = 1; Text = 'The requested operation is not supported.' } } }
    @{ Command = 'verifier.exe'; When = '^/volatile /adddriver hushport.sys'; Source = 'Microsoft Learn, Driver Verifier Command Syntax'
        Do = { param($m) $m.Verifier.Flags = 0x209BB; $m.Verifier.Driver = 'hushport.sys'; @{ Text = 'The verifier configuration settings are in effect.' } } }
    @{ Command = 'verifier.exe'; When = '^/dif 1 4 5 9 12 18 /now /driver hushport.sys'; Source = 'Microsoft Learn, Driver Verifier Command Syntax'
        Do = { param($m) $m.Verifier.Flags = 0x209BB; $m.Verifier.Driver = 'hushport.sys'; @{ Text = '' } } }
    @{ Command = 'verifier.exe'; When = '^/standard /faults 599 (""|) (""|) 1 /driver hushport.sys$'; Source = 'microsoft/xdp-for-windows, tools/prepare-machine.ps1'
        Do = { param($m) $m.Verifier.NextFlags = 0x209BF; $m.Verifier.NextDriver = 'hushport.sys'; @{ Status = 2; Text = 'Changes will not be effective until the system is rebooted.' } } }
    @{ Command = 'verifier.exe'; When = '^/standard /driver hushport.sys$'; Source = "status 2: Microsoft Learn; the text: $script:MessageTable"
        Do = { param($m) $m.Verifier.NextFlags = 0x209BB; $m.Verifier.NextDriver = 'hushport.sys'
            @{ Status = 2; Text = 'The requested operation is successful. Changes will not be effective until the system is rebooted.' } } }
    @{ Command = 'verifier.exe'; When = '^/reset'; Source = 'Microsoft Learn, Driver Verifier Command Syntax'
        Do = { param($m) $m.Verifier.NextFlags = 0; $m.Verifier.NextDriver = ''; @{ Status = 2; Text = 'Changes will not be effective until the system is rebooted.' } } }
    @{ Command = 'verifier.exe'; When = '^/querysettings'; Source = $script:MessageTable
        Do = { param($m)
            $drivers = 'None'
            if ($m.Verifier.NextDriver) { $drivers = $m.Verifier.NextDriver }
            $mark = @{ $true = 'X'; $false = ' ' }[[bool] ($m.Verifier.NextFlags -band 4)]
            @{ Text = ("Verifier Flags: 0x{0:x8}`r`n`r`n  Standard Flags:`r`n`r`n    [{1}] 0x00000004 Randomized low resources simulation.`r`n`r`n" +
                    "  Verified Drivers:`r`n`r`n    {2}") -f $m.Verifier.NextFlags, $mark, $drivers } } }
    @{ Command = 'verifier.exe'; When = '^/query$'; Fault = 'no fault count'; Source = 'guess'; Do = { @{ Text = "hushport.sys" } } }
    @{ Command = 'verifier.exe'; When = '^/query$'; Source = "Microsoft Learn, Monitoring Global Counters, for the name; $script:MessageTable"
        Do = { param($m) @{ Text = ("Verifier Flags: 0x{0:x8}`r`n  Verifier Statistics Summary`r`n    Faults Injected: {1}`r`n`r`n" +
                    "  Driver Verification List`r`n    MODULE: {2} (load: 1 / unload: 0)") -f $m.Verifier.Flags, $m.Verifier.Injected, $m.Verifier.Driver } } }

    # The filter engine, tracing, logs
    @{ Command = 'netsh.exe'; When = '^wfp show state'; Fault = 'netsh writes nothing'; Source = 'guess'; Do = { @{ Text = 'No data.' } } }
    @{ Command = 'netsh.exe'; When = '^wfp show state file='; Source = 'the form: six files of real machines'
        Do = { param($m, $words) $path = $words[3].Substring(5); Write-EngineState -Path $path; @{ Text = "Data collection successful; output = $path" } } }
    @{ Command = 'logman.exe'; When = '^start hushport-test .*-bs 1024 -nb 64 64 '; Source = 'Microsoft Learn, logman start'
        Do = { param($m, $words) $m.Session = @{ Events = @(); File = $words[[array]::IndexOf($words, '-o') + 1] }; @{ Text = 'The command completed successfully.' } } }
    @{ Command = 'logman.exe'; When = '^stop hushport-test'; Source = 'Microsoft Learn, logman stop; the text of the error: public reports'
        Do = { param($m)
            if (-not $m.Session) { return @{ Status = -2144337918; Text = 'Error: Data Collector Set was not found.' } }
            [System.IO.File]::WriteAllText($m.Session.File, 'etl')
            $m.LastSession = $m.Session; $m.Session = $null
            @{ Text = 'The command completed successfully.' } } }
    @{ Command = 'tracerpt.exe'; When = ' -of XML'; Source = 'that the name is the task: public dumps; EventsLost: evntrace.h, TRACE_LOGFILE_HEADER'
        Do = { param($m, $words) Write-TraceXml -Path $words[[array]::IndexOf($words, '-o') + 1] -Session $m.LastSession; @{ Text = 'Input' } } }
    @{ Command = 'wevtutil.exe'; When = '^epl System'; Source = 'Microsoft Learn, wevtutil'
        Do = { param($m, $words) [System.IO.File]::WriteAllText($words[2], 'evtx'); @{ Text = '' } } }
    @{ Command = 'pktmon.exe'; When = '^(filter|start|stop)'; Source = 'Microsoft Learn, Pktmon command formatting; the text is a guess'; Do = { @{ Text = '' } } }
    @{ Command = 'pktmon.exe'; When = '^etl2txt'; Source = 'Microsoft Learn, Pktmon, the form of a drop'
        Do = { param($m, $words)
            $lines = foreach ($port in 113, 22222, 33333) {
                "09:00:00.000 Drop: PktGroupId 1, PktNumber 1, Appearance 0, Direction Rx , Type IP , Component 12, Filter 1, DropReason INET: transport endpoint was not found , DropLocation 0xE000464D, OriginalSize 52"
                "`tip: 192.0.2.10.50000 > 192.0.2.10.${port}: Flags [S]"
            }
            if ($m.Faults['pktmon saw nothing']) { $lines = @() }
            [System.IO.File]::WriteAllText($words[3], ($lines -join "`r`n")); @{ Text = '' } } }

    # Cmdlets: Do gets the named arguments and returns objects as Value.
    @{ Command = 'Get-CimInstance'; When = 'Win32_OperatingSystem'; Source = 'Microsoft Learn, Win32_OperatingSystem'
        Do = { param($m) @{ Value = [pscustomobject]@{ BuildNumber = $m.Build; LastBootUpTime = $m.BootTime } } } }
    @{ Command = 'Get-CimInstance'; When = 'Win32_SystemDriver'; Source = 'Microsoft Learn, Win32_SystemDriver'
        Do = { param($m) if ($m.Service) { @{ Value = [pscustomobject] $m.Service } } } }
    @{ Command = 'Get-CimInstance'; When = 'Win32_EncryptableVolume'; Source = 'Microsoft Learn, Win32_EncryptableVolume'
        Do = { param($m) @{ Value = [pscustomobject]@{ DriveLetter = 'C:'; ProtectionStatus = [uint32] [int] $m.Encrypted } } } }
    @{ Command = 'Get-Service'; When = 'BFE'; Source = 'Microsoft Learn, Get-Service'; Do = { @{ Value = [pscustomobject]@{ Name = 'BFE'; Status = 'Running' } } } }
    @{ Command = 'Get-NetIPAddress'; When = ''; Source = 'Microsoft Learn, MSFT_NetIPAddress'
        Do = { param($m) @{ Value = @($m.Addresses | ForEach-Object { [pscustomobject]@{ IPAddress = $_; AddressState = 'Preferred' } }) } } }
    @{ Command = 'Get-NetConnectionProfile'; When = ''; Source = 'Microsoft Learn, MSFT_NetConnectionProfile'
        Do = { @{ Value = [pscustomobject]@{ InterfaceIndex = 7; NetworkCategory = 'Public' } } } }
    @{ Command = 'Get-WindowsDriver'; When = ''; Source = 'Microsoft Learn, Get-WindowsDriver'
        Do = { param($m) @{ Value = @($m.Store | ForEach-Object { [pscustomobject] $_ }) } } }
    @{ Command = 'Confirm-SecureBootUEFI'; When = ''; Source = 'Microsoft Learn'; Do = { param($m) @{ Value = $m.SecureBoot } } }
    @{ Command = 'Get-NetFirewallProfile'; When = ''; Source = 'Microsoft Learn, MSFT_NetFirewallProfile'
        Do = { param($m) @{ Value = @($m.Firewall.Keys | ForEach-Object { [pscustomobject]@{ Name = $_; Enabled = $m.Firewall[$_] } }) } } }
    @{ Command = 'Set-NetFirewallProfile'; When = ''; Source = 'Microsoft Learn'
        Do = { param($m, $words, $named)
            foreach ($name in @($m.Firewall.Keys)) { if ($named.ContainsKey('All') -or $named['Name'] -eq $name) { $m.Firewall[$name] = "$($named.Enabled)" } } } }
    @{ Command = 'Import-Certificate'; When = ''; Source = 'Microsoft Learn'
        Do = { param($m, $words, $named)
            $bytes = [System.IO.File]::ReadAllBytes($named.FilePath)
            $thumb = (New-Object -TypeName System.Security.Cryptography.X509Certificates.X509Certificate2 -ArgumentList (, $bytes)).Thumbprint
            $m.Certificates["$($named.CertStoreLocation)\$thumb"] = $true } }
    @{ Command = 'Get-WinEvent'; When = ''; Source = 'Microsoft Learn; NoMatchingEventsFound: public reports'
        Do = { param($m, $words, $named)
            $found = @($m.Events | Where-Object { $named.FilterHashtable.Id -contains $_.Id })
            if ($found.Count -eq 0) { return @{ Error = 'NoMatchingEventsFound' } }
            @{ Value = @($found | ForEach-Object { [pscustomobject] $_ }) } } }
    @{ Command = 'Restart-Computer'; When = ''; Fault = 'restart refused'; Source = 'guess'; Do = { throw 'The system shutdown cannot be initiated.' } }
    @{ Command = 'Restart-Computer'; When = ''; Source = 'Microsoft Learn'; Do = { Stop-MachineNow } }
    @{ Command = 'New-ScheduledTaskAction'; When = ''; Source = 'Microsoft Learn'; Do = { param($m, $words, $named) @{ Value = [pscustomobject] $named } } }
    @{ Command = 'New-ScheduledTaskTrigger'; When = ''; Source = 'Microsoft Learn'; Do = { @{ Value = 'AtStartup' } } }
    @{ Command = 'New-ScheduledTaskPrincipal'; When = ''; Source = 'Microsoft Learn'; Do = { @{ Value = 'SYSTEM' } } }
    @{ Command = 'New-ScheduledTaskSettingsSet'; When = ''; Source = 'Microsoft Learn'; Do = { param($m, $words, $named) @{ Value = [pscustomobject] $named } } }
    @{ Command = 'Register-ScheduledTask'; When = '-TaskName HushportMachine '; Source = 'Microsoft Learn'
        Do = { param($m, $words, $named) $m.WatchTask = @{ Argument = $named.Action.Argument; Settings = $named.Settings } } }
    @{ Command = 'Get-ScheduledTask'; When = '-TaskName HushportMachine '; Source = 'Microsoft Learn'
        Do = { param($m) if ($m.WatchTask) { @{ Value = [pscustomobject]@{ TaskName = 'HushportMachine' } } } } }
    @{ Command = 'Unregister-ScheduledTask'; When = '-TaskName HushportMachine '; Source = 'Microsoft Learn'; Do = { param($m) $m.WatchTask = $null } }
    @{ Command = 'Start-ScheduledTask'; When = '-TaskName HushportMachine$'; Source = 'Microsoft Learn'; Do = {} }
    # A virtual machine.
    @{ Command = 'powercfg.exe'; When = '^/change (standby|hibernate|monitor)-timeout-ac 0$'; Source = 'Microsoft Learn, Powercfg command-line options'; Do = { @{ Text = '' } } }
    @{ Command = 'Get-NetAdapter'; When = ''; Source = 'Microsoft Learn, MSFT_NetAdapter'
        Do = { param($m) @{ Value = @([pscustomobject]@{ ifIndex = 3; Status = 'Disconnected' }, [pscustomobject]@{ ifIndex = 6; Status = $m.Adapter }) } } }
    @{ Command = 'New-NetIPAddress'; When = ''; Source = 'Microsoft Learn, New-NetIPAddress'
        Do = { param($m, $words, $named) $m.Addresses += $named.IPAddress; @{ Value = [pscustomobject] $named } } }
    @{ Command = 'Get-Volume'; When = ''; Fault = 'no results disk'; Source = 'guess'; Do = { throw 'No MSFT_Volume objects found.' } }
    @{ Command = 'Get-Volume'; When = '-FileSystemLabel RESULTS$'; Source = 'Microsoft Learn, MSFT_Volume'
        Do = { param($m) @{ Value = [pscustomobject]@{ DriveLetter = [char] 0; Path = "$($m.Root)/disk" } } } }
    @{ Command = 'Write-VolumeCache'; When = '-FileSystemLabel RESULTS$'; Source = 'Microsoft Learn, Write-VolumeCache'; Do = {} }
    @{ Command = 'Start-Process'; When = '^-FilePath powershell.exe '; Source = 'Microsoft Learn, Start-Process'
        Do = { param($m, $words, $named) $m.Process = [pscustomobject]@{ HasExited = $false; Arguments = @($named.ArgumentList) -join ' ' }; @{ Value = $m.Process } } }
    @{ Command = 'Stop-Computer'; When = ''; Source = 'Microsoft Learn, Stop-Computer'; Do = { param($m) $m.Off = $true } }
    @{ Command = 'Register-ScheduledTask'; When = ''; Fault = 'no task'; Source = 'guess'; Do = { throw 'Access is denied.' } }
    @{ Command = 'Register-ScheduledTask'; When = ''; Source = 'Microsoft Learn'
        Do = { param($m, $words, $named) $m.Task = @{ Argument = $named.Action.Argument; Settings = $named.Settings } } }
    @{ Command = 'Get-ScheduledTask'; When = ''; Source = 'Microsoft Learn'; Do = { param($m) if ($m.Task) { @{ Value = [pscustomobject]@{ TaskName = 'HushportTest' } } } } }
    @{ Command = 'Unregister-ScheduledTask'; When = ''; Source = 'Microsoft Learn'; Do = { param($m) $m.Task = $null } }
    # The registry and the stores of certificates: about_Providers.
    @{ Command = 'Get-ItemProperty'; When = ''; Source = 'about_Providers'
        Do = { param($m, $words, $named)
            if (-not $m.Registry.ContainsKey($named.Path)) { throw "Cannot find path '$($named.Path)' because it does not exist." }
            @{ Value = [pscustomobject] $m.Registry[$named.Path] } } }
    @{ Command = 'Get-Item'; When = 'HKLM'; Source = 'about_Providers'
        Do = { param($m, $words, $named) @{ Value = [pscustomobject]@{ Property = @($m.Registry[$named.Path].Keys) } } } }
    @{ Command = 'Set-ItemProperty'; When = ''; Source = 'about_Providers'; Do = { param($m, $words, $named) Set-PlayedValue -Path $named.Path -Name $named.Name -Value $named.Value } }
    @{ Command = 'New-Item'; When = 'HKLM'; Source = 'about_Providers'; Do = { param($m, $words, $named) $m.Registry[$named.Path] = @{} } }
    @{ Command = 'New-ItemProperty'; When = ''; Source = 'about_Providers'; Do = { param($m, $words, $named) Set-PlayedValue -Path $named.Path -Name $named.Name -Value $named.Value } }
    @{ Command = 'Remove-ItemProperty'; When = ''; Source = 'about_Providers'; Do = { param($m, $words, $named) $m.Registry[$named.Path].Remove($named.Name) } }
    @{ Command = 'Test-Path'; When = 'Cert:'; Source = 'about_Certificate_Provider'; Do = { param($m, $words, $named) @{ Value = $m.Certificates.ContainsKey($named.Path) } } }
    @{ Command = 'Remove-Item'; When = 'Cert:'; Source = 'about_Certificate_Provider'; Do = { param($m, $words, $named) $m.Certificates.Remove($named.Path) } }
    # The clock: nothing waits in real time, except for a concurrent scanner.
    @{ Command = 'Start-Sleep'; When = ''; Source = 'Microsoft Learn'
        Do = { param($m, $words, $named)
            if ($m.Scanner) { [System.Threading.Thread]::Sleep(5) }
            if ($m.OnSleep) { & $m.OnSleep }
            if ($named.ContainsKey('Seconds')) { $m.Now = $m.Now.AddSeconds($named.Seconds) }
            if ($named.ContainsKey('Milliseconds')) { $m.Now = $m.Now.AddMilliseconds($named.Milliseconds) } } }
)

function global:Add-StoredPackage {
    param([Parameter(Mandatory)] [string] $Inf)
    $machine = $global:Machine
    $version = ''
    if ([System.IO.File]::ReadAllText($Inf) -match 'DriverVer *= *[\d/]+,([\d.]+)') { $version = $Matches[1] }
    if (@($machine.Store | Where-Object { $_.Version -eq $version }).Count -gt 0) { return }
    $machine.Store += @{ Driver = "oem$($machine.NextOem).inf"; Version = $version
        OriginalFileName = "C:\Windows\System32\DriverStore\FileRepository\hushport.inf_amd64_$version\hushport.inf" }
    $machine.NextOem++
    $machine.Inf = [System.IO.File]::ReadAllText($Inf)
}

function global:New-DriverService {
    $machine = $global:Machine
    $machine.Service = @{ Name = 'hushport'; State = 'Stopped'; StartMode = 'Manual'
        PathName = $machine.Store[-1].OriginalFileName -replace 'hushport\.inf$', 'hushport.sys' }
    $path = 'HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'
    if (-not $machine.Registry.ContainsKey($path)) { $machine.Registry[$path] = @{} }
    foreach ($match in [regex]::Matches($machine.Inf, '(?m)^HKR, Parameters, (\w+),[^,\r\n]*(?:, (\w+))?')) {
        $name = $match.Groups[1].Value
        if (-not $machine.Registry[$path].ContainsKey($name)) { $machine.Registry[$path][$name] = $match.Groups[2].Value }
    }
}

function global:Start-PlayedDriver {
    $machine = $global:Machine
    if (-not $machine.Service) { return @{ Status = 1060; Text = '[SC] OpenService FAILED 1060: The specified service does not exist as an installed service.' } }
    $machine.Starts++
    $low = ($machine.Verifier.Flags -band 4) -and ($machine.Now - $machine.BootTime).TotalSeconds -ge 60
    if ($low -and -not $machine.Faults['no fault injected'] -and ($machine.Starts % 3 -eq 0 -or $machine.Faults['every start refused'])) {
        $machine.Verifier.Injected++
        return @{ Status = 1450; Text = '[SC] StartService FAILED 1450: Insufficient system resources exist to complete the requested service.' }
    }
    $machine.Service.State = 'Running'
    Add-TraceEvent -Name 'Started' -Fields @{ Occasion = 'Start'; Callouts = 66 }
    Add-TraceEvent -Name 'PolicyApplied' -Fields @{ Occasion = 'Start'; Mode = $machine.Registry['HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'].Mode }
    @{ Text = 'STATE : 4 RUNNING' }
}

function global:Set-PlayedValue {
    param([string] $Path, [string] $Name, $Value)
    if (-not $global:Machine.Registry.ContainsKey($Path)) { $global:Machine.Registry[$Path] = @{} }
    $global:Machine.Registry[$Path][$Name] = $Value
    if ($Path -eq $global:ConformanceKey -and $Name -eq 'Step') { Set-PlayedStep -Number $Value }
    $running = $global:Machine.Service -and $global:Machine.Service.State -eq 'Running'
    if ($running -and $Name -eq 'Mode' -and $Value -in 0, 1, 2) {
        Add-TraceEvent -Name 'PolicyApplied' -Fields @{ Occasion = 'Change'; Mode = $Value }
    }
}

# The conformance driver confirms a step. The values of its report are a few of the
# lab's.
function global:Set-PlayedStep {
    param([Parameter(Mandatory)] [int] $Number)
    $machine = $global:Machine
    if ($machine.Conformance -ne 'Running' -or $machine.Faults['conformance stuck']) { return }
    $report = $machine.Registry["$global:ConformanceKey\Report"]
    $report['Step'] = $Number
    if ($Number -lt 10) { return }
    $report['lost'] = 0
    $report['syn/V4'] = 'INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4_DISCARD'
    $report['syn/V4/INBOUND_TRANSPORT_V4_DISCARD'] = 'irql=2 discard=1.4'
}

# The named arguments of a call: -Name Value, -Switch, -Name:Value.
function global:ConvertTo-NamedArgument {
    param([object[]] $Words)
    $named = @{}
    for ($at = 0; $at -lt $Words.Count; $at++) {
        if ("$($Words[$at])" -notmatch '^-([A-Za-z]+):?$') { continue }
        $name = $Matches[1]
        $value = $true
        if ($at + 1 -lt $Words.Count -and "$($Words[$at + 1])" -notmatch '^-[A-Za-z]+:?$') { $at++; $value = $Words[$at] }
        $named[$name] = $value
    }
    $named
}

# Answers a call by the first matching row.
function global:Invoke-Row {
    param([string] $Command, [object[]] $Words)
    $machine = $global:Machine
    $line = @($Words | ForEach-Object { if ($_ -is [hashtable]) { ($_.Keys | Sort-Object) -join ' ' } else { "$_" } }) -join ' '
    if ($Command -ne 'Start-Sleep') {
        $machine.Commands.Add("$Command $line")
        $machine.Calls++
        if ($machine.Calls -eq $machine.CrashAt) { Stop-MachineNow }
    }
    foreach ($row in $global:WindowsRows[$Command]) {
        if ($line -notmatch $row.When) { continue }
        if ($row.ContainsKey('Fault') -and -not $machine.Faults[$row.Fault]) { continue }
        $answer = & $row.Do $machine $Words (ConvertTo-NamedArgument -Words $Words)
        if ($Command.EndsWith('.exe')) { $global:LASTEXITCODE = 0 }
        if ($null -eq $answer) { return }
        if ($answer.ContainsKey('Error')) { Write-Error -Message 'No events were found.' -ErrorId $answer.Error -ErrorAction Stop }
        if ($answer.ContainsKey('Status')) { $global:LASTEXITCODE = $answer.Status }
        if ($answer.ContainsKey('Value')) { return $answer.Value }
        return $answer['Text']
    }
    throw "Windows.Table.ps1 has no row for: $Command $line"
}

$global:WindowsRows = @{}
foreach ($row in $script:Rows) {
    if (-not $global:WindowsRows.ContainsKey($row.Command)) { $global:WindowsRows[$row.Command] = @() }
    $global:WindowsRows[$row.Command] += $row
    if (-not $row.Source) { throw "no source: $($row.Command) $($row.When)" }
}
# A global function for each command, so that modules see it. Calls on files go to the
# real cmdlets.
foreach ($name in @($global:WindowsRows.Keys)) {
    $pass = ''
    if ('Get-Item', 'New-Item', 'Test-Path', 'Remove-Item' -contains $name) {
        $pass = "if (`"`$args`" -notmatch 'Cert:|HKLM:') { return Microsoft.PowerShell.Management\$name @args }; "
    }
    Set-Item -Path "function:global:$name" -Value ([scriptblock]::Create("${pass}Invoke-Row -Command '$name' -Words `$args"))
}
# Called so often that a row would be slow.
function global:Get-Date { $global:Machine.Now }
