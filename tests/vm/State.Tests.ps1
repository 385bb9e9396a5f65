# The plan survives crashes at every point of a file write.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"
    $plan = @{ Package = "$TestDrive/package"; Cycles = 3; NoScan = $true }
    function Clear-File {
        param([string] $Path, [int] $Length = -1, [switch] $Zero)
        if (-not (Test-Path -Path $Path)) { return }
        $bytes = [System.IO.File]::ReadAllBytes($Path)
        if ($Length -lt 0) { $Length = $bytes.Length }
        if ($Zero) {
            for ($at = 0; $at -lt $Length; $at++) { $bytes[$bytes.Length - 1 - $at] = 0 }
        } else {
            $bytes = [byte[]] @($bytes | Select-Object -First $Length)
        }
        [System.IO.File]::WriteAllBytes($Path, $bytes)
    }
}

Describe 'A crash in the middle of the plan' {
    BeforeEach { New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))" }
    It 'before call <At>, <Name>: comes to a verdict and puts back what it found' -ForEach @(
        @{ At = 12; Name = 'nothing torn'; Tear = {} }
        @{ At = 40; Name = 'the state zero-filled'; Tear = { param($r) Clear-File "$r/state.json" -Zero } }
        @{ At = 60; Name = 'the state empty, a result cut'; Tear = { param($r) Clear-File "$r/state.json" -Length 0; Clear-File "$r/checks.jsonl" -Length 700 } }
        @{ At = 75; Name = 'everything zero-filled'; Tear = { param($r) Get-ChildItem $r -File | ForEach-Object { Clear-File $_.FullName -Zero } } }
    ) {
        $global:Machine.CrashAt = $At
        $torn = @{ Done = $false }
        $tear = $Tear
        $run = Invoke-Machine -Parameters $plan -AtRestart {
            param($results)
            if (-not $torn.Done -and $global:Machine.Calls -ge $global:Machine.CrashAt) { & $tear $results; $torn.Done = $true }
        }
        $torn.Done | Should -BeTrue
        $run.Last | Should -Match '^\d+ passed, [1-9]\d* failed$'
        $run.Status | Should -Be 1
        if ($Name -ne 'nothing torn') { @($run.Failed.Failure -like 'a result was lost: *').Count | Should -BeGreaterOrEqual 1 }
        if ($Name -eq 'nothing torn') { $run.Failed.Name | Should -Be 'the machine stays up' }
        $global:Machine.Task | Should -BeNullOrEmpty
        @($global:Machine.Firewall.Values) -join ',' | Should -Be 'True,False,True'
        $global:Machine.TestSigning | Should -Be 'absent'
        $global:Machine.Certificates.Count | Should -Be 0
        $global:Machine.Service | Should -BeNullOrEmpty
        @($run.Console -cmatch 'the step comes to its end|cannot be found').Count | Should -Be 0
    }
    It 'a record of what was found that is torn as well is named, and the task goes' {
        $global:Machine.CrashAt = 40
        $run = Invoke-Machine -Parameters $plan -AtRestart {
            param($results)
            if ($global:Machine.Calls -ne 40) { return }
            Get-ChildItem $results -File | ForEach-Object { Clear-File $_.FullName -Zero }
            Clear-File "$results/scripts/found.json" -Zero
        }
        @($run.Failed.Failure -like '*found.json is torn').Count | Should -Be 1
        @($run.Console -like 'Look at these by hand: *').Count | Should -Be 1
        $run.Last | Should -Match '^\d+ passed, [1-9]\d* failed$'
        $global:Machine.Task | Should -BeNullOrEmpty
    }
    It 'a machine that always crashes in Start is not tested further' {
        $global:Machine.Faults['start crashes'] = $true
        $run = Invoke-Machine -Parameters $plan
        $run.Failed.Name | Should -Be 'the machine stays up'
        $run.Last | Should -Match ', 1 failed$'
        @($run.Console -match 'not tested: Conformance, Policy, Trace').Count | Should -Be 1
    }
    It 'a crash leaves dumps and events, and both are kept' {
        $minutes = 30
        $dump = "$($global:Machine.Root)/Windows/MEMORY.DMP"
        $global:Machine.CrashAt = 40
        $run = Invoke-Machine -Parameters $plan -AtRestart {
            if ($global:Machine.Calls -ne 40) { return }
            [System.IO.File]::WriteAllText($dump, 'dump')
            [System.IO.File]::SetLastWriteTime($dump, $global:Machine.Now.AddMinutes($minutes))
            $global:Machine.Events += @{ Id = 41; ProviderName = 'Microsoft-Windows-Kernel-Power'; TimeCreated = $global:Machine.Now.AddMinutes(1) }
            $global:Machine.Events += @{ Id = 1001; ProviderName = 'Something else'; TimeCreated = $global:Machine.Now.AddMinutes(1) }
            $global:Machine.Events += @{ Id = 41; ProviderName = 'Microsoft-Windows-Kernel-Power'; TimeCreated = $global:Machine.Now.AddDays(-9) }
        }
        $crash = @($run.Failed | Where-Object { $_.Name -eq 'no crash' })
        $crash.Failure | Should -Match '^MEMORY-\d{8}-\d{6}\.DMP, event 41 of [^,]*$'
        @(Get-ChildItem -Path "$($run.Results)/MEMORY-*.DMP").Count | Should -Be 1
    }
}

