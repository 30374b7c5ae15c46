//! Finding the `omniprof` program: the exporter, and what tries a vendor's library before this
//! process loads it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The variable that names the directory of the `omniprof` program.
pub const BIN_DIR_VARIABLE: &str = "OMNIPROF_BIN_DIR";

/// The program's name.
const PROGRAM: &str = "omniprof";

/// Finds the program: in the directory that `OMNIPROF_BIN_DIR` names, beside the file that holds
/// this code, beside this executable (and one directory up, where Cargo puts it for examples and
/// tests), then in `PATH`.
#[must_use]
pub fn locate() -> Option<PathBuf> {
    find(program_in)
}

/// Finds a file that is delivered beside the program, in the same places.
#[must_use]
pub fn locate_file(name: &str) -> Option<PathBuf> {
    find(|dir| {
        let file = dir.join(name);
        std::fs::metadata(&file).is_ok_and(|meta| meta.is_file()).then_some(file)
    })
}

fn find(file_in: impl Fn(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE) {
        // Whoever names a directory means that one and no other.
        return file_in(Path::new(&dir));
    }
    let own = [own_file(), std::env::current_exe().ok()];
    for file in own.into_iter().flatten() {
        for dir in file.ancestors().skip(1).take(2) {
            if let Some(found) = file_in(dir) {
                return Some(found);
            }
        }
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|dir| file_in(&dir))
}

fn program_in(dir: &Path) -> Option<PathBuf> {
    let program = dir.join(PROGRAM);
    let meta = std::fs::metadata(&program).ok()?;
    (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(program)
}

/// The mapped file in which this function lies: a library, where the agent is injected.
fn own_file() -> Option<PathBuf> {
    let address = locate as fn() -> Option<PathBuf> as usize as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    file_at(&maps, address)
}

fn file_at(maps: &str, address: u64) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
        range.contains(&address).then(|| line.get(line.find('/')?..).map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_an_address_is_the_one_mapped_there() {
        let maps = "1000-2000 r-xp 0 08:01 1  /a/libone.so\n2000-3000 rw-p 0 00:00 0\n";
        assert_eq!(file_at(maps, 0x1fff), Some(PathBuf::from("/a/libone.so")));
        assert_eq!(file_at(maps, 0x2000), None);
        assert_eq!(own_file(), std::env::current_exe().ok());
    }
}
