//! What every backend must keep, kept by this one as a plugin.

#![allow(clippy::unwrap_used, reason = "a test fails")]

mod support;

use std::sync::{Arc, OnceLock};

use profiler_core::abi::LoadedPlugin;
use profiler_core::backend::{BackendId, ProfilerBackend, SessionConfig};
use profiler_core::conformance::{Fixture, build_plugin};
use profiler_core::record::RecordKind;
use support::Work;

fn plugin() -> &'static LoadedPlugin {
    static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let library = build_plugin("backend-cpu-plugin");
        profiler_core::abi::load(&library, &BackendId::parse("cpu").unwrap()).unwrap()
    })
}

/// The same work, recorded through the door.
struct BehindTheDoor(Work);

impl Fixture for BehindTheDoor {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        Arc::new(plugin().backend.clone())
    }

    fn config(&self) -> SessionConfig {
        self.0.config()
    }

    fn work(&self) {
        self.0.work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        self.0.expected()
    }
}

mod sampled {
    profiler_core::conformance_tests!(super::BehindTheDoor(super::Work::with(
        "perf_event",
        "inherited"
    )));
}

mod counters_alone {
    profiler_core::conformance_tests!(super::BehindTheDoor(super::Work::counters()));
}
