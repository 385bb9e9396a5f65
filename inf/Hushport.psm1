#Requires -Version 5.1
<#
Commands for the driver hushport: its policy, its state, its events and the scans that it
has found. For Windows PowerShell 5.1 and PowerShell 7. Import-Module .\Hushport.psm1
#>
Set-StrictMode -Version Latest

$script:Service = 'hushport'
$script:ServiceKey = 'HKLM:\SYSTEM\CurrentControlSet\Services\hushport'
$script:PolicyKey = 'HKLM:\SOFTWARE\Policies\hushport'

# What the driver reads, in its order. A test compares the table with the driver's own.
$script:Values = @(
    @{ Name = 'Mode'; Kind = 'Number'; Default = 2; Least = 0; Most = 2 }
    @{ Name = 'SilenceTcp'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'SilenceUdp'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'SilenceProtocols'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'SilenceEcho'; Kind = 'Number'; Default = 0; Least = 0; Most = 1 }
    @{ Name = 'ExemptLoopback'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'ExemptIpsec'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'ExemptCompartments'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'ExemptPorts'; Kind = 'List'; Default = @(); Most = 1024 }
    @{ Name = 'ExemptPrefixes'; Kind = 'List'; Default = @(); Most = 1024 }
    @{ Name = 'ExemptInterfaces'; Kind = 'List'; Default = @(); Most = 64 }
    @{ Name = 'ExemptProfiles'; Kind = 'List'; Default = @(); Most = 3 }
    @{ Name = 'AnswerExempt'; Kind = 'Number'; Default = 0; Least = 0; Most = 1 }
    @{ Name = 'Observe'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'SublayerWeight'; Kind = 'Number'; Default = 28672; Least = 0; Most = 65535 }
    @{ Name = 'Trace'; Kind = 'Number'; Default = 1; Least = 0; Most = 2 }
    @{ Name = 'EventLog'; Kind = 'Number'; Default = 1; Least = 0; Most = 1 }
    @{ Name = 'CheckOrder'; Kind = 'Number'; Default = 0; Least = 0; Most = 1 }
    @{ Name = 'FlowLimit'; Kind = 'Number'; Default = 65536; Least = 0; Most = 1048576 }
    @{ Name = 'ScanPorts'; Kind = 'Number'; Default = 16; Least = 1; Most = 65536 }
    @{ Name = 'ScanWindowMs'; Kind = 'Number'; Default = 10000; Least = 1; Most = 3600000 }
    @{ Name = 'DynamicPortStart'; Kind = 'Number'; Default = 49152; Least = 1; Most = 65536 }
)
# The end of the table.

# The longest entry of a list.
$script:LongestEntry = 64
# Names of interface types, and the largest type (ipifcons.h).
$script:InterfaceTypes = @{ tunnel = 131; ppp = 23 }
$script:LargestInterfaceType = 281
# Profiles of networks.
$script:Profiles = @('domain', 'private', 'public')
# White space around an entry, and around its parts.
$script:White = " `t`n`r`f".ToCharArray()

# What each reason of the driver means.
$script:Reasons = @{
    WrongType       = 'a number is a REG_DWORD, a list is a REG_MULTI_SZ'
    OutOfRange      = 'the number is outside the limits'
    TooManyEntries  = 'the list has too many entries'
    EntryTooLong    = "the entry has more than $script:LongestEntry characters"
    BadCharacter    = 'the entry has a character that no entry may have'
    BadPort         = 'the port is not a number from 0 to 65535'
    ReversedRange   = 'the range ends before it begins'
    BadProtocol     = 'the protocol is neither tcp nor udp'
    BadPrefix       = 'the text is not an IPv4 or IPv6 address'
    BadPrefixLength = 'the prefix length is not a number, or longer than the address'
    HostBits        = 'the address has bits after the prefix length'
    BadLuid         = 'the entry is neither an interface LUID nor a type of interfaces'
    NeverRemote     = 'no packet can come from the prefix'
    BadProfile      = 'the profile is neither domain nor private nor public'
}

