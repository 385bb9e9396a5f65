# Settings of the machine that the plan changes: records and restores them. Also
# collects dumps and events of crashes.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Package.psm1')

# Two copies in two folders: a crash can tear only one.
$script:FoundFiles = @('found.json', 'scripts/found.json')
$script:CrashControl = 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'
$script:MemoryManagement = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'
$script:Stores = @('Root', 'TrustedPublisher')
# A kernel dump, then a restart; small disks keep the dump.
$script:CrashSettings = [ordered]@{ CrashDumpEnabled = 2; AutoReboot = 1; AlwaysKeepMemoryDump = 1 }

# Records the settings before Prepare changes them. An existing record is kept,
# because it is older.
function Save-FoundSetting {
    param(
        [Parameter(Mandatory)] [string] $Package,
        [switch] $Signed
    )
    $before = Read-FoundSetting
    if ($null -ne $before.Value) { return }
    # Prepare adds no certificate of a package that is signed for every machine.
    $thumbprint = ''
    $stores = $script:Stores
    if (-not $Signed) {
        $thumbprint = (Read-Certificate -File (Get-PackageCertificate -Path $Package)).Thumbprint
        $stores = @($script:Stores | Where-Object { Test-StoredCertificate -Store $_ -Thumbprint $thumbprint })
    }
    $found = @{
        Since       = (Get-Date).ToString('o')
        TestSigning = Get-TestSigning
        Thumbprint  = $thumbprint
        Stores      = @($stores)
        Crash       = @{}
        Verifier    = @{}
        Firewall    = @{}
    }
    foreach ($name in $script:CrashSettings.Keys) {
        $found.Crash[$name] = Get-RegistryValue -Path $script:CrashControl -Name $name
    }
    foreach ($name in 'VerifyDrivers', 'VerifyDriverLevel') {
        $found.Verifier[$name] = Get-RegistryValue -Path $script:MemoryManagement -Name $name
    }
    foreach ($zone in @(Get-NetFirewallProfile)) { $found.Firewall["$($zone.Name)"] = "$($zone.Enabled)" }
    $null = [System.IO.Directory]::CreateDirectory((Get-ResultPath -Name 'scripts'))
    foreach ($name in $script:FoundFiles) { Save-Record -Name $name -Record $found }
}

# The record of Save-FoundSetting.
function Read-FoundSetting {
    $result = @{ Found = $false; Lost = $false; Value = $null }
    foreach ($name in $script:FoundFiles) {
        $read = Read-Record -Name $name -Test {
            param($record)
            $record.ContainsKey('TestSigning') -and $record.ContainsKey('Firewall') -and $record.ContainsKey('Thumbprint')
        }
        $result.Found = $result.Found -or $read.Found
        $result.Lost = $result.Lost -or $read.Lost
        if ($null -eq $result.Value) { $result.Value = $read.Value }
    }
    $result
}

# on, off, or absent if the boot settings do not name it. The name is equal in
# every language, the value is not.
function Get-TestSigning {
    try {
        $text = Invoke-Program -Path 'bcdedit.exe' -Arguments @('/enum', '{current}')
    } catch {
        $text = Invoke-Program -Path 'bcdedit.exe' -Arguments @('/enum')
    }
    if ($text -notmatch '(?im)^\s*testsigning\s+(\S+)') { return 'absent' }
    $no = 'No|Nein|Non|Nee|Nej|Nei|Ne|Nem|Nie|Nu|Ei|N\u00E3o|\u041D\u0435\u0442|\u5426|\u3044\u3044\u3048|\uC544\uB2C8\uC624'
    if ($Matches[1] -match "^(?:$no|Off|False|0)$") { return 'off' }
    'on'
}

function Test-StoredCertificate {
    param(
        [Parameter(Mandatory)] [string] $Store,
        [Parameter(Mandatory)] [string] $Thumbprint
    )
    if (Test-Path -Path "Cert:\LocalMachine\$Store\$Thumbprint") { return $true }
    # A provider that does not know the path may still list the store.
    try { $stored = @(Get-ChildItem -Path "Cert:\LocalMachine\$Store") } catch { return $false }
    foreach ($certificate in $stored) {
        if ($null -eq $certificate) { continue }
        if ((Get-PropertyValue -InputObject $certificate -Name 'Thumbprint') -eq $Thumbprint) { return $true }
    }
    $false
}

