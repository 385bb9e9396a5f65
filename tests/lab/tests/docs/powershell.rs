//! Parses PowerShell and finds errors that Windows PowerShell 5.1 would report.
//!
//! The Pester tests run the scripts in PowerShell 7 with mocked commands. This checks
//! what they cannot: each command is a function of the scripts or in the table below,
//! its parameters exist in Windows PowerShell 5.1, and each variable is set.

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::{Node, Parser, Tree};

/// Permitted cmdlets and their permitted parameters. Windows PowerShell 5.1 of
/// Windows 10 has all of them (Microsoft Learn, reference of the modules).
const CMDLETS: &[(&str, &str)] = &[
    ("Add-EtwTraceProvider", "SessionName AutologgerName Guid Level MatchAnyKeyword"),
    ("Confirm-SecureBootUEFI", ""),
    ("ConvertFrom-Json", "InputObject"),
    ("ConvertTo-Json", "InputObject Compress Depth"),
    ("Copy-Item", "Path Destination"),
    ("Export-ModuleMember", "Function"),
    ("ForEach-Object", ""),
    ("Get-BitLockerVolume", "MountPoint"),
    ("Get-ChildItem", "Path Filter File Recurse ErrorAction"),
    ("Get-CimInstance", "ClassName Filter"),
    ("Get-Command", "Name ErrorAction"),
    ("Get-Content", "Path Raw Encoding Tail Wait"),
    ("Get-Date", ""),
    ("Get-Item", "Path"),
    ("Get-ItemProperty", "Path Name"),
    ("Get-NetAdapter", "IncludeHidden"),
    ("Get-NetConnectionProfile", ""),
    ("Get-NetFirewallProfile", ""),
    ("Get-NetIPAddress", ""),
    ("Get-PSDrive", "Name PSProvider ErrorAction"),
    ("Get-ScheduledTask", "TaskName ErrorAction"),
    ("Get-Service", "Name"),
    ("Get-Volume", "FileSystemLabel"),
    ("Get-WinEvent", "FilterHashtable ErrorAction"),
    ("Get-WindowsDriver", "Online"),
    ("Group-Object", "Property"),
    ("Import-Certificate", "FilePath CertStoreLocation"),
    ("Import-Module", "Name Force"),
    ("Join-Path", "Path ChildPath"),
    ("New-AutologgerConfig", "Name LocalFilePath Start"),
    ("New-EtwTraceSession", "Name LocalFilePath"),
    ("New-Item", "Path Force"),
    ("New-ItemProperty", "Path Name Value PropertyType Force"),
    ("New-NetIPAddress", "InterfaceIndex IPAddress PrefixLength"),
    ("New-Object", "TypeName ArgumentList Property"),
    ("New-ScheduledTaskAction", "Execute Argument"),
    ("New-ScheduledTaskPrincipal", "UserId LogonType RunLevel"),
    ("New-ScheduledTaskSettingsSet", "AllowStartIfOnBatteries DontStopIfGoingOnBatteries ExecutionTimeLimit"),
    ("New-ScheduledTaskTrigger", "AtStartup"),
    ("Out-String", ""),
    ("Register-ScheduledTask", "TaskName Action Trigger Principal Settings Force"),
    ("Remove-AutologgerConfig", "Name"),
    ("Remove-Item", "Path"),
    ("Remove-ItemProperty", "Path Name"),
    ("Restart-Computer", "Force"),
    ("Select-Object", "Property Unique First Last"),
    ("Set-ItemProperty", "Path Name Value Type"),
    ("Set-NetFirewallProfile", "All Name Enabled"),
    ("Set-StrictMode", "Version"),
    ("Sort-Object", "Property Descending"),
    ("Split-Path", "Path Parent Leaf"),
    ("Start-Process", "FilePath ArgumentList WindowStyle PassThru"),
    ("Start-ScheduledTask", "TaskName"),
    ("Start-Sleep", "Seconds Milliseconds"),
    ("Stop-Computer", "Force"),
    ("Stop-EtwTraceSession", "Name"),
    ("Test-Path", "Path"),
    ("Unregister-ScheduledTask", "TaskName Confirm"),
    ("Where-Object", ""),
    ("Write-Host", ""),
    ("Write-Verbose", "Message"),
    ("Write-VolumeCache", "FileSystemLabel"),
];

/// Programs of Windows, and cargo.
const PROGRAMS: &[&str] = &[
    "bcdedit.exe",
    "cargo",
    "certutil.exe",
    "logman.exe",
    "netsh.exe",
    "pktmon.exe",
    "pnputil.exe",
    "powercfg.exe",
    "powershell.exe",
    "rundll32.exe",
    "sc.exe",
    "tracerpt.exe",
    "verifier.exe",
    "wevtutil.exe",
];

