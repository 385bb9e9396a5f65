//! `cargo lab divert`, with WinDivert from the package index.

use lab::setup;

use super::{Outcome, lab};

fn divert(arguments: &[&str]) -> Option<Outcome> {
    match setup::windivert() {
        Ok(driver) => {
            let mut command = lab(&["divert", "--without-box"]);
            command.arg("--driver").arg(driver).args(arguments);
            Some(Outcome::of(command))
        }
        Err(error) => {
            eprintln!("skipped: {error:#}");
            None
        }
    }
}

#[test]
fn packets_are_printed_and_sent_back() {
    let Some(outcome) = divert(&["--traffic", "--port", "80"]) else { return };
    outcome.expect("well").contains(&[
        "in  IPv4 TCP 10.77.0.1:",
        "-> 10.77.0.2:80 SYN, ",
        "out IPv6 TCP [fd77::2]:80 ->",
        "IPv4: curl: 63 bytes, code 200",
        "IPv6: curl: 63 bytes, code 200",
        "dropped 0",
    ]);
}

#[test]
fn a_port_is_dropped_and_others_are_not_shown() {
    let Some(outcome) = divert(&["--traffic", "--inbound", "--protocol", "tcp", "--drop-port", "80"]) else {
        return;
    };
    outcome.expect("well").contains(&["SYN, 60 bytes, dropped", "timed out", "sent back 0"]);
    assert!(!outcome.text.contains("\nout "), "{}", outcome.text);
}

#[test]
fn events_of_sockets_are_printed_and_wrong_choices_are_refused() {
    let Some(outcome) = divert(&["--traffic", "--layer", "socket"]) else { return };
    outcome.expect("well").contains(&["SOCKET_ACCEPT process ", "protocol 6, 10.77.0.2:80 <-> 10.77.0.1:"]);
    let wrong = divert(&["--layer", "reflect", "--port", "80"]).unwrap();
    assert!(!wrong.succeeded);
    wrong.contains(&["the layer reflect has no packets"]);
}
