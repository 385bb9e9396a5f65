# The module of the package checks values as the driver does, and reads the registry, the
# service and the event log as documented. The parts of Windows are played.
BeforeDiscovery {
    $path = Join-Path -Path $PSScriptRoot -ChildPath '../../src/logic/policy/values/cases.json'
    $cases = foreach ($case in (Get-Content -Raw -Path $path | ConvertFrom-Json)) {
        $isList = $null -ne $case.PSObject.Properties['entries']
        $entry = if ($case.PSObject.Properties['entry']) { $case.entry } else { [int] $isList }
        @{
            Value  = $case.value
            Data   = if ($isList) { , @($case.entries) } else { $case.number }
            Shown  = if ($isList) { "$(@($case.entries) | Select-Object -First 4)" } else { $case.number }
            Reason = "$($case.reason)"
            Entry  = if ($case.reason) { [int] $entry } else { 0 }
        }
    }
}

BeforeAll {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath '../../inf/Hushport.psm1') -Force
    $service = 'HKLM:\SYSTEM\CurrentControlSet\Services\hushport'
    $policies = 'HKLM:\SOFTWARE\Policies\hushport'
    # Commands that only Windows has.
    function global:Get-Service { param($Name, $ErrorAction) }
    function global:Get-WinEvent { param($FilterHashtable, $MaxEvents, $ErrorAction) }
    function global:netsh.exe { }

    # Plays the registry: the values by their keys.
    function Set-Registry {
        param([hashtable] $Keys)
        $global:Keys = $Keys
        $global:Written = @()
        Mock -ModuleName Hushport -CommandName Test-Path -MockWith { $global:Keys.ContainsKey("$Path") }
        Mock -ModuleName Hushport -CommandName Get-ItemProperty -MockWith { [pscustomobject] $global:Keys["$Path"] }
        Mock -ModuleName Hushport -CommandName New-Item -MockWith { $global:Keys["$Path"] = @{} }
        Mock -ModuleName Hushport -CommandName New-ItemProperty -MockWith {
            $global:Written += , @("$Path", "$Name", "$PropertyType", $Value)
        }
    }
    # An entry as Get-WinEvent returns it. The first string is the device's name.
    function New-Record {
        param([int] $Id, [string[]] $Strings, [int] $RecordId = 1, [datetime] $Time = '2026-02-03 04:05:06')
        $properties = @('\Driver\hushport') + $Strings | ForEach-Object { [pscustomobject] @{ Value = $_ } }
        [pscustomobject] @{
            Id = $Id; TimeCreated = $Time; RecordId = $RecordId; LevelDisplayName = 'Warning'
            Message = "message $Id"; Properties = @($properties)
        }
    }
}

AfterAll {
    Remove-Item -Path 'Function:\Get-Service', 'Function:\Get-WinEvent', 'Function:\netsh.exe'
    Remove-Variable -Scope Global -Name Keys, Written -ErrorAction SilentlyContinue
}

Describe 'A value is checked as the driver does' {
    It '<Value>: <Shown> <Reason>' -ForEach $cases {
        $refused = & (Get-Module -Name Hushport) { param($name, $data) Test-HushportValue -Name $name -Data $data } $Value $Data
        $(if ($refused) { $refused.Reason } else { '' }) | Should -BeExactly $Reason
        if ($refused) { $refused.Entry | Should -Be $Entry }
    }
    It 'a value that is neither number nor list is refused' {
        $check = { param($name, $data) (Test-HushportValue -Name $name -Data $data).Reason }
        & (Get-Module -Name Hushport) $check 'Mode' 'two' | Should -Be 'WrongType'
        & (Get-Module -Name Hushport) $check 'Mode' 1.5 | Should -Be 'WrongType'
        & (Get-Module -Name Hushport) $check 'Mode' @(1, 2) | Should -Be 'WrongType'
    }
}

