//! Tries a libmspti as `omniprof probe-npu` does: `probe-npu probe-npu <library>`.

#![expect(clippy::print_stdout, reason = "a program that prints lines")]

use std::path::PathBuf;

// A backend that nothing names is not linked.
use backend_npu as _;
use profiler_core::registry::TrialRegistration;

fn main() {
    let library = std::env::args_os().nth(2).map(PathBuf::from);
    let trial = TrialRegistration::find("npu");
    match (library, trial) {
        (Some(library), Some(trial)) => (trial.run)(&library, &mut |line| println!("{line}")),
        _ => println!("usage: probe-npu probe-npu LIBRARY"),
    }
}
