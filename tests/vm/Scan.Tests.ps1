# The scan by another machine, with a concurrent scanner, and the scan without one.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"
    # Connects to the control port and answers. Hangs up at the requests with these
    # numbers, and connects again.
    function Start-Scanner {
        param([int[]] $HangUp = @(), [string] $Answer = 'ok', [int] $Connections = 1, [string] $Address = '127.0.0.1')
        $shell = [powershell]::Create()
        $null = $shell.AddScript({
                param($hangUp, $answer, $connections, $address)
                $asked = 0
                $requests = @()
                for ($connection = 0; $connection -lt $connections; $connection++) {
                    for ($attempt = 0; $attempt -lt 400; $attempt++) {
                        $client = New-Object -TypeName System.Net.Sockets.TcpClient -ArgumentList ([System.Net.IPAddress] $address).AddressFamily
                        try { $client.Connect($address, 47017); break } catch { [System.Threading.Thread]::Sleep(25) }
                    }
                    $reader = New-Object -TypeName System.IO.StreamReader -ArgumentList $client.GetStream()
                    $writer = New-Object -TypeName System.IO.StreamWriter -ArgumentList $client.GetStream()
                    $writer.AutoFlush = $true
                    while ($null -ne ($line = $reader.ReadLine())) {
                        if ($line -eq 'done') { break }
                        $asked++
                        $requests += $line
                        if ($hangUp -contains $asked) { break }
                        $writer.Write("$answer`n")
                    }
                    $client.Close()
                }
                $requests
            }).AddArgument($HangUp).AddArgument($Answer).AddArgument($Connections).AddArgument($Address)
        $global:Machine.Scanner = $true
        @{ Shell = $shell; Handle = $shell.BeginInvoke() }
    }
    function Invoke-Scan {
        $null = Invoke-Machine -Parameters @{ Step = 'Install'; Package = "$TestDrive/package" }
        Invoke-Machine -Parameters @{ Step = 'Scan'; ScanMinutes = 1 }
    }
}

Describe 'The scan from the other end' {
    BeforeEach { New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))" }
    It 'asks for every phase, for both families' {
        $global:Machine.Addresses = '192.0.2.10', '2001:db8::10', 'fe80::1%4', '::1', '169.254.1.1'
        $scanner = Start-Scanner
        $run = Invoke-Scan
        $requests = @($scanner.Shell.EndInvoke($scanner.Handle))
        $run.Failed.Count | Should -Be 0
        $requests[0] | Should -Be 'families also=2001:db8::10,fe80::1'
        $requests[1] | Should -Be 'answered tcp=113,22222 udp=33333 open=47017 also=2001:db8::10,fe80::1'
        $requests.Count | Should -Be 9
    }
    It 'listens on IPv6, too' {
        $scanner = Start-Scanner -Address '::1'
        $run = Invoke-Scan
        $null = $scanner.Shell.EndInvoke($scanner.Handle)
        $run.Last | Should -Match ', 0 failed$'
    }
    It 'a scanner that hangs up and comes again is one failure, which names the request' {
        $scanner = Start-Scanner -HangUp 2 -Connections 2
        $run = Invoke-Scan
        $null = $scanner.Shell.EndInvoke($scanner.Handle)
        $run.Failed.Count | Should -Be 1
        $run.Failed[0].Failure | Should -Be "it hung up at the request 'answered tcp=113,22222 udp=33333 open=47017'"
        $run.Last | Should -Be '8 passed, 1 failed'
    }
    It 'a scanner that does not come again is one failure' {
        $scanner = Start-Scanner -HangUp 3
        $run = Invoke-Scan
        $null = $scanner.Shell.EndInvoke($scanner.Handle)
        $run.Failed.Count | Should -Be 1
        $run.Failed[0].Failure | Should -BeLike "it hung up at the request 'silent *', and nobody came within 1 minutes"
        @($run.Console -match '^not tested: enforce').Count | Should -Be 1
    }
    It 'a scanner that never comes is one failure' {
        $run = Invoke-Scan
        $run.Failed.Failure | Should -Be 'nobody came within 1 minutes, so nothing was scanned'
        @($run.Console -match '^waiting until 09:0\d for: scan.py THIS-MACHINE --control 47017').Count | Should -Be 1
    }
    It 'an answer other than ok is the failure' {
        $scanner = Start-Scanner -Answer 'failed tcp 113 is silent, not answered'
        $run = Invoke-Scan
        $null = $scanner.Shell.EndInvoke($scanner.Handle)
        $run.Failed.Count | Should -Be 8
        $run.Failed[0].Failure | Should -BeLike "the scanner answered 'failed tcp 113 is silent, not answered' to the request '*'"
    }
}

