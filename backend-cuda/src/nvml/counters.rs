//! The counters of all devices, as rows.

use std::sync::Arc;

use profiler_core::record::{Counter, DeviceDef, DeviceVendor, HeapRef, StringDef, StringId};
use profiler_core::sink::{Batch, Emit, RecordSink, StreamId};

use super::gpm::Gpm;
use super::library::{Clock, Handle, Nvml};

/// The counters and their units; a counter's id is its place here, from 1.
const COUNTERS: [(&str, &str); 16] = [
    ("gpu utilisation", "%"),
    ("gpu memory utilisation", "%"),
    ("gpu memory used", "bytes"),
    ("sm clock", "MHz"),
    ("memory clock", "MHz"),
    ("power", "W"),
    ("temperature", "Cel"),
    ("throttle reasons", "bits"),
    ("sm active", "%"),
    ("sm occupancy", "%"),
    ("tensor active", "%"),
    ("dram bandwidth", "%"),
    ("pcie sent", "bytes/s"),
    ("pcie received", "bytes/s"),
    ("nvlink received", "bytes/s"),
    ("nvlink sent", "bytes/s"),
];

/// The first counter that performance monitoring gives.
const FIRST_GPM: usize = 8;
/// The first of those that it gives in MiB/s.
const FIRST_RATE: usize = 12;
const MIB: f64 = 1_048_576.0;

/// Reads the devices and emits what it read.
pub(super) struct Counters {
    nvml: Arc<Nvml>,
    devices: Vec<Device>,
    sink: Arc<dyn RecordSink>,
    stream: StreamId,
    is_defined: bool,
}

struct Device {
    handle: Handle,
    gpm: Option<Gpm>,
}

impl Counters {
    pub(super) fn new(nvml: &Arc<Nvml>, sink: Arc<dyn RecordSink>, stream: StreamId) -> Self {
        let devices = nvml
            .devices()
            .into_iter()
            .map(|handle| Device { handle, gpm: Gpm::open(nvml, handle) });
        let devices = devices.collect();
        Self { nvml: Arc::clone(nvml), devices, sink, stream, is_defined: false }
    }

    /// How many devices there are, and how many of them have performance monitoring.
    pub(super) fn devices(&self) -> (usize, usize) {
        let monitored = self.devices.iter().filter(|device| device.gpm.is_some());
        (self.devices.len(), monitored.count())
    }

    /// Reads all; with `deep` performance monitoring as well.
    pub(super) fn read(&mut self, time: u64, deep: bool) -> Vec<Counter> {
        let mut rows = Vec::with_capacity(COUNTERS.len() * self.devices.len());
        for (number, device) in self.devices.iter_mut().enumerate() {
            let mut values = [None; COUNTERS.len()];
            plain(&self.nvml, device.handle, &mut values);
            if deep && let Some(read) = device.gpm.as_mut().and_then(Gpm::read) {
                for (index, value) in read.into_iter().enumerate() {
                    let index = FIRST_GPM + index;
                    let scale = if index >= FIRST_RATE { MIB } else { 1.0 };
                    values[index] = value.map(|value| value * scale);
                }
            }
            for (index, value) in values.into_iter().enumerate() {
                let Some(value) = value else { continue };
                rows.push(Counter {
                    time,
                    value,
                    name: StringId(index as u32 + 1),
                    unit: StringId((COUNTERS.len() + index) as u32 + 1),
                    device: number as u32,
                    thread: 0,
                });
            }
        }
        rows
    }

    /// Hands over what was read.
    pub(super) fn emit(&mut self, rows: &[Counter]) -> Emit {
        if rows.is_empty() {
            return Emit::Accepted;
        }
        let mut heap = Vec::new();
        let (mut strings, mut devices) = (Vec::new(), Vec::new());
        if !self.is_defined {
            let names = COUNTERS.iter().map(|(name, _)| *name);
            for (index, text) in names.chain(COUNTERS.iter().map(|(_, unit)| *unit)).enumerate() {
                let text = HeapRef::push(&mut heap, text.as_bytes());
                strings.push(StringDef { text, id: StringId(index as u32 + 1), reserved: 0 });
            }
            for (number, device) in self.devices.iter().enumerate() {
                devices.push(definition(&self.nvml, device.handle, number as u32, &mut heap));
            }
        }
        let mut group = Vec::with_capacity(3);
        if !self.is_defined {
            group.push(Batch::with_heap(self.stream, &strings, &heap));
            group.push(Batch::with_heap(self.stream, &devices, &heap));
        }
        group.push(Batch::new(self.stream, rows));
        let outcome = self.sink.emit(&group);
        self.is_defined |= outcome == Emit::Accepted;
        outcome
    }
}

fn plain(nvml: &Nvml, device: Handle, values: &mut [Option<f64>; COUNTERS.len()]) {
    let utilization = nvml.utilization(device);
    values[0] = utilization.map(|share| f64::from(share.gpu));
    values[1] = utilization.map(|share| f64::from(share.memory));
    values[2] = nvml.memory(device).map(|memory| memory.used as f64);
    values[3] = nvml.clock(device, Clock::Multiprocessors).map(f64::from);
    values[4] = nvml.clock(device, Clock::Memory).map(f64::from);
    values[5] = nvml.power(device).map(|milliwatts| f64::from(milliwatts) / 1000.0);
    values[6] = nvml.temperature(device).map(f64::from);
    values[7] = nvml.throttle(device).map(|reasons| reasons as f64);
}

fn definition(nvml: &Nvml, device: Handle, number: u32, heap: &mut Vec<u8>) -> DeviceDef {
    let name = nvml.name(device).unwrap_or_default();
    let uuid = nvml.uuid(device).and_then(|text| parse_uuid(&text));
    DeviceDef {
        name: HeapRef::push(heap, name.as_bytes()),
        uuid: uuid.map_or(HeapRef::default(), |uuid| HeapRef::push(heap, &uuid)),
        memory_bytes: nvml.memory(device).map_or(0, |memory| memory.total),
        device: number,
        vendor: DeviceVendor::Nvidia.number(),
        capability_major: 0,
        capability_minor: 0,
        multiprocessors: 0,
        warp_size: 0,
        max_threads_per_block: 0,
        max_threads_per_multiprocessor: 0,
        registers_per_block: 0,
        registers_per_multiprocessor: 0,
        shared_bytes_per_block: 0,
        shared_bytes_per_block_optin: 0,
        shared_bytes_per_multiprocessor: 0,
        reserved: 0,
    }
}

/// The bytes of `GPU-254e7ef3-…`, as CUPTI gives them.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.strip_prefix("GPU-")?.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_bytes_that_its_text_stands_for() {
        let bytes = parse_uuid("GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf").unwrap();
        assert_eq!(bytes.map(usize::from), std::array::from_fn(|index| 0xA0 + index));
        for text in ["", "GPU-", "MIG-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf", "GPU-é", "GPU-+1"] {
            assert_eq!(parse_uuid(text), None, "{text:?}");
        }
    }
}
