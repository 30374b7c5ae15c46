//! Lets the program find the libtorch that it is built with: tch sets no path for what links it.
//! And refuses a libtorch whose version nobody has told.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    // Absent without libtorch, where only checks are built.
    let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{lib}");
    // tch compares the version where this file is, and takes any where it is not; PyTorch it asks.
    let Ok(root) = std::env::var("LIBTORCH") else { return };
    let version = Path::new(&root).join("build-version");
    if std::env::var_os("LIBTORCH_USE_PYTORCH").is_none() && !version.is_file() {
        println!(
            "cargo::error={} is missing: write the version of that libtorch into it, which must be \
             2.11.0; tests/workloads/torch/setup does",
            version.display()
        );
    }
}