function Find-Value {
    param([Parameter(Mandatory)] [string] $Name)
    foreach ($value in $script:Values) { if ($value.Name -eq $Name) { return $value } }
    $names = ($script:Values | ForEach-Object { $_.Name }) -join ', '
    throw "hushport has no value '$Name'. It has: $names"
}

# A decimal or hexadecimal number without sign, or $null. Not larger than 64 bits.
function ConvertTo-Number {
    param([AllowEmptyString()] [string] $Text, [int] $Radix = 10)
    $digits = if ($Radix -eq 16) { '^[0-9a-fA-F]+$' } else { '^[0-9]+$' }
    $Text = $Text.Trim($script:White)
    if ($Text -cnotmatch $digits) { return $null }
    $number = [System.Numerics.BigInteger]::Zero
    foreach ($letter in $Text.ToCharArray()) { $number = $number * $Radix + [Convert]::ToInt32("$letter", 16) }
    if ($number -gt [uint64]::MaxValue) { return $null }
    [uint64] $number
}

# The reason why an entry of ExemptPorts is refused, or an empty text.
function Test-Port {
    param([AllowEmptyString()] [string] $Text)
    $range = $Text
    if ($Text.Contains('/')) {
        $range, $protocol = $Text -split '/', 2
        if (@('tcp', 'udp') -notcontains $protocol.Trim($script:White)) { return 'BadProtocol' }
    }
    $first, $last = $range -split '-', 2
    if ($null -eq $last) { $last = $first }
    $first = ConvertTo-Number -Text $first
    $last = ConvertTo-Number -Text $last
    foreach ($port in $first, $last) { if ($null -eq $port -or $port -gt 65535) { return 'BadPort' } }
    if ($first -gt $last) { 'ReversedRange' } else { '' }
}

# The bytes of an address as the driver reads it, or $null: decimal octets without leading
# zeros, no zone, and every group of IPv6 with at most four digits.
function ConvertTo-AddressByte {
    param([AllowEmptyString()] [string] $Text)
    $octet = '(?:0|[1-9][0-9]{0,2})'
    $v4 = "$octet\.$octet\.$octet\.$octet"
    $is4 = $Text -cmatch "^$v4$"
    $is6 = $Text -cmatch "^[0-9a-fA-F:]*(?:$v4)?$" -and $Text.Contains(':') -and $Text -notmatch '[0-9a-fA-F]{5}'
    if (-not $is4 -and -not $is6) { return $null }
    $address = $null
    if (-not [System.Net.IPAddress]::TryParse($Text, [ref] $address)) { return $null }
    # Both families have their own syntax: .NET must not read one as the other.
    $length = if ($is4) { 4 } else { 16 }
    $bytes = $address.GetAddressBytes()
    if ($bytes.Length -ne $length) { return $null }
    if ($is6 -and -not (Test-GapSyntax -Text $Text)) { return $null }
    , $bytes
}

# Whether "::" occurs at most once and stands for at least one group.
function Test-GapSyntax {
    param([string] $Text)
    if ($Text.Contains(':::')) { return $false }
    $halves = @($Text -split '::')
    if ($halves.Count -gt 2) { return $false }
    $groups = 0
    foreach ($group in ($Text -split ':')) {
        if ($group -eq '') { continue }
        $groups += if ($group.Contains('.')) { 2 } else { 1 }
    }
    if ($halves.Count -eq 2) { return $groups -lt 8 -and $halves[0] -notmatch '\.' }
    $groups -eq 8
}

function Test-Prefix {
    param([AllowEmptyString()] [string] $Text)
    $address, $length = $Text -split '/', 2
    if ($null -ne $length) {
        $length = ConvertTo-Number -Text $length
        if ($null -eq $length) { return 'BadPrefixLength' }
    }
    $bytes = ConvertTo-AddressByte -Text $address.Trim($script:White)
    if ($null -eq $bytes) { return 'BadPrefix' }
    $bits = 8 * $bytes.Length
    if ($null -eq $length) { $length = $bits }
    if ($length -gt $bits) { return 'BadPrefixLength' }
    $length = [int] $length
    $first = [byte[]] $bytes.Clone()
    $last = [byte[]] $bytes.Clone()
    for ($bit = $length; $bit -lt $bits; $bit++) {
        $mask = 0x80 -shr ($bit % 8)
        $place = [math]::Floor($bit / 8)
        if ($first[$place] -band $mask) { return 'HostBits' }
        $last[$place] = $last[$place] -bor $mask
    }
    if (Test-NeverRemote -First $first -Last $last) { 'NeverRemote' } else { '' }
}

