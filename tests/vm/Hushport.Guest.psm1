# The machine's side of `cargo lab vm`: prepares a virtual machine, runs the plan, tells
# the other computer how far it is, and leaves the results on their disk.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'Files', 'Vm', 'Machine', 'Serial') {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath "Hushport.$module.psm1")
}

$script:TaskName = 'HushportMachine'
# What has been sent already. It survives restarts and crashes.
$script:RecordFile = 'watch.json'
$script:DescriptionFile = 'machine.json'
$script:Format = 'hushport-vm 1'
# The plan logs much at once. Only the last lines of each second are sent.
$script:MostLines = 10
# Files up to this size are copied during the plan, too, so that something is left of a
# machine that hangs.
$script:SmallFile = 4194304
$script:CopySeconds = 60

# The description that `cargo lab vm` put beside the scripts.
function Read-MachineDescription {
    param([Parameter(Mandatory)] [string] $Path)
    if (-not [System.IO.File]::Exists($Path)) { throw "there is no ${Path}: this medium is not from cargo lab vm" }
    $description = ConvertFrom-Record -Text (Read-Text -Path $Path)
    if ($null -eq $description -or "$(Get-PropertyValue -InputObject $description -Name 'format')" -ne $script:Format) {
        throw "$Path does not describe a machine: expected the format '$script:Format'"
    }
    $description
}

# A machine that sleeps answers nobody.
function Disable-Sleep {
    foreach ($name in 'standby-timeout-ac', 'hibernate-timeout-ac', 'monitor-timeout-ac') {
        $null = Invoke-Program -Path 'powercfg.exe' -Arguments @('/change', $name, '0')
    }
}

# The network has nobody who assigns addresses.
function Set-MachineAddress {
    param([Parameter(Mandatory)] $Description)
    $up = { @(Get-NetAdapter | Where-Object { "$($_.Status)" -eq 'Up' }).Count -gt 0 }
    if (-not (Wait-Condition -Seconds 120 -Milliseconds 1000 -Condition $up)) { throw 'no network adapter is up after two minutes' }
    $adapter = @(Get-NetAdapter | Where-Object { "$($_.Status)" -eq 'Up' })[0]
    $present = @(Get-NetIPAddress | ForEach-Object { "$($_.IPAddress)" })
    foreach ($entry in $Description.addresses) {
        if ($present -contains $entry.address) { continue }
        $null = New-NetIPAddress -InterfaceIndex $adapter.ifIndex -IPAddress $entry.address -PrefixLength $entry.prefix
    }
}

