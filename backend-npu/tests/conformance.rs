//! The bodies that every backend runs, on the stand-in.

mod support;
#[path = "support/work.rs"]
mod work;

use std::sync::Arc;

use profiler_core::backend::{Preset, ProfilerBackend, SessionConfig};
use profiler_core::conformance::Fixture;
use profiler_core::record::RecordKind;

struct OnStandIn;

impl Fixture for OnStandIn {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        let fake = support::fake();
        fake.preload(true);
        Arc::new(fake.backend())
    }

    fn config(&self) -> SessionConfig {
        SessionConfig { preset: Preset::Full, memory: true, ..SessionConfig::default() }
    }

    fn work(&self) {
        work::work();
    }

    fn expected(&self) -> Vec<RecordKind> {
        work::expected()
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(work::rows())
    }
}

profiler_core::conformance_tests!(OnStandIn);