Describe 'The scan without a second machine' {
    BeforeAll {
        New-Machine -Root "$TestDrive/local"
        foreach ($module in 'Files', 'Vm', 'Trace', 'Scan') {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1") -Force
        }
        Set-ResultFolder -Path "$TestDrive/local/results"
    }
    It 'tells an open port from a closed one, over <_>' -ForEach '127.0.0.1', '::1' {
        $address = [System.Net.IPAddress] $_
        $listener = New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList $address, 0
        $listener.Start()
        $port = $listener.LocalEndpoint.Port
        Get-PortState -Probe @{ Protocol = 'TCP'; Address = $address; Port = $port } | Should -Be 'open'
        $listener.Stop()
        Get-PortState -Probe @{ Protocol = 'TCP'; Address = $address; Port = $port } | Should -Be 'answered'
        Get-PortState -Probe @{ Protocol = 'UDP'; Address = $address; Port = $port } | Should -Be 'answered'
    }
    It 'compares pktmon with the events' {
        $global:Machine.Faults.Clear()
        $null = pktmon.exe etl2txt x --out "$TestDrive/local/results/pktmon.txt"
        $text = Get-Content -Raw -Path "$TestDrive/local/results/pktmon.txt"
        $trace = @{ Events = @(113, 22222, 33333 | ForEach-Object { @{ Name = 'Silenced'; Fields = @{ Layer = 'L'; Local = "192.0.2.10:$_" } } }) }
        Compare-Witness -Trace $trace -Text $text
        Get-Content -Raw -Path "$TestDrive/local/results/witness.txt" | Should -Match 'reason INET: transport endpoint was not found'
        { Compare-Witness -Trace $trace -Text '' } | Should -Throw -ExpectedMessage 'port 113: 1 events Silenced, 0 drops of pktmon; *'
        { Compare-Witness -Trace @{ Events = @() } -Text $text } | Should -Throw -ExpectedMessage 'port 113: 0 events Silenced, 1 drops of pktmon; *'
    }
}

Describe 'The plan without a restart' {
    It 'runs every step' {
        New-Machine -Root "$TestDrive/hosted"
        $global:Machine.TestSigning = 'Yes'
        New-TestPackage -Path "$TestDrive/update" -Version '1.2.4.0'
        $run = Invoke-Machine -Parameters @{ Hosted = $true; Package = "$TestDrive/package"; Update = "$TestDrive/update"; Cycles = 3 }
        # Without addresses there is no scan, and so no event.
        $run.Failed | ForEach-Object { "$($_.Step) $($_.Name) $($_.Failure)" } | Should -Be @(
            'LocalScan this machine has addresses of both families none of InterNetwork',
            'Witness pktmon and our events agree on the probes port 113: 0 events Silenced, 1 drops of pktmon; port 22222: 0 events Silenced, 1 drops of pktmon; port 33333: 0 events Silenced, 1 drops of pktmon')
        @($run.Console -match 'without a restart, by: verifier /volatile ').Count | Should -Be 1
        $run.Names | Should -Contain 'Update: the values survive the update'
        $run.Names[-1] | Should -BeLike 'Remove: *'
        $global:Machine.Boots | Should -Be 0
        $global:Machine.TestSigning | Should -Be 'Yes'
        $global:Machine.Certificates.Count | Should -Be 0
        @($global:Machine.Firewall.Values) -join ',' | Should -Be 'True,False,True'
    }
    It '<Name>: says how Driver Verifier was switched on' -ForEach @(
        @{ Name = 'no volatile'; Line = 'Driver Verifier watches the driver without a restart, by: verifier /dif *'; Passed = 1 }
        @{ Name = 'no verifier'; Line = 'not tested: Driver Verifier, which takes no driver here without a restart'; Passed = 0 }
    ) {
        New-Machine -Root "$TestDrive/$Name"
        $null = Invoke-Machine -Parameters @{ Step = 'Install'; Package = "$TestDrive/package" }
        $global:Machine.Faults[$Name] = $true
        $run = Invoke-Machine -Parameters @{ Step = 'VolatileVerifier' }
        @($run.Console -like $Line).Count | Should -Be 1
        $run.Last | Should -Be "$Passed passed, 0 failed"
    }
    It 'does not begin where test signing is off' {
        New-Machine -Root "$TestDrive/off"
        $run = Invoke-Machine -Parameters @{ Hosted = $true; Package = "$TestDrive/package" }
        $run.Failed.Failure | Should -Be 'test signing is absent, not on'
        @($run.Console -match '^not tested: Install, Start').Count | Should -Be 1
    }
}
