# The scripts of a virtual machine that `cargo lab vm` runs.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"

    # The lines at the serial port, without mark and checksum.
    function Get-SentLine {
        @([System.IO.File]::ReadAllText("$($global:Machine.Root)/COM1") -split '\r\n' | Where-Object { $_ } | ForEach-Object {
                $_ | Should -Match '^HUSHPORT .* [0-9a-f]{8}$'
                $_ -replace '^HUSHPORT (.*) [0-9a-f]{8}$', '$1'
            })
    }
    function New-GuestMachine {
        param([hashtable] $Description = @{})
        New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))"
        $machine = $global:Machine
        $medium = New-Item -ItemType Directory -Force -Path "$($machine.Root)/cd/vm"
        $null = New-Item -ItemType Directory -Force -Path "$($machine.Root)/disk", "$($machine.Root)/results"
        Copy-Item -Path (Join-Path -Path $PSScriptRoot -ChildPath '*') -Include '*.ps1', '*.psm1' -Exclude '*.Tests.ps1' -Destination $medium
        Copy-Item -Recurse -Path "$TestDrive/package" -Destination "$($machine.Root)/cd/package"
        $whole = @{
            format = 'hushport-vm 1'; results = 'RESULTS'; port = "$($machine.Root)/COM1"; cycles = 5; scan = $true; signed = $false
            addresses = @(@{ address = '10.77.0.2'; prefix = 24 }, @{ address = 'fd77::2'; prefix = 64 })
        }
        foreach ($name in $Description.Keys) { $whole[$name] = $Description[$name] }
        [System.IO.File]::WriteAllText("$medium/machine.json", (ConvertTo-Json -InputObject $whole -Depth 4))
        foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Serial', 'Guest') {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
        }
        Set-ResultFolder -Path "$($machine.Root)/results"
        [System.IO.File]::WriteAllText("$($machine.Root)/COM1", '')
    }
    function Install-GuestMachine {
        $machine = $global:Machine
        Set-MachineAddress -Description (Read-MachineDescription -Path "$($machine.Root)/cd/vm/machine.json")
        Install-Machine -Medium "$($machine.Root)/cd" -Folder "$($machine.Root)/machine"
    }
    # Runs the watcher. Plan is called at each of its sleeps with the number of the sleep.
    function Invoke-GuestWatch {
        param([scriptblock] $Plan)
        $count = @{ Sleeps = 0 }
        $global:Machine.OnSleep = {
            $count.Sleeps++
            if ($count.Sleeps -gt 500) { throw 'the watcher waits for ever' }
            & $Plan $count.Sleeps
        }.GetNewClosure()
        try { Invoke-Watch -Folder "$($global:Machine.Root)/machine" 6>$null } finally { $global:Machine.OnSleep = $null }
    }
    function Write-Result {
        param([string] $Name, [string] $Text)
        [System.IO.File]::AppendAllText("$($global:Machine.Root)/results/$Name", $Text)
    }
}

Describe 'A line' {
    BeforeEach { New-GuestMachine; Install-GuestMachine }
    It 'has the checksum of the other side' {
        # The values of CRC-32 and of the tests of tests/lab/src/vm/line.rs.
        Get-HostLine -Kind 'boot' -Text 'x' | Should -Be 'HUSHPORT boot x 147b151b'
        & (Get-Module -Name 'Hushport.Serial') { Get-LineChecksum -Text '123456789' } | Should -Be 'cbf43926'
    }
    It 'is one line, whatever the text is' {
        Send-HostLine -Kind 'log' -Text "one`r`ntwo $('x' * 5000)"
        $line = @(Get-SentLine)
        $line.Count | Should -Be 1
        $line[0] | Should -Match '^log one two x{300,400}\.\.\.$'
    }
    It 'is not sent by a machine that nobody watches' {
        [System.IO.File]::Delete("$($global:Machine.Root)/results/machine.json")
        Send-HostLine -Kind 'log' -Text 'x'
        @(Get-SentLine).Count | Should -Be 0
    }
    It 'that cannot be sent is logged, and the plan goes on' {
        Remove-Item -Path "$($global:Machine.Root)/COM1"
        $null = New-Item -ItemType Directory -Path "$($global:Machine.Root)/COM1"
        Send-HostLine -Kind 'restart' -Text 'now' 6>$null
        Get-Content -Raw -Path "$($global:Machine.Root)/results/log.txt" | Should -Match 'not sent: restart now'
    }
}

