# Functions that read output of Windows, and the parameters of the script.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-Machine -Root "$TestDrive/machine"
    New-TestPackage -Path "$TestDrive/package"
    foreach ($module in 'Files', 'Vm', 'Package', 'Machine', 'Verifier', 'Trace', 'Scan', 'Steps') {
        Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
    }
    Set-ResultFolder -Path "$TestDrive/results"
}

Describe 'The state of the filter engine' {
    BeforeAll {
        $mark = [string] [char] 0xFEFF
        $text = "$mark<?xml version=`"1.0`" encoding=`"UTF-8`" standalone=`"yes`"?>`n<wfpstate>`n`t<layers numItems=`"1`"><item>" +
            "<callouts numItems=`"2`"><item><displayData><name>hushport 1</name></displayData></item>" +
            "<item><displayData><name>WFP 内置 & Tom &amp; Jerry &#x41; < 5</name></displayData></item></callouts></item></layers>" +
            "<subLayers numItems=`"1`"><item><displayData><name></name></displayData></item></subLayers>`n</wfpstate>`n" +
            "<firewallState>`n`t<dynamicKeywordAddresses/>`n</firewallState>`n"
    }
    It 'is read up to its end, with bare ampersands' {
        $state = ConvertTo-EngineState -Text $text
        Measure-EngineObject -State $state -Kind callouts | Should -Be 1
        Measure-EngineObject -State $state -Kind callouts -Name '' | Should -Be 2
        Measure-EngineObject -State $state -Kind subLayers -Name '' | Should -Be 1
        Measure-EngineObject -State $state -Kind filters -Name '' | Should -Be 0
        $state.SelectNodes('//name')[1].InnerText | Should -Be 'WFP 内置 & Tom & Jerry A < 5'
    }
    It 'that is cut short is refused, not read as empty' {
        { ConvertTo-EngineState -Text $text.Substring(0, 200) } | Should -Throw -ExpectedMessage '*no whole <wfpstate> element*'
        { ConvertTo-EngineState -Text '' } | Should -Throw
    }
    It 'a stale file does not pass' {
        Write-EngineState -Path "$TestDrive/results/wfpstate.xml"
        $global:Machine.Faults['netsh writes nothing'] = $true
        { Assert-EngineObject -Present $false } | Should -Throw -ExpectedMessage 'netsh wfp show state did not write*'
        $global:Machine.Faults.Clear()
        { Assert-EngineObject -Present $false } | Should -Not -Throw
        { Assert-EngineObject -Present $true } | Should -Throw -ExpectedMessage '*providers is 0, not 1; *callouts is 0, not 66'
    }
}

Describe 'A package' {
    BeforeEach {
        $folder = "$TestDrive/$([guid]::NewGuid().ToString('N'))"
        Copy-Item -Recurse -Path "$TestDrive/package" -Destination $folder
    }
    It 'that is whole has no fault' { Get-PackageFault -Path $folder | Should -BeNullOrEmpty }
    It 'without <_> is named' -ForEach 'hushport.sys', 'hushport.inf', 'hushport.cat', 'hushport-test.cer' {
        Microsoft.PowerShell.Management\Remove-Item -Path "$folder/$_"
        Get-PackageFault -Path $folder | Should -Be "missing or empty in ${folder}: $_"
    }
    It 'with an INF that was not stamped, or was changed' {
        Copy-Item -Path (Join-Path -Path $PSScriptRoot -ChildPath '../../inf/hushport.inx') -Destination "$folder/hushport.inf"
        $faults = @(Get-PackageFault -Path $folder)
        $faults[0] | Should -BeLike 'hushport.inf is not stamped: DriverVer*'
        $faults[1] | Should -BeLike 'hushport.inf is not stamped: it has no section*'
        $faults[-1] | Should -BeLike 'hushport.cat does not cover hushport.inf*'
    }
    It 'with a driver that was changed, for another machine, or is none' {
        $bytes = [System.IO.File]::ReadAllBytes("$folder/hushport.sys")
        $bytes[1500] = 1
        [System.IO.File]::WriteAllBytes("$folder/hushport.sys", $bytes)
        Get-PackageFault -Path $folder | Should -BeLike 'hushport.cat does not cover hushport.sys*'
        $bytes[0x84] = 0x64; $bytes[0x85] = 0xAA
        [System.IO.File]::WriteAllBytes("$folder/hushport.sys", $bytes)
        @(Get-PackageFault -Path $folder)[0] | Should -Be 'hushport.sys is not for amd64, as hushport.inf says'
        [System.IO.File]::WriteAllText("$folder/hushport.sys", 'text')
        @(Get-PackageFault -Path $folder)[0] | Should -Be 'hushport.sys is not a Windows program'
    }
    It 'with a certificate that is none, or another one' {
        New-TestPackage -Path "$folder/other"
        Copy-Item -Path "$folder/other/hushport-test.cer" -Destination $folder -Force
        Get-PackageFault -Path $folder | Should -Be 'hushport.cat is not signed with hushport-test.cer'
        [System.IO.File]::WriteAllText("$folder/hushport-test.cer", 'x')
        Get-PackageFault -Path $folder | Should -Be 'hushport-test.cer is not a certificate'
    }
    It 'that is not there' { Get-PackageFault -Path "$folder-none" | Should -Be "there is no folder $folder-none" }
}

Describe 'A trace' {
    BeforeAll {
        function New-Trace {
            param([string[]] $Names, [int] $Lost = 0)
            $events = @($Names | ForEach-Object {
                    $name, $mode = $_ -split ' '
                    $fields = @{}
                    if ($mode) { $fields.Mode = $mode }
                    @{ Name = $name; Fields = $fields }
                })
            @{ Events = $events; Lost = $Lost }
        }
    }
    It 'in order passes' {
        { Assert-Trace -Trace (New-Trace -Names 'Started', 'PolicyApplied 2', 'PolicyApplied 1', 'Silenced', 'PolicyApplied 0x2', 'Stopped') } | Should -Not -Throw
    }
    It '<Names> fails' -ForEach @(
        @{ Names = @(); Message = 'the trace has no event of the driver' }
        @{ Names = 'Silenced'; Message = 'no Started in its place among: Silenced' }
        @{ Names = 'Started', 'PolicyApplied 2', 'Stopped'; Message = 'no PolicyApplied with Mode 1 in its place*' }
        @{ Names = 'Started', 'PolicyApplied 2', 'PolicyApplied 1', 'Stopped'; Message = 'no PolicyApplied with Mode 2 in its place*' }
        @{ Names = 'Stopped', 'Started', 'PolicyApplied 1', 'PolicyApplied 2'; Message = 'no Stopped in its place*' }
    ) {
        { Assert-Trace -Trace (New-Trace -Names $Names) } | Should -Throw -ExpectedMessage $Message
    }
    It 'with lost events fails' {
        { Assert-Trace -Trace (New-Trace -Names 'Started' -Lost 3) } | Should -Throw -ExpectedMessage 'the session lost 3 events or buffers'
    }
    It 'is read from what tracerpt writes, UTF-16 too, with the number of lost events' {
        $global:Machine.Faults['events lost'] = $true
        $null = Start-TraceSession -Name 'read'
        Add-TraceEvent -Name 'PolicyApplied' -Fields @{ Mode = 1 }
        Stop-TraceSession
        $trace = ConvertTo-Trace -Name 'read'
        $trace.Lost | Should -Be 7
        $trace.Events[0].Name | Should -Be 'PolicyApplied'
        $trace.Events[0].Fields.Mode | Should -Be '1'
        $global:Machine.Faults.Clear()
    }
}

Describe 'The settings of Driver Verifier' {
    It '<Next> under <Under>: <Message>' -ForEach @(
        @{ Next = 0x209BB; Under = 'standard'; Message = '' }
        @{ Next = 0x209BF; Under = 'low-resources'; Message = '' }
        @{ Next = 0x209BB; Under = 'low-resources'; Message = '*without low resources simulation (0x4)' }
        @{ Next = 0x1; Under = 'standard'; Message = '*without all of the standard flags (0x209BB)' }
        @{ Next = 0x209BB; Under = 'off'; Message = 'it still names hushport.sys*' }
    ) {
        $global:Machine.Verifier.NextFlags = $Next
        $global:Machine.Verifier.NextDriver = 'hushport.sys'
        if ($Message) {
            { Assert-VerifierSetting -Under $Under } | Should -Throw -ExpectedMessage $Message
        } else {
            { Assert-VerifierSetting -Under $Under } | Should -Not -Throw
        }
    }
    It 'without the driver fails' {
        $global:Machine.Verifier.NextDriver = ''
        { Assert-VerifierSetting -Under 'standard' } | Should -Throw -ExpectedMessage '*does not name hushport.sys'
    }
}

Describe 'Text' {
    It 'of Windows in ANSI, UTF-8 and UTF-16 becomes UTF-8' {
        $text = 'Zugriff verweigert: ' + [char] 0xE4
        $codings = @{ ansi = [System.Text.Encoding]::GetEncoding('iso-8859-1'); utf8 = [System.Text.Encoding]::UTF8; utf16 = [System.Text.Encoding]::Unicode }
        foreach ($coding in $codings.Keys) {
            [System.IO.File]::WriteAllText("$TestDrive/$coding.log", $text, $codings[$coding])
            Copy-ResultText -Path "$TestDrive/$coding.log" -Name 'copy.log'
            [System.IO.File]::ReadAllText("$TestDrive/results/copy.log") | Should -Be $text -Because $coding
        }
    }
    It 'of a failure, in Chinese, too, takes one line' {
        Clear-CheckResult
        Set-CheckLabel -Label 'Install'
        Add-CheckResult -Name 'x' -Failure "拒绝访问。`r`n`r`n  第二行" 6>$null
        (Read-CheckResult).Checks[0].Failure | Should -Be '拒绝访问。 第二行'
        [System.IO.File]::ReadAllBytes("$TestDrive/results/checks.jsonl")[0] | Should -Be 0x7B
    }
}

Describe 'The parameters' {
    It 'takes steps with commas between, as -File hands them over' {
        $run = Invoke-Machine -Parameters @{ Step = 'install, start,Remove'; Package = "$TestDrive/package" }
        $run.Failed.Count | Should -Be 0
        @($run.Names | ForEach-Object { ($_ -split ':')[0] } | Select-Object -Unique) | Should -Be 'Install', 'Start', 'Remove'
    }
    It 'refuses <Name> before anything is changed' -ForEach @(
        @{ Name = 'a step that is none'; Parameters = @{ Step = 'Start,Cycl' }; Message = 'FAILED -Step Cycl: there is no such step; the steps are Prepare, Install, *' }
        @{ Name = 'results on the network'; Parameters = @{ Results = '\\server\share\results' }; Message = 'FAILED -Results \\server\share\results is on the network*' }
        @{ Name = 'results on a drive that is none'; Parameters = @{ Results = 'Q:\results' }; Message = 'FAILED -Results Q:\results: *' }
    ) {
        $global:Machine.Commands.Clear()
        $run = Invoke-Machine -Parameters $Parameters
        $run.Last | Should -BeLike $Message
        $run.Status | Should -Be 2
        $global:Machine.Commands.Count | Should -Be 0
    }
    It 'makes a relative path a full one' {
        Push-Location -Path $TestDrive
        try { $run = Invoke-Machine -Parameters @{ Step = 'Install'; Package = 'package'; Results = 'here' } } finally { Pop-Location }
        $run.Last | Should -Match ', 0 failed$'
        Microsoft.PowerShell.Management\Test-Path -Path "$TestDrive/here/package/hushport.sys" | Should -BeTrue
    }
    It 'leaves the results of a plan that is under way alone' {
        [System.IO.File]::WriteAllText("$($global:Machine.Root)/results/state.json", '{}')
        $run = Invoke-Machine -Parameters @{ Step = 'Start' }
        $run.Last | Should -BeLike 'FAILED a plan is under way in *'
        $run.Status | Should -Be 1
        Remove-Item -Path "$($global:Machine.Root)/results/state.json"
    }
}

Describe 'The task' {
    It 'starts on battery power, and runs the copy' {
        foreach ($module in 'State', 'Plan') {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
        }
        & (Get-Module -Name 'Hushport.Plan') { Register-Continuation -Request @{ Script = 'C:\r\scripts\Test-Hushport.ps1'; Results = 'C:\r' } }
        $task = $global:Machine.Task
        $task.Argument | Should -Be '-NoProfile -ExecutionPolicy Bypass -File "C:\r\scripts\Test-Hushport.ps1" -Results "C:\r"'
        $task.Settings.AllowStartIfOnBatteries | Should -BeTrue
        $task.Settings.DontStopIfGoingOnBatteries | Should -BeTrue
    }
    It 'that outlived its plan goes, and leaves the verdict alone' {
        $results = "$TestDrive/ended"
        $null = Invoke-Machine -Parameters @{ Step = 'Install'; Package = "$TestDrive/package"; Results = $results }
        $global:Machine.Task = @{ Argument = '' }
        $verdict = [System.IO.File]::ReadAllText("$results/verdict.txt")
        & "$results/scripts/Test-Hushport.ps1" -Results $results 6>$null
        $global:Machine.Task | Should -BeNullOrEmpty
        [System.IO.File]::ReadAllText("$results/verdict.txt") | Should -Be $verdict
    }
}
