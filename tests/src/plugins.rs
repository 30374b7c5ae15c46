//! Plugins as tests use them: compiled from C in many variants, and directories that hold them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Compiles the plugin that is written in C, as `libomniprof_backend_<id>.so` in a directory.
/// `defines` make it another version, or break it; `plugin.c` lists them.
///
/// # Errors
///
/// There is no C compiler, or it refuses.
pub fn compile_c_plugin(dir: &Path, id: &str, defines: &[&str]) -> anyhow::Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = dir.join(format!("libomniprof_backend_{id}.so"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"])
        .args(["-shared", "-fPIC", "-O1"])
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg(format!("-I{}", tests.join("../profiler-core/include").display()))
        .arg("-o")
        .arg(&library)
        .arg(tests.join("fakes/c-plugin/plugin.c"))
        .output()
        .context("the C compiler `cc` cannot be started; tests of plugins need one")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "compiling {defines:?}: {messages}");
    protect(&library)?;
    Ok(library)
}

/// A directory that may hold plugins: nobody else may write it, whatever the umask.
///
/// # Errors
///
/// It cannot be made.
pub fn plugin_dir() -> anyhow::Result<tempfile::TempDir> {
    tempfile::tempdir().context("a directory for plugins")
}

/// Puts a library that cargo built into a directory of plugins.
///
/// # Errors
///
/// It cannot be copied.
pub fn install(library: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let name = library.file_name().context("a library has a name")?;
    let installed = dir.join(name);
    std::fs::copy(library, &installed).with_context(|| library.display().to_string())?;
    protect(&installed)?;
    Ok(installed)
}

fn protect(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?)
}
