//! Where plugins are looked for, and which files may be loaded.
//!
//! A plugin is native code in the profiled process, so a file is loaded only where nobody but root
//! and this user can have written it: one directory, named by the process's own environment or
//! program, never by a message. Its name tells which backend it holds, so that one whose backend
//! is linked already is not even loaded: two copies of a backend would fight for the driver.

mod dir;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use profiler_core::abi::{LoadedPlugin, PluginError};
use profiler_core::backend::BackendId;
use profiler_core::error::chain;
use profiler_core::registry::{BackendRegistry, PluginOrigin, RefusedPlugin};

use dir::PluginDir;

/// A plugin that this process has loaded. It stays, even if its file is replaced.
struct InUse {
    path: PathBuf,
    plugin: LoadedPlugin,
}

/// The plugins of this process: each is loaded once, for a second copy would be another backend
/// with the same driver below it.
static LOADED: Mutex<BTreeMap<BackendId, InUse>> = Mutex::new(BTreeMap::new());

/// Adds the plugins of a directory; what is not used is remembered with the reason.
pub(crate) fn add_from(registry: &mut BackendRegistry, dir: &Path) {
    let dir = match PluginDir::open(dir) {
        Ok(dir) => dir,
        Err(error) => return refuse(registry, dir.to_owned(), error.code(), &error),
    };
    let files = match dir.files() {
        Ok(files) => files,
        Err(error) => return refuse(registry, dir.path().to_owned(), error.code(), &error),
    };
    for (id, name) in files {
        let path = dir.path().join(&name);
        if registry.find(&id).is_some() {
            let reason = format!(
                "{} is not loaded: backend `{id}` is linked into this program already; remove the \
                 file, or build without the feature `{id}`",
                path.display()
            );
            registry.refuse_plugin(RefusedPlugin { path, code: "duplicate".to_owned(), reason });
            continue;
        }
        let loaded = match dir.check(&name) {
            Ok(()) => load(&path, &id),
            Err(error) => {
                refuse(registry, path, error.code(), &error);
                continue;
            }
        };
        match loaded {
            Ok((path, plugin)) => {
                let origin = PluginOrigin { path, version: plugin.version.clone() };
                // The id is free: that was asked above, and nobody else has the registry.
                let _added: Result<(), _> =
                    registry.add_plugin(plugin.registered(), origin, plugin.trial());
            }
            Err(error) => refuse(registry, path, error.code(), &error),
        }
    }
}

/// The plugin of an id, loaded now or before.
fn load(path: &Path, id: &BackendId) -> Result<(PathBuf, LoadedPlugin), PluginError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = loaded.get(id) {
        return Ok((found.path.clone(), found.plugin.clone()));
    }
    let plugin = profiler_core::abi::load(path, id)?;
    let path = path.to_owned();
    loaded.insert(id.clone(), InUse { path: path.clone(), plugin: plugin.clone() });
    Ok((path, plugin))
}

fn refuse(
    registry: &mut BackendRegistry,
    path: PathBuf,
    code: &str,
    error: &(dyn std::error::Error + 'static),
) {
    registry.refuse_plugin(RefusedPlugin { path, code: code.to_owned(), reason: chain(error) });
}
