//! Functions that a driver imports and the machine lacks.

use super::Kernel;
use super::guest::Stop;
use crate::image;
use crate::verifier::rules;

/// Runs in place of a missing function. Stops the machine and names the function; the
/// report has the driver's function and line.
pub extern "win64" fn missing(number: u32) {
    let kernel = Kernel::current();
    kernel.leave_if_stopped();
    let name = image::name_of_missing(number).unwrap_or_default();
    let of = kernel.distinguishing_name(kernel.caller()).map(|name| format!("{name} ")).unwrap_or_default();
    kernel.stop(Stop::BugCheck {
        code: rules::LAB,
        parameters: [0; 4],
        text: format!("the driver {of}called {name}, which the lab does not model"),
    })
}
