# The whole plan with the mocks of Windows.Table.ps1.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"
    $plan = @{ Package = "$TestDrive/package"; Cycles = 4; NoScan = $true }
    # The initial settings of the mocked machine.
    function Assert-AsItWas {
        $machine = $global:Machine
        @($machine.Firewall.Values) -join ',' | Should -Be 'True,False,True'
        $machine.TestSigning | Should -Be 'absent'
        $machine.Certificates.Count | Should -Be 0
        $machine.Registry['HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'].Keys | Sort-Object | Should -Be 'AutoReboot', 'CrashDumpEnabled'
        $machine.Registry['HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'].CrashDumpEnabled | Should -Be 7
        $machine.Service | Should -BeNullOrEmpty
        $machine.Verifier.NextFlags | Should -Be 0
        $machine.Task | Should -BeNullOrEmpty
    }
}

Describe 'A machine on which everything is right' {
    BeforeAll {
        New-Machine -Root "$TestDrive/right"
        $global:Machine.Yes = 'Ja'
        $run = Invoke-Machine -Parameters $plan -Copies
        $commands = $global:Machine.Commands
    }
    It 'comes to a verdict without a failure, over four restarts' {
        $run.Failed | ForEach-Object { "$($_.Step) $($_.Name) $($_.Failure)" } | Should -BeNullOrEmpty
        $run.Last | Should -Match '^6\d passed, 0 failed$'
        $run.Status | Should -Be 0
        $global:Machine.Boots | Should -Be 4
        Get-Content -Raw -Path "$($run.Results)/verdict.txt" | Should -Be "$($run.Last)`n"
    }
    It 'puts back what it found' { Assert-AsItWas }
    It 'leaves no state, and no waiting for minutes' {
        Test-Path -Path "$($run.Results)/state.json*" | Should -BeFalse
        Test-Path -Path "$($run.Results)/found.json*" | Should -BeFalse
        ($global:Machine.Now - [datetime] '2026-11-29T09:00:00Z').TotalMinutes | Should -BeLessThan 10
    }
    It 'asks Driver Verifier for 6 % of faults from the first minute on' {
        $commands | Should -Contain 'verifier.exe /standard /faults 599   1 /driver hushport.sys'
    }
    It 'writes the state of the filter engine once for each assertion' {
        # Start and Start-standard: 2 each; Cycle: 3; Remove: 1.
        @($commands -match '^netsh.exe wfp show state').Count | Should -Be 8
    }
    It 'keeps a trace of each run of the step' {
        foreach ($name in 'hushport.etl', 'hushport.xml', 'hushport-standard.etl', 'hushport-standard.xml') {
            Test-Path -Path "$($run.Results)/$name" | Should -BeTrue
        }
    }
    It 'writes UTF-8 only' {
        $strict = New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false, $true
        foreach ($file in Get-ChildItem -Path $run.Results -File | Where-Object { $_.Extension -ne '.etl' }) {
            $text = $strict.GetString([System.IO.File]::ReadAllBytes($file.FullName))
            $text.IndexOf([char] 0) | Should -Be -1 -Because $file.Name
        }
    }
    It 'runs from copies on the local disk' {
        foreach ($name in 'scripts/Test-Hushport.ps1', 'scripts/Hushport.Plan.psm1', 'package/hushport.sys') {
            Test-Path -Path "$($run.Results)/$name" | Should -BeTrue
        }
    }
}