# Whether no packet can come from a range: unspecified, multicast, broadcast, or
# IPv4-compatible except ::1.
function Test-NeverRemote {
    param([byte[]] $First, [byte[]] $Last)
    $isZero = { param($bytes) @($bytes | Where-Object { $_ -ne 0 }).Count -eq 0 }
    if ($First.Length -eq 16) {
        $isMapped = {
            param($bytes)
            (& $isZero $bytes[0..9]) -and $bytes[10] -eq 0xff -and $bytes[11] -eq 0xff
        }
        if ((& $isMapped $First) -and (& $isMapped $Last)) {
            return Test-NeverRemote -First $First[12..15] -Last $Last[12..15]
        }
        if ($First[0] -eq 0xff) { return $true }
        if (-not (& $isZero $Last[0..11])) { return $false }
        $isLow = (& $isZero $First[0..14]) -and $First[15] -le 1
        $reachesOne = -not (& $isZero $Last)
        return -not ($isLow -and $reachesOne)
    }
    if ($Last[0] -eq 0) { return $true }
    if ($First[0] -ge 224 -and $First[0] -le 239 -and $Last[0] -ge 224 -and $Last[0] -le 239) { return $true }
    @($First | Where-Object { $_ -ne 255 }).Count -eq 0
}

function Test-Interface {
    param([AllowEmptyString()] [string] $Text)
    if ($script:InterfaceTypes.ContainsKey($Text.ToLowerInvariant())) { return '' }
    $number = if ($Text -match '^0x') { ConvertTo-Number -Text $Text.Substring(2) -Radix 16 } else { ConvertTo-Number -Text $Text }
    if ($null -eq $number) { return 'BadLuid' }
    if ($number -ge 1 -and $number -le $script:LargestInterfaceType) { return '' }
    # NET_LUID (ifdef.h): the type is in the upper 16 bits, the lower 24 are reserved.
    if ($number -shr 48 -ne 0 -and ($number -band 0xffffff) -eq 0) { return '' }
    'BadLuid'
}

# Says whether the driver takes a value: an empty text, or the reason and the entry.
function Test-HushportValue {
    param([Parameter(Mandatory)] [string] $Name, [AllowNull()] [AllowEmptyCollection()] [object] $Data)
    $value = Find-Value -Name $Name
    $refused = { param($reason, $entry) [pscustomobject] @{ Name = $value.Name; Reason = $reason; Entry = $entry } }
    if ($value.Kind -eq 'Number') {
        $number = $Data -as [decimal]
        if ($null -eq $number -or $Data -is [array] -or $number -ne [math]::Floor($number)) { return & $refused 'WrongType' 0 }
        if ($number -lt $value.Least -or $number -gt $value.Most) { return & $refused 'OutOfRange' 0 }
        return
    }
    $entry = 0
    foreach ($text in @($Data)) {
        if ($null -eq $text) { continue }
        $entry++
        $text = "$text"
        if ($text -eq '') { return & $refused 'BadCharacter' $entry }
        # In the driver's order: it reads the characters first, then counts, then parses.
        foreach ($letter in $text.Substring(0, [math]::Min($text.Length, $script:LongestEntry + 1)).ToCharArray()) {
            if ([int] $letter -gt 127 -or [int] $letter -eq 0) { return & $refused 'BadCharacter' $entry }
        }
        if ($text.Length -gt $script:LongestEntry) { return & $refused 'EntryTooLong' $entry }
        if ($entry -gt $value.Most) { return & $refused 'TooManyEntries' 0 }
        $text = $text.Trim($script:White)
        $reason = switch ($value.Name) {
            'ExemptPorts' { Test-Port -Text $text }
            'ExemptPrefixes' { Test-Prefix -Text $text }
            'ExemptInterfaces' { Test-Interface -Text $text }
            'ExemptProfiles' { if ($script:Profiles -contains $text) { '' } else { 'BadProfile' } }
        }
        if ($reason) { return & $refused $reason $entry }
    }
}