Describe 'The first logon' {
    BeforeEach { New-GuestMachine }
    It 'copies everything, sets the addresses, and starts the watcher' {
        Install-GuestMachine
        $machine = $global:Machine
        foreach ($name in 'machine/vm/Test-Hushport.ps1', 'machine/vm/Watch-TestMachine.ps1', 'machine/package/hushport.sys', 'results/machine.json') {
            Test-Path -Path "$($machine.Root)/$name" | Should -BeTrue -Because $name
        }
        $machine.Addresses | Should -Be '10.77.0.2', 'fd77::2'
        @($machine.Commands -match '^New-NetIPAddress -InterfaceIndex 6 -IPAddress fd77::2 -PrefixLength 64$').Count | Should -Be 1
        $machine.WatchTask.Argument | Should -Match 'Watch-TestMachine\.ps1'
        $machine.WatchTask.Settings.AllowStartIfOnBatteries | Should -BeTrue
        @($machine.Commands -match '^Start-ScheduledTask').Count | Should -Be 1
        # A second time changes no address.
        Set-MachineAddress -Description (Read-MachineDescription -Path "$($machine.Root)/cd/vm/machine.json")
        $machine.Addresses.Count | Should -Be 2
    }
    It 'turns sleep off' {
        Disable-Sleep
        @($global:Machine.Commands -match '^powercfg.exe /change ').Count | Should -Be 3
    }
    It 'without a network says so' {
        $global:Machine.Adapter = 'Disconnected'
        { Install-GuestMachine } | Should -Throw 'no network adapter is up after two minutes'
    }
    It 'refuses a description that is none: <_>' -ForEach '', '{}', '[]', '{"format":"hushport-vm 2"}' {
        [System.IO.File]::WriteAllText("$($global:Machine.Root)/cd/vm/machine.json", $_)
        { Read-MachineDescription -Path "$($global:Machine.Root)/cd/vm/machine.json" } | Should -Throw '*does not describe a machine*'
        { Read-MachineDescription -Path "$($global:Machine.Root)/none" } | Should -Throw '*this medium is not from cargo lab vm'
    }
}

