//! Turns unwound samples into rows: stacks interned, threads named, groups emitted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use profiler_core::record::{
    Frame, HeapRef, LossCause, Module, ProcessDef, Row as _, Sample, StackDef, StackId, ThreadDef,
};
use profiler_core::sink::{Batch, Emit, Loss, RecordSink, StreamId};
use zerocopy::IntoBytes as _;

use crate::modules::NewModule;

/// Samples in a group.
const GROUP_SAMPLES: usize = 256;

/// Stacks that are remembered, and their frames; then all are forgotten and defined anew when they
/// come again.
const MAX_STACKS: usize = 32_768;
const MAX_STACK_FRAMES: usize = 1 << 20;

/// Threads whose names have been given.
const MAX_THREADS: usize = 65_536;

/// The stream of samples and of what they need to be read.
pub(crate) struct SampleRows {
    sink: Arc<dyn RecordSink>,
    stream: StreamId,
    process: u32,
    stacks: HashMap<Box<[u64]>, StackId>,
    stack_frames: usize,
    last_stack: u32,
    named: HashSet<u32>,
    group: Group,
    /// The sink takes nothing any more.
    closed: bool,
}

/// What is emitted together.
#[derive(Default)]
struct Group {
    threads: Vec<ThreadDef>,
    thread_heap: Vec<u8>,
    stacks: Vec<StackDef>,
    stack_heap: Vec<u8>,
    samples: Vec<Sample>,
    /// Definitions to forget if the group is refused.
    new_stacks: Vec<Box<[u64]>>,
}

impl SampleRows {
    pub(crate) fn new(sink: Arc<dyn RecordSink>, stream: StreamId, process: u32) -> Self {
        Self {
            sink,
            stream,
            process,
            stacks: HashMap::new(),
            stack_frames: 0,
            last_stack: 0,
            named: HashSet::new(),
            group: Group::default(),
            closed: false,
        }
    }

    /// Whether the sink takes nothing any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The memory that it holds: the stacks that are known, and the group that gathers.
    pub(crate) fn memory_bytes(&self) -> usize {
        const STACK_BYTES: usize = 2 * size_of::<Box<[u64]>>() + size_of::<StackId>();
        let group = &self.group;
        self.stacks.capacity() * STACK_BYTES
            + self.stack_frames * size_of::<u64>()
            + self.named.capacity() * 2 * size_of::<u32>()
            + group.threads.capacity() * size_of::<ThreadDef>()
            + group.thread_heap.capacity()
            + group.stacks.capacity() * size_of::<StackDef>()
            + 2 * group.stack_heap.capacity()
            + group.samples.capacity() * size_of::<Sample>()
    }

    /// Whether the thread's name has been given.
    pub(crate) fn is_named(&self, thread: u32) -> bool {
        self.named.contains(&thread)
    }

    /// Gives a thread's name, again where it has changed.
    pub(crate) fn name_thread(&mut self, thread: u32, name: &[u8]) {
        self.leave_name(thread);
        let name = HeapRef::push(&mut self.group.thread_heap, name);
        self.group.threads.push(ThreadDef { name, thread, process: self.process });
    }

    /// The thread's name is not asked for again.
    pub(crate) fn leave_name(&mut self, thread: u32) {
        if self.named.len() == MAX_THREADS {
            self.named.clear();
        }
        self.named.insert(thread);
    }

    /// The thread has ended.
    pub(crate) fn forget_thread(&mut self, thread: u32) {
        self.named.remove(&thread);
    }

    /// Adds a sample. `sample.stack` is filled in from `frames`.
    pub(crate) fn push(&mut self, sample: Sample, frames: &[u64]) {
        let stack = self.stack(frames);
        self.group.samples.push(Sample { stack, ..sample });
        if self.group.samples.len() >= GROUP_SAMPLES {
            self.emit();
        }
    }

