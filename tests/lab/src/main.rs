//! `cargo lab`.

fn main() -> std::process::ExitCode {
    let built = lab::setup::Target::ALL.map(lab::setup::build);
    for driver in built {
        match driver {
            Ok(driver) => println!("{driver:?}"),
            Err(error) => eprintln!("lab: {error:#}"),
        }
    }
    std::process::ExitCode::SUCCESS
}