Describe 'Get-HushportPolicy' {
    It 'names the source of each value: Group Policy, the registry, or the default' {
        Set-Registry -Keys @{
            $service               = @{}
            "$service\Parameters" = @{ Mode = 1; ExemptPorts = @('113'); ScanPorts = 5 }
            $policies              = @{ Mode = 2; SilenceEcho = 1 }
        }
        $shown = @(Get-HushportPolicy)
        $shown.Count | Should -Be 22
        $row = { param($name) $value = $shown | Where-Object { $_.Name -eq $name }; "$($value.Value) $($value.Source) $($value.Default)" }
        & $row 'Mode' | Should -Be '2 GroupPolicy 2'
        & $row 'SilenceEcho' | Should -Be '1 GroupPolicy 0'
        & $row 'ExemptPorts' | Should -Be '113 Registry '
        & $row 'ScanPorts' | Should -Be '5 Registry 16'
        & $row 'ScanWindowMs' | Should -Be '10000 Default 10000'
    }
    It 'works without either key, and shows chosen values only' {
        Set-Registry -Keys @{}
        $shown = @(Get-HushportPolicy -Name mode, TRACE)
        "$($shown.Name) $($shown.Value) $($shown.Source)" | Should -Be 'Mode Trace 2 1 Default Default'
    }
    It 'says which value the driver refuses' {
        Set-Registry -Keys @{ "$service\Parameters" = @{ Mode = -1; ExemptPrefixes = @('10.1.2.3/8') } }
        (Get-HushportPolicy -Name Mode).Value | Should -Be 4294967295
        (Get-HushportPolicy -Name Mode).Refused | Should -Be 'OutOfRange'
        (Get-HushportPolicy -Name ExemptPrefixes).Refused | Should -Be 'HostBits'
        (Get-HushportPolicy -Name Trace).Refused | Should -Be ''
    }
    It 'refuses a name that does not exist, and lists those that do' {
        { Get-HushportPolicy -Name Moode } | Should -Throw "hushport has no value 'Moode'. It has: Mode, SilenceTcp*"
    }
}

Describe 'Set-HushportPolicy' {
    BeforeEach { Set-Registry -Keys @{ $service = @{}; "$service\Parameters" = @{} } }
    It 'writes a number as REG_DWORD and a list as REG_MULTI_SZ' {
        Set-HushportPolicy -Name mode -Value 1
        Set-HushportPolicy ExemptPorts '113', '53/udp'
        Set-HushportPolicy ExemptPrefixes @()
        $global:Written.Count | Should -Be 3
        "$($global:Written[0])" | Should -Be "$service\Parameters Mode DWord 1"
        $global:Written[0][3] | Should -BeOfType [uint32]
        "$($global:Written[1][0..2])" | Should -Be "$service\Parameters ExemptPorts MultiString"
        $global:Written[1][3] -join ',' | Should -Be '113,53/udp'
        @($global:Written[2][3]).Count | Should -Be 0
    }
    It 'writes nothing with -WhatIf' {
        Set-HushportPolicy -Name Mode -Value 0 -WhatIf
        $global:Written.Count | Should -Be 0
    }
    It 'writes nothing that the driver refuses, and says why' {
        { Set-HushportPolicy -Name Mode -Value 3 } |
            Should -Throw 'Mode is refused (OutOfRange): the number is outside the limits. Allowed: 0 to 2.'
        { Set-HushportPolicy -Name ExemptPorts -Value '22', 'ssh' } |
            Should -Throw 'ExemptPorts, entry 2 is refused (BadPort): *Allowed: at most 1024 entries.'
        $global:Written.Count | Should -Be 0
    }
    It 'warns if Group Policy overrides the value' {
        $global:Keys[$policies] = @{ Mode = 2 }
        Set-HushportPolicy -Name Mode -Value 0 -WarningVariable warnings 3>$null
        "$warnings" | Should -Be 'Group Policy sets Mode and overrides this value.'
        $global:Written.Count | Should -Be 1
    }
    It 'makes the key of the values, but no service' {
        $global:Keys.Remove("$service\Parameters")
        Set-HushportPolicy -Name Mode -Value 1
        $global:Keys.ContainsKey("$service\Parameters") | Should -BeTrue
        Set-Registry -Keys @{}
        { Set-HushportPolicy -Name Mode -Value 1 } | Should -Throw 'The service hushport is not installed*'
    }
}

Describe 'Get-HushportState' {
    BeforeEach {
        Set-Registry -Keys @{ $service = @{ ImagePath = '\SystemRoot\hushport.sys' }; "$service\Parameters" = @{ Mode = 2 } }
        Mock -ModuleName Hushport -CommandName Get-Service -MockWith { [pscustomobject] @{ Status = 'Running' } }
        $filters = '<wfpdiag><filters><item><displayData><name>hushport INBOUND_TRANSPORT_V4_DISCARD</name></displayData></item><item><displayData><name>Other</name></displayData></item></filters></wfpdiag>'
        $global:Netsh = @{ Status = 0; Text = $filters }
        Mock -ModuleName Hushport -CommandName netsh.exe -MockWith {
            $file = ("$args" -split 'file=')[1]
            [System.IO.File]::WriteAllText($file, $global:Netsh.Text)
            $global:LASTEXITCODE = $global:Netsh.Status
        }
        Mock -ModuleName Hushport -CommandName Remove-Item -MockWith { }
    }
    AfterAll { Remove-Variable -Scope Global -Name Netsh -ErrorAction SilentlyContinue }
    It 'protects: the service runs, the mode is 2, and the engine has its filters' {
        $state = Get-HushportState
        "$($state.Service) $($state.Mode) $($state.Filters) $($state.Protected) $($state.WhyNot)" | Should -Be 'Running 2 1 True '
    }
    It 'does not protect: <Why>' -ForEach @(
        @{ Why = 'the service is NotInstalled'; Do = { Mock -ModuleName Hushport -CommandName Get-Service -MockWith { } } }
        @{ Why = 'the service is Stopped'; Do = { Mock -ModuleName Hushport -CommandName Get-Service -MockWith { [pscustomobject] @{ Status = 'Stopped' } } } }
        @{ Why = 'the mode is 1, not 2'; Do = { $global:Keys['HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'].Mode = 1 } }
        @{ Why = 'the value Mode is refused (OutOfRange)'; Do = { $global:Keys['HKLM:\SYSTEM\CurrentControlSet\Services\hushport\Parameters'].Mode = 7 } }
        @{ Why = 'the filter engine cannot be asked*'; Do = { $global:Netsh.Status = 1 } }
        @{ Why = 'the filter engine cannot be asked*'; Do = { $global:Netsh.Text = '<wfpdiag><filters' } }
        @{ Why = 'the filter engine has no filters*'; Do = { $global:Netsh.Text = '<wfpdiag><filters/></wfpdiag>' } }
    ) {
        . $Do
        $state = Get-HushportState
        $state.Protected | Should -BeFalse
        $state.WhyNot | Should -BeLike $Why
    }
}