function Get-KeyProperty {
    param([Parameter(Mandatory)] [string] $Path)
    if (-not (Test-Path -Path $Path)) { return $null }
    Get-ItemProperty -Path $Path
}

<#
.SYNOPSIS
Shows the values of hushport's policy, where each is from, and its default.
.DESCRIPTION
A value of Group Policy (HKLM\SOFTWARE\Policies\hushport) overrides the service's own
value. A value that is nowhere has its default. The column Refused says why the driver
would refuse a value. If it refuses any, the whole policy from before stays in force.
.PARAMETER Name
Only these values.
.EXAMPLE
Get-HushportPolicy
.EXAMPLE
Get-HushportPolicy | Where-Object Source -eq 'GroupPolicy'
#>
function Get-HushportPolicy {
    [CmdletBinding()]
    [OutputType('Hushport.PolicyValue')]
    param([Parameter(Position = 0)] [string[]] $Name)
    $wanted = if ($Name) { $Name | ForEach-Object { Find-Value -Name $_ } } else { $script:Values }
    $keys = [ordered] @{
        GroupPolicy = Get-KeyProperty -Path $script:PolicyKey
        Registry    = Get-KeyProperty -Path "$script:ServiceKey\Parameters"
    }
    foreach ($value in $wanted) {
        $data, $source = $value.Default, 'Default'
        foreach ($key in $keys.Keys) {
            $properties = $keys[$key]
            if ($null -ne $properties -and $properties.PSObject.Properties[$value.Name]) {
                $data, $source = $properties.PSObject.Properties[$value.Name].Value, $key
                break
            }
        }
        # A REG_DWORD comes as a signed number.
        if ($data -is [int] -and $data -lt 0) { $data = [uint32] ([int64] $data + 0x100000000) }
        $refused = Test-HushportValue -Name $value.Name -Data $data
        [pscustomobject] @{
            PSTypeName = 'Hushport.PolicyValue'
            Name       = $value.Name
            Value      = $data
            Source     = $source
            Default    = $value.Default
            Refused    = if ($refused) { $refused.Reason } else { '' }
        }
    }
}

<#
.SYNOPSIS
Sets a value of hushport's policy, after a check by the driver's rules.
.DESCRIPTION
Writes the service's own value. The driver reads it within two seconds; FlowLimit and
SublayerWeight hold from the next start. A value of Group Policy overrides it: then the
command warns. A value that the driver would refuse is not written.
.PARAMETER Name
The name of the value.
.PARAMETER Value
A number, or the entries of a list. An empty list is @().
.EXAMPLE
Set-HushportPolicy -Name Mode -Value 1
.EXAMPLE
Set-HushportPolicy ExemptPorts 113, '8000-8100', '53/udp' -WhatIf
#>
function Set-HushportPolicy {
    [CmdletBinding(SupportsShouldProcess)]
    param(
        [Parameter(Mandatory, Position = 0)] [string] $Name,
        [Parameter(Mandatory, Position = 1)] [AllowEmptyCollection()] [object] $Value
    )
    $known = Find-Value -Name $Name
    $refused = Test-HushportValue -Name $known.Name -Data $Value
    if ($refused) {
        $where = if ($refused.Entry) { ", entry $($refused.Entry)" } else { '' }
        $limits = if ($known.Kind -eq 'Number') { "$($known.Least) to $($known.Most)" } else { "at most $($known.Most) entries" }
        throw "$($known.Name)$where is refused ($($refused.Reason)): $($script:Reasons[$refused.Reason]). Allowed: $limits."
    }
    if (-not (Test-Path -Path $script:ServiceKey)) {
        throw "The service hushport is not installed: there is no $script:ServiceKey"
    }
    $policies = Get-KeyProperty -Path $script:PolicyKey
    if ($null -ne $policies -and $policies.PSObject.Properties[$known.Name]) {
        Write-Warning -Message "Group Policy sets $($known.Name) and overrides this value."
    }
    $path = "$script:ServiceKey\Parameters"
    $text = if ($known.Kind -eq 'Number') { "$Value" } else { @($Value) -join ', ' }
    if (-not $PSCmdlet.ShouldProcess("$path\$($known.Name)", "Set to $text")) { return }
    if (-not (Test-Path -Path $path)) { $null = New-Item -Path $path }
    if ($known.Kind -eq 'Number') {
        $null = New-ItemProperty -Path $path -Name $known.Name -Value ([uint32] $Value) -PropertyType DWord -Force
    } else {
        $null = New-ItemProperty -Path $path -Name $known.Name -Value ([string[]] @($Value)) -PropertyType MultiString -Force
    }
}

