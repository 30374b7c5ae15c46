//! A build without plugins: says so where a directory is named.

use std::path::Path;

use profiler_core::registry::{BackendRegistry, RefusedPlugin};

pub(crate) fn add_from(registry: &mut BackendRegistry, dir: &Path) {
    registry.refuse_plugin(RefusedPlugin {
        path: dir.to_owned(),
        code: "no_plugins".to_owned(),
        reason: "this program loads no plugins: build it with the feature `plugins`".to_owned(),
    });
}