/// The verbs of "Approved Verbs for PowerShell Commands" that the scripts use.
const VERBS: &[&str] = &[
    "Add",
    "Assert",
    "Clear",
    "Compare",
    "Complete",
    "Confirm",
    "Connect",
    "ConvertFrom",
    "ConvertTo",
    "Copy",
    "Disable",
    "Enable",
    "Get",
    "Import",
    "Initialize",
    "Install",
    "Invoke",
    "Measure",
    "New",
    "Open",
    "Read",
    "Register",
    "Remove",
    "Repair",
    "Request",
    "Resolve",
    "Restart",
    "Restore",
    "Resume",
    "Save",
    "Send",
    "Set",
    "Start",
    "Stop",
    "Test",
    "Unregister",
    "Wait",
    "Write",
];

/// Variables that PowerShell sets (about_Automatic_Variables).
const AUTOMATIC: &[&str] = &[
    "_",
    "env:PROCESSOR_ARCHITECTURE",
    "env:PROCESSOR_ARCHITEW6432",
    "env:ProgramData",
    "env:SystemDrive",
    "env:SystemRoot",
    "env:TEMP",
    "ErrorActionPreference",
    "ExecutionContext",
    "false",
    "global:LASTEXITCODE",
    "LASTEXITCODE",
    "Matches",
    "null",
    "PID",
    "PSScriptRoot",
    "PSVersionTable",
    "true",
];

/// Operators of PowerShell 7 that 5.1 does not know.
const TOO_NEW: &[&str] = &["&&", "||", "??", "??=", "?.", "?[", "ternary_expression"];

/// Line number and problem.
pub type Finding = (usize, String);

/// A function that a script defines.
#[derive(Clone, Debug, Default)]
pub struct Function {
    parameters: BTreeSet<String>,
    mandatory: BTreeSet<String>,
}

/// A script and its tree.
pub struct Script<'a> {
    text: &'a str,
    tree: Tree,
}

impl<'a> Script<'a> {
    /// Parses a script. [`Self::syntax`] has the syntax errors.
    pub fn parse(text: &'a str) -> Self {
        let mut parser = Parser::new();
        parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
        Self { text, tree: parser.parse(text, None).unwrap() }
    }

    fn text(&self, node: Node<'_>) -> &'a str {
        &self.text[node.byte_range()]
    }

    fn nodes(&self) -> Vec<Node<'_>> {
        within(self.tree.root_node())
    }

