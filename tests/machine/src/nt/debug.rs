//! The debugger's output, and exports found at run time (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;

/// Most arguments that are printed.
const MOST_ARGUMENTS: usize = 12;

/// `DbgPrint`. The line goes to the machine's log.
pub extern "win64" fn DbgPrint(Format: Address) -> u32 {
    let kernel = enter!(DbgPrint);
    let passed = kernel.guest().arguments("DbgPrint", MOST_ARGUMENTS).unwrap_or_default();
    kernel.settle(print(&kernel, Format, passed.get(1..).unwrap_or_default()), ());
    Status::SUCCESS.0 as u32
}

/// `DbgPrintEx`. Every component and level is shown.
pub extern "win64" fn DbgPrintEx(ComponentId: u32, Level: u32, Format: Address) -> u32 {
    let kernel = enter!(DbgPrintEx);
    let _ = (ComponentId, Level);
    let passed = kernel.guest().arguments("DbgPrintEx", MOST_ARGUMENTS).unwrap_or_default();
    kernel.settle(print(&kernel, Format, passed.get(3..).unwrap_or_default()), ());
    Status::SUCCESS.0 as u32
}

fn print(kernel: &Kernel, format: Address, arguments: &[u64]) -> Result<(), Trouble> {
    let format = foreign::read_text(format)?;
    let text = formatted(&format, arguments)?;
    kernel.log(match kernel.distinguishing_name(kernel.caller()) {
        Some(driver) => format!("{driver}: {}", text.trim_end()),
        None => text.trim_end().to_owned(),
    });
    Ok(())
}

/// A format of printf with its arguments.
fn formatted(format: &str, arguments: &[u64]) -> Result<String, Trouble> {
    let (mut text, mut arguments) = (String::new(), arguments.iter().copied());
    let mut rest = format.chars().peekable();
    while let Some(char) = rest.next() {
        if char != '%' {
            text.push(char);
            continue;
        }
        let mut options = String::new();
        let kind = loop {
            match rest.next() {
                Some(option) if option.is_ascii_digit() || "-+ #.lhwI".contains(option) => {
                    options.push(option)
                }
                kind => break kind,
            }
        };
        let Some(kind) = kind else { break };
        if kind == '%' {
            text.push('%');
            continue;
        }
        let Some(value) = arguments.next() else { break };
        text += &one(kind, &options, value)?;
    }
    Ok(text)
}

/// One argument.
fn one(kind: char, options: &str, value: u64) -> Result<String, Trouble> {
    let is_long = options.contains("ll") || options.contains("I64") || options.contains('I');
    let number = if is_long { value } else { value & 0xFFFF_FFFF };
    let text = match kind {
        'd' | 'i' if is_long => (value as i64).to_string(),
        'd' | 'i' => (value as u32 as i32).to_string(),
        'u' => number.to_string(),
        'x' => format!("{number:x}"),
        'X' => format!("{number:X}"),
        'p' => format!("{value:016X}"),
        'c' => char::from(value as u8).to_string(),
        's' if options.contains(['w', 'l']) => wide(value)?,
        'S' => wide(value)?,
        's' => foreign::read_text(value as Address)?,
        'Z' => {
            let at = value as Address;
            foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?
        }
        other => format!("%{options}{other}"),
    };
    let width = options.trim_start_matches(['-', '+', ' ', '#']);
    let zero = width.starts_with('0');
    let width: usize = width.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("").parse().unwrap_or(0);
    let fill = if zero { "0" } else { " " }.repeat(width.min(256).saturating_sub(text.chars().count()));
    Ok(fill + &text)
}

fn wide(address: u64) -> Result<String, BadPointer> {
    Ok(foreign::read_wide(address as Address)?.unwrap_or_else(|| "(null)".to_owned()))
}

/// `MmGetSystemRoutineAddress`: of ntoskrnl and hal. NULL for a routine that the machine
/// lacks, as on an older Windows.
pub extern "win64" fn MmGetSystemRoutineAddress(SystemRoutineName: Address) -> Address {
    let kernel = enter!(MmGetSystemRoutineAddress);
    let find = || {
        let at = SystemRoutineName;
        let name = foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?;
        let mut modules = ["ntoskrnl.exe", "hal.dll"].into_iter();
        let found = modules.find(|module| super::resolve(module, &name).is_some());
        Ok::<_, Trouble>(found.map_or(0, |module| kernel.link(module, &name)))
    };
    kernel.settle(find(), 0)
}

/// `RtlUnicodeStringToInteger`. Base 0 takes the prefixes 0x, 0o and 0b.
pub extern "win64" fn RtlUnicodeStringToInteger(String: Address, Base: u32, Value: Address) -> NTSTATUS {
    let kernel = enter!(RtlUnicodeStringToInteger);
    let convert = || {
        let text = foreign::read_unicode_string(String).map_err(|bad| Trouble::String(String, bad))?;
        let text = text.trim_start();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
        let prefix = prefixes.iter().find_map(|(prefix, base)| Some((text.strip_prefix(prefix)?, *base)));
        let (digits, base) = match (Base, prefix) {
            (0, Some(found)) => found,
            (0, None) => (text, 10),
            (2 | 8 | 10 | 16, _) => (text, Base),
            _ => return Ok(Status::INVALID_PARAMETER),
        };
        let values = digits.chars().map_while(|digit| digit.to_digit(base));
        let value = values.fold(0u32, |value, digit| value.wrapping_mul(base).wrapping_add(digit));
        foreign::write(Value, &if negative { value.wrapping_neg() } else { value })?;
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printed_as_printf_does() {
        let name = *b"name\0";
        let arguments = [7, u64::MAX, 0xBEEF, name.as_ptr() as u64, 0x1_0000_0002];
        let text = formatted("%u %d 0x%08x %s 100%% %I64x", &arguments).unwrap();
        assert_eq!(text, "7 -1 0x0000beef name 100% 100000002");
        assert_eq!(formatted("%d %d", &[1]).unwrap(), "1 ");
    }
}