# The filters of hushport in the filter engine, or $null if this cannot be asked.
function Measure-Filter {
    $file = [System.IO.Path]::GetTempFileName()
    try {
        $null = & netsh.exe wfp show filters "file=$file" 2>&1
        if ($LASTEXITCODE -ne 0) { return $null }
        $document = New-Object -TypeName System.Xml.XmlDocument
        $document.Load($file)
        $names = $document.SelectNodes('//filters/item/displayData/name')
        @($names | Where-Object { $_.InnerText -like 'hushport *' }).Count
    } catch {
        $null
    } finally {
        Remove-Item -Path $file -ErrorAction SilentlyContinue
    }
}

<#
.SYNOPSIS
Says whether hushport runs and protects, and if not, why not.
.DESCRIPTION
Filters is the number of its filters in the filter engine, from "netsh wfp show filters",
which needs an elevated shell. It is empty if that fails. Protected is $true if the
service runs, the mode is 2, and the engine has filters of it.
.EXAMPLE
Get-HushportState
#>
function Get-HushportState {
    [CmdletBinding()]
    [OutputType('Hushport.State')]
    param()
    $service = Get-Service -Name $script:Service -ErrorAction SilentlyContinue
    $status = if ($service) { "$($service.Status)" } else { 'NotInstalled' }
    $version = ''
    $properties = Get-KeyProperty -Path $script:ServiceKey
    if ($null -ne $properties -and $properties.PSObject.Properties['ImagePath']) {
        $path = "$($properties.ImagePath)" -replace '^\\SystemRoot', $env:SystemRoot -replace '^\\\?\?\\', ''
        if (Test-Path -Path $path) { $version = (Get-Item -Path $path).VersionInfo.FileVersion }
    }
    $mode = Get-HushportPolicy -Name Mode
    $filters = if ($status -eq 'Running') { Measure-Filter } else { 0 }
    $why = if ($status -ne 'Running') {
        "the service is $status"
    } elseif ($mode.Refused) {
        "the value Mode is refused ($($mode.Refused))"
    } elseif ($mode.Value -ne 2) {
        "the mode is $($mode.Value), not 2"
    } elseif ($null -eq $filters) {
        'the filter engine cannot be asked: run in an elevated shell'
    } elseif ($filters -eq 0) {
        'the filter engine has no filters of hushport: see the System event log'
    } else {
        ''
    }
    [pscustomobject] @{
        PSTypeName = 'Hushport.State'
        Service    = $status
        Version    = $version
        Mode       = $mode.Value
        Filters    = $filters
        Protected  = $why -eq ''
        WhyNot     = $why
    }
}

# An entry of the System event log as an object.
function ConvertTo-Entry {
    param([Parameter(Mandatory)] [object] $Record)
    # The first string is the name of the device; the driver's own follow.
    $strings = @($Record.Properties | Select-Object -Skip 1 | ForEach-Object { "$($_.Value)" })
    [pscustomobject] @{
        PSTypeName = 'Hushport.Event'
        Time       = $Record.TimeCreated
        Id         = $Record.Id
        Level      = $Record.LevelDisplayName
        Message    = $Record.Message
        Strings    = $strings
    }
}

