//! Takes the sampler's records: unwinds samples, keeps modules and threads up to date.

use std::collections::HashSet;
use std::sync::Arc;

use profiler_core::clock::ClockSource;
use profiler_core::record::Sample;

use crate::counters::Stat;
use crate::modules::Modules;
use crate::perf_record::{RawSample, Record};
use crate::process::{Process, is_profiler_thread};
use crate::sample_rows::SampleRows;

/// The way of a record to the sink.
pub(crate) struct Intake {
    process: Arc<Process>,
    clock: Arc<dyn ClockSource>,
    rows: SampleRows,
    modules: Modules,
    /// Our own threads.
    excluded: HashSet<u32>,
    newly_excluded: Vec<u32>,
    frames: Vec<u64>,
    maps_changed: bool,
    /// The sink refused module rows: all are sent again.
    modules_owed: bool,
    process_owed: bool,
    whole_until: u64,
    malformed: u64,
    /// Samples taken.
    pub(crate) samples: u64,
    /// Samples of our own threads, left out.
    pub(crate) own_samples: u64,
}

/// Ended threads are forgotten past that many.
const MAX_EXCLUDED: usize = 4096;

impl Intake {
    pub(crate) fn new(
        process: Arc<Process>,
        clock: Arc<dyn ClockSource>,
        rows: SampleRows,
    ) -> Self {
        Self {
            process,
            whole_until: clock.monotonic_ns(),
            clock,
            rows,
            modules: Modules::new(),
            excluded: HashSet::new(),
            newly_excluded: Vec::new(),
            frames: Vec::new(),
            maps_changed: true,
            modules_owed: false,
            process_owed: true,
            malformed: 0,
            samples: 0,
            own_samples: 0,
        }
    }

