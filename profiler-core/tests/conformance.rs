//! The null backend keeps the contract that every backend has to keep.
#![cfg(feature = "conformance")]

use std::sync::Arc;

use profiler_core::backend::ProfilerBackend;
use profiler_core::conformance::Fixture;
use profiler_core::null::NullBackend;
use profiler_core::record::{Marker, RecordKind, Row as _};

struct NullFixture;

impl Fixture for NullFixture {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        Arc::new(NullBackend::new())
    }

    fn work(&self) {}

    fn expected(&self) -> Vec<RecordKind> {
        vec![Marker::KIND]
    }

    fn rows_of_work(&self) -> Option<Vec<u64>> {
        Some(vec![1])
    }
}

profiler_core::conformance_tests!(NullFixture);
