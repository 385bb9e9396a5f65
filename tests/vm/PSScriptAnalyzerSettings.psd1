# For Invoke-ScriptAnalyzer -Settings. Every rule is on but those below.
@{
    IncludeDefaultRules = $true
    ExcludeRules        = @(
        # Write-Log writes to the console on purpose: a person looks on, and
        # nothing reads the script's output as objects.
        'PSAvoidUsingWriteHost'
        # The functions are parts of one script. Nobody calls them at a prompt,
        # so nobody can ask for -WhatIf.
        'PSUseShouldProcessForStateChangingFunctions'
        # It does not look into script blocks: parameters that a check's body
        # uses, or a function of the script, count as unused.
        'PSReviewUnusedParameter'
        # The script has help, for a person calls it. Its parts have comments.
        'PSProvideCommentHelp'
        # What plays Windows must be seen from every module: $global:Machine and
        # functions in the global scope, such as sc.exe. $global:LASTEXITCODE is
        # PowerShell's own.
        'PSAvoidGlobalVars'
        'PSAvoidGlobalFunctions'
        # The same for the variables of Pester's BeforeAll, used in It.
        'PSUseDeclaredVarsMoreThanAssignments'
        # Tests hold Windows' messages in other languages; no file that runs in
        # Windows PowerShell 5.1 holds anything but ASCII.
        'PSUseBOMForUnicodeEncodedFile'
    )
    Rules               = @{
        PSUseCompatibleSyntax = @{
            Enable         = $true
            TargetVersions = @('5.1', '7.0')
        }
    }
}