    /// Whether the sink takes nothing any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.rows.is_closed()
    }

    /// The memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        let own = self.excluded.capacity() * 2 * size_of::<u32>()
            + self.frames.capacity() * size_of::<u64>();
        own + self.rows.memory_bytes() + self.modules.memory_bytes()
    }

    /// Names the process and its threads, as they are now.
    pub(crate) fn describe(&mut self) {
        let threads = self.process.threads().unwrap_or_default();
        for thread in threads {
            self.look_at_thread(thread);
        }
        self.finish_round();
    }

    /// Takes one record.
    pub(crate) fn take(&mut self, record: Record<'_>) {
        match record {
            Record::Sample(sample) => self.sample(&sample),
            Record::Mapped => self.maps_changed = true,
            Record::Renamed { thread, name, exec } => {
                if exec {
                    self.maps_changed = true;
                    self.process_owed = true;
                }
                // One of ours stays one, whatever it is called when it ends.
                if is_profiler_thread(name) {
                    self.exclude(thread);
                } else if !self.excluded.contains(&thread) {
                    self.rows.name_thread(thread, name);
                }
            }
            Record::Ended { process, thread } if process == self.process.pid => {
                // Another thread may get its id.
                self.excluded.remove(&thread);
                self.rows.forget_thread(thread);
            }
            Record::Lost { count, time } => self.rows.lost(count, self.whole_until, time),
            Record::Malformed => self.malformed += 1,
            // A name read before its events were there may have changed unseen.
            Record::Began { process, thread } if process == self.process.pid => {
                self.rows.forget_thread(thread);
            }
            Record::Began { .. } | Record::Ended { .. } | Record::Other => {}
        }
    }

    /// Counts samples that were lost at an unknown instant since the last round.
    pub(crate) fn lost(&self, count: u64) {
        self.rows.lost(count, self.whole_until, self.clock.monotonic_ns());
    }

    /// Emits what a round of draining has brought.
    pub(crate) fn finish_round(&mut self) {
        if std::mem::take(&mut self.maps_changed) {
            self.refresh_modules();
        }
        if std::mem::take(&mut self.modules_owed) {
            let time = self.clock.monotonic_ns();
            self.modules_owed = !self.rows.modules(time, self.modules.all());
        }
        if std::mem::take(&mut self.process_owed) {
            self.process_owed = !self.emit_process();
        }
        self.rows.emit();
        let now = self.clock.monotonic_ns();
        let malformed = std::mem::take(&mut self.malformed);
        self.rows.undecodable(malformed, self.whole_until, now);
        self.whole_until = now;
    }

    /// Looks for mappings that no record told of.
    pub(crate) fn refresh_modules(&mut self) {
        // A target that has ended maps nothing any more.
        let Ok(added) = self.modules.refresh(&self.process) else { return };
        let time = self.clock.monotonic_ns();
        self.modules_owed |= !self.rows.modules(time, added.into_iter());
    }

    /// Threads found to be ours since the last call.
    pub(crate) fn newly_excluded(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.newly_excluded)
    }

    /// Modules in which frame pointers were followed for want of memory for their tables.
    pub(crate) fn tables_left_out(&self) -> usize {
        self.modules.tables_left_out()
    }

    /// The file in which the target's JIT compiler records its code, if it has one mapped.
    pub(crate) fn jitdump(&self) -> Option<String> {
        let mut modules = self.modules.all();
        let jitdump = modules.find(|module| {
            let name = module.mapping.path.rsplit('/').next().unwrap_or_default();
            name.starts_with("jit-") && name.ends_with(".dump")
        });
        jitdump.map(|module| module.mapping.path)
    }

    fn sample(&mut self, sample: &RawSample<'_>) {
        if sample.process != self.process.pid {
            return;
        }
        if !self.rows.is_named(sample.thread) && !self.excluded.contains(&sample.thread) {
            self.look_at_thread(sample.thread);
        }
        if self.excluded.contains(&sample.thread) {
            self.own_samples += 1;
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        self.modules.unwind(&self.process, sample, &mut frames);
        let row = Sample {
            time: sample.time,
            weight_ns: sample.weight_ns,
            thread: sample.thread,
            cpu: sample.cpu,
            ..Sample::default()
        };
        self.rows.push(row, &frames);
        self.frames = frames;
        self.samples += 1;
    }

    fn look_at_thread(&mut self, thread: u32) {
        let Some(name) = self.process.thread_name(thread) else {
            // It has ended by now, and keeps the name that was given, if any was.
            return self.rows.leave_name(thread);
        };
        match is_profiler_thread(&name) {
            true => self.exclude(thread),
            false => self.rows.name_thread(thread, &name),
        }
    }

    fn exclude(&mut self, thread: u32) {
        if self.excluded.len() == MAX_EXCLUDED {
            self.excluded.clear();
        }
        self.excluded.insert(thread);
        self.newly_excluded.push(thread);
    }

    fn emit_process(&mut self) -> bool {
        let name = self.process.thread_name(self.process.pid).unwrap_or_default();
        let stat = self.process.read("stat", 4096).unwrap_or_default();
        let parent = Stat::parse(&stat).map_or(0, |stat| stat.parent);
        // The command line may hold secrets, and the agent knows it: it is not read here.
        self.rows.process(&name, &[], parent)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use profiler_core::clock::{ClockDomain, SystemClock};
    use profiler_core::record::{HeapRef, Row as _, ThreadDef};
    use profiler_core::sink::{Batch, Emit, LogLevel, Loss, RecordSink, StreamId, StreamInfo};
    use zerocopy::FromBytes as _;

    use super::*;

    /// Keeps the names of threads.
    #[derive(Default)]
    struct Names(Mutex<Vec<(u32, String)>>);

    impl RecordSink for Names {
        fn open_stream(&self, _info: StreamInfo) -> StreamId {
            StreamId(1)
        }
        fn emit(&self, group: &[Batch<'_>]) -> Emit {
            for batch in group.iter().filter(|batch| batch.kind == ThreadDef::KIND) {
                for row in batch.rows.chunks_exact(batch.stride as usize) {
                    let row = ThreadDef::read_from_bytes(row).expect("a row");
                    let HeapRef { offset, len } = row.name;
                    let name = &batch.heap[offset as usize..][..len as usize];
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.0.lock().expect("no panic").push((row.thread, name));
                }
            }
            Emit::Accepted
        }
        fn loss(&self, _loss: Loss) {}
        fn fact(&self, _key: &str, _value: &str) {}
        fn log(&self, _level: LogLevel, _target: &str, _message: &str) {}
    }

    /// Its records are read when it is gone: that it began makes its name be asked for again.
    #[test]
    fn a_thread_that_has_ended_keeps_its_name() {
        let sink = Arc::new(Names::default());
        let process = Arc::new(Process::open(None).expect("this process"));
        let pid = process.pid;
        let info = StreamInfo {
            producer: "cpu.sampler".to_owned(),
            thread: 0,
            clock: ClockDomain::Monotonic,
        };
        let rows = SampleRows::new(Arc::clone(&sink) as _, sink.open_stream(info), pid);
        let mut intake = Intake::new(process, Arc::new(SystemClock::new()), rows);
        let (told, asked) = std::sync::mpsc::channel();
        let (ends, waits) = std::sync::mpsc::channel::<()>();
        let body = move || {
            told.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).expect("asked");
            waits.recv().ok();
        };
        let app = std::thread::Builder::new().name("app".to_owned()).spawn(body).expect("started");
        let thread = asked.recv().expect("a number");
        intake.describe();
        drop(ends);
        app.join().expect("ended");
        intake.take(Record::Began { process: pid, thread });
        intake.take(Record::Sample(RawSample {
            time: 1,
            process: pid,
            thread,
            cpu: 0,
            weight_ns: 1,
            registers: None,
            address: 0,
            stack: &[],
        }));
        intake.finish_round();
        let names = sink.0.lock().expect("no panic");
        let names: Vec<&str> =
            names.iter().filter(|(of, _)| *of == thread).map(|(_, name)| &**name).collect();
        assert_eq!(names, ["app"]);
    }
}