# Entries of the log, oldest first. No entry is no error.
function Read-Entry {
    param([int[]] $Id = @(), [datetime] $After = [datetime]::MinValue, [int] $Most = 0)
    $filter = @{ LogName = 'System'; ProviderName = $script:Service }
    if ($Id.Count -gt 0) { $filter.Id = $Id }
    if ($After -gt [datetime]::MinValue) { $filter.StartTime = $After }
    $options = if ($Most -gt 0) { @{ MaxEvents = $Most } } else { @{} }
    try {
        $records = @(Get-WinEvent -FilterHashtable $filter @options -ErrorAction Stop)
    } catch {
        # The log has no such entry, or no source of this name has written yet.
        if ("$($_.FullyQualifiedErrorId)" -match '^(NoMatchingEventsFound|NoMatchingProvidersFound)') { return }
        throw
    }
    $records | Sort-Object -Property TimeCreated, RecordId
}

<#
.SYNOPSIS
Shows entries of hushport in the System event log as they come.
.DESCRIPTION
Press Ctrl-C to end. With -Seconds the command ends by itself.
.PARAMETER Seconds
How long to watch. 0 means until Ctrl-C.
.PARAMETER Last
Shows the last entries first.
.EXAMPLE
Watch-HushportEvent -Last 10
.EXAMPLE
Watch-HushportEvent -Seconds 60 | Where-Object Id -eq 6
#>
function Watch-HushportEvent {
    [CmdletBinding()]
    [OutputType('Hushport.Event')]
    param([ValidateRange(0, 2147483647)] [int] $Seconds = 0, [ValidateRange(0, 1000)] [int] $Last = 0)
    $begin = Get-Date
    $newest = -1
    if ($Last -gt 0) {
        foreach ($record in Read-Entry -Most $Last) {
            $newest = [math]::Max($newest, [int64] $record.RecordId)
            ConvertTo-Entry -Record $record
        }
    }
    while ($true) {
        foreach ($record in Read-Entry -After $begin) {
            if ([int64] $record.RecordId -le $newest) { continue }
            $newest = [int64] $record.RecordId
            ConvertTo-Entry -Record $record
        }
        if ($Seconds -gt 0 -and ((Get-Date) - $begin).TotalSeconds -ge $Seconds) { return }
        Start-Sleep -Seconds 2
    }
}

<#
.SYNOPSIS
Lists the scans that hushport has found, from the System event log.
.DESCRIPTION
Proven says whether the remote has proven its address by a TCP handshake that it began and completed.
If it is false, the address may be forged. Do not block it.
.PARAMETER After
Only scans that were reported after this time.
.EXAMPLE
Get-HushportScan -After (Get-Date).AddDays(-1) | Where-Object Proven | Group-Object Remote
#>
function Get-HushportScan {
    [CmdletBinding()]
    [OutputType('Hushport.Scan')]
    param([datetime] $After = [datetime]::MinValue)
    # Event 6: remote, ports, seconds, techniques, whether the address is proven.
    foreach ($record in Read-Entry -Id 6 -After $After) {
        $entry = ConvertTo-Entry -Record $record
        if ($entry.Strings.Count -lt 4) { continue }
        [pscustomobject] @{
            PSTypeName = 'Hushport.Scan'
            Time       = $entry.Time
            Remote     = $entry.Strings[0]
            Ports      = [int] $entry.Strings[1]
            Since      = $entry.Time.AddSeconds(-[int] $entry.Strings[2])
            Techniques = @($entry.Strings[3] -split ',')
            # An older version wrote four strings.
            Proven     = $entry.Strings.Count -gt 4 -and $entry.Strings[4] -eq 'yes'
        }
    }
}

Export-ModuleMember -Function @(
    'Get-HushportPolicy', 'Set-HushportPolicy', 'Get-HushportState', 'Watch-HushportEvent', 'Get-HushportScan'
)
