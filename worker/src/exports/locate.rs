//! Finding the `omniprof` program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The variable that names the directory of the `omniprof` program.
pub const BIN_DIR_VARIABLE: &str = "OMNIPROF_BIN_DIR";

/// The program's name.
const PROGRAM: &str = "omniprof";

/// Finds the program: in the directory that `OMNIPROF_BIN_DIR` names, beside this executable (and
/// one directory up, where Cargo puts it for examples and tests), then in `PATH`.
#[must_use]
pub fn locate() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE) {
        // Whoever names a directory means that one and no other.
        return program_in(Path::new(&dir));
    }
    if let Ok(own) = std::env::current_exe() {
        for dir in own.ancestors().skip(1).take(2) {
            if let Some(program) = program_in(dir) {
                return Some(program);
            }
        }
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|dir| program_in(&dir))
}

fn program_in(dir: &Path) -> Option<PathBuf> {
    let program = dir.join(PROGRAM);
    let meta = std::fs::metadata(&program).ok()?;
    (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(program)
}
