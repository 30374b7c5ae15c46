//! Samples all threads of a process by perf events.
//!
//! Two layouts, by what the process would cost. Few threads on few processors: an inherited event
//! for each thread and processor, one ring a processor; the kernel itself follows new threads.
//! Else: an event and a ring for each thread on whatever processor, and new threads are attached
//! when their creator's ring tells of them, or when the list of threads is read again; a thread
//! that lives shorter than a tenth of a second may be missed then.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;

use crate::perf::{Event, EventRequest, Ring};
use crate::perf_record::Record;
use crate::poller::Poller;
use crate::process::{Process, is_profiler_thread};
use crate::refusal::Refusal;
use crate::seccomp::RiskyCall;

/// Bytes of the stack in a sample. Stacks of optimised native code are 2 to 10 KiB deep in all
/// but a few samples; what lies above is cut off, and twice as much would double the rings.
pub(crate) const STACK_BYTES: u32 = 16 << 10;

/// The most descriptors that the inherited layout may take.
const MAX_INHERITED_EVENTS: usize = 1024;

/// Memory that all rings together should take; kernel memory that cannot be swapped.
const RINGS_BYTES: usize = 8 << 20;

/// The largest and the smallest ring of a processor or thread; the smallest holds three samples.
const MAX_RING_BYTES: usize = 512 << 10;
const MIN_RING_BYTES: usize = 64 << 10;

/// How the events lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// An inherited event for each thread and processor, a ring for each processor.
    Inherited,
    /// An event and a ring for each thread.
    PerThread,
}

impl Layout {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Inherited => "inherited",
            Self::PerThread => "per_thread",
        }
    }

    /// The layout for that many threads and processors, where `free_descriptors` more can be
    /// opened in this process.
    pub(crate) fn choose(threads: usize, cpus: usize, free_descriptors: usize) -> Self {
        let events = threads.saturating_mul(cpus);
        match events <= MAX_INHERITED_EVENTS.min(free_descriptors / 4) {
            true => Self::Inherited,
            false => Self::PerThread,
        }
    }
}

/// The events of a session and their rings.
pub(crate) struct PerfSampler {
    hz: u32,
    layout: Layout,
    ring_bytes: usize,
    /// By processor or by thread, as the layout says.
    rings: BTreeMap<u32, Ring>,
    /// Events that leave their records in the ring of another.
    sharing: Vec<Event>,
    lost_told: u64,
    lost_of_closed: u64,
    /// Threads that could not be attached, for want of locked memory or descriptors.
    pub(crate) missed_threads: u64,
    enabled: bool,
}

impl PerfSampler {
    /// Attaches to all threads of the process but the profiler's. Nothing is sampled yet.
    ///
    /// # Errors
    ///
    /// Why the kernel refuses; nothing is left open.
    pub(crate) fn attach(
        process: &Process,
        hz: u32,
        layout: Option<Layout>,
        poller: &Poller,
    ) -> Result<Self, Refusal> {
        if !RiskyCall::PerfEventOpen.is_survivable() {
            return Err(Refusal::deadly());
        }
        let threads = sampled_threads(process);
        let cpus = online_cpus();
        if let Some(layout) = layout {
            return Self::attach_in(layout, process, hz, threads, &cpus, poller);
        }
        let layout = Layout::choose(threads.len(), cpus.len(), free_descriptors());
        match Self::attach_in(layout, process, hz, threads.clone(), &cpus, poller) {
            // Kernels before 5.13 cannot follow threads without following child processes.
            Err(_) if layout == Layout::Inherited => {
                Self::attach_in(Layout::PerThread, process, hz, threads, &cpus, poller)
            }
            attached => attached,
        }
    }

    fn attach_in(
        layout: Layout,
        process: &Process,
        hz: u32,
        threads: Vec<u32>,
        cpus: &[u32],
        poller: &Poller,
    ) -> Result<Self, Refusal> {
        let ring_count = match layout {
            Layout::Inherited => cpus.len(),
            Layout::PerThread => threads.len(),
        };
        let share = (RINGS_BYTES / ring_count.max(1)).max(1);
        let ring_bytes = (1 << share.ilog2()).clamp(MIN_RING_BYTES, MAX_RING_BYTES);
        let mut sampler = Self {
            hz,
            layout,
            ring_bytes,
            rings: BTreeMap::new(),
            sharing: Vec::new(),
            lost_told: 0,
            lost_of_closed: 0,
            missed_threads: 0,
            enabled: false,
        };
        match layout {
            Layout::Inherited => sampler.attach_inherited(process, threads, cpus, poller)?,
            Layout::PerThread => sampler.attach_per_thread(process, threads, poller)?,
        }
        Ok(sampler)
    }

