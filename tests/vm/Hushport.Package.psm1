# Checks a driver package before anything is changed on the machine.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')

# The faults of the package in a folder, one text each. Nothing if it is whole. One that
# is signed for every machine brings no certificate.
function Get-PackageFault {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [switch] $Signed
    )
    if (-not [System.IO.Directory]::Exists($Path)) { return "there is no folder $Path" }
    $missing = @('hushport.sys', 'hushport.inf', 'hushport.cat' | Where-Object {
            $file = Join-Path -Path $Path -ChildPath $_
            -not [System.IO.File]::Exists($file) -or (New-Object System.IO.FileInfo $file).Length -eq 0
        })
    if (-not $Signed -and -not (Get-PackageCertificate -Path $Path)) { $missing += 'hushport-test.cer' }
    if ($missing.Count -gt 0) { return "missing or empty in ${Path}: $($missing -join ', ')" }
    $examinations = @('Get-InfFault', 'Get-DriverFault', 'Get-CatalogFault')
    if (-not $Signed) { $examinations += 'Get-CertificateFault' }
    foreach ($examine in $examinations) {
        try { & $examine -Path $Path } catch { "$(ConvertTo-Line -Text $_.Exception.Message)" }
    }
}

# The file of the certificate: hushport-test.cer, else the only .cer.
function Get-PackageCertificate {
    param([Parameter(Mandatory)] [string] $Path)
    $file = Join-Path -Path $Path -ChildPath 'hushport-test.cer'
    if ([System.IO.File]::Exists($file)) { return $file }
    $others = @([System.IO.Directory]::GetFiles($Path, '*.cer'))
    if ($others.Count -eq 1) { return $others[0] }
    ''
}

function Read-PackageBytes {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    , [System.IO.File]::ReadAllBytes((Join-Path -Path $Path -ChildPath $Name))
}

# amd64 or arm64, from the INF's DefaultInstall section.
function Get-PackageArchitecture {
    param([Parameter(Mandatory)] [string] $Path)
    $text = Read-Text -Path (Join-Path -Path $Path -ChildPath 'hushport.inf')
    if ($text -match '(?im)^\[DefaultInstall\.NT(amd64|arm64)\]') { return $Matches[1].ToLowerInvariant() }
    ''
}

# An INF that is not stamped has no version and no processor.
function Get-InfFault {
    param([Parameter(Mandatory)] [string] $Path)
    $text = Read-Text -Path (Join-Path -Path $Path -ChildPath 'hushport.inf')
    if ($text -notmatch '(?im)^\s*DriverVer\s*=\s*\d{1,2}/\d{1,2}/\d{4}\s*,\s*\d+\.\d+\.\d+\.\d+') {
        'hushport.inf is not stamped: DriverVer has no date and version'
    }
    if (-not (Get-PackageArchitecture -Path $Path)) {
        'hushport.inf is not stamped: it has no section DefaultInstall.NTamd64 or DefaultInstall.NTarm64'
    }
}

function Get-DriverFault {
    param([Parameter(Mandatory)] [string] $Path)
    $bytes = Read-PackageBytes -Path $Path -Name 'hushport.sys'
    if ($bytes.Length -lt 1024 -or $bytes[0] -ne 0x4D -or $bytes[1] -ne 0x5A) {
        return 'hushport.sys is not a Windows program'
    }
    $machine = [System.BitConverter]::ToUInt16($bytes, [System.BitConverter]::ToInt32($bytes, 0x3C) + 4)
    $driver = @{ 0x8664 = 'amd64'; 0xAA64 = 'arm64' }[[int] $machine]
    $inf = Get-PackageArchitecture -Path $Path
    if ($inf -and $driver -ne $inf) { return "hushport.sys is not for $inf, as hushport.inf says" }
    $own = Get-MachineArchitecture
    if ($driver -and $own -and $driver -ne $own) { "hushport.sys is for $driver, and this machine is $own" }
}

# amd64 or arm64. In a 32-bit PowerShell, the second variable has the machine's.
function Get-MachineArchitecture {
    $name = $env:PROCESSOR_ARCHITECTURE
    if ($env:PROCESSOR_ARCHITEW6432) { $name = $env:PROCESSOR_ARCHITEW6432 }
    if (-not $name) { return '' }
    $name.ToLowerInvariant()
}

# The catalog lists files by digest: of all bytes of an INF, and of a driver image
# without checksum and signature.
function Get-CatalogFault {
    param([Parameter(Mandatory)] [string] $Path)
    $catalog = [System.BitConverter]::ToString((Read-PackageBytes -Path $Path -Name 'hushport.cat'))
    $inf = Read-PackageBytes -Path $Path -Name 'hushport.inf'
    $image = Get-SignedImage -Bytes (Read-PackageBytes -Path $Path -Name 'hushport.sys')
    if (-not (Test-CatalogEntry -Catalog $catalog -Bytes $inf)) {
        'hushport.cat does not cover hushport.inf: the INF was changed after the catalog was made'
    }
    if (-not (Test-CatalogEntry -Catalog $catalog -Bytes $image)) {
        'hushport.cat does not cover hushport.sys: the driver was changed after the catalog was made'
    }
}

function Test-CatalogEntry {
    param(
        [Parameter(Mandatory)] [string] $Catalog,
        [Parameter(Mandatory)] [byte[]] $Bytes
    )
    foreach ($hash in [System.Security.Cryptography.SHA256]::Create(), [System.Security.Cryptography.SHA1]::Create()) {
        $digest = [System.BitConverter]::ToString($hash.ComputeHash($Bytes))
        if ($Catalog.Contains($digest)) { return $true }
    }
    $false
}

# The bytes of an image that its Authenticode digest covers.
function Get-SignedImage {
    param([Parameter(Mandatory)] [byte[]] $Bytes)
    $header = [System.BitConverter]::ToInt32($Bytes, 0x3C)
    $checksum = $header + 0x58
    # The entry of the certificate table, in the optional header of 64-bit images.
    $entry = $header + 0xA8
    $end = [int] [System.BitConverter]::ToUInt32($Bytes, $entry)
    if ($end -eq 0) { $end = $Bytes.Length }
    $covered = New-Object -TypeName System.IO.MemoryStream
    $covered.Write($Bytes, 0, $checksum)
    $covered.Write($Bytes, $checksum + 4, $entry - $checksum - 4)
    $covered.Write($Bytes, $entry + 8, $end - $entry - 8)
    , $covered.ToArray()
}

function Get-CertificateFault {
    param([Parameter(Mandatory)] [string] $Path)
    $file = Get-PackageCertificate -Path $Path
    $name = [System.IO.Path]::GetFileName($file)
    try {
        $certificate = Read-Certificate -File $file
    } catch {
        return "$name is not a certificate"
    }
    if ($certificate.NotAfter -lt (Get-Date)) { return "$name has expired on $($certificate.NotAfter.ToString('yyyy-MM-dd'))" }
    $catalog = [System.BitConverter]::ToString((Read-PackageBytes -Path $Path -Name 'hushport.cat'))
    if (-not $catalog.Contains([System.BitConverter]::ToString($certificate.RawData))) {
        "hushport.cat is not signed with $name"
    }
}

function Read-Certificate {
    param([Parameter(Mandatory)] [string] $File)
    $type = 'System.Security.Cryptography.X509Certificates.X509Certificate2'
    New-Object -TypeName $type -ArgumentList (, [System.IO.File]::ReadAllBytes($File))
}

Export-ModuleMember -Function @(
    'Get-PackageFault', 'Get-PackageCertificate', 'Get-PackageArchitecture', 'Read-Certificate'
)
