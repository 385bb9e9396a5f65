# Files of the results folder. All text is UTF-8 without a byte order mark, also
# in Windows PowerShell 5.1. Files that the plan needs after a crash are written
# through to the disk.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$script:ResultFolder = ''
$script:Utf8 = New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false

function Set-ResultFolder {
    param([Parameter(Mandatory)] [string] $Path)
    $null = [System.IO.Directory]::CreateDirectory($Path)
    $script:ResultFolder = $Path
}

function Get-ResultPath {
    param([Parameter(Mandatory)] [string] $Name)
    Join-Path -Path $script:ResultFolder -ChildPath $Name
}

# Writes to the console and to log.txt; -Quiet writes to log.txt only. A log
# that cannot be written must not stop the plan.
function Write-Log {
    param(
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text,
        [switch] $Quiet
    )
    if (-not $Quiet) { Write-Host $Text }
    if (-not $script:ResultFolder) { return }
    $line = "$((Get-Date).ToString('yyyy-MM-dd HH:mm:ss')) $Text$([System.Environment]::NewLine)"
    try {
        [System.IO.File]::AppendAllText((Get-ResultPath -Name 'log.txt'), $line, $script:Utf8)
    } catch {
        Write-Verbose -Message "log.txt: $($_.Exception.Message)"
    }
}

# Text on one line: a failure must be readable in a list of failures.
function ConvertTo-Line {
    param(
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text,
        [int] $Longest = 300
    )
    $line = ($Text -replace '\s+', ' ').Trim()
    if ($line.Length -gt $Longest) { $line = $line.Substring(0, $Longest) + '...' }
    $line
}

function Write-ResultText {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    [System.IO.File]::WriteAllText((Get-ResultPath -Name $Name), $Text, $script:Utf8)
}

# Reads text in the encoding that its first bytes show: UTF-8 or UTF-16 with a
# mark, UTF-16 without one, UTF-8, or else the machine's ANSI code page.
function Read-Text {
    param([Parameter(Mandatory)] [string] $Path)
    $bytes = [System.IO.File]::ReadAllBytes($Path)
    if ($bytes.Length -ge 2) {
        $unicode = [System.Text.Encoding]::Unicode
        if ($bytes[0] -eq 0xFF -and $bytes[1] -eq 0xFE) { return $unicode.GetString($bytes, 2, $bytes.Length - 2) }
        if ($bytes[0] -eq 0x3C -and $bytes[1] -eq 0) { return $unicode.GetString($bytes) }
    }
    $strict = New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false, $true
    try {
        $text = $strict.GetString($bytes)
    } catch {
        $text = (Get-AnsiEncoding).GetString($bytes)
    }
    $text.TrimStart([char] 0xFEFF)
}

# .NET Framework's default encoding is the ANSI code page; .NET's is UTF-8.
function Get-AnsiEncoding {
    $default = [System.Text.Encoding]::Default
    if ($default.CodePage -ne 65001) { return $default }
    $page = [System.Globalization.CultureInfo]::CurrentCulture.TextInfo.ANSICodePage
    try { return [System.Text.CodePagesEncodingProvider]::Instance.GetEncoding($page) } catch { Write-Verbose "$_" }
    [System.Text.Encoding]::GetEncoding('iso-8859-1')
}

# Copies a text file into the results folder, as UTF-8.
function Copy-ResultText {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Name
    )
    Write-ResultText -Name $Name -Text (Read-Text -Path $Path)
}

# Opens a file whose writes go through every cache of Windows.
function Open-WriteThrough {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [System.IO.FileMode] $Mode
    )
    $arguments = @($Path, $Mode, [System.IO.FileAccess]::Write, [System.IO.FileShare]::Read, 4096,
        [System.IO.FileOptions]::WriteThrough)
    New-Object -TypeName System.IO.FileStream -ArgumentList $arguments
}

function Write-Through {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [System.IO.FileMode] $Mode,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    Write-ByteThrough -Path $Path -Mode $Mode -Bytes ($script:Utf8.GetBytes($Text))
}

function Write-ByteThrough {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [System.IO.FileMode] $Mode,
        [Parameter(Mandatory)] [AllowEmptyCollection()] [byte[]] $Bytes
    )
    $stream = Open-WriteThrough -Path $Path -Mode $Mode
    try {
        $stream.Write($Bytes, 0, $Bytes.Length)
        $stream.Flush($true)
    } finally {
        $stream.Dispose()
    }
}

# Copies a file so that a crash right afterwards does not tear the copy.
function Copy-DurableFile {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Destination
    )
    Write-ByteThrough -Path $Destination -Mode 'Create' -Bytes ([System.IO.File]::ReadAllBytes($Path))
}