    /// Whether the kernel would let us sample the thread.
    ///
    /// # Errors
    ///
    /// Why it refuses.
    pub(crate) fn probe(process: &Process, hz: u32) -> Result<(), Refusal> {
        if !RiskyCall::PerfEventOpen.is_survivable() {
            return Err(Refusal::deadly());
        }
        let request = EventRequest {
            thread: process.pid,
            cpu: None,
            inherit: false,
            hz,
            stack_bytes: STACK_BYTES,
            wake_bytes: 1,
        };
        let event = Event::open(&request).map_err(|error| Refusal::of_open(&error, process))?;
        match Ring::map(event, MIN_RING_BYTES) {
            Ok(_ring) => Ok(()),
            Err((error, _event)) => Err(Refusal::of_ring(&error)),
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory of all rings.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.rings.values().map(Ring::memory_bytes).sum()
    }

    /// Begins to sample.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub(crate) fn enable(&mut self) -> io::Result<()> {
        self.enabled = true;
        self.events().try_for_each(Event::enable)
    }

    /// Ends sampling; what lies in the rings stays there.
    pub(crate) fn disable(&mut self) {
        self.enabled = false;
        for event in self.events() {
            // An event of a thread that has ended counts no more in any case.
            let _ended: io::Result<()> = event.disable();
        }
    }

    /// Hands over the records of the rings in `tokens`, or of all.
    pub(crate) fn drain(
        &mut self,
        process: &Process,
        poller: &Poller,
        tokens: Option<&[u32]>,
        mut record: impl FnMut(Record<'_>),
    ) {
        let mut began = Vec::new();
        let mut lost = 0;
        let mut note = |taken: Record<'_>| {
            match taken {
                Record::Began { process: of, thread } if of == process.pid => began.push(thread),
                Record::Lost { count, .. } => lost += count,
                _ => {}
            }
            record(taken);
        };
        match tokens {
            None => self.rings.values_mut().for_each(|ring| ring.drain(&mut note)),
            Some(tokens) => {
                for token in tokens {
                    if let Some(ring) = self.rings.get_mut(token) {
                        ring.drain(&mut note);
                    }
                }
            }
        }
        self.lost_told += lost;
        if self.layout == Layout::PerThread {
            for thread in began {
                self.attach_new(process, thread, poller);
            }
        }
    }

    /// Attaches threads of which no ring told (their creator is not sampled), and lets go of those
    /// that have ended.
    pub(crate) fn rescan(&mut self, process: &Process, poller: &Poller) {
        if self.layout != Layout::PerThread || !self.enabled {
            return;
        }
        let Ok(threads) = process.threads() else { return };
        for thread in &threads {
            self.attach_new(process, *thread, poller);
        }
    }

    /// The thread of that ring has ended, or all that share it: nothing more will wake us.
    pub(crate) fn hung_up(&mut self, token: u32, poller: &Poller) {
        let Some(ring) = self.rings.get(&token) else { return };
        poller.remove(ring.event().descriptor());
        if self.layout == Layout::PerThread {
            self.close(token);
        }
    }

    /// Samples a thread no more.
    pub(crate) fn exclude(&mut self, thread: u32, poller: &Poller) {
        if self.layout == Layout::PerThread
            && let Some(ring) = self.rings.get(&thread)
        {
            poller.remove(ring.event().descriptor());
            self.close(thread);
        }
    }

    /// Records that the kernel lost without having told in a ring.
    pub(crate) fn lost_untold(&self) -> u64 {
        let counted: u64 = self.events().filter_map(Event::lost).sum();
        (counted + self.lost_of_closed).saturating_sub(self.lost_told)
    }

    fn close(&mut self, thread: u32) {
        if let Some(ring) = self.rings.remove(&thread) {
            self.lost_of_closed += ring.event().lost().unwrap_or(0);
        }
    }

    fn attach_inherited(
        &mut self,
        process: &Process,
        threads: Vec<u32>,
        cpus: &[u32],
        poller: &Poller,
    ) -> Result<(), Refusal> {
        // A thread that is made meanwhile by one without an event yet is missed; attaching to it
        // later could sample it twice, since nothing tells whether it has inherited.
        for thread in threads {
            for cpu in cpus {
                self.attach_to_cpu(process, thread, *cpu, poller)?;
            }
        }
        if self.rings.is_empty() {
            return Err(Refusal::no_thread(process));
        }
        Ok(())
    }

