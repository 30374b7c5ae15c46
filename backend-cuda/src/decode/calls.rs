//! Which calls become rows.

use std::collections::BTreeMap;

use profiler_core::record::ApiCall;

/// Which calls become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// None is recorded.
    None,
    /// Calls of the runtime, and driver calls that put work on a device: each launch once, by the
    /// outermost call.
    Launches,
    /// Every one that CUPTI delivers, so that a launch by the runtime shows its driver call, too.
    All,
}

/// Driver calls that may be the inner part of a runtime call.
///
/// A launch through the runtime calls the driver, and CUPTI records both with one correlation. The
/// inner call's record comes first, for it ends first; so it waits for its thread's next record,
/// and where none comes for two flushes, it was the application's own.
#[derive(Default)]
pub(super) struct Nested {
    by_thread: BTreeMap<u32, Thread>,
    /// Flushes that were seen.
    flushes: u64,
}

#[derive(Default)]
struct Thread {
    /// Driver calls of one correlation.
    inner: Vec<ApiCall>,
    /// The flushes that were seen when they came.
    since: u64,
    /// The thread's last runtime call.
    outer: u64,
}

impl Nested {
    /// Takes a driver call; what is known to be no inner one goes to `calls`.
    pub(super) fn driver(&mut self, call: ApiCall, calls: &mut Vec<ApiCall>) {
        let thread = self.by_thread.entry(call.thread).or_default();
        if call.correlation == 0 {
            calls.push(call);
            return;
        }
        if thread.outer == call.correlation {
            return;
        }
        if thread.inner.first().is_some_and(|inner| inner.correlation != call.correlation) {
            calls.append(&mut thread.inner);
        }
        thread.since = self.flushes;
        thread.inner.push(call);
    }

    /// A runtime call came.
    pub(super) fn runtime(&mut self, call: &ApiCall, calls: &mut Vec<ApiCall>) {
        let thread = self.by_thread.entry(call.thread).or_default();
        if thread.inner.first().is_some_and(|inner| inner.correlation == call.correlation) {
            thread.inner.clear();
        }
        calls.append(&mut thread.inner);
        thread.outer = call.correlation;
    }

    /// So many flushes are over and read: what waited for two of them waits no more.
    pub(super) fn settle(&mut self, flushes: u64, calls: &mut Vec<ApiCall>) {
        if flushes == self.flushes {
            return;
        }
        self.flushes = flushes;
        self.by_thread.retain(|_, thread| {
            let is_due = flushes.saturating_sub(thread.since) >= 2;
            if is_due {
                calls.append(&mut thread.inner);
            }
            // What an application's threads leave behind when they end.
            !is_due
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(thread: u32, correlation: u64, function: u32) -> ApiCall {
        ApiCall {
            start: 1,
            end: 2,
            correlation,
            name: profiler_core::record::StringId::NONE,
            thread,
            result: 0,
            function,
            domain: 0,
            flags: 0,
        }
    }

    #[test]
    fn an_inner_call_is_left_out_whichever_record_comes_first() {
        let mut nested = Nested::default();
        let mut calls = Vec::new();
        nested.driver(call(1, 7, 307), &mut calls);
        nested.driver(call(2, 8, 307), &mut calls);
        nested.runtime(&call(1, 7, 211), &mut calls);
        nested.runtime(&call(2, 9, 211), &mut calls);
        assert_eq!(calls, [call(2, 8, 307)], "another correlation is another launch");
        nested.driver(call(2, 9, 307), &mut calls);
        nested.settle(5, &mut calls);
        assert_eq!(calls.len(), 1, "its runtime call came before it");
    }

    #[test]
    fn a_call_of_the_application_itself_waits_for_two_flushes_at_most() {
        let mut nested = Nested::default();
        let mut calls = Vec::new();
        nested.settle(10, &mut calls);
        nested.driver(call(1, 7, 307), &mut calls);
        nested.settle(11, &mut calls);
        assert_eq!(calls, []);
        nested.settle(12, &mut calls);
        assert_eq!(calls, [call(1, 7, 307)]);
        nested.driver(call(1, 8, 307), &mut calls);
        nested.driver(call(1, 9, 307), &mut calls);
        assert_eq!(calls.last(), Some(&call(1, 8, 307)), "the next launch settles it at once");
        nested.settle(u64::MAX, &mut calls);
        assert_eq!(calls.len(), 3);
    }
}