# Whether BitLocker or device encryption protects the system drive. If so, Windows
# asks for the recovery key after a change of the boot settings.
function Test-Encryption {
    $drive = $env:SystemDrive
    if (-not $drive) { $drive = 'C:' }
    if (Get-Command -Name 'Get-BitLockerVolume' -ErrorAction SilentlyContinue) {
        try {
            $volume = Get-BitLockerVolume -MountPoint $drive
            if (@('On', '1') -contains "$($volume.ProtectionStatus)") { return $true }
        } catch {
            Write-Log -Quiet -Text "Get-BitLockerVolume: $($_.Exception.Message)"
        }
    }
    $query = @{
        Namespace = 'root/CIMV2/Security/MicrosoftVolumeEncryption'
        ClassName = 'Win32_EncryptableVolume'
        Filter    = "DriveLetter = '$drive'"
    }
    try { $volumes = @(Get-CimInstance @query) } catch { $volumes = @() }
    foreach ($volume in $volumes) {
        if ($null -ne $volume -and "$(Get-PropertyValue -InputObject $volume -Name 'ProtectionStatus')" -eq '1') { return $true }
    }
    $false
}

function Set-CrashSetting {
    foreach ($name in $script:CrashSettings.Keys) {
        Set-ItemProperty -Path $script:CrashControl -Name $name -Value $script:CrashSettings[$name] -Type DWord
    }
}

# Restores the settings of Save-FoundSetting, each with its own check.
function Restore-FoundSetting {
    $record = Read-FoundSetting
    if ($record.Lost) {
        Add-CheckResult -Name 'what Prepare found is known' -Failure 'a result was lost: a copy of found.json is torn'
    }
    $found = $record.Value
    if ($null -eq $found) {
        if ($record.Found) {
            Write-Log -Text ('Look at these by hand: bcdedit /enum, the certificate hushport-test in the stores Root and ' +
                'TrustedPublisher, the firewall profiles, and the crash settings.')
        }
        return
    }
    Invoke-Check -Name 'test signing is as it was' -Body { Restore-TestSigning -Found $found.TestSigning }
    foreach ($store in $script:Stores) {
        Invoke-Check -Name "the certificates in $store are as they were" -Body {
            if (@($found.Stores) -notcontains $store) { Remove-StoredCertificate -Store $store -Thumbprint $found.Thumbprint }
        }
    }
    Invoke-Check -Name 'the crash settings are as they were' -Body {
        Restore-RegistryValue -Path $script:CrashControl -Values $found.Crash -Type DWord
    }
    Invoke-Check -Name 'the firewall is as it was' -Body {
        foreach ($zone in $found.Firewall.PSObject.Properties) {
            Set-NetFirewallProfile -Name $zone.Name -Enabled $zone.Value
        }
    }
    if ($found.Verifier.VerifyDrivers) {
        Invoke-Check -Name 'Driver Verifier has its former drivers' -Body {
            Restore-RegistryValue -Path $script:MemoryManagement -Values $found.Verifier
        }
    }
    foreach ($name in $script:FoundFiles) { Remove-Record -Name $name }
    Write-Log -Text 'restart the machine once: test signing and Driver Verifier change with its next start'
}

function Restore-TestSigning {
    param([Parameter(Mandatory)] [string] $Found)
    $now = Get-TestSigning
    if ($Found -ne 'absent' -and $now -eq $Found) { return }
    if ($Found -eq 'on') {
        $null = Invoke-Program -Path 'bcdedit.exe' -Arguments @('/set', 'testsigning', 'on')
        return
    }
    if ($Found -eq 'absent') {
        try {
            $null = Invoke-Program -Path 'bcdedit.exe' -Arguments @('/deletevalue', 'testsigning')
            return
        } catch {
            if ($now -eq 'absent') { return }
            Write-Log -Quiet -Text 'bcdedit /deletevalue failed; test signing is set to off instead'
        }
    }
    $null = Invoke-Program -Path 'bcdedit.exe' -Arguments @('/set', 'testsigning', 'off')
}

