//! Which libcupti to use: always the one that the process already has.
//!
//! A second copy would be a second instance of CUPTI, which the driver refuses. So the order is:
//! mapped files, loaded sonames, symbols linked into the program, the configured path, the folder
//! of the CUDA runtime that is loaded, and only then a name for the system's search path.

use std::path::{Path, PathBuf};

/// A place to look, in the order in which to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// A file that is mapped already: opened without loading it again.
    Mapped(PathBuf),
    /// A soname that may be loaded already: opened without loading it.
    Loaded(&'static str),
    /// Symbols of the program itself or of libraries in the global scope.
    Global,
    /// A file that may be loaded.
    File(PathBuf),
    /// A name for the system's search path.
    Named(&'static str),
}

const SONAMES: [&str; 2] = ["libcupti.so.13", "libcupti.so.12"];

/// The places to look, given `/proc/self/maps` and the configured path.
///
/// `driver_major` is the CUDA version of the driver, where it is known: a libcupti that is newer
/// than the driver does not work.
pub(crate) fn candidates(
    maps: &str,
    configured: Option<&Path>,
    driver_major: Option<u32>,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    for path in mapped_files(maps, "libcupti.so") {
        push(&mut found, Candidate::Mapped(path));
    }
    for soname in SONAMES {
        push(&mut found, Candidate::Loaded(soname));
    }
    push(&mut found, Candidate::Global);
    if let Some(path) = configured {
        push(&mut found, Candidate::File(path.to_owned()));
    }
    for runtime in mapped_files(maps, "libcudart.so") {
        for path in beside_runtime(&runtime) {
            push(&mut found, Candidate::File(path));
        }
    }
    let by_driver: &[&str] = match driver_major {
        Some(12) => &SONAMES[1..],
        _ => &SONAMES,
    };
    for soname in by_driver {
        push(&mut found, Candidate::Named(soname));
        let toolkit = Path::new("/usr/local/cuda/extras/CUPTI/lib64").join(soname);
        push(&mut found, Candidate::File(toolkit));
    }
    found
}

fn push(found: &mut Vec<Candidate>, candidate: Candidate) {
    if !found.contains(&candidate) {
        found.push(candidate);
    }
}

/// Files in a listing of `/proc/PID/maps` whose name begins with `prefix`.
fn mapped_files(maps: &str, prefix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in maps.lines() {
        let Some(start) = line.find('/') else { continue };
        // A file that was replaced on disk is marked so; its copy in memory has no path any more.
        let Some(path) = line.get(start..).filter(|path| !path.ends_with(" (deleted)")) else {
            continue;
        };
        let path = Path::new(path);
        let named = path.file_name().and_then(|name| name.to_str());
        if named.is_some_and(|name| name.starts_with(prefix)) && !files.iter().any(|f| f == path) {
            files.push(path.to_owned());
        }
    }
    files
}

/// Where a libcupti lies that belongs to this libcudart: the toolkit's layout and the wheels'.
fn beside_runtime(runtime: &Path) -> Vec<PathBuf> {
    let Some(folder) = runtime.parent() else { return Vec::new() };
    let mut paths = Vec::new();
    for soname in SONAMES {
        paths.push(folder.join(soname));
        paths.push(folder.join("../../cuda_cupti/lib").join(soname));
        paths.push(folder.join("../extras/CUPTI/lib64").join(soname));
    }
    paths.retain(|path| path.exists());
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000001000 r-xp 00000000 08:01 17  /opt/py/nvidia/cu13/lib/libcupti.so.13
7f0000001000-7f0000002000 rw-p 00000000 08:01 17  /opt/py/nvidia/cu13/lib/libcupti.so.13
7f0000003000-7f0000004000 r-xp 00000000 08:01 18  /old/libcupti.so.12 (deleted)
7f0000005000-7f0000006000 rw-p 00000000 00:00 0   [heap]
";

    #[test]
    fn the_mapped_file_comes_first_and_once() {
        let found = candidates(MAPS, None, Some(13));
        assert_eq!(
            found.first(),
            Some(&Candidate::Mapped("/opt/py/nvidia/cu13/lib/libcupti.so.13".into()))
        );
        let mapped = found.iter().filter(|c| matches!(c, Candidate::Mapped(_))).count();
        assert_eq!(mapped, 1);
    }

    #[test]
    fn loaded_copies_come_before_the_configured_path_and_names() {
        let found = candidates("", Some(Path::new("/c/libcupti.so")), Some(13));
        let place = |wanted: &Candidate| found.iter().position(|c| c == wanted).unwrap();
        let configured = place(&Candidate::File("/c/libcupti.so".into()));
        assert!(place(&Candidate::Loaded("libcupti.so.12")) < configured);
        assert!(place(&Candidate::Global) < configured);
        assert!(configured < place(&Candidate::Named("libcupti.so.13")));
    }

    #[test]
    fn a_driver_of_cuda_12_gets_no_libcupti_13() {
        let found = candidates("", None, Some(12));
        assert!(!found.contains(&Candidate::Named("libcupti.so.13")));
        assert!(found.contains(&Candidate::Named("libcupti.so.12")));
    }
}