# Copies scripts and package to the local disk, and registers the task that watches the
# plan after each start of the machine.
function Install-Machine {
    param(
        [Parameter(Mandatory)] [string] $Medium,
        [Parameter(Mandatory)] [string] $Folder
    )
    foreach ($name in 'vm', 'package') {
        $from = Join-Path -Path $Medium -ChildPath $name
        $to = Join-Path -Path $Folder -ChildPath $name
        $null = [System.IO.Directory]::CreateDirectory($to)
        foreach ($file in [System.IO.Directory]::GetFiles($from)) {
            Copy-DurableFile -Path $file -Destination (Join-Path -Path $to -ChildPath ([System.IO.Path]::GetFileName($file)))
        }
    }
    Copy-DurableFile -Path (Join-Path -Path $Medium -ChildPath "vm/$script:DescriptionFile") `
        -Destination (Get-ResultPath -Name $script:DescriptionFile)
    # What an earlier run left on this disk is not of this one.
    Remove-Record -Name $script:RecordFile
    [System.IO.File]::Delete((Get-ResultPath -Name 'verdict.txt'))
    $watch = Join-Path -Path $Folder -ChildPath 'vm/Watch-TestMachine.ps1'
    $command = "-NoProfile -ExecutionPolicy Bypass -File `"$watch`""
    $action = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $command
    $trigger = New-ScheduledTaskTrigger -AtStartup
    $principal = New-ScheduledTaskPrincipal -UserId 'SYSTEM' -LogonType ServiceAccount -RunLevel Highest
    $settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
        -ExecutionTimeLimit ([timespan]::Zero)
    $null = Register-ScheduledTask -TaskName $script:TaskName -Action $action -Trigger $trigger `
        -Principal $principal -Settings $settings -Force
    Start-ScheduledTask -TaskName $script:TaskName
}

function Read-WatchRecord {
    $read = Read-Record -Name $script:RecordFile -Test {
        param($record)
        $record.ContainsKey('Since') -and $record.ContainsKey('Offset') -and $record.ContainsKey('Dumps') -and
            $record.ContainsKey('Started')
    }
    if ($null -ne $read.Value) {
        $record = $read.Value
        # ConvertFrom-Json of PowerShell 7 converts the text to a date.
        $record.Since = ([datetime] $record.Since).ToString('o')
        $record.Dumps = @($record.Dumps)
        return $record
    }
    # A record that is torn: what was sent is sent again, and a plan under way goes on.
    $underWay = @([System.IO.Directory]::GetFiles((Split-Path -Path (Get-ResultPath -Name 'x') -Parent), 'state.json*')).Count -gt 0
    @{ Since = (Get-Date).AddDays(-1).ToString('o'); Offset = 0; Dumps = @(); Started = $underWay }
}

# Sends what is new in log.txt: the last whole lines with a time, without it.
function Send-NewLog {
    param([Parameter(Mandatory)] [hashtable] $Record)
    $path = Get-ResultPath -Name 'log.txt'
    if (-not [System.IO.File]::Exists($path)) { return }
    $arguments = @($path, [System.IO.FileMode]::Open, [System.IO.FileAccess]::Read, [System.IO.FileShare]::ReadWrite)
    $stream = New-Object -TypeName System.IO.FileStream -ArgumentList $arguments
    try {
        # A log that became shorter is another one.
        if ($stream.Length -lt $Record.Offset) { $Record.Offset = 0 }
        $null = $stream.Seek($Record.Offset, [System.IO.SeekOrigin]::Begin)
        $bytes = New-Object -TypeName byte[] -ArgumentList ($stream.Length - $Record.Offset)
        $count = $stream.Read($bytes, 0, $bytes.Length)
    } finally {
        $stream.Dispose()
    }
    $text = [System.Text.Encoding]::UTF8.GetString($bytes, 0, $count)
    $end = $text.LastIndexOf("`n", [System.StringComparison]::Ordinal)
    if ($end -lt 0) { return }
    $whole = $text.Substring(0, $end + 1)
    $Record.Offset = [int64] $Record.Offset + [System.Text.Encoding]::UTF8.GetByteCount($whole)
    $lines = @($whole -split '\r?\n' | Where-Object { $_ -match '^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ' })
    foreach ($line in @($lines | Select-Object -Last $script:MostLines)) {
        Send-HostLine -Kind 'log' -Text $line.Substring(20)
    }
}

# Sends the names of dumps that are new.
function Send-NewDump {
    param([Parameter(Mandatory)] [hashtable] $Record)
    foreach ($dump in @(Get-CrashDump -Since ([datetime] $Record.Since))) {
        $name = "$($dump.Name) of $($dump.LastWriteTime.ToString('yyyy-MM-dd HH:mm:ss'))"
        if ($Record.Dumps -contains $name) { continue }
        $Record.Dumps = @($Record.Dumps) + $name
        Send-HostLine -Kind 'dump' -Text $name
    }
}

