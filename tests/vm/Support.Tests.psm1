# Functions for the Pester tests: a package, a machine, and runs with restarts.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# A minimal package: an image, a stamped INF, a certificate, and a catalog with their
# digests and the certificate.
function New-TestPackage {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [string] $Version = '1.2.3.0'
    )
    $null = New-Item -ItemType Directory -Force -Path $Path
    $image = New-Object -TypeName byte[] -ArgumentList 2048
    $image[0] = 0x4D; $image[1] = 0x5A; $image[0x3C] = 0x80
    [System.BitConverter]::GetBytes([uint16] 0x8664).CopyTo($image, 0x84)
    [System.IO.File]::WriteAllBytes("$Path/hushport.sys", $image)
    $inx = Get-Content -Raw -Path (Join-Path -Path $PSScriptRoot -ChildPath '../../inf/hushport.inx')
    $inf = $inx -replace 'DriverVer\s*=', "DriverVer = 11/29/2026,$Version" -replace '\$ARCH\$', 'amd64'
    [System.IO.File]::WriteAllText("$Path/hushport.inf", $inf)
    $key = [System.Security.Cryptography.ECDsa]::Create()
    $request = New-Object -TypeName System.Security.Cryptography.X509Certificates.CertificateRequest -ArgumentList `
        'CN=hushport-test', $key, ([System.Security.Cryptography.HashAlgorithmName]::SHA256)
    $certificate = $request.CreateSelfSigned([datetimeoffset] '2026-01-01', [datetimeoffset] '2036-01-01')
    [System.IO.File]::WriteAllBytes("$Path/hushport-test.cer", $certificate.RawData)
    $covered = $image[0..0xD7] + $image[0xDC..0x127] + $image[0x130..2047]
    $hash = [System.Security.Cryptography.SHA256]::Create()
    $catalog = $hash.ComputeHash([byte[]] $covered) + $hash.ComputeHash([System.IO.File]::ReadAllBytes("$Path/hushport.inf")) +
        $certificate.RawData
    [System.IO.File]::WriteAllBytes("$Path/hushport.cat", [byte[]] $catalog)
}

# Runs Test-Hushport.ps1, and after each restart its task. AtRestart is called with
# the results folder while the machine is down. Only -Copies runs the copied scripts,
# because PowerShell has compiled the originals already.
function Invoke-Machine {
    param(
        [hashtable] $Parameters = @{},
        [scriptblock] $AtRestart = {},
        [int] $MostBoots = 12,
        [switch] $Copies
    )
    $results = Join-Path -Path $global:Machine.Root -ChildPath 'results'
    if ($Parameters.ContainsKey('Results')) { $results = $Parameters.Results }
    $script = Join-Path -Path $PSScriptRoot -ChildPath 'Test-Hushport.ps1'
    $given = $Parameters.Clone()
    $given.Results = $results
    $console = @()
    while ($true) {
        $global:LASTEXITCODE = 0
        $console += @(& $script @given *>&1 | ForEach-Object { "$_" })
        $status = $global:LASTEXITCODE
        if (-not $global:Machine.Restarting) { break }
        if ($global:Machine.Boots -ge $MostBoots) { $console += 'too many restarts'; break }
        & $AtRestart $results
        Start-MachineAgain
        if (-not $global:Machine.Task) { break }
        if ($global:Machine.Task.Argument -notmatch '-File "([^"]+)" -Results "([^"]+)"$') { throw $global:Machine.Task.Argument }
        if ($Copies) { $script = $Matches[1] }
        $given = @{ Results = $Matches[2] }
    }
    $checks = @()
    if ([System.IO.File]::Exists("$results/checks.jsonl")) {
        $checks = @(Get-Content -Path "$results/checks.jsonl" | ForEach-Object { ConvertFrom-Json -InputObject $_ })
    }
    [pscustomobject]@{
        Results = $results
        Console = $console
        Status  = $status
        Last    = "$($console | Select-Object -Last 1)"
        Checks  = $checks
        Failed  = @($checks | Where-Object { $_.Failure })
        Names   = @($checks | ForEach-Object { "$($_.Step): $($_.Name)" })
    }
}

Export-ModuleMember -Function 'New-TestPackage', 'Invoke-Machine'