Describe 'The watcher' {
    BeforeEach { New-GuestMachine; Install-GuestMachine }
    It 'starts the plan, sends its log, and leaves verdict and results' {
        Invoke-GuestWatch -Plan {
            param($number)
            switch ($number) {
                1 { Write-Result 'state.json' '{}'; Write-Result 'log.txt' "2026-11-29 09:00:01 == Prepare`r`nmore output`r`n2026-11-29 09:00:02 ok Pre" }
                2 { Write-Result 'log.txt' "pare: it`r`n" }
                3 { Write-Result 'verdict.txt' "5 passed, 0 failed`n"; Write-Result 'checks.jsonl' '{}'; [System.IO.File]::Delete("$($global:Machine.Root)/results/state.json") }
            }
        }
        Get-SentLine | Should -Be 'boot build 22631', 'log == Prepare', 'log ok Prepare: it', 'verdict 5 passed, 0 failed', 'end now'
        $global:Machine.Process.Arguments | Should -Match 'Test-Hushport\.ps1" -Package "[^"]*package" -Cycles 5$'
        Get-Content -Raw -Path "$($global:Machine.Root)/disk/verdict.txt" | Should -Be "5 passed, 0 failed`n"
        Test-Path -Path "$($global:Machine.Root)/disk/checks.jsonl" | Should -BeTrue
        $global:Machine.Off | Should -BeTrue
        $global:Machine.WatchTask | Should -BeNullOrEmpty
    }
    It 'passes on <Name>' -ForEach @(
        @{ Name = 'that nothing is scanned'; Description = @{ scan = $false }; Expected = '-Cycles 5 -NoScan$' }
        @{ Name = 'a signature for every machine'; Description = @{ signed = $true }; Expected = '-Cycles 5 -Signed$' }
    ) {
        New-GuestMachine -Description $Description
        Install-GuestMachine
        Invoke-GuestWatch -Plan { Write-Result 'verdict.txt' "1 passed, 0 failed`n" }
        $global:Machine.Process.Arguments | Should -Match $Expected
    }
    It 'after a crash tells the dump once, starts nothing, and sends no line twice' {
        $machine = $global:Machine
        $plan = {
            param($number)
            if ($number -eq 1) { Write-Result 'state.json' '{}'; Write-Result 'log.txt' "2026-11-29 09:00:01 one`r`n" }
            if ($number -eq 2) { throw 'power loss' }
        }
        { Invoke-GuestWatch -Plan $plan } | Should -Throw 'power loss'
        $machine.Process = $null
        $dump = "$($machine.Root)/Windows/MEMORY.DMP"
        [System.IO.File]::WriteAllText($dump, 'dump')
        [System.IO.File]::SetLastWriteTime($dump, $machine.Now.AddMinutes(5))
        { Invoke-GuestWatch -Plan { throw 'power loss' } } | Should -Throw 'power loss'
        Invoke-GuestWatch -Plan {
            Write-Result 'log.txt' "2026-11-29 09:10:01 two`r`n"
            Write-Result 'verdict.txt' "1 passed, 1 failed`n"
            [System.IO.File]::Delete("$($global:Machine.Root)/results/state.json")
        }
        $machine.Process | Should -BeNullOrEmpty
        $lines = Get-SentLine
        @($lines -match '^dump MEMORY\.DMP of ').Count | Should -Be 1
        @($lines -match '^boot ').Count | Should -Be 3
        @($lines -match '^log ') | Should -Be 'log one', 'log two'
    }
    It 'on a disk with an earlier run starts a new plan' {
        Write-Result 'verdict.txt' "9 passed, 9 failed`n"
        Write-Result 'watch.json' '{"Since":"2026-11-01T00:00:00Z","Offset":0,"Dumps":[],"Started":true,"Sequence":1,"Complete":true}'
        Install-GuestMachine
        Invoke-GuestWatch -Plan { Write-Result 'verdict.txt' "1 passed, 0 failed`n" }
        $global:Machine.Process | Should -Not -BeNullOrEmpty
        @(Get-SentLine) -match '^verdict ' | Should -Be 'verdict 1 passed, 0 failed'
    }
    It 'with a torn record goes on with the plan that is under way' {
        Write-Result 'state.json' '{}'
        Write-Result 'watch.json' '{"Complete":'
        Invoke-GuestWatch -Plan {
            Write-Result 'verdict.txt' "1 passed, 0 failed`n"
            [System.IO.File]::Delete("$($global:Machine.Root)/results/state.json")
        }
        $global:Machine.Process | Should -BeNullOrEmpty
        Get-SentLine | Should -Contain 'verdict 1 passed, 0 failed'
    }
    It 'tells of a plan that ends without a verdict' {
        Invoke-GuestWatch -Plan { param($number) if ($number -eq 3) { $global:Machine.Process.HasExited = $true } }
        Get-SentLine | Should -Contain 'lost the plan ended without a verdict'
        Get-SentLine | Should -Contain 'end now'
    }
    It 'names a result that finds no room, and leaves the others' {
        # A folder of that name: the copy fails.
        $null = New-Item -ItemType Directory -Path "$($global:Machine.Root)/disk/MEMORY.DMP"
        Write-Result 'MEMORY.DMP' ('x' * 9999)
        Invoke-GuestWatch -Plan { Write-Result 'verdict.txt' "1 passed, 0 failed`n" }
        @(Get-SentLine) -match '^lost MEMORY\.DMP: ' | Should -Not -BeNullOrEmpty
        Test-Path -Path "$($global:Machine.Root)/disk/verdict.txt" | Should -BeTrue
    }
    It 'without a disk for results says so, and ends' {
        $global:Machine.Faults['no results disk'] = $true
        Invoke-GuestWatch -Plan { Write-Result 'verdict.txt' "1 passed, 0 failed`n" }
        @(Get-SentLine) -match '^lost every result: there is no disk with the label RESULTS' | Should -Not -BeNullOrEmpty
        $global:Machine.Off | Should -BeTrue
    }
    It 'sends only the end of a long log' {
        Invoke-GuestWatch -Plan {
            param($number)
            if ($number -eq 1) { 1..200 | ForEach-Object { Write-Result 'log.txt' "2026-11-29 09:00:01 line $_`n" } }
            if ($number -eq 2) { Write-Result 'verdict.txt' "1 passed, 0 failed`n" }
        }
        @(Get-SentLine | Where-Object { $_ -like 'log *' })[0, -1] | Should -Be 'log line 191', 'log line 200'
    }
}