    fn attach_to_cpu(
        &mut self,
        process: &Process,
        thread: u32,
        cpu: u32,
        poller: &Poller,
    ) -> Result<(), Refusal> {
        let event = match Event::open(&self.request(thread, Some(cpu))) {
            Ok(event) => event,
            // The thread has ended, or the processor has been taken away.
            Err(error) if is_gone(&error) && thread != process.pid => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(Refusal::of_open(&error, process)),
        };
        if let Some(ring) = self.rings.get(&cpu) {
            event.share_ring(ring).map_err(|error| Refusal::of_ring(&error))?;
            self.sharing.push(event);
            return Ok(());
        }
        let ring = self.map(event).map_err(|error| Refusal::of_ring(&error))?;
        poller
            .add(ring.event().descriptor(), u64::from(cpu))
            .map_err(|error| Refusal::of_ring(&error))?;
        self.rings.insert(cpu, ring);
        Ok(())
    }

    fn attach_per_thread(
        &mut self,
        process: &Process,
        mut threads: Vec<u32>,
        poller: &Poller,
    ) -> Result<(), Refusal> {
        // Each ring takes locked memory, of which an ordinary user has little: the busiest first.
        threads.sort_by_cached_key(|thread| Reverse(process.thread_cpu_ns(*thread)));
        for thread in threads {
            match self.attach_thread(thread, poller) {
                Ok(()) => {}
                Err(AttachError::Open(error)) if is_gone(&error) && thread != process.pid => {}
                Err(error) if !self.rings.is_empty() => {
                    let _refused: AttachError = error;
                    self.missed_threads += 1;
                }
                Err(AttachError::Open(error)) => return Err(Refusal::of_open(&error, process)),
                Err(AttachError::Ring(error)) => return Err(Refusal::of_ring(&error)),
            }
        }
        if self.rings.is_empty() {
            return Err(Refusal::no_thread(process));
        }
        Ok(())
    }

    fn attach_new(&mut self, process: &Process, thread: u32, poller: &Poller) {
        if self.rings.contains_key(&thread) {
            return;
        }
        if process.thread_name(thread).is_none_or(|name| is_profiler_thread(&name)) {
            return;
        }
        match self.attach_thread(thread, poller) {
            Ok(()) => {
                if let Some(ring) = self.rings.get(&thread)
                    && self.enabled
                    && ring.event().enable().is_err()
                {
                    self.missed_threads += 1;
                }
            }
            Err(AttachError::Open(error)) if is_gone(&error) => {}
            Err(_) => self.missed_threads += 1,
        }
    }

    fn attach_thread(&mut self, thread: u32, poller: &Poller) -> Result<(), AttachError> {
        let event = Event::open(&self.request(thread, None)).map_err(AttachError::Open)?;
        let ring = self.map(event).map_err(AttachError::Ring)?;
        poller.add(ring.event().descriptor(), u64::from(thread)).map_err(AttachError::Ring)?;
        self.rings.insert(thread, ring);
        Ok(())
    }

    /// Maps a ring; a smaller one where the user may lock no more memory.
    fn map(&mut self, mut event: Event) -> io::Result<Ring> {
        loop {
            match Ring::map(event, self.ring_bytes) {
                Ok(ring) => return Ok(ring),
                Err((error, _)) if self.ring_bytes == MIN_RING_BYTES => return Err(error),
                Err((_, back)) => {
                    event = back;
                    self.ring_bytes /= 2;
                }
            }
        }
    }

    fn request(&self, thread: u32, cpu: Option<u32>) -> EventRequest {
        EventRequest {
            thread,
            cpu,
            inherit: cpu.is_some(),
            hz: self.hz,
            stack_bytes: STACK_BYTES,
            wake_bytes: (self.ring_bytes / 2) as u32,
        }
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.rings.values().map(Ring::event).chain(&self.sharing)
    }
}

enum AttachError {
    Open(io::Error),
    Ring(io::Error),
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

fn sampled_threads(process: &Process) -> Vec<u32> {
    let mut threads = process.threads().unwrap_or_default();
    threads.retain(|thread| {
        process.thread_name(*thread).is_some_and(|name| !is_profiler_thread(&name))
    });
    threads
}

fn online_cpus() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let cpus = parse_cpus(&text);
    if !cpus.is_empty() {
        return cpus;
    }
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (0..count as u32).collect()
}

/// Reads a list such as `0-3,8`.
fn parse_cpus(text: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last.min(first.saturating_add(MAX_CPUS)));
        }
    }
    cpus
}

const MAX_CPUS: u32 = 8192;

fn free_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    limit.saturating_sub(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(parse_cpus("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpus(""), [] as [u32; 0]);
        assert_eq!(parse_cpus("x,7,3-1"), [7]);
    }

    #[test]
    fn many_threads_or_few_descriptors_forbid_the_inherited_layout() {
        assert_eq!(Layout::choose(10, 2, 1000), Layout::Inherited);
        assert_eq!(Layout::choose(10, 128, 100_000), Layout::PerThread);
        assert_eq!(Layout::choose(10, 2, 60), Layout::PerThread);
    }
}