# Replaces a file as a whole. A crash leaves the old text, the new text, or
# both under other names (NAME.new, NAME.old), for Read-Record to choose from.
function Write-DurableFile {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    $temporary = "$Path.new"
    Write-Through -Path $temporary -Mode 'Create' -Text $Text
    # A virus scanner may hold the file for a moment.
    for ($attempt = 1; $true; $attempt++) {
        try {
            if ([System.IO.File]::Exists($Path)) {
                [System.IO.File]::Replace($temporary, $Path, "$Path.old")
            } else {
                [System.IO.File]::Move($temporary, $Path)
            }
            return
        } catch {
            if ($attempt -ge 5) { throw }
            Start-Sleep -Milliseconds 200
        }
    }
}

function Add-DurableLine {
    param(
        [Parameter(Mandatory)] [string] $Path,
        [Parameter(Mandatory)] [string] $Text
    )
    Write-Through -Path $Path -Mode 'Append' -Text "$Text`n"
}

# An object of JSON text, or nothing if the text is torn. A zero-filled tail
# must be found here: some readers of JSON stop at the first NUL.
function ConvertFrom-Record {
    param([Parameter(Mandatory)] [AllowEmptyString()] [string] $Text)
    if (-not $Text.Trim() -or $Text.IndexOf([char] 0) -ge 0) { return $null }
    try { $value = ConvertFrom-Json -InputObject $Text } catch { return $null }
    if ($value -isnot [System.Management.Automation.PSCustomObject]) { return $null }
    $value
}

# Saves a table under a name. Sequence orders the copies; Complete is written
# last, so that a torn copy has none.
function Save-Record {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [hashtable] $Record
    )
    $sequence = 1
    if ($Record.ContainsKey('Sequence')) { $sequence = [int] $Record.Sequence + 1 }
    $Record.Sequence = $sequence
    $ordered = [ordered]@{}
    foreach ($key in @($Record.Keys | Where-Object { $_ -ne 'Complete' } | Sort-Object)) {
        $ordered[$key] = $Record[$key]
    }
    $ordered.Complete = $true
    Write-DurableFile -Path (Get-ResultPath -Name $Name) -Text (ConvertTo-Json -InputObject $ordered -Depth 6)
}

# The newest whole copy of a record. Lost is set if the file itself is torn or
# missing, or if there are copies and none is whole. Test tells whether a whole
# copy is plausible.
function Read-Record {
    param(
        [Parameter(Mandatory)] [string] $Name,
        [Parameter(Mandatory)] [scriptblock] $Test
    )
    $result = @{ Found = $false; Lost = $false; Value = $null }
    $path = Get-ResultPath -Name $Name
    foreach ($copy in $path, "$path.new", "$path.old") {
        if (-not [System.IO.File]::Exists($copy)) { continue }
        $result.Found = $true
        $record = Read-RecordCopy -Path $copy
        if ($null -ne $record -and -not (& $Test $record)) { $record = $null }
        if ($null -eq $record) {
            if ($copy -eq $path) { $result.Lost = $true }
        } elseif ($null -eq $result.Value -or $record.Sequence -gt $result.Value.Sequence) {
            $result.Value = $record
        }
    }
    if ($result.Found -and $null -eq $result.Value) { $result.Lost = $true }
    # A crash before the rename leaves the new copy under NAME.new.
    if ($result.Found -and -not [System.IO.File]::Exists($path) -and -not [System.IO.File]::Exists("$path.new")) {
        $result.Lost = $true
    }
    $result
}

function Read-RecordCopy {
    param([Parameter(Mandatory)] [string] $Path)
    try { $text = Read-Text -Path $Path } catch { return $null }
    $object = ConvertFrom-Record -Text $text
    if ($null -eq $object) { return $null }
    $record = @{}
    foreach ($property in $object.PSObject.Properties) { $record[$property.Name] = $property.Value }
    if (-not ($record.ContainsKey('Complete') -and $record.ContainsKey('Sequence'))) { return $null }
    $record
}

function Remove-Record {
    param([Parameter(Mandatory)] [string] $Name)
    $path = Get-ResultPath -Name $Name
    foreach ($copy in $path, "$path.new", "$path.old") { [System.IO.File]::Delete($copy) }
}

Export-ModuleMember -Function @(
    'Set-ResultFolder', 'Get-ResultPath', 'Write-Log', 'ConvertTo-Line', 'Write-ResultText', 'Read-Text',
    'Copy-ResultText', 'Copy-DurableFile', 'Write-DurableFile', 'Add-DurableLine', 'ConvertFrom-Record', 'Save-Record',
    'Read-Record', 'Remove-Record'
)
