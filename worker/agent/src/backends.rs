//! The backends of a process: those that are linked, and those of plugins.

use std::path::{Path, PathBuf};

use profiler_core::inject_env::PLUGIN_DIR_VARIABLE;
use profiler_core::registry::{BackendRegistry, RefusedPlugin};

use crate::plugins;

/// The linked backends, and those of the plugins in a directory: `plugin_dir`, else that of
/// `OMNIPROF_PLUGIN_DIR`, else none. What is not used is in
/// [`BackendRegistry::refused_plugins`].
///
/// Plugins come from that one directory and from nowhere else; no message names one. A process that
/// runs with more rights than its user has (setuid) does not heed the variable.
#[must_use]
pub fn backends(plugin_dir: Option<&Path>) -> BackendRegistry {
    of(plugin_dir, std::env::var_os(PLUGIN_DIR_VARIABLE).map(PathBuf::from))
}

/// As [`backends`], with what `OMNIPROF_PLUGIN_DIR` says.
pub(crate) fn of(plugin_dir: Option<&Path>, named: Option<PathBuf>) -> BackendRegistry {
    let mut registry = crate::linked::registry();
    if let Some(dir) = plugin_dir {
        plugins::add_from(&mut registry, dir);
        return registry;
    }
    let Some(dir) = named.filter(|dir| !dir.as_os_str().is_empty()) else { return registry };
    if has_rights_of_its_file() {
        registry.refuse_plugin(RefusedPlugin {
            path: dir,
            code: "more_rights".to_owned(),
            reason: format!(
                "this process has more rights than the user who started it: {PLUGIN_DIR_VARIABLE} \
                 is not heeded"
            ),
        });
        return registry;
    }
    plugins::add_from(&mut registry, &dir);
    registry
}

/// Whether the kernel asks for care (`AT_SECURE`): the executable is setuid or has capabilities.
/// Where nobody can tell, it is.
fn has_rights_of_its_file() -> bool {
    const AT_SECURE: usize = 23;
    let Ok(vector) = std::fs::read("/proc/self/auxv") else { return true };
    let words: Vec<usize> = vector
        .chunks_exact(size_of::<usize>())
        .map(|word| word.try_into().map_or(0, usize::from_ne_bytes))
        .collect();
    let secure = words.chunks_exact(2).find(|pair| pair[0] == AT_SECURE);
    secure.is_none_or(|pair| pair[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::has_rights_of_its_file;

    #[test]
    fn a_test_has_no_more_rights_than_its_user() {
        assert!(!has_rights_of_its_file());
    }
}
