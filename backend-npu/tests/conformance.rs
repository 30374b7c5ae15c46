//! The bodies that every backend runs, on the stand-in.

mod support;

use std::sync::Arc;

use profiler_core::backend::{Preset, ProfilerBackend, SessionConfig};
use profiler_core::conformance::Fixture;
use profiler_core::record::{
    ApiCall, Communication, ExternalCorrelation, Kernel, Marker, Memcpy, Memory, Memset,
    RecordKind, Row as _, Span,
};

use support::Activity;

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
        let fake = support::fake();
        fake.push_external(2, 77);
        fake.launch(c"MatMulV2", 100, 7);
        fake.pop_external(2);
        let name = c"hcom_allReduce_".as_ptr();
        for kind in [5, 6, 7, 9] {
            fake.emit(kind, &Activity { name, bytes: 4096, ..Activity::now() });
        }
        for flag in [1, 2, 4] {
            fake.emit(1, &Activity { name, flag, id: 5, ..Activity::now() });
        }
    }

    fn expected(&self) -> Vec<RecordKind> {
        vec![
            Kernel::KIND,
            Communication::KIND,
            ApiCall::KIND,
            ExternalCorrelation::KIND,
            Memory::KIND,
            Memset::KIND,
            Memcpy::KIND,
            Span::KIND,
            Marker::KIND,
        ]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![100, 1, 200, 100, 1, 1, 1, 1, 1])
    }
}

profiler_core::conformance_tests!(OnStandIn);
