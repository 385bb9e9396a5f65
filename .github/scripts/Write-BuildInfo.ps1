# Writes BUILDINFO.json of a build with the WDK: versions and hashes of what it depends on.
# The format is that of cargo lab package (docs/BUILD.md).
param(
    [string] $Target = 'x86_64-pc-windows-msvc',
    [string] $Package = 'target/x86_64-pc-windows-msvc/release/hushport_package'
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# An input: its version, and the hashes of its files.
function Get-BuildInput {
    param([string] $Version, [string[]] $Path)
    $hashes = [ordered] @{}
    foreach ($file in $Path) {
        $hash = Get-FileHash -Path $file -Algorithm SHA256
        $hashes[(Split-Path -Path $file -Leaf)] = $hash.Hash.ToLowerInvariant()
    }
    [ordered] @{ version = $Version; sha256 = $hashes }
}

# The newest program of a name below a folder.
function Find-BuildTool {
    param([string] $Folder, [string] $Name)
    $found = Get-ChildItem -Path $Folder -Filter $Name -Recurse -File | Sort-Object -Property FullName
    $found | Select-Object -Last 1 -ExpandProperty FullName
}

$sysroot = (rustc --print sysroot).Trim()
$libraries = Join-Path -Path $sysroot -ChildPath "lib/rustlib/$Target/lib"
$kits = Join-Path -Path ${env:ProgramFiles(x86)} -ChildPath 'Windows Kits/10'
$visualStudio = Join-Path -Path $env:ProgramFiles -ChildPath 'Microsoft Visual Studio'
$linker = Find-BuildTool -Folder $visualStudio -Name 'link.exe'
$resources = Find-BuildTool -Folder (Join-Path -Path $kits -ChildPath 'bin') -Name 'rc.exe'
$libclang = Join-Path -Path $env:LIBCLANG_PATH -ChildPath 'libclang.dll'
$headers = Get-ChildItem -Path (Join-Path -Path $kits -ChildPath 'Include') -Filter 'fwpsk.h' -Recurse -File
$compiler = Get-ChildItem -Path (Join-Path -Path $sysroot -ChildPath 'bin') -Filter 'rustc*' -File
$core = Get-ChildItem -Path $libraries -Filter 'libco*.rlib' -File
$built = Get-ChildItem -Path $Package -Include 'hushport.sys', 'hushport.pdb', 'hushport.inf' -Recurse -File

$outputs = [ordered] @{}
foreach ($file in $built) {
    $outputs[$file.Name] = (Get-FileHash -Path $file.FullName -Algorithm SHA256).Hash.ToLowerInvariant()
}
$record = [ordered] @{
    format = 1
    target = $Target
    inputs = [ordered] @{
        'source' = Get-BuildInput -Version (git rev-parse HEAD)
        'Cargo.lock' = Get-BuildInput -Version 'the versions of all crates' -Path 'Cargo.lock'
        'compiler' = Get-BuildInput -Version ((rustc -vV) -join '; ') -Path $compiler.FullName
        'library' = Get-BuildInput -Version 'distributed with the compiler' -Path $core.FullName
        'linker' = Get-BuildInput -Version (Get-Item -Path $linker).VersionInfo.FileVersion -Path $linker
        'libclang' = Get-BuildInput -Version (Get-Item -Path $libclang).VersionInfo.FileVersion -Path $libclang
        'resource compiler' = Get-BuildInput -Version (Get-Item -Path $resources).VersionInfo.FileVersion -Path $resources
        'WDK' = Get-BuildInput -Version ($headers.Directory.Parent.Name -join '; ') -Path $headers[-1].FullName
    }
    # The .sys carries a test signature.
    outputs = $outputs
}
$record | ConvertTo-Json -Depth 5 | Set-Content -Path (Join-Path -Path $Package -ChildPath 'BUILDINFO.json')
