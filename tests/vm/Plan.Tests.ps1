# The whole plan on the Windows of Windows.Table.ps1.
BeforeAll {
    . (Join-Path -Path $PSScriptRoot -ChildPath 'Windows.Table.ps1')
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Support.Tests.psm1') -Force
    New-TestPackage -Path "$TestDrive/package"
    $plan = @{ Package = "$TestDrive/package"; Cycles = 4; NoScan = $true }
}

Describe 'A machine on which everything is right' {
    BeforeEach { New-Machine -Root "$TestDrive/$([guid]::NewGuid().ToString('N'))" }
    It 'comes to a verdict without a failure, over four restarts' {
        $run = Invoke-Machine -Parameters $plan
        $run.Failed | ForEach-Object { "$($_.Step) $($_.Name) $($_.Failure)" } | Should -BeNullOrEmpty
        $run.Last | Should -Match '^\d+ passed, 0 failed$'
        $run.Status | Should -Be 0
        $global:Machine.Boots | Should -Be 4
        Get-Content -Raw -Path "$($run.Results)/verdict.txt" | Should -Be "$($run.Last)`n"
    }
}
