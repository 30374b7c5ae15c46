//! A stand-in for `msprof --export=on`: makes a timeline, or with `--type=db` a database, of what the
//! stand-in for aclprof wrote.
//!
//! `FAKE_MSPROF=fail` is one that ends with an error, `hang` one that does not end, `nothing` one
//! that succeeds and writes no timeline, `slices` one that cuts the timeline in two.

#![expect(clippy::print_stderr, reason = "a program that says what went wrong")]

#[cfg(feature = "database")]
mod database;
mod raw;
mod timeline;

use std::path::Path;
use std::process::ExitCode;

use raw::Raw;

fn main() -> ExitCode {
    let variant = std::env::var("FAKE_MSPROF").unwrap_or_default();
    match variant.as_str() {
        "fail" => {
            eprintln!("[ERROR] PROFILING: Failed to parse the data, Python 3.7.5 is required");
            return ExitCode::from(255);
        }
        "hang" => loop {
            std::thread::park();
        },
        "nothing" => return ExitCode::SUCCESS,
        _ => {}
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let usage = || {
        eprintln!("usage: msprof --export=on --type=text|db --output=DIR");
        ExitCode::from(2)
    };
    let Some(output) = value("--output=").filter(|_| value("--export=") == Some("on")) else {
        return usage();
    };
    let place = Path::new(output);
    let outcome = match value("--type=").unwrap_or("text") {
        "text" => {
            Raw::read(place).and_then(|raw| timeline::write(place, &raw, variant == "slices"))
        }
        #[cfg(feature = "database")]
        "db" => Raw::read(place).and_then(|raw| database::write(place, &raw)),
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[ERROR] {output}: {error}");
            ExitCode::from(1)
        }
    }
}