Describe 'The event log' {
    It 'Get-HushportScan reads remote, ports, beginning, techniques and whether the address is proven' {
        Mock -ModuleName Hushport -CommandName Get-WinEvent -MockWith {
            $FilterHashtable.ProviderName | Should -Be 'hushport'
            $FilterHashtable.Id | Should -Be 6
            New-Record -Id 6 -Strings '198.51.100.7', '40', '15', 'Syn,Udp', 'yes'
            New-Record -Id 6 -Strings '198.51.100.8', '40', '15', 'Syn', 'no' -RecordId 3
            New-Record -Id 6 -Strings '198.51.100.9', '40', '15', 'Syn' -RecordId 4
            New-Record -Id 6 -Strings 'cut' -RecordId 2
        }
        $scans = @(Get-HushportScan -After '2026-01-01')
        $scans.Count | Should -Be 3
        $scans = @($scans | Sort-Object -Property Remote)
        "$($scans.Proven)" | Should -Be 'True False False'
        "$($scans[0].Remote) $($scans[0].Ports) $($scans[0].Techniques)" | Should -Be '198.51.100.7 40 Syn Udp'
        ($scans[0].Time - $scans[0].Since).TotalSeconds | Should -Be 15
    }
    It 'no entry is an empty list, and another error is shown' {
        Mock -ModuleName Hushport -CommandName Get-WinEvent -MockWith {
            Write-Error -Message 'none' -ErrorId 'NoMatchingEventsFound' -ErrorAction Stop
        }
        @(Get-HushportScan).Count | Should -Be 0
        Mock -ModuleName Hushport -CommandName Get-WinEvent -MockWith { throw 'access is denied' }
        { Get-HushportScan } | Should -Throw 'access is denied'
    }
    It 'Watch-HushportEvent shows each entry once, oldest first' {
        $global:Asked = 0
        Mock -ModuleName Hushport -CommandName Start-Sleep -MockWith { }
        Mock -ModuleName Hushport -CommandName Get-Date -MockWith { ([datetime] '2026-02-03').AddSeconds(5 * $global:Asked) }
        Mock -ModuleName Hushport -CommandName Get-WinEvent -MockWith {
            $global:Asked++
            2..(1 + $global:Asked) | ForEach-Object { New-Record -Id 3 -Strings 'Mode' -RecordId $_ } | Sort-Object -Property RecordId -Descending
        }
        $shown = @(Watch-HushportEvent -Seconds 12)
        $shown.Count | Should -Be 3
        "$($shown[0].Id) $($shown[0].Strings) $($shown[0].Message)" | Should -Be '3 Mode message 3'
        Remove-Variable -Scope Global -Name Asked
    }
}

Describe 'The module' {
    It 'exports its five commands, each with help and an example' {
        $commands = @(Get-Command -Module Hushport).Name | Sort-Object
        $commands -join ' ' | Should -Be 'Get-HushportPolicy Get-HushportScan Get-HushportState Set-HushportPolicy Watch-HushportEvent'
        foreach ($command in $commands) {
            $help = Get-Help -Name $command -Full
            $help.Synopsis.Length | Should -BeGreaterThan 20
            @($help.examples.example).Count | Should -BeGreaterThan 0
        }
    }
    It 'is plain ASCII, so that Windows PowerShell reads it in every language' {
        $bytes = [System.IO.File]::ReadAllBytes((Join-Path -Path $PSScriptRoot -ChildPath '../../inf/Hushport.psm1'))
        @($bytes | Where-Object { $_ -gt 127 }).Count | Should -Be 0
    }
}
