# Driver Verifier: steps that switch it, and its settings and counters.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Files.psm1')
Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'Hushport.Vm.psm1')

# The flags that /standard has had in every version of Windows 10 and 11.
$script:StandardFlags = 0x9BB
$script:LowResources = 0x4

function Invoke-EnableStandardStep {
    Invoke-Check -Required -Name 'Driver Verifier, standard flags, from the next start on' -Body {
        # 2: takes effect at the next start.
        Invoke-Program -Path 'verifier.exe' -Arguments @('/standard', '/driver', 'hushport.sys') -Allowed @(0, 2)
    }
}

# A constant probability of 599 in 10000, for every tag and application, from one
# minute after the start. With the default, 600, Driver Verifier instead fails every
# allocation for ten seconds from time to time.
function Invoke-EnableLowResourcesStep {
    Invoke-Check -Required -Name 'Driver Verifier with low resources, from the next start on' -Body {
        $empty = Get-EmptyArgument
        $arguments = @('/standard', '/faults', '599', $empty, $empty, '1', '/driver', 'hushport.sys')
        Invoke-Program -Path 'verifier.exe' -Arguments $arguments -Allowed @(0, 2)
    }
}

# An empty argument for a program. PowerShell before 7.3 drops an empty text.
function Get-EmptyArgument {
    param([version] $Version = $PSVersionTable.PSVersion)
    if ($Version -ge [version] '7.3') { return '' }
    '""'
}

function Invoke-DisableVerifierStep {
    Invoke-Check -Name 'Driver Verifier off, from the next start on' -Body {
        Invoke-Program -Path 'verifier.exe' -Arguments @('/reset') -Allowed @(0, 2)
    }
}

# After a restart, the settings must be in force.
function Invoke-SettingsStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    $required = $Options.Under -ne 'off'
    Invoke-Check -Required:$required -Name 'Driver Verifier has the settings that were asked for' -Body {
        Assert-VerifierSetting -Under $Options.Under
    }
}

# Checks that Driver Verifier watches the driver.
function Invoke-QueryStep {
    param([Parameter(Mandatory)] [hashtable] $Options)
    for ($attempt = 0; $attempt -lt 20; $attempt++) {
        if ((Start-Driver -Allowed (@(0) + @(Get-MemoryStatus))) -eq 0) { break }
    }
    Invoke-Check -Name 'Driver Verifier watches the driver' -Body {
        $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/query')
        Write-ResultText -Name "verifier-$($Options.Label).txt" -Text $text
        if ($text -notmatch 'hushport\.sys') { throw 'it does not name hushport.sys' }
    }
}

# Driver Verifier without a restart. Microsoft has announced to replace /volatile by
# /dif ... /now, which accepts the standard rule classes that need no restart. If
# Windows accepts neither, the log says so.
function Invoke-VolatileVerifierStep {
    Stop-Driver
    $ways = @(
        @('/volatile', '/adddriver', 'hushport.sys'),
        @('/dif', '1', '4', '5', '9', '12', '18', '/now', '/driver', 'hushport.sys')
    )
    foreach ($way in $ways) {
        try {
            $null = Invoke-Program -Path 'verifier.exe' -Arguments $way
            $null = Start-Driver
            $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/query')
        } catch {
            Write-Log -Text "verifier $($way -join ' '): $(ConvertTo-Line -Text $_.Exception.Message)"
            continue
        }
        Write-ResultText -Name 'verifier-volatile.txt' -Text $text
        if ($text -match 'hushport\.sys') {
            Write-Log -Text "Driver Verifier watches the driver without a restart, by: verifier $($way -join ' ')"
            Add-CheckResult -Name 'Driver Verifier watches the driver without a restart'
            return
        }
        Write-Log -Text "verifier $($way -join ' ') was taken, and /query does not name hushport.sys"
    }
    Write-Log -Text 'not tested: Driver Verifier, which takes no driver here without a restart'
    $null = Start-Driver
}

# Driver Verifier's settings: Flags, and whether they name the driver. The numbers
# and the [X] before a flag are equal in every language of Windows.
function Read-VerifierSetting {
    $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/querysettings')
    $flags = 0
    if ($text -match '(?m)^[^\[\r\n]*?(?:0x|Level: *)([0-9A-Fa-f]{1,8})\b') {
        $flags = [System.Convert]::ToInt32($Matches[1], 16)
    }
    foreach ($match in [regex]::Matches($text, '\[X\]\s*0x([0-9A-Fa-f]{1,8})')) {
        $flags = $flags -bor [System.Convert]::ToInt32($match.Groups[1].Value, 16)
    }
    @{ Flags = $flags; Watched = ($text -match '(?i)\bhushport\.sys\b'); Text = $text }
}

# Throws if Driver Verifier does not have the expected settings.
function Assert-VerifierSetting {
    param([Parameter(Mandatory)] [ValidateSet('standard', 'low-resources', 'off')] [string] $Under)
    $setting = Read-VerifierSetting
    if ($Under -eq 'off') {
        if ($setting.Watched) { throw 'it still names hushport.sys after verifier /reset and a restart' }
        return
    }
    if (-not $setting.Watched) { throw 'verifier /querysettings does not name hushport.sys' }
    $shown = '0x{0:X}' -f $setting.Flags
    if (($setting.Flags -band $script:StandardFlags) -ne $script:StandardFlags) {
        throw "verifier /querysettings shows the flags $shown, without all of the standard flags (0x209BB)"
    }
    if ($Under -eq 'low-resources' -and -not ($setting.Flags -band $script:LowResources)) {
        throw "verifier /querysettings shows the flags $shown, without low resources simulation (0x4)"
    }
}

# The number of allocations that Driver Verifier has failed since the start of the
# machine. -1 if verifier /query does not show it, as in other languages.
function Read-InjectedFault {
    $text = Invoke-Program -Path 'verifier.exe' -Arguments @('/query')
    foreach ($pattern in 'faults?\s*injected\D{0,40}?(\d+)', 'AllocationsFailedDeliberately\D{0,10}(\d+)',
        'injected\s*faults?\D{0,40}?(\d+)') {
        if ($text -match "(?i)$pattern") { return [int64] $Matches[1] }
    }
    -1
}

Export-ModuleMember -Function @(
    'Invoke-EnableStandardStep', 'Invoke-EnableLowResourcesStep', 'Invoke-DisableVerifierStep',
    'Invoke-SettingsStep', 'Invoke-QueryStep', 'Invoke-VolatileVerifierStep', 'Get-EmptyArgument',
    'Read-VerifierSetting', 'Assert-VerifierSetting', 'Read-InjectedFault'
)
