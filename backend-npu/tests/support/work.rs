//! Work of an application that makes rows of every kind, for the bodies that every backend runs.

use profiler_core::record::{
    ApiCall, Communication, ExternalCorrelation, Kernel, Marker, Memcpy, Memory, Memset,
    RecordKind, Row as _, Span,
};

use crate::support::{self, Activity};

/// Does it once.
pub(crate) fn work() {
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

/// The kinds of rows that come of it.
pub(crate) fn expected() -> Vec<RecordKind> {
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

/// How many of each.
pub(crate) fn rows() -> Vec<u64> {
    vec![100, 1, 200, 100, 1, 1, 1, 1, 1]
}