    fn of_kind(&self, kind: &str) -> Vec<Node<'_>> {
        self.nodes().into_iter().filter(|node| node.kind() == kind).collect()
    }

    /// Syntax errors, and syntax that 5.1 does not have.
    pub fn syntax(&self) -> Vec<Finding> {
        let wrong = |node: &Node<'_>| node.is_error() || node.is_missing() || TOO_NEW.contains(&node.kind());
        let mut findings: Vec<_> = self
            .nodes()
            .into_iter()
            .filter(wrong)
            .map(|node| (line(node), format!("syntax: {} {:?}", node.kind(), self.text(node))))
            .collect();
        if !self.text.is_ascii() {
            findings.push((0, "5.1 reads text that is not ASCII in an unspecified encoding".into()));
        }
        findings
    }

    /// The functions it defines.
    pub fn functions(&self) -> BTreeMap<String, Function> {
        let mut functions = BTreeMap::new();
        for node in self.of_kind("function_statement") {
            let mut function = Function::default();
            let parameters = within(node).into_iter().filter(|node| node.kind() == "script_parameter");
            for parameter in parameters.filter(|parameter| owner(*parameter) == Some(node)) {
                let name = child(parameter, "variable").map(|node| self.text(node)[1..].to_owned());
                let name = name.unwrap_or_default();
                if self.text(parameter).contains("[Parameter(Mandatory)]") {
                    function.mandatory.insert(name.clone());
                }
                function.parameters.insert(name);
            }
            if self.text(node).contains("SupportsShouldProcess") {
                function.parameters.insert("WhatIf".to_owned());
            }
            functions.insert(self.function_name(node), function);
        }
        functions
    }

    fn function_name(&self, node: Node<'_>) -> String {
        child(node, "function_name").map(|name| self.text(name).to_owned()).unwrap_or_default()
    }

    /// Unknown commands and unknown or missing parameters.
    pub fn commands(&self, known: &BTreeMap<String, Function>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for command in self.of_kind("command") {
            let Some(name) = child(command, "command_name") else { continue };
            let name = self.text(name);
            let elements = child(command, "command_elements");
            let given: Vec<_> = elements
                .into_iter()
                .flat_map(|elements| children(elements))
                .filter(|node| node.kind() == "command_parameter")
                .map(|node| self.text(node).trim_start_matches('-').trim_end_matches(':'))
                .collect();
            let mut find = |what: String| findings.push((line(command), what));
            if let Some(function) = known.get(name) {
                given.iter().filter(|given| !function.parameters.contains(**given)).for_each(|given| {
                    find(format!("{name} has no -{given}"));
                });
                function.mandatory.iter().filter(|required| !given.contains(&required.as_str())).for_each(
                    |required| {
                        find(format!("{name} needs -{required}"));
                    },
                );
            } else if let Some((_, parameters)) = CMDLETS.iter().find(|(cmdlet, _)| *cmdlet == name) {
                given.iter().filter(|given| !parameters.split(' ').any(|known| known == **given)).for_each(
                    |given| {
                        find(format!("unknown parameter: {name} -{given}"));
                    },
                );
            } else if !PROGRAMS.contains(&name) && !PROGRAMS.contains(&format!("{name}.exe").as_str()) {
                find(format!("unknown command: {name}"));
            }
        }
        findings
    }

    /// Line and name of each command.
    pub fn called(&self) -> Vec<Finding> {
        let names = self.of_kind("command_name").into_iter();
        names.map(|node| (line(node), self.text(node).to_owned())).collect()
    }

    /// Unknown programs that are named in a string.
    pub fn programs(&self) -> Vec<Finding> {
        let strings = self.of_kind("string_literal").into_iter();
        let named = strings.map(|node| (line(node), self.text(node).trim_matches(['\'', '"'])));
        named
            .filter(|(_, text)| text.ends_with(".exe") && !text.contains(' ') && !PROGRAMS.contains(text))
            .map(|(line, text)| (line, format!("unknown program: {text}")))
            .collect()
    }

    /// Functions whose names are not Verb-Noun with an approved verb.
    pub fn names(&self) -> Vec<Finding> {
        let functions = self.of_kind("function_statement").into_iter();
        functions
            .map(|node| (line(node), self.function_name(node)))
            .filter(|(_, name)| name.split_once('-').is_none_or(|(verb, _)| !VERBS.contains(&verb)))
            .map(|(line, name)| (line, format!("{name}: not an approved verb")))
            .collect()
    }

    /// Variables that are used but not set in their scope.
    pub fn variables(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let set = self.assigned();
        for node in self.of_kind("variable") {
            let name = self.text(node).trim_start_matches(['$', '@']).trim_matches(['{', '}']);
            if AUTOMATIC.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                continue;
            }
            let function = owner(node).map(|node| node.id());
            // A function may use its own variables and those of the script. PowerShell
            // also finds the caller's variables; scripts must not rely on that.
            let known = |owner| set.contains(&(owner, name.to_lowercase()));
            let script = name.to_lowercase().starts_with("script:") && known(None);
            if !known(function) && !script && !known(None) {
                findings.push((line(node), format!("${name} is never set")));
            }
        }
        findings
    }

    /// Variables that are set, and in which function.
    fn assigned(&self) -> BTreeSet<(Option<usize>, String)> {
        let mut set = BTreeSet::new();
        let mut add = |node: Node<'_>| {
            let name = self.text(node).trim_start_matches(['$', '@']).to_lowercase();
            let script = name.starts_with("script:");
            set.insert((owner(node).map(|node| node.id()).filter(|_| !script), name));
        };
        for node in self.nodes() {
            match node.kind() {
                "script_parameter" => child(node, "variable").into_iter().for_each(&mut add),
                "foreach_statement" => child(node, "variable").into_iter().for_each(&mut add),
                "left_assignment_expression" => {
                    let first = within(node).into_iter().find(|node| node.kind() == "variable");
                    first.into_iter().for_each(&mut add);
                }
                _ => {}
            }
        }
        set
    }

    /// All findings.
    pub fn findings(&self, known: &BTreeMap<String, Function>) -> Vec<Finding> {
        let mut findings = self.syntax();
        findings.extend(self.commands(known));
        findings.extend(self.programs());
        findings.extend(self.names());
        findings.extend(self.variables());
        findings
    }
}

fn line(node: Node<'_>) -> usize {
    node.start_position().row + 1
}

fn children<'t>(node: Node<'t>) -> Vec<Node<'t>> {
    let mut cursor = node.walk();
    node.children(&mut cursor).collect()
}

fn child<'t>(node: Node<'t>, kind: &str) -> Option<Node<'t>> {
    children(node).into_iter().find(|child| child.kind() == kind)
}

/// A node and its descendants, in the order of the text.
fn within(node: Node<'_>) -> Vec<Node<'_>> {
    let (mut nodes, mut stack) = (Vec::new(), vec![node]);
    while let Some(node) = stack.pop() {
        nodes.push(node);
        stack.extend(children(node).into_iter().rev());
    }
    nodes
}

/// The function that contains a node.
fn owner(node: Node<'_>) -> Option<Node<'_>> {
    std::iter::successors(node.parent(), Node::parent).find(|node| node.kind() == "function_statement")
}