Describe 'The plan on such a machine' {
    It 'announces its steps and restarts, and every step is one of the host''s list' {
        New-GuestMachine
        Install-GuestMachine
        $results = "$($global:Machine.Root)/results"
        $run = Invoke-Machine -Parameters @{ Package = "$TestDrive/package"; Cycles = 2; NoScan = $true; Results = $results }
        $run.Failed | Should -BeNullOrEmpty
        $lines = Get-SentLine
        @($lines -eq 'restart now').Count | Should -Be 4
        $text = [System.IO.File]::ReadAllText((Join-Path -Path $PSScriptRoot -ChildPath '../lab/src/vm/verdict.rs'))
        $null = $text -match '(?s)pub const STEPS.*?= \[(.*?)\];'
        $steps = $Matches[1] -creplace '\bSCAN\b', '"Scan"' -split ',' | ForEach-Object { $_.Trim().Trim('"') } | Where-Object { $_ }
        @($lines -match '^step ') -replace '^step ' | Should -Be $steps
        # Each announces itself before the machine goes down.
        foreach ($step in 'Prepare', 'EnableStandard', 'EnableLowResources', 'DisableVerifier') {
            $lines[[array]::IndexOf($lines, "step $step") + 1] | Should -Be 'restart now'
        }
    }
}

Describe 'A package that is signed for every machine' {
    BeforeEach {
        New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))"
        $global:Machine.SecureBoot = $true
        $global:Machine.Encrypted = $true
        Remove-Item -Recurse -Force -Path "$TestDrive/signed" -ErrorAction SilentlyContinue
        New-TestPackage -Path "$TestDrive/signed"
        Remove-Item -Path "$TestDrive/signed/hushport-test.cer"
    }
    It 'is tested with Secure Boot, and test mode and certificates are left alone' {
        $run = Invoke-Machine -Parameters @{ Package = "$TestDrive/signed"; Cycles = 2; NoScan = $true; Signed = $true }
        $run.Failed | ForEach-Object { "$($_.Step) $($_.Name) $($_.Failure)" } | Should -BeNullOrEmpty
        @($global:Machine.Commands -match '^bcdedit.exe /set').Count | Should -Be 0
        @($global:Machine.Commands -match '^Import-Certificate').Count | Should -Be 0
        $global:Machine.Boots | Should -Be 4
    }
    It 'without -Signed is not whole' {
        $run = Invoke-Machine -Parameters @{ Package = "$TestDrive/signed"; Cycles = 2; NoScan = $true }
        $run.Last | Should -Be '0 passed, 1 failed'
    }
}
