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
    let lift = lift(readers, &reference);
    let mut begin = axis_begin.map(|begin| begin.saturating_add_signed(lift));
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
            realtime_offset_ns: realtime_offset(&reference).saturating_sub(lift),
            boottime_offset_ns: offset(reference.boottime, reference.monotonic)
                .saturating_sub(lift),
        };
        let shift = shift.saturating_add(lift);
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

/// How far the axis lies above the first worker's clock: 0, but where another worker recorded before
/// that machine was started. There the axis is CLOCK_REALTIME, which has an instant for both.
fn lift(readers: &[WorkerReader], reference: &ClockTuple) -> i64 {
    let axis = realtime_offset(reference);
    let is_before = |reader: &WorkerReader| {
        let own = reader.reference_tuple();
        let shift = realtime_offset(&own).saturating_sub(axis);
        let begin = reader.first_window().filter(|_| own.realtime != 0);
        begin.is_some_and(|begin| begin.checked_add_signed(shift).is_none())
    };
    if readers.iter().any(is_before) { axis } else { 0 }
}

fn realtime_offset(tuple: &ClockTuple) -> i64 {
    offset(tuple.realtime, tuple.monotonic)
}

fn offset(clock: u64, monotonic: u64) -> i64 {
    if clock == 0 { 0 } else { clock.wrapping_sub(monotonic) as i64 }
}
