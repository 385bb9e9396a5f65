# The step of the conformance driver.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"
    New-TestPackage -Path "$TestDrive/measuring"
    [System.IO.File]::WriteAllText("$TestDrive/measuring/hushport-conformance.sys", 'a driver')
    Copy-Item -Path (Join-Path -Path $PSScriptRoot -ChildPath '../conformance/probes.json') `
        -Destination "$TestDrive/measuring/hushport-conformance.json"
}

Describe 'The step Conformance' {
    BeforeEach {
        New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))"
    }
    It 'goes through every step, keeps the report, and leaves nothing' {
        $run = Invoke-Machine -Parameters @{ Step = 'Conformance'; Package = "$TestDrive/measuring" }
        $run.Failed | Should -BeNullOrEmpty
        $report = ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText("$($run.Results)/conformance.json"))
        $report.format | Should -Be 'hushport-conformance 1'
        $report.values.Step | Should -Be 10
        $report.values.'syn/V4' | Should -Be 'INBOUND_IPPACKET_V4 INBOUND_TRANSPORT_V4_DISCARD'
        $report.windows.profiles | Should -Be '7 Public'
        # Without addresses nothing was sent.
        foreach ($name in 'ack', 'syn/V4', 'syn/V6') { $report.unsent | Should -Contain $name }
        $global:Machine.Conformance | Should -Be ''
        @($global:Machine.Registry.Keys -like '*hushport-conformance*').Count | Should -Be 0
        @($run.Console -like 'not measurable without a second machine: ack, fin, null, xmas, *').Count | Should -Be 1
        $order = @($global:Machine.Commands -match 'Services\\hushport-conformance\\Parameters -Name Step ' | ForEach-Object { ($_ -split ' ')[6] })
        $order -join ',' | Should -Be '2,3,4,5,6,7,8,9,10'
    }
    It 'sends the probes of each step, to an address of each family' {
        $list = ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText("$TestDrive/measuring/hushport-conformance.json"))
        $global:Machine.Conformance = 'Running'
        $global:Machine.Registry["$global:ConformanceKey\Report"] = @{ Step = 1 }
        $server = New-Object -TypeName System.Net.Sockets.TcpListener -ArgumentList ([System.Net.IPAddress]::Loopback), 47101
        $server.Start()
        try {
            Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Conformance.psm1') -Force
            $log = & (Get-Module -Name 'Hushport.Conformance') { Invoke-Measurement -Probes $args[0] -Addresses '127.0.0.1' } @($list) 6>&1
            # The SYN came.
            $server.Pending() | Should -BeTrue
        } finally {
            $server.Stop()
        }
        @($log -like 'not measured: *' -notlike '*protocol to 127.0.0.1*').Count | Should -Be 0
        $global:Machine.Registry["$global:ConformanceKey\Report"].Step | Should -Be 10
    }
    It 'tells the driver every probe' {
        $null = Invoke-Machine -Parameters @{ Step = 'Conformance'; Package = "$TestDrive/measuring" }
        $list = ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText("$TestDrive/measuring/hushport-conformance.json"))
        $told = @($global:Machine.Commands -match '-Name Probes ')[0]
        foreach ($probe in $list) { $told | Should -Match ([regex]::Escape("$($probe.name) $($probe.protocol) $($probe.port) $($probe.role)")) }
    }
    It 'says that a package without the driver is not measured' {
        $run = Invoke-Machine -Parameters @{ Step = 'Conformance'; Package = "$TestDrive/package" }
        $run.Checks.Count | Should -Be 0
        @($run.Console -like 'not tested: conformance, for the package has no hushport-conformance.sys*').Count | Should -Be 1
    }
    It 'with <Fault> fails, keeps what there is, and removes the driver' -ForEach @(
        @{ Fault = 'conformance refused'; Failure = 'sc.exe start hushport-conformance: exit status 577: *' }
        @{ Fault = 'conformance stuck'; Failure = 'it does not confirm step 2 within 30 s (Step is ''1'')' }
    ) {
        $global:Machine.Faults[$Fault] = $true
        $run = Invoke-Machine -Parameters @{ Step = 'Conformance'; Package = "$TestDrive/measuring" }
        @($run.Failed)[0].Failure | Should -BeLike $Failure
        $run.Last | Should -Match ', [1-9]\d* failed$'
        $run.Names[-1] | Should -Be 'Conformance: the conformance driver is gone'
        $global:Machine.Conformance | Should -Be ''
    }
    It 'on a machine without an address measures only what needs no packet, and says so' {
        $run = Invoke-Machine -Parameters @{ Step = 'Conformance'; Package = "$TestDrive/measuring" }
        $run.Failed | Should -BeNullOrEmpty
        @($run.Console -like 'not measured: every probe, for this machine has no address').Count | Should -Be 1
    }
}
