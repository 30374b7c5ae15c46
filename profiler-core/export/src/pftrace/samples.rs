//! Sampled stacks as perf samples: the viewer makes flame graphs of them.

use std::collections::HashMap;
use std::io::Write;

use profiler_core::record::{Sample, StackId};

use super::{Pftrace, field};
use crate::capture::{Place, Worker};
use crate::proto::{Proto as _, message};
use crate::stacks::FrameNames;
use crate::symbolize::{ResolvedFrame, SymbolizerOptions};

/// The memory that the symbols of all files may take.
const SYMBOL_BYTES: u64 = 32 << 20;

/// What a worker's sequence has interned.
#[derive(Default)]
pub(super) struct SampleTables {
    workers: HashMap<usize, Tables>,
    /// What is known of the workers, and the names made of it.
    known: Vec<Worker>,
    names: Option<FrameNames>,
}

#[derive(Default)]
struct Tables {
    /// Stack by the capture's id.
    stacks: HashMap<u32, u64>,
    /// The frames that each frame of the capture stands for, outermost first.
    frames: HashMap<usize, Vec<u64>>,
    functions: HashMap<String, u64>,
    mappings: HashMap<String, u64>,
    next_frame: u64,
}

impl<W: Write> Pftrace<W> {
    /// Writes a sample and what it refers to for the first time.
    pub(super) fn sample(&mut self, place: &Place<'_>, row: &Sample) {
        let worker = place.worker.index;
        let mut tables = self.samples.workers.remove(&worker).unwrap_or_default();
        let mut interned = Vec::new();
        let callstack = match row.stack.is_none() {
            true => 0,
            false => self.callstack(&mut tables, &mut interned, place, row.stack),
        };
        self.samples.workers.insert(worker, tables);
        let tracks = &self.workers[worker];
        let sequence = tracks.sequence;
        let owner = place.worker.threads.get(&row.thread).map_or(0, |info| info.process);
        let process = if owner == 0 { place.worker.identity.pid } else { owner };
        let (pid, tid) = (tracks.pids.process(process), tracks.pids.thread(row.thread));
        self.packet(|packet| {
            packet.uint(field::packet::TIMESTAMP, row.time);
            packet.uint(field::packet::SEQUENCE_ID, u64::from(sequence));
            if !interned.is_empty() {
                packet.bytes(field::packet::INTERNED_DATA, &interned);
            }
            message(packet, field::packet::PERF_SAMPLE, |sample| {
                let cpu = if row.cpu == u32::MAX { 0 } else { row.cpu };
                sample.uint(field::perf_sample::CPU, u64::from(cpu));
                sample.uint(field::perf_sample::PID, u64::from(pid));
                sample.uint(field::perf_sample::TID, u64::from(tid));
                if callstack != 0 {
                    sample.uint(field::perf_sample::CALLSTACK, callstack);
                }
                sample.uint(field::perf_sample::TIMEBASE_COUNT, row.weight_ns);
            });
        });
    }

    /// The names of frames. A spool that is still written may tell of further modules later;
    /// then they are looked up anew.
    fn frame_names(&mut self, worker: &Worker) -> &mut FrameNames {
        let samples = &mut self.samples;
        let is_known = samples
            .known
            .get(worker.index)
            .is_some_and(|known| known.modules.len() == worker.modules.len());
        if !is_known || samples.names.is_none() {
            if let Some(known) = samples.known.get_mut(worker.index) {
                known.clone_from(worker);
            }
            samples.names = None;
        }
        let known = &samples.known;
        samples.names.get_or_insert_with(|| {
            // The viewer shows no lines, and they would take more memory than all else.
            let options = SymbolizerOptions {
                lines: false,
                memory_bytes: SYMBOL_BYTES,
                ..SymbolizerOptions::default()
            };
            FrameNames::new(known, options)
        })
    }

    /// Notes who there is, before the first sample.
    pub(super) fn expect_samples(&mut self, workers: &[Worker]) {
        self.samples.known = workers.to_vec();
    }

    fn callstack(
        &mut self,
        tables: &mut Tables,
        interned: &mut Vec<u8>,
        place: &Place<'_>,
        stack: StackId,
    ) -> u64 {
        if let Some(&iid) = tables.stacks.get(&stack.0) {
            return iid;
        }
        let iid = u64::from(stack.0);
        let mut frames: Vec<usize> = place.definitions.stack(stack).collect();
        frames.reverse();
        let mut frame_iids = Vec::with_capacity(frames.len());
        for frame in frames {
            if !tables.frames.contains_key(&frame) {
                let resolved = self.frame_names(place.worker).frames(place.definitions, frame);
                let iids = tables.intern_frame(interned, &resolved);
                tables.frames.insert(frame, iids);
            }
            frame_iids.extend(tables.frames.get(&frame).into_iter().flatten());
        }
        message(interned, field::interned::CALLSTACKS, |callstack| {
            callstack.uint(field::callstack::IID, iid);
            for frame in &frame_iids {
                callstack.uint(field::callstack::FRAMES, *frame);
            }
        });
        tables.stacks.insert(stack.0, iid);
        iid
    }
}

impl Tables {
    /// Interns what an address stands for: the function there, and those inlined into it.
    fn intern_frame(&mut self, interned: &mut Vec<u8>, resolved: &[ResolvedFrame]) -> Vec<u64> {
        let mut iids = Vec::new();
        // Innermost first, as symbolizers give them; call stacks stand root first.
        for frame in resolved.iter().rev() {
            let function = self.function(interned, &frame.function);
            let mapping = self.mapping(interned, frame);
            self.next_frame += 1;
            let iid = self.next_frame;
            message(interned, field::interned::FRAMES, |fields| {
                fields.uint(field::frame::IID, iid);
                fields.uint(field::frame::FUNCTION_NAME, function);
                fields.uint(field::frame::MAPPING, mapping);
                fields.uint(field::frame::REL_PC, frame.rel_pc);
            });
            iids.push(iid);
        }
        iids
    }

    fn function(&mut self, interned: &mut Vec<u8>, name: &str) -> u64 {
        if let Some(&iid) = self.functions.get(name) {
            return iid;
        }
        let iid = self.functions.len() as u64 + 1;
        self.functions.insert(name.to_owned(), iid);
        intern(interned, field::interned::FUNCTION_NAMES, iid, name.as_bytes());
        iid
    }

    fn mapping(&mut self, interned: &mut Vec<u8>, frame: &ResolvedFrame) -> u64 {
        let (path, build_id): (&str, &[u8]) = match &frame.module {
            Some(module) => (&module.path, &module.build_id),
            None => ("", &[]),
        };
        if let Some(&iid) = self.mappings.get(path) {
            return iid;
        }
        let iid = self.mappings.len() as u64 + 1;
        self.mappings.insert(path.to_owned(), iid);
        intern(interned, field::interned::MAPPING_PATHS, iid, path.as_bytes());
        intern(interned, field::interned::BUILD_IDS, iid, build_id);
        message(interned, field::interned::MAPPINGS, |fields| {
            fields.uint(field::mapping::IID, iid);
            fields.uint(field::mapping::BUILD_ID, iid);
            fields.uint(field::mapping::PATHS, iid);
        });
        iid
    }
}

fn intern(interned: &mut Vec<u8>, list: u32, iid: u64, text: &[u8]) {
    message(interned, list, |name| {
        name.uint(field::interned_text::IID, iid);
        name.bytes(field::interned_text::TEXT, text);
    });
}