function Remove-StoredCertificate {
    param(
        [Parameter(Mandatory)] [string] $Store,
        [Parameter(Mandatory)] [string] $Thumbprint
    )
    try {
        Remove-Item -Path "Cert:\LocalMachine\$Store\$Thumbprint"
    } catch {
        # Prepare may have failed before.
        if (-not (Test-StoredCertificate -Store $Store -Thumbprint $Thumbprint)) { return }
        $null = Invoke-Program -Path 'certutil.exe' -Arguments @('-delstore', $Store, $Thumbprint)
    }
    if (Test-StoredCertificate -Store $Store -Thumbprint $Thumbprint) { throw "the certificate is still in $Store" }
}

# Values: an object with the former values; a value that is missing did not exist.
function Restore-RegistryValue {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] $Values,
        [string] $Type = ''
    )
    foreach ($property in $Values.PSObject.Properties) {
        if ($null -ne $property.Value) {
            $kind = $Type
            if (-not $kind) { $kind = 'DWord'; if ($property.Value -is [string]) { $kind = 'String' } }
            Set-ItemProperty -Path $Path -Name $property.Name -Value $property.Value -Type $kind
        } elseif ($null -ne (Get-RegistryValue -Path $Path -Name $property.Name)) {
            Remove-ItemProperty -Path $Path -Name $property.Name
        }
    }
}

# Crash dumps and live kernel dumps that are newer than a time.
function Get-CrashDump {
    param([Parameter(Mandatory)] [datetime] $Since)
    $root = $env:SystemRoot
    if (-not $root) { return }
    $reports = Join-Path -Path $root -ChildPath 'LiveKernelReports'
    $folders = @((Join-Path -Path $root -ChildPath 'Minidump'), $root)
    @(Get-ChildItem -Path $folders -Filter '*.dmp' -File -ErrorAction SilentlyContinue) +
        @(Get-ChildItem -Path $reports -Filter '*.dmp' -File -Recurse -ErrorAction SilentlyContinue) |
        Where-Object { $null -ne $_ -and $_.LastWriteTime -gt $Since }
}

# Copies the dumps into the results folder, with their time in the name, because the
# next crash overwrites MEMORY.DMP. Returns their names.
function Save-CrashDump {
    param([Parameter(Mandatory)] [datetime] $Since)
    foreach ($dump in @(Get-CrashDump -Since $Since)) {
        $stamp = $dump.LastWriteTime.ToString('yyyyMMdd-HHmmss')
        $name = "$([System.IO.Path]::GetFileNameWithoutExtension($dump.Name))-$stamp$($dump.Extension)"
        $copy = Get-ResultPath -Name $name
        if (-not [System.IO.File]::Exists($copy)) {
            try {
                Copy-Item -Path $dump.FullName -Destination $copy
            } catch {
                Add-CheckResult -Name 'the dump is kept' -Failure "$($dump.FullName): $($_.Exception.Message)"
            }
        }
        $name
    }
}

# Events in the System log after a crash or a power loss: 41 of Kernel-Power, 1001
# of the bugcheck report.
function Get-CrashEvent {
    param([Parameter(Mandatory)] [datetime] $Since)
    $filter = @{ LogName = 'System'; Id = @(41, 1001); StartTime = $Since }
    try {
        $records = @(Get-WinEvent -FilterHashtable $filter -ErrorAction Stop)
    } catch {
        if ("$($_.FullyQualifiedErrorId)" -like 'NoMatchingEventsFound*') { return }
        throw
    }
    foreach ($record in $records) {
        if ($null -eq $record -or @(41, 1001) -notcontains (Get-PropertyValue -InputObject $record -Name 'Id')) { continue }
        $provider = "$(Get-PropertyValue -InputObject $record -Name 'ProviderName')"
        if ($provider -and $provider -notmatch 'Kernel-Power|WER-SystemErrorReporting|BugCheck') { continue }
        $time = Get-PropertyValue -InputObject $record -Name 'TimeCreated'
        if ($null -ne $time -and $time -lt $Since) { continue }
        "event $($record.Id) of $time"
    }
}

Export-ModuleMember -Function @(
    'Save-FoundSetting', 'Read-FoundSetting', 'Restore-FoundSetting', 'Get-TestSigning', 'Test-Encryption',
    'Set-CrashSetting', 'Get-CrashDump', 'Save-CrashDump', 'Get-CrashEvent'
)
