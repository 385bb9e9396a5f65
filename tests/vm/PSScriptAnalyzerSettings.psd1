# For Invoke-ScriptAnalyzer -Settings. All other rules are on.
@{
    IncludeDefaultRules = $true
    ExcludeRules        = @(
        # Write-Log writes to the console for a person. No program reads the output
        # of the script as objects.
        'PSAvoidUsingWriteHost'
        # The functions are parts of one script and not called at a prompt, so -WhatIf
        # is of no use.
        'PSUseShouldProcessForStateChangingFunctions'
        # The rule ignores script blocks: it reports parameters that only the body of
        # a check or a function of the script uses.
        'PSReviewUnusedParameter'
        # The script has help. Its functions have comments.
        'PSProvideCommentHelp'
        # The mocks of Windows must be visible in every module: $global:Machine and
        # global functions such as sc.exe. $global:LASTEXITCODE is PowerShell's.
        'PSAvoidGlobalVars'
        'PSAvoidGlobalFunctions'
        # The rule does not see that It uses variables of Pester's BeforeAll.
        'PSUseDeclaredVarsMoreThanAssignments'
        # Tests contain messages of Windows in other languages. Files that run in
        # Windows PowerShell 5.1 are ASCII.
        'PSUseBOMForUnicodeEncodedFile'
    )
    Rules               = @{
        PSUseCompatibleSyntax = @{
            Enable         = $true
            TargetVersions = @('5.1', '7.0')
        }
    }
}
