//! Launches that look like an inference server's, for figures and tests.
//!
//! A step of the model launches the same kernels in the same order; their durations and gaps
//! vary, some run on a second device stream, several threads launch, and some device rows are
//! handed over late, as drivers do.

use std::collections::VecDeque;

use crate::clock::ClockDomain;
use crate::record::{
    ApiCall, ApiDomain, HeapRef, Kernel, LaunchConfigDef, LaunchConfigId, StringDef, StringId,
    ThreadDef,
};
use crate::sink::{Batch, Emit, RecordSink, StreamId, StreamInfo};

/// Distinct kernel names.
pub const KERNEL_NAMES: usize = 480;
/// Distinct launch configurations.
pub const CONFIGS: usize = 450;
/// Threads that launch.
pub const THREADS: u32 = 4;

const LAYERS: usize = 30;
const KERNELS_A_LAYER: usize = 40;
const FIRST_THREAD: u32 = 41_000;
const FIRST_KERNEL_NAME: u32 = 10;

/// A small generator of pseudo-random numbers, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that begins at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(limit)) >> 64) as u64
    }
}

/// An endless sequence of launches on one device.
#[derive(Clone, Debug)]
pub struct Launches {
    random: Random,
    device: u32,
    /// What a step launches: name, configuration, mean duration in ns.
    step: Vec<(StringId, LaunchConfigId, u64)>,
    position: usize,
    now: u64,
    /// When the device streams are free again.
    free: [u64; 2],
    correlation: u64,
    late_percent: u64,
    late: VecDeque<(u64, Kernel)>,
}

impl Launches {
    /// Launches on `device`, the first a little after `begin`, with so many percent of the
    /// kernels handed over late.
    #[must_use]
    pub fn new(device: u32, begin: u64, late_percent: u64) -> Self {
        let mut random = Random::new(0x0317 + u64::from(device));
        let mut step = Vec::new();
        for layer in 0..LAYERS {
            for kernel in 0..KERNELS_A_LAYER {
                let name = (kernel + KERNELS_A_LAYER * (layer % 12)) % KERNEL_NAMES;
                let config = (kernel * 7 + layer * 15) % CONFIGS;
                step.push((
                    StringId(FIRST_KERNEL_NAME + name as u32),
                    LaunchConfigId(config as u32 + 1),
                    1_500 + random.below(9_000),
                ));
            }
        }
        Self {
            random,
            device,
            step,
            position: 0,
            now: begin,
            free: [begin; 2],
            correlation: 0,
            late_percent,
            late: VecDeque::new(),
        }
    }

    /// The stream's description.
    #[must_use]
    pub fn stream_info(&self) -> StreamInfo {
        StreamInfo {
            producer: format!("synthetic.{}", self.device),
            thread: 0,
            clock: ClockDomain::Monotonic,
        }
    }

    /// Defines every name, configuration and thread.
    pub fn define(&self, sink: &dyn RecordSink, stream: StreamId) -> Emit {
        let mut heap = Vec::new();
        let mut strings = vec![StringDef {
            text: HeapRef::push(&mut heap, b"cudaLaunchKernel"),
            id: StringId(1),
            reserved: 0,
        }];
        for index in 0..KERNEL_NAMES {
            let text = format!(
                "void synthetic::gemm_kernel_{index}<cutlass::half_t, {}, {}>(Params)",
                64 << (index % 3),
                index
            );
            strings.push(StringDef {
                text: HeapRef::push(&mut heap, text.as_bytes()),
                id: StringId(FIRST_KERNEL_NAME + index as u32),
                reserved: 0,
            });
        }
        let configs: Vec<_> = (0..CONFIGS as u32)
            .map(|index| LaunchConfigDef {
                id: LaunchConfigId(index + 1),
                grid_x: 1 + index * 3,
                grid_y: 1 + index % 4,
                grid_z: 1,
                block_x: 32 << (index % 5),
                block_y: 1,
                block_z: 1,
                registers: 32 + index % 200,
                dynamic_shared_bytes: (index % 7) * 16_384,
                ..LaunchConfigDef::default()
            })
            .collect();
        let mut thread_heap = Vec::new();
        let threads: Vec<_> = (0..THREADS)
            .map(|index| ThreadDef {
                name: HeapRef::push(&mut thread_heap, format!("worker-{index}").as_bytes()),
                thread: FIRST_THREAD + index,
                process: 40_999,
            })
            .collect();
        sink.emit(&[
            Batch::with_heap(stream, &strings, &heap),
            Batch::new(stream, &configs),
            Batch::with_heap(stream, &threads, &thread_heap),
        ])
    }

    /// Appends the next `count` launches.
    pub fn append(&mut self, count: usize, calls: &mut Vec<ApiCall>, kernels: &mut Vec<Kernel>) {
        for _ in 0..count {
            let (call, kernel) = self.launch();
            calls.push(call);
            while self.late.front().is_some_and(|&(due, _)| due <= kernel.correlation) {
                kernels.extend(self.late.pop_front().map(|(_, kernel)| kernel));
            }
            match self.random.below(100) < self.late_percent {
                // In the order of their due times, since the delay is the same for all.
                true => self.late.push_back((kernel.correlation + 3_000, kernel)),
                false => kernels.push(kernel),
            }
        }
    }

    /// Appends the kernels that are still held back.
    pub fn rest(&mut self, kernels: &mut Vec<Kernel>) {
        kernels.extend(self.late.drain(..).map(|(_, kernel)| kernel));
    }

    fn launch(&mut self) -> (ApiCall, Kernel) {
        let (name, config, mean) = self.step[self.position];
        self.position = (self.position + 1) % self.step.len();
        self.correlation += 1;
        self.now += 3_900 + self.random.below(1_600);
        if self.position == 0 {
            self.now += 40_000 + self.random.below(20_000);
        }
        let call = ApiCall {
            start: self.now,
            end: self.now + 1_700 + self.random.below(900),
            correlation: self.correlation,
            name: StringId(1),
            thread: FIRST_THREAD + (self.correlation as u32 / 256) % THREADS,
            result: 0,
            function: 211,
            domain: ApiDomain::CudaRuntime.number(),
            flags: 0,
        };
        let lane = usize::from(self.correlation.is_multiple_of(10));
        let start = (call.end + 1_200 + self.random.below(500))
            .max(self.free[lane] + 700 + self.random.below(200));
        let end = start + mean + self.random.below(mean / 16);
        // The device never falls so far behind that the launches would wait for it.
        self.free[lane] = end.min(self.now + 200_000);
        let kernel = Kernel {
            start,
            end,
            correlation: self.correlation,
            name,
            config,
            device: self.device,
            context: 1,
            stream: 7 + 6 * lane as u32,
            ..Kernel::default()
        };
        (call, kernel)
    }
}