# The root of the disk for results. The disk may need a moment after the start.
function Get-ResultVolume {
    param([Parameter(Mandatory)] [string] $Label)
    for ($attempt = 1; $true; $attempt++) {
        try {
            $volume = @(Get-Volume -FileSystemLabel $Label)[0]
            $letter = "$($volume.DriveLetter)".Trim([char] 0)
            if ($letter) { return "${letter}:\" }
            return $volume.Path
        } catch {
            if ($attempt -ge 30) { throw "there is no disk with the label ${Label}: $($_.Exception.Message)" }
            Start-Sleep -Seconds 2
        }
    }
}

# Copies the results to their disk, the small files first: if the disk is full, the
# dumps are what is missing. Returns the files that are lost.
function Copy-Result {
    param(
        [Parameter(Mandatory)] [string] $Label,
        [int64] $Most = [int64]::MaxValue
    )
    $root = Get-ResultVolume -Label $Label
    $folder = Split-Path -Path (Get-ResultPath -Name 'x') -Parent
    $files = @(Get-ChildItem -Path $folder -File | Where-Object { $_.Length -le $Most } | Sort-Object -Property Length)
    foreach ($file in $files) {
        try {
            [System.IO.File]::Copy($file.FullName, (Join-Path -Path $root -ChildPath $file.Name), $true)
        } catch {
            "$($file.Name): $($_.Exception.Message)"
        }
    }
    try { Write-VolumeCache -FileSystemLabel $Label } catch { "the cache: $($_.Exception.Message)" }
}

# Begins the plan, in a process of its own.
function Start-TestPlan {
    param(
        [Parameter(Mandatory)] [string] $Folder,
        [Parameter(Mandatory)] $Description
    )
    $script = Join-Path -Path $Folder -ChildPath 'vm/Test-Hushport.ps1'
    $package = Join-Path -Path $Folder -ChildPath 'package'
    $arguments = @('-NoProfile', '-ExecutionPolicy', 'Bypass', '-File', "`"$script`"", '-Package', "`"$package`"",
        '-Cycles', "$($Description.cycles)")
    if (-not $Description.scan) { $arguments += '-NoScan' }
    if ($Description.signed) { $arguments += '-Signed' }
    Start-Process -FilePath 'powershell.exe' -ArgumentList $arguments -WindowStyle 'Hidden' -PassThru
}

# Whether the plan is over: there is a verdict, and no state. A plan that ended without
# either is over as well. Its process is known only until the first restart.
function Test-PlanOver {
    param($Process)
    $folder = Split-Path -Path (Get-ResultPath -Name 'x') -Parent
    if (@([System.IO.Directory]::GetFiles($folder, 'state.json*')).Count -gt 0) { return $false }
    if ([System.IO.File]::Exists((Get-ResultPath -Name 'verdict.txt'))) { return $true }
    $null -ne $Process -and $Process.HasExited
}

# Watches the plan to its end. Returns when the machine turns itself off.
function Invoke-Watch {
    param([Parameter(Mandatory)] [string] $Folder)
    $description = Read-MachineDescription -Path (Get-ResultPath -Name $script:DescriptionFile)
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    Send-HostLine -Kind 'boot' -Text "$(Get-PropertyValue -InputObject $system -Name 'Caption') build $($system.BuildNumber)"
    $record = Read-WatchRecord
    $process = $null
    if (-not $record.Started) {
        $record.Since = (Get-Date).ToString('o')
        $record.Started = $true
        Save-Record -Name $script:RecordFile -Record $record
        $process = Start-TestPlan -Folder $Folder -Description $description
    }
    Send-NewDump -Record $record
    Save-Record -Name $script:RecordFile -Record $record
    $copied = Get-Date
    while (-not (Test-PlanOver -Process $process)) {
        Start-Sleep -Seconds 1
        $before = $record.Offset
        Send-NewLog -Record $record
        if ($record.Offset -ne $before) { Save-Record -Name $script:RecordFile -Record $record }
        if (((Get-Date) - $copied).TotalSeconds -ge $script:CopySeconds) {
            # The last copy tells what is lost.
            try { $null = @(Copy-Result -Label $description.results -Most $script:SmallFile) } catch { Write-Verbose "$_" }
            $copied = Get-Date
        }
    }
    Send-NewLog -Record $record
    Complete-Watch -Description $description
}

# Sends the verdict, leaves the results, and turns the machine off.
function Complete-Watch {
    param([Parameter(Mandatory)] $Description)
    $file = Get-ResultPath -Name 'verdict.txt'
    if ([System.IO.File]::Exists($file)) {
        Send-HostLine -Kind 'verdict' -Text (Read-Text -Path $file)
    } else {
        Send-HostLine -Kind 'lost' -Text 'the plan ended without a verdict'
    }
    try {
        foreach ($lost in @(Copy-Result -Label $Description.results)) { Send-HostLine -Kind 'lost' -Text $lost }
    } catch {
        Send-HostLine -Kind 'lost' -Text "every result: $($_.Exception.Message)"
    }
    if (Get-ScheduledTask -TaskName $script:TaskName -ErrorAction SilentlyContinue) {
        Unregister-ScheduledTask -TaskName $script:TaskName -Confirm:$false
    }
    Send-HostLine -Kind 'end' -Text 'now'
    Stop-Computer -Force
}

Export-ModuleMember -Function @(
    'Read-MachineDescription', 'Disable-Sleep', 'Set-MachineAddress', 'Install-Machine', 'Invoke-Watch'
)
