//! Which libmspti to use, and which other libraries of CANN's: the one that the process already has,
//! else the one of its CANN.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The library's name.
pub(crate) const NAME: &str = "libmspti.so";

/// CANN 9's place, then that of CANN 8.5 and before.
const DEFAULT_HOMES: [&str; 2] =
    ["usr/local/Ascend/cann", "usr/local/Ascend/ascend-toolkit/latest"];

/// Where a CANN keeps it: as shipped, and as the stand-alone upgrade installs it.
const FOLDERS: [&str; 2] = ["lib64", "tools/mspti/lib64"];

/// The places that a process's environment names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Homes {
    /// The library itself.
    pub(crate) configured: Option<PathBuf>,
    /// `ASCEND_HOME_PATH`.
    pub(crate) home: Option<OsString>,
    /// `ASCEND_TOOLKIT_HOME`.
    pub(crate) toolkit: Option<OsString>,
    /// `LD_LIBRARY_PATH`.
    pub(crate) search: Option<OsString>,
}

impl Homes {
    /// Those of this process.
    pub(crate) fn of_this_process(configured: Option<PathBuf>) -> Self {
        Self {
            configured,
            home: profiler_core::environment::variable("ASCEND_HOME_PATH"),
            toolkit: profiler_core::environment::variable("ASCEND_TOOLKIT_HOME"),
            search: profiler_core::environment::variable("LD_LIBRARY_PATH"),
        }
    }

    /// The files to look for, in order.
    pub(crate) fn candidates(&self, root: &Path) -> Vec<PathBuf> {
        if let Some(path) = &self.configured {
            // Whoever names a library means that one and no other.
            return vec![path.clone()];
        }
        let mut found: Vec<PathBuf> = Vec::new();
        for home in self.homes(root) {
            for folder in FOLDERS {
                let path = home.join(folder).join(NAME);
                if !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        let search = self.search.iter().flat_map(std::env::split_paths);
        found.extend(search.map(|folder| folder.join(NAME)));
        found
    }

    /// The files to look for of another library of CANN's, and last its name alone.
    pub(crate) fn libraries(&self, name: &str, root: &Path) -> Vec<PathBuf> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let files = self
            .homes(root)
            .map(|home| home.join("lib64").join(name))
            .filter(|path| path.is_file());
        mapped_library(&maps, name).into_iter().chain(files).chain([PathBuf::from(name)]).collect()
    }

    /// Where a CANN may lie, in order.
    fn homes(&self, root: &Path) -> impl Iterator<Item = PathBuf> {
        let named = [&self.home, &self.toolkit].into_iter().flatten().map(PathBuf::from);
        named.chain(DEFAULT_HOMES.iter().map(|home| root.join(home)))
    }
}

/// The libmspti that is mapped into the process, given its `/proc/self/maps`.
pub(crate) fn mapped(maps: &str) -> Option<PathBuf> {
    mapped_library(maps, NAME)
}

/// The file of that name that is mapped into the process, given its `/proc/self/maps`.
pub(crate) fn mapped_library(maps: &str, name: &str) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let path = line.get(line.find('/')?..)?;
        // A file that was replaced on disk is marked; its copy in memory has no path any more.
        let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path));
        let file = path.file_name()?.to_str()?;
        file.starts_with(name).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapped_library_is_found_also_where_its_file_was_replaced() {
        let maps = "7f00-7f01 r-xp 0 08:01 17  /opt/cann/lib64/libmspti.so (deleted)\n";
        assert_eq!(mapped(maps), Some(PathBuf::from("/opt/cann/lib64/libmspti.so")));
        assert_eq!(mapped("7f00-7f01 r-xp 0 08:01 17  /opt/cann/lib64/libascendcl.so\n"), None);
    }

    #[test]
    fn a_named_library_is_the_only_candidate() {
        let homes = Homes { configured: Some("/x/libmspti.so".into()), ..Homes::default() };
        assert_eq!(homes.candidates(Path::new("/")), [PathBuf::from("/x/libmspti.so")]);
    }

    #[test]
    fn the_environments_cann_comes_before_the_default_places() {
        let homes = Homes { home: Some("/opt/cann".into()), ..Homes::default() };
        let found = homes.candidates(Path::new("/"));
        assert_eq!(found[0], Path::new("/opt/cann/lib64/libmspti.so"));
        assert_eq!(found[1], Path::new("/opt/cann/tools/mspti/lib64/libmspti.so"));
        assert_eq!(found[2], Path::new("/usr/local/Ascend/cann/lib64/libmspti.so"));
        assert_eq!(found.len(), 6);
    }
}