    /// Emits what has gathered.
    pub(crate) fn emit(&mut self) {
        let group = &mut self.group;
        if group.samples.is_empty() && group.threads.is_empty() {
            return;
        }
        // Rings of several processors are read one after the other.
        group.samples.sort_by_key(|sample| sample.time);
        let batches = [
            Batch::with_heap(self.stream, &group.threads, &group.thread_heap),
            Batch::with_heap(self.stream, &group.stacks, &group.stack_heap),
            Batch::new(self.stream, &group.samples),
        ];
        let mut filled = Vec::with_capacity(batches.len());
        filled.extend(batches.into_iter().filter(|batch| batch.count() > 0));
        match self.sink.emit(&filled) {
            Emit::Accepted => {}
            Emit::Closed => self.closed = true,
            // Refused: the definitions are sent again when they are needed next.
            _ => {
                for stack in &group.new_stacks {
                    self.stacks.remove(stack);
                    self.stack_frames -= stack.len();
                }
                for thread in &group.threads {
                    self.named.remove(&thread.thread);
                }
            }
        }
        group.clear();
    }

    /// Emits module rows; answers whether they were taken.
    pub(crate) fn modules(&mut self, time: u64, modules: impl Iterator<Item = NewModule>) -> bool {
        let mut heap = Vec::new();
        let mut rows = Vec::new();
        for NewModule { mapping, build_id } in modules {
            rows.push(Module {
                time,
                start_address: mapping.range.start,
                end_address: mapping.range.end,
                file_offset: mapping.file_offset,
                path: HeapRef::push(&mut heap, mapping.path.as_bytes()),
                build_id: HeapRef::push(&mut heap, &build_id),
                process: self.process,
                reserved: 0,
            });
        }
        rows.is_empty() || self.emit_one(Batch::with_heap(self.stream, &rows, &heap))
    }

    /// Emits what is known of the process; answers whether it was taken.
    pub(crate) fn process(&mut self, name: &[u8], command_line: &[u8], parent: u32) -> bool {
        let mut heap = Vec::new();
        let row = ProcessDef {
            name: HeapRef::push(&mut heap, name),
            command_line: HeapRef::push(&mut heap, command_line),
            process: self.process,
            parent,
        };
        self.emit_one(Batch::with_heap(self.stream, &[row], &heap))
    }

    /// Counts samples that the kernel or the handler could not keep.
    pub(crate) fn lost(&self, count: u64, from: u64, to: u64) {
        self.count_loss(count, from, to, LossCause::SamplerLost);
    }

    /// Counts records that were not understood.
    pub(crate) fn undecodable(&self, count: u64, from: u64, to: u64) {
        self.count_loss(count, from, to, LossCause::Undecodable);
    }

    fn count_loss(&self, count: u64, from: u64, to: u64, cause: LossCause) {
        if count == 0 {
            return;
        }
        let (stream, kind) = (Some(self.stream), Some(Sample::KIND));
        self.sink.loss(Loss { stream, kind, count, from, to, cause });
    }

    fn emit_one(&mut self, batch: Batch<'_>) -> bool {
        match self.sink.emit(&[batch]) {
            Emit::Accepted => true,
            Emit::Closed => {
                self.closed = true;
                true
            }
            _ => false,
        }
    }

    fn stack(&mut self, frames: &[u64]) -> StackId {
        if let Some(id) = self.stacks.get(frames) {
            return *id;
        }
        let full = self.stack_frames + frames.len() > MAX_STACK_FRAMES;
        if full || self.stacks.len() == MAX_STACKS {
            // What the group still defines is forgotten with the rest.
            self.group.new_stacks.clear();
            self.stacks.clear();
            self.stack_frames = 0;
        }
        self.last_stack += 1;
        let id = StackId(self.last_stack);
        let start = self.group.stack_heap.len() as u32;
        for address in frames {
            let frame = Frame { address: *address, ..Frame::default() };
            self.group.stack_heap.extend_from_slice(frame.as_bytes());
        }
        let len = self.group.stack_heap.len() as u32 - start;
        let frames_ref = HeapRef { offset: start, len };
        self.group.stacks.push(StackDef { frames: frames_ref, id, process: self.process });
        let key: Box<[u64]> = frames.into();
        self.group.new_stacks.push(key.clone());
        self.stack_frames += frames.len();
        self.stacks.insert(key, id);
        id
    }
}

impl Group {
    fn clear(&mut self) {
        self.threads.clear();
        self.thread_heap.clear();
        self.stacks.clear();
        self.stack_heap.clear();
        self.samples.clear();
        self.new_stacks.clear();
    }
}
