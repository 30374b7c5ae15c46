//! The bodies that every backend runs, through the plugin door, on the stand-in for libcupti.

mod support;

use std::sync::{Arc, OnceLock};

use profiler_core::abi::LoadedPlugin;
use profiler_core::backend::{BackendId, ProfilerBackend, SessionConfig};
use profiler_core::conformance::{Fixture, build_plugin};
use profiler_core::record::{ApiCall, Kernel, Memcpy, Memset, RecordKind, Row as _};

struct BehindTheDoor;

fn plugin() -> &'static LoadedPlugin {
    static PLUGIN: OnceLock<LoadedPlugin> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let library = build_plugin("backend-cuda-plugin");
        let id = BackendId::parse("cuda").expect("an id");
        profiler_core::abi::load(&library, &id).expect("the plugin loads")
    })
}

impl Fixture for BehindTheDoor {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        support::fake();
        Arc::new(plugin().backend.clone())
    }

    fn config(&self) -> SessionConfig {
        support::attached()
    }

    fn work(&self) {
        support::fake().launch(c"void add<float>(float*)", 100, 7, 4);
        support::fake().copy(4096, 7);
    }

    fn expected(&self) -> Vec<RecordKind> {
        vec![Kernel::KIND, ApiCall::KIND, Memcpy::KIND, Memset::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![100, 103, 2, 1])
    }
}

profiler_core::conformance_tests!(BehindTheDoor);