Describe 'A prerequisite that fails' {
    BeforeEach { New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))" }
    It '<Name>: leads to the verdict at once, by one line' -ForEach @(
        @{ Name = 'Secure Boot'; Set = { $global:Machine.SecureBoot = $true }; Check = 'Secure Boot is off'; Boots = 0 }
        @{ Name = 'an old Windows'; Set = { $global:Machine.Build = '18363' }; Check = 'Windows 10 2004 or later'; Boots = 0 }
        @{ Name = 'BitLocker'; Set = { $global:Machine.Encrypted = $true }; Check = 'BitLocker does not guard the boot settings'; Boots = 0 }
        @{ Name = 'test signing refused'; Check = 'test signatures count'; Boots = 0 }
        @{ Name = 'no task'; Check = 'the plan can go on after a restart'; Boots = 0 }
        @{ Name = 'restart refused'; Check = 'the machine restarts'; Boots = 0 }
        @{ Name = 'pnputil refuses'; Check = 'pnputil takes the package'; Boots = 1 }
        @{ Name = 'start 577'; Check = 'it starts'; Boots = 1 }
        @{ Name = 'start 31'; Check = 'it starts'; Boots = 1 }
        @{ Name = 'verifier does nothing'; Check = 'Driver Verifier has the settings that were asked for'; Boots = 2 }
    ) {
        if ($_.ContainsKey('Set')) { & $_.Set } else { $global:Machine.Faults[$Name] = $true }
        $run = Invoke-Machine -Parameters $plan
        $run.Failed.Count | Should -Be 1
        $run.Failed[0].Name | Should -Be $Check
        @($run.Console -cmatch 'FAILED').Count | Should -Be 1
        @($run.Console -cmatch 'not tested: (Install|Start|Conformance|Prepare|under)').Count | Should -Be 1
        $run.Names[-1] | Should -BeLike 'Remove: *'
        $run.Last | Should -Match ', 1 failed$'
        $run.Status | Should -Be 1
        $global:Machine.Boots | Should -Be $Boots
        Assert-AsItWas
    }
    It 'names the status and keeps what the program said in the log' {
        $global:Machine.Faults['start 577'] = $true
        $run = Invoke-Machine -Parameters (@{ Step = 'HostedPrepare,Install,Start' } + $plan)
        $global:Machine.TestSigning = 'Yes'
        $run = Invoke-Machine -Parameters (@{ Step = 'HostedPrepare,Install,Start' } + $plan)
        $run.Failed[0].Failure | Should -BeLike '*exit status 577: Windows refuses the signature*'
        Get-Content -Raw -Path "$($run.Results)/log.txt" | Should -Match 'Windows cannot verify the digital signature'
    }
    It 'an incomplete package changes nothing' {
        $null = New-Item -ItemType Directory -Force -Path "$TestDrive/empty"
        $run = Invoke-Machine -Parameters (@{ Package = "$TestDrive/empty" })
        $run.Failed.Count | Should -Be 1
        $run.Failed[0].Failure | Should -BeLike 'missing or empty in *: hushport.sys, hushport.inf, hushport.cat, hushport-test.cer'
        $run.Status | Should -Be 1
        $global:Machine.Commands.Count | Should -Be 0
        $run.Last | Should -Be '0 passed, 1 failed'
    }
}

Describe 'What was found' {
    BeforeEach { New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))" }
    It 'is put back, also where it was not the default' {
        $global:Machine.TestSigning = 'Nein'
        $global:Machine.No = 'Nein'
        $file = "$TestDrive/package/hushport-test.cer"
        Import-Certificate -FilePath $file -CertStoreLocation 'Cert:\LocalMachine\Root'
        $global:Machine.Registry['HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'].AlwaysKeepMemoryDump = 0
        foreach ($zone in 'Domain', 'Public') { $global:Machine.Firewall[$zone] = 'False' }
        $global:Machine.Firewall.Private = 'True'
        $global:Machine.Faults['start 31'] = $true
        $null = Invoke-Machine -Parameters $plan
        @($global:Machine.Firewall.Values) -join ',' | Should -Be 'False,True,False'
        $global:Machine.TestSigning | Should -Be 'Nein'
        @($global:Machine.Certificates.Keys) | Should -BeLike 'Cert:\LocalMachine\Root\*'
        $global:Machine.Registry['HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl'].AlwaysKeepMemoryDump | Should -Be 0
    }
    It 'stays changed with -Keep, and the task goes all the same' {
        $global:Machine.Faults['start 31'] = $true
        $run = Invoke-Machine -Parameters (@{ Keep = $true } + $plan)
        $global:Machine.TestSigning | Should -Be 'Yes'
        $global:Machine.Service | Should -Not -BeNullOrEmpty
        $global:Machine.Task | Should -BeNullOrEmpty
        $run.Last | Should -Match ', 1 failed$'
        $null = Invoke-Machine -Parameters @{ Step = 'Remove' }
        Assert-AsItWas
    }
    It 'test signing that is on stays on, and BitLocker does not matter then' {
        $global:Machine.TestSigning = 'Ja'
        $global:Machine.Encrypted = $true
        $global:Machine.Faults['start 31'] = $true
        $run = Invoke-Machine -Parameters $plan
        $global:Machine.TestSigning | Should -Be 'Ja'
        $run.Failed.Name | Should -Be 'it starts'
    }
}

