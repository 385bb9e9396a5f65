# Lines for the computer that runs this virtual machine. Their form is described in
# tests/lab/src/vm/line.rs. On a machine that `cargo lab vm` did not make, nothing is
# sent.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')

# The description of the machine. Its presence says that somebody listens, and its value
# `port` where.
$script:DescriptionFile = 'machine.json'
# Two processes of this machine write. The port has one user at a time.
$script:Attempts = 50
$script:LongestText = 400

# The port to which lines are sent. Nothing if there is none.
function Get-HostPort {
    $file = Get-ResultPath -Name $script:DescriptionFile
    if (-not [System.IO.File]::Exists($file)) { return '' }
    try { "$((ConvertFrom-Record -Text (Read-Text -Path $file)).port)" } catch { '' }
}

# The CRC-32 of a text in UTF-8, as in zip files: 8 digits in lower case.
function Get-LineChecksum {
    param([Parameter(Mandatory)] [AllowEmptyString()] [string] $Text)
    $crc = [int64] 4294967295
    foreach ($byte in [System.Text.Encoding]::UTF8.GetBytes($Text)) {
        $crc = $crc -bxor $byte
        for ($bit = 0; $bit -lt 8; $bit++) {
            $odd = $crc -band 1
            $crc = $crc -shr 1
            if ($odd) { $crc = $crc -bxor 3988292384 }
        }
    }
    ($crc -bxor 4294967295).ToString('x8')
}

function Get-HostLine {
    param(
        [Parameter(Mandatory)] [string] $Kind,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    $body = "$Kind $(ConvertTo-Line -Text $Text -Longest $script:LongestText)"
    "HUSHPORT $body $(Get-LineChecksum -Text $body)"
}

# A port that is no serial port is a file, on a system without such ports.
function Write-HostPort {
    param(
        [Parameter(Mandatory)] [string] $Port,
        [Parameter(Mandatory)] [string] $Text
    )
    $bytes = [System.Text.Encoding]::UTF8.GetBytes($Text)
    if ($Port -notmatch '^COM\d+$') {
        $stream = New-Object -TypeName System.IO.FileStream -ArgumentList $Port, ([System.IO.FileMode]::Append)
        try { $stream.Write($bytes, 0, $bytes.Length) } finally { $stream.Dispose() }
        return
    }
    $serial = New-Object -TypeName System.IO.Ports.SerialPort -ArgumentList $Port, 115200
    try {
        $serial.WriteTimeout = 10000
        $serial.Open()
        $serial.Write($bytes, 0, $bytes.Length)
    } finally {
        $serial.Dispose()
    }
}

# Sends a line. A line that cannot be sent must not stop the plan.
function Send-HostLine {
    param(
        [Parameter(Mandatory)] [ValidateSet('setup', 'boot', 'step', 'log', 'restart', 'dump', 'lost', 'verdict', 'end')] [string] $Kind,
        [Parameter(Mandatory)] [AllowEmptyString()] [string] $Text
    )
    $port = Get-HostPort
    if (-not $port) { return }
    # It begins a new line, whatever was written to the port before.
    $line = "`r`n$(Get-HostLine -Kind $Kind -Text $Text)`r`n"
    for ($attempt = 1; $true; $attempt++) {
        try {
            Write-HostPort -Port $port -Text $line
            return
        } catch {
            if ($attempt -ge $script:Attempts) {
                Write-Log -Quiet -Text "not sent: $Kind $Text ($(ConvertTo-Line -Text $_.Exception.Message))"
                return
            }
            Start-Sleep -Milliseconds 100
        }
    }
}

Export-ModuleMember -Function 'Get-HostLine', 'Send-HostLine'
