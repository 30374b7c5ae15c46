//! Calls, as callbacks told them, and their rows.

use profiler_core::record::{ApiCall, ApiDomain, HeapRef, StringDef, StringId};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};
use rustc_hash::FxHashMap;

use super::Names;
use crate::cupti::calls::CallEntry;
use crate::cupti::layout::domain;

/// Which calls become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// None is recorded.
    None,
    /// Calls of the runtime, and driver calls that put work on a device: each launch once, by the
    /// outermost call.
    Launches,
    /// Every one, so that a launch by the runtime shows its driver call, too.
    All,
}

/// How a call was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// By which thread.
    pub(crate) thread: u32,
    /// Whether kernels were recorded when it began.
    pub(crate) is_recorded: bool,
}

/// Rows of calls that wait. They have a stream of their own, whose clock is not CUPTI's.
pub(super) struct CallRows {
    out: StreamId,
    heap: Vec<u8>,
    strings: Vec<StringDef>,
    rows: Vec<ApiCall>,
    /// By domain and number.
    functions: FxHashMap<(u32, u32), Function>,
    next_string: u32,
    /// Launches that the driver took while kernels were recorded.
    pub(super) launches: u64,
    /// Launches may have been noted down in a graph.
    pub(super) captures: bool,
}

/// An API function that was called.
#[derive(Clone, Copy)]
struct Function {
    name: StringId,
    role: Role,
}

/// What a function does to a device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It runs kernels.
    Launch,
    /// From here on launches are noted down in a graph and run nothing.
    Capture,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        const LAUNCHES: [&str; 6] = [
            "cudaLaunchKernel",
            "cudaLaunchCooperativeKernel",
            "cudaGraphLaunch",
            "cuLaunchKernel",
            "cuLaunchCooperativeKernel",
            "cuGraphLaunch",
        ];
        if LAUNCHES.iter().any(|launch| name.starts_with(launch)) {
            return Self::Launch;
        }
        if name.contains("BeginCapture") { Self::Capture } else { Self::Other }
    }
}

impl CallRows {
    pub(super) fn new(out: StreamId) -> Self {
        Self {
            out,
            heap: Vec::new(),
            strings: Vec::new(),
            rows: Vec::new(),
            functions: FxHashMap::default(),
            next_string: 1,
            launches: 0,
            captures: false,
        }
    }

    pub(super) fn push(
        &mut self,
        call: &CallEntry,
        made: Made,
        correlation: u64,
        names: &dyn Names,
    ) {
        let api = match call.domain {
            domain::RUNTIME => ApiDomain::CudaRuntime,
            _ => ApiDomain::CudaDriver,
        };
        let function = self.function(call, api, names);
        match function.role {
            Role::Launch if call.result == 0 && made.is_recorded => self.launches += 1,
            Role::Capture => self.captures = true,
            Role::Launch | Role::Other => {}
        }
        self.rows.push(ApiCall {
            start: call.start,
            end: call.end,
            correlation,
            name: function.name,
            thread: made.thread,
            result: call.result,
            function: call.function,
            domain: api.number(),
            flags: 0,
        });
    }

    fn function(&mut self, call: &CallEntry, api: ApiDomain, names: &dyn Names) -> Function {
        let key = (call.domain, call.function);
        if let Some(known) = self.functions.get(&key) {
            return *known;
        }
        let text = names
            .function(call.domain, call.function)
            .unwrap_or_else(|| format!("{} function {}", api.text(), call.function));
        let new = Function { name: StringId(self.next_string), role: Role::of(&text) };
        self.next_string += 1;
        let text = HeapRef::push(&mut self.heap, text.as_bytes());
        self.strings.push(StringDef { text, id: new.name, reserved: 0 });
        self.functions.insert(key, new);
        new
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Hands them over as one group. Names of a refused one are told again at their next use.
    pub(super) fn emit(&mut self, sink: &dyn RecordSink) -> Emit {
        if self.rows.is_empty() {
            return Emit::Accepted;
        }
        let strings = Batch::with_heap(self.out, &self.strings, &self.heap);
        let rows = Batch::new(self.out, &self.rows);
        let outcome = match self.strings.is_empty() {
            true => sink.emit(&[rows]),
            false => sink.emit(&[strings, rows]),
        };
        if outcome != Emit::Accepted {
            self.functions.clear();
        }
        self.heap.clear();
        self.strings.clear();
        self.rows.clear();
        outcome
    }
}
