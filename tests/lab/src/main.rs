//! `cargo lab`.

fn main() -> std::process::ExitCode {
    lab::commands::run()
}
