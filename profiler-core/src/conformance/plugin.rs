//! Plugins as tests use them: built by cargo, from the workspace.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds a crate of this workspace that is a plugin and returns its library.
///
/// # Panics
///
/// Where it cannot be built: a test of plugins without a plugin has failed.
#[must_use]
pub fn build_plugin(package: &str) -> PathBuf {
    build(package, "cdylib")
}

/// Builds a crate of this workspace that is a program, with its own features alone, and returns
/// the program.
///
/// # Panics
///
/// Where it cannot be built.
#[must_use]
pub fn build_program(package: &str) -> PathBuf {
    build(package, "bin")
}

fn build(package: &str, kind: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--message-format=json-render-diagnostics"]);
    command.args(["--package", package, "--manifest-path"]).arg(manifest);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(output.status.success(), "building {package}: {}", output.status);
    let built = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["kind"][0] == kind)
        .filter(|message| {
            let id = message["package_id"].as_str().unwrap_or_default();
            // `path+file:///…/plugin#backend-cuda-plugin@0.1.0`, or with a name as the folder's.
            id.contains(&format!("#{package}@")) || id.contains(&format!("/{package}#"))
        })
        .find_map(|message| message["filenames"][0].as_str().map(PathBuf::from));
    built.unwrap_or_else(|| panic!("cargo built no {kind} for {package}"))
}