Describe 'The service' {
    BeforeEach {
        New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))"
        $global:Machine.TestSigning = 'Yes'
    }
    It 'is made by InstallHinfSection where pnputil only stages' {
        $global:Machine.Faults['pnputil only stages'] = $true
        $run = Invoke-Machine -Parameters (@{ Step = 'Install', 'Start' } + $plan)
        $run.Failed.Count | Should -Be 0
        $run.Console | Should -Contain 'pnputil only staged the package; InstallHinfSection DefaultInstall.NTamd64 made the service'
    }
    It 'that stays behind is deleted, and a failure' {
        $global:Machine.Faults['service stays'] = $true
        $run = Invoke-Machine -Parameters (@{ Step = 'Install,Remove' } + $plan)
        $run.Failed.Count | Should -Be 1
        $run.Failed[0].Failure | Should -BeLike 'pnputil left the service, Stopped, with *hushport.sys; sc.exe delete removed it'
        $global:Machine.Service | Should -BeNullOrEmpty
    }
}

Describe 'Low resources' {
    BeforeEach {
        New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))"
        $package = @{ Package = "$TestDrive/package" }
        $null = Invoke-Machine -Parameters (@{ Step = 'Install' } + $package)
        $global:Machine.Verifier.Flags = 0x209BF
        $global:Machine.Verifier.Driver = 'hushport.sys'
        foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Verifier', 'Steps') {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
        }
        Set-ResultFolder -Path "$TestDrive/low"
        Clear-CheckResult
        $options = @{ LowResources = $true; Cycles = 4 }
        $failures = { @((Read-CheckResult).Checks | Where-Object { $_.Failure } | ForEach-Object { $_.Failure }) }
    }
    It 'wait two minutes at most' {
        Invoke-CycleStep -Options $options 6>&1 | Out-Null
        & $failures | Should -BeNullOrEmpty
        ($global:Machine.Now - $global:Machine.BootTime).TotalSeconds | Should -BeLessOrEqual 125
    }
    It 'without a fault nothing was tested' {
        $global:Machine.Faults['no fault injected'] = $true
        Invoke-CycleStep -Options $options 6>&1 | Out-Null
        & $failures | Should -BeLike 'nothing was tested: Driver Verifier injected no fault (faults injected: 0 before, 0 after); no start was refused'
    }
    It 'without a start that succeeds nothing was tested' {
        $global:Machine.Faults['every start refused'] = $true
        Invoke-CycleStep -Options $options 6>&1 | Out-Null
        & $failures | Should -Be 'nothing was tested: no start succeeded'
    }
    It 'without a count of faults nothing was tested' {
        $global:Machine.Faults['no fault count'] = $true
        Invoke-CycleStep -Options $options 6>&1 | Out-Null
        & $failures | Should -BeLike 'nothing was tested: verifier /query does not show the number of faults injected*'
    }
    It 'status 317 is no lack of memory' {
        $global:Machine.Faults['start 317'] = $true
        Invoke-CycleStep -Options $options 6>&1 | Out-Null
        (& $failures)[0] | Should -BeLike '*exit status 317: a code that Windows cannot translate*'
    }
    It 'an empty argument survives PowerShell before 7.3' {
        Get-EmptyArgument -Version '5.1' | Should -Be '""'
        Get-EmptyArgument -Version '7.4' | Should -Be ''
    }
}