Describe 'Files cut short or zero-filled anywhere' {
    BeforeAll {
        # Other test files leave modules of the same names.
        Get-Module -Name 'Hushport.*' | Remove-Module -Force
        foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Verifier', 'Trace', 'Scan', 'Steps', 'State', 'Serial', 'Plan') {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
        }
        New-Machine -Root "$TestDrive/every"
        Set-ResultFolder -Path "$TestDrive/every"
        Set-CheckLabel -Label 'Policy' -Place 3
        $request = @{ Package = '/p'; Update = ''; Cycles = 3; ScanMinutes = 1; NoScan = $true; Signed = $false; Keep = $false; Results = "$TestDrive/every" }
        function Save-Both {
            Clear-CheckResult
            Remove-Record -Name 'state.json'
            & (Get-Module -Name 'Hushport.State') {
                param($request)
                $state = Get-FirstState -Request $request
                foreach ($next in 2, 3) { $state.Next = $next; $state.Running = $true; $null = Save-State -State $state }
            } $request
        }
        $file = "$TestDrive/every/state.json"
    }
    It 'the state: the last good one, and a result was lost' {
        Save-Both
        $whole = [System.IO.File]::ReadAllBytes($file)
        for ($length = 0; $length -lt $whole.Length; $length += 9) {
            foreach ($zero in $false, $true) {
                $bytes = New-Object -TypeName byte[] -ArgumentList ($length, $whole.Length)[[int] $zero]
                [array]::Copy($whole, $bytes, $length)
                [System.IO.File]::WriteAllBytes($file, $bytes)
                [System.IO.File]::Delete("$TestDrive/every/checks.jsonl")
                $state = Read-State -Request $request 6>$null
                "$($state.Next) $($state.Running)" | Should -Be '2 True' -Because "$length bytes, zeros: $zero"
                @((Read-CheckResult).Checks).Failure | Should -BeLike 'a result was lost: state.json is torn or gone*'
            }
        }
    }
    It 'a state without the field <_> is none' -ForEach 'Next', 'Running', 'Since', 'Complete', 'Sequence' {
        Save-Both
        $state = Get-Content -Raw -Path $file | ConvertFrom-Json
        $state.PSObject.Properties.Remove($_)
        [System.IO.File]::WriteAllText($file, (ConvertTo-Json $state))
        (Read-State -Request $request 6>$null).Next | Should -Be 2
    }
    It 'without any whole copy the plan ends: <_>' -ForEach '', '{}', '[]', 'null', '{"Next":"x"}' {
        Save-Both
        foreach ($name in 'state.json', 'state.json.old') { [System.IO.File]::WriteAllText("$TestDrive/every/$name", $_) }
        $state = Read-State -Request $request 6>$null
        @(Get-Plan)[$state.Next].Step | Should -Be 'Collect'
    }
    It 'a state that is gone is lost' {
        Save-Both
        [System.IO.File]::Delete($file)
        (Read-State -Request $request 6>$null).Next | Should -Be 2
        (Read-CheckResult).Checks[0].Failure | Should -Be 'a result was lost: state.json is torn or gone'
    }
    It 'a whole new copy that had no time to replace the old one counts' {
        Save-Both
        [System.IO.File]::Move($file, "$file.new")
        (Read-State -Request $request 6>$null).Next | Should -Be 3
        (Read-CheckResult).Checks.Count | Should -Be 0
    }
    It 'an old state gives way to newer results' {
        Save-Both
        Set-CheckLabel -Label 'Cycle' -Place 5
        Add-CheckResult -Name 'later' 6>$null
        $state = Read-State -Request $request 6>$null
        "$($state.Next) $($state.Running)" | Should -Be '5 True'
        (Read-CheckResult).Checks[-1].Failure | Should -BeLike 'a result was lost: state.json is older than checks.jsonl'
    }
    It 'the results: what is whole stays, a torn line is a failed check' {
        Save-Both
        1..3 | ForEach-Object { Add-CheckResult -Name "check $_" 6>$null }
        & (Get-Module -Name 'Hushport.State') { param($request) $null = Save-State -State (Get-FirstState -Request $request) } $request
        $checks = "$TestDrive/every/checks.jsonl"
        $whole = [System.IO.File]::ReadAllBytes($checks)
        for ($length = 0; $length -lt $whole.Length - 1; $length += 23) {
            foreach ($zero in $false, $true) {
                $bytes = New-Object -TypeName byte[] -ArgumentList ($length, $whole.Length)[[int] $zero]
                [array]::Copy($whole, $bytes, $length)
                [System.IO.File]::WriteAllBytes($checks, $bytes)
                $null = Read-State -Request $request 6>$null
                $read = Read-CheckResult
                $read.Torn | Should -Be 0
                @($read.Checks.Failure -like 'a result was lost: *').Count | Should -Be 1 -Because "$length bytes, zeros: $zero"
            }
        }
    }
    It 'a disk that takes nothing does not lose a failure from the verdict' {
        Save-Both
        $checks = "$TestDrive/every/checks.jsonl"
        $null = New-Item -ItemType Directory -Path $checks
        Add-CheckResult -Name 'unwritten' -Failure 'wrong' 6>$null
        Remove-Item -Path $checks
        Write-Verdict 6>$null | Should -Be 1
    }
}
