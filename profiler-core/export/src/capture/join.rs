//! Several workers on one axis.

use profiler_core::record::ClockTuple;

use super::reader::WorkerReader;
use super::worker::{ClockJoin, JoinedBy};
use super::{CaptureOptions, Worker};

/// Puts every reader on the axis of the first and tells what is known of each.
pub(super) fn join(readers: &mut [WorkerReader], options: CaptureOptions) -> Vec<Worker> {
    let Some(first) = readers.first() else { return Vec::new() };
    let axis_worker = first.origin().worker.clone();
    let reference = first.reference_tuple();
    let first_error = first.clock_error_ns();
    let axis_begin = first.first_window();
    let mut begin = axis_begin;
    for reader in readers.iter_mut() {
        let worker = &reader.origin().worker;
        let same_clock = worker.boot_id == axis_worker.boot_id
            && !worker.boot_id.is_empty()
            && worker.time_namespace == axis_worker.time_namespace;
        let own = reader.reference_tuple();
        let is_first = worker.key == axis_worker.key && worker.pid == axis_worker.pid;
        let (by, shift, error_ns) = match same_clock || is_first {
            true => (JoinedBy::Monotonic, 0, first_error.max(reader.clock_error_ns())),
            false => {
                let shift = realtime_offset(&own).saturating_sub(realtime_offset(&reference));
                (JoinedBy::Realtime, shift, first_error + reader.clock_error_ns())
            }
        };
        let clock = ClockJoin {
            by,
            error_ns,
            realtime_offset_ns: realtime_offset(&reference),
            boottime_offset_ns: offset(reference.boottime, reference.monotonic),
        };
        reader.join(shift, clock);
        begin = match (begin, reader.first_window()) {
            (Some(a), Some(b)) => Some(a.min(b.saturating_add_signed(shift))),
            (a, b) => a.or(b.map(|b| b.saturating_add_signed(shift))),
        };
    }
    let origin = begin.unwrap_or(0);
    let slice = match (options.from_ns, options.to_ns) {
        (None, None) => None,
        (from, to) => Some((
            origin.saturating_add(from.unwrap_or(0)),
            to.map_or(u64::MAX, |to| origin.saturating_add(to)),
        )),
    };
    readers.iter_mut().enumerate().map(|(index, reader)| reader.describe(index, slice)).collect()
}

fn realtime_offset(tuple: &ClockTuple) -> i64 {
    offset(tuple.realtime, tuple.monotonic)
}

fn offset(clock: u64, monotonic: u64) -> i64 {
    if clock == 0 { 0 } else { clock.wrapping_sub(monotonic) as i64 }
}
