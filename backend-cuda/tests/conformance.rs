//! The bodies that every backend runs, on the stand-in.

mod support;

use std::sync::Arc;

use backend_cuda::CudaBackend;
use profiler_core::backend::{ProfilerBackend, SessionConfig};
use profiler_core::conformance::Fixture;
use profiler_core::record::{ApiCall, Kernel, Memcpy, Memset, RecordKind, Row as _};

struct OnStandIn;

impl Fixture for OnStandIn {
    fn backend(&self) -> Arc<dyn ProfilerBackend> {
        support::fake();
        Arc::new(CudaBackend::new())
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

profiler_core::conformance_tests!(OnStandIn);
